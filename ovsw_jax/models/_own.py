"""Python files and modules that a user names where a known name could stand."""

import importlib
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

SIGNATURE = "network(num_classes, **options) -> flax.linen.Module"


def function(kind: str, name: str, signature: str) -> Callable[..., Any]:
  """The function of a file or module that has this signature.

  Args:
    kind: what it makes, for messages: "model" or "method".
    name: "path/to/file.py", or a dotted module on the Python path.
    signature: "method(**arguments) -> Method"; only the name is checked.

  Raises:
    ValueError: no such file or module, or none that defines the function.
  """
  module = (_file if name.endswith(".py") else _module)(kind, name, signature)
  called = signature.partition("(")[0]
  if not callable(getattr(module, called, None)):
    raise ValueError(
      f"{kind} {name!r}: {module.__file__} defines no function `{called}`; "
      f"define `{signature}` there."
    )
  return getattr(module, called)


def network(
  name: str, num_classes: int, options: Mapping[str, Any]
) -> nn.Module:
  """A network of a user's file or module."""
  of_file = function("model", name, SIGNATURE)
  parameters = inspect.signature(of_file).parameters
  given = {k: v for k, v in options.items() if v is not None}
  if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    for option in {"num_classes": num_classes} | given:
      if option not in parameters:
        raise ValueError(
          f"model {name!r} has no option {option!r}; its function `network` "
          f"takes {', '.join(parameters) or 'nothing'}."
        )
  made = of_file(num_classes=num_classes, **given)
  if not isinstance(made, nn.Module):
    raise ValueError(
      f"model {name!r}: its function `network` returned {made!r}, which is no "
      "flax.linen.Module."
    )
  return made


def _file(kind: str, name: str, signature: str) -> Any:
  path = pathlib.Path(name).expanduser()
  if not path.is_file():
    raise ValueError(
      f"{kind} {name!r}: there is no file {path.absolute()}; pass the path of "
      f"a Python file that defines `{signature}`."
    )
  # A name that no import statement can spell, so that no module is replaced.
  spec = importlib.util.spec_from_file_location(
    f"{kind}:{path.resolve()}", path
  )
  assert spec is not None and spec.loader is not None  # it ends in .py
  module = importlib.util.module_from_spec(spec)
  sys.modules[spec.name] = module
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[spec.name]
    raise
  return module


def _module(kind: str, name: str, signature: str) -> Any:
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    # Only if it is this module or a package of it that is missing, and not
    # something that it imports.
    if error.name is None or not f"{name}.".startswith(f"{error.name}."):
      raise
    raise ValueError(
      f"{kind} {name!r}: there is no module {error.name!r}; pass a module on "
      f"the Python path that defines `{signature}`."
    ) from error
