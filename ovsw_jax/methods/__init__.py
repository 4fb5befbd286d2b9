"""Methods: each a value that any model and any training run accepts."""

import inspect

from ovsw_jax.methods._full_precision import full_precision as full_precision
from ovsw_jax.methods._method import Method as Method
from ovsw_jax.methods._ovsw import ags as ags
from ovsw_jax.methods._ovsw import ovsw as ovsw
from ovsw_jax.methods._ovsw import sad as sad
from ovsw_jax.methods._ovsw import vanilla as vanilla

METHODS = {
  "ags": ags,
  "full_precision": full_precision,
  "ovsw": ovsw,
  "sad": sad,
  "vanilla": vanilla,
}


def make(name: str, **arguments) -> Method:
  """Makes a method by name.

  Args:
    name: a key of `METHODS`.
    **arguments: hyperparameters of that method.

  Raises:
    ValueError: for an unknown name or argument, naming those there are, and
      for values out of range.

  Examples:
    >>> import ovsw_jax as ovsw
    >>> ovsw.methods.make("ovsw", delta=0.01, weight=2e-5).name
    'ovsw'
  """
  if name not in METHODS:
    raise ValueError(
      f"unknown method {name!r}; the methods are {', '.join(METHODS)}."
    )
  known = list(inspect.signature(METHODS[name]).parameters)
  for argument in arguments:
    if argument not in known:
      takes = f"takes {', '.join(known)}" if known else "takes no arguments"
      raise ValueError(
        f"method {name!r} has no argument {argument!r}; it {takes}."
      )
  return METHODS[name](**arguments)
