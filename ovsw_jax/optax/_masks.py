"""Masks that say which leaves are binary, decided by path and out loud."""

import functools
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Mask = Any | Callable[[optax.Params], Any]

_logger = logging.getLogger("ovsw_jax")
_LISTED = 20  # paths that a message lists before it counts the others
# Flax NNX variables hold their array under one of these attributes.
_NNX_VALUE = ("value", "raw_value")


def path_name(path: Sequence[Any]) -> str:
  """The `"/"`-joined name of a key path, `"conv/latent"`, as masks see it."""
  if path and getattr(path[-1], "name", None) in _NNX_VALUE:
    path = path[:-1]
  return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def list_paths(paths: Sequence[str]) -> str:
  """Paths for a message: the first ones, and how many more there are."""
  shown = ", ".join(f"`{path}`" for path in paths[:_LISTED])
  more = len(paths) - _LISTED
  return f"{shown} and {more} more" if more > 0 else shown


def _leaf_paths(tree: Any) -> list[str]:
  return [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)]


def binary_mask(
  pattern: str = r"(^|/)latent$",
) -> Callable[[optax.Params], Any]:
  r"""Selects the leaves whose path matches a regular expression.

  A leaf's path is its keys joined by ``"/"``, for instance
  ``layer1_block0/conv1/latent``. The last key of a Flax NNX variable
  (``value`` or ``raw_value``) is left away, so that linen and NNX trees read
  alike. The expression is searched for, not matched from the start.

  Args:
    pattern: the regular expression; the default finds the latent weights of
      this library's binary layers.

  Returns:
    A function from a tree of parameters to a tree of booleans of the same
    structure, which `mask=` of every transformation here, `optax.masked` and
    `optax.partition` accept. It raises `ValueError`, with the paths it saw,
    if no leaf matches.

  Raises:
    ValueError: if `pattern` is not a regular expression.

  Examples:
    >>> import jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> params = {"conv": {"latent": jnp.ones((3, 3, 4, 8))},
    ...           "head": {"kernel": jnp.ones((8, 10))}}
    >>> ovsw.optax.binary_mask()(params)
    {'conv': {'latent': True}, 'head': {'kernel': False}}
    >>> ovsw.optax.binary_mask("kernel$")(params)
    {'conv': {'latent': False}, 'head': {'kernel': True}}
  """
  try:
    regex = re.compile(pattern)
  except (re.error, TypeError) as error:
    raise ValueError(
      f"binary_mask: `pattern` is {pattern!r}, which is not a regular"
      f" expression ({error}); pass one such as r'(^|/)latent$'."
    ) from None

  def mask_fn(params):
    mask = jax.tree_util.tree_map_with_path(
      lambda path, _: regex.search(path_name(path)) is not None, params
    )
    leaves = jax.tree.leaves(mask)
    if leaves and not any(leaves):
      raise ValueError(
        f"binary_mask: `pattern` {pattern!r} matches none of the"
        f" {len(leaves)} leaves {list_paths(_leaf_paths(params))}; pass a"
        " regular expression that is found in the path of each binary weight."
      )
    return mask

  return mask_fn


def default_mask(params: optax.Params) -> Any:
  """Selects the leaves that are binary as far as the tree can tell.

  These are the leaves named ``latent`` if there are any, as in this library's
  layers; else every floating-point leaf of rank 2 or more, as biases and
  batch-norm scales have one axis; else every floating-point leaf.

  In a network of another library the second rule takes in full-precision
  kernels too, such as the first convolution and the classifier: pass
  :func:`binary_mask` to leave them out.

  Args:
    params: a tree of arrays.

  Returns:
    A tree of booleans of the same structure.

  Examples:
    >>> import jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> ovsw.optax.default_mask({"kernel": jnp.ones((2, 3)),
    ...                          "bias": jnp.ones(3)})
    {'bias': False, 'kernel': True}
  """
  rules = (
    lambda path, leaf: re.search(r"(^|/)latent$", path_name(path)) is not None,
    lambda path, leaf: _is_float(leaf) and jnp.ndim(leaf) >= 2,
    lambda path, leaf: _is_float(leaf),
  )
  for rule in rules:
    mask = jax.tree_util.tree_map_with_path(rule, params)
    if any(jax.tree.leaves(mask)):
      break
  return mask


def _is_float(leaf: Any) -> bool:
  return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


@functools.lru_cache(maxsize=256)
def _log_once(name: str, chosen: tuple[str, ...], total: int) -> None:
  _logger.info(
    "%s acts on %d of %d leaves: %s",
    name,
    len(chosen),
    total,
    list_paths(chosen),
  )


def _resolve(name: str, mask: Mask | None, params: optax.Params) -> Any:
  """A tree of booleans over `params`, checked, with something in it."""
  paths = _leaf_paths(params)
  if not paths:
    # Nothing to choose from: the empty side of an `optax.partition`, or the
    # placeholder of `optax.tree.map_params`.
    return params
  if mask is None:
    mask = default_mask
  leaves = jax.tree.leaves(mask)
  if len(leaves) == 1 and callable(leaves[0]):
    mask = leaves[0](params)
  try:
    tree = jax.tree.broadcast(mask, params)
  except ValueError as error:
    raise ValueError(
      f"{name}: the tree of `mask` does not fit the parameters, whose leaves"
      f" are {list_paths(paths)}; pass a function of the parameters, such as"
      " `binary_mask(...)`, or booleans in the parameters' own structure."
      f" ({error})"
    ) from None
  chosen = jax.tree.leaves(tree)
  for path, leaf in zip(paths, chosen, strict=True):
    if not isinstance(leaf, bool | np.bool_):
      raise ValueError(
        f"{name}: `mask` is {leaf!r} at `{path}`; pass True or False there."
      )
  if not any(chosen):
    raise ValueError(
      f"{name}: `mask` selects none of the {len(paths)} leaves"
      f" {list_paths(paths)}; select at least one, for instance with"
      " `binary_mask(pattern)`."
    )
  _log_once(
    name,
    tuple(p for p, c in zip(paths, chosen, strict=True) if c),
    len(paths),
  )
  return tree


def _check_fit(name: str, updates: Any, params: Any, mask: Any) -> None:
  """Raises unless `updates` are gradients of these `params`."""
  is_none = lambda x: x is None
  flat, treedef = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_none)
  remedy = "pass the gradients of these very parameters."
  try:
    gradients = treedef.flatten_up_to(updates)
  except ValueError as error:
    ours, theirs = _leaf_paths(params), _leaf_paths(updates)
    only = [f"`{p}` is only in the parameters" for p in ours if p not in theirs]
    only += [f"`{p}` is only in the updates" for p in theirs if p not in ours]
    raise ValueError(
      f"{name}: the trees of the updates and of the parameters differ:"
      f" {only[0] if only else error}; {remedy}"
    ) from None
  selected = jax.tree.broadcast(mask, params)
  selected = treedef.flatten_up_to(selected)
  for (path, p), g, m in zip(flat, gradients, selected, strict=True):
    if g is None and (p is None or not m):
      continue
    if g is None or p is None or not jax.tree_util.all_leaves([g]):
      holds = ["None" if x is None else f"a {type(x).__name__}" for x in (g, p)]
      raise ValueError(
        f"{name}: at `{path_name(path)}` the updates hold {holds[0]} and the"
        f" parameters {holds[1]}; {remedy}"
      )
    if jnp.shape(g) != jnp.shape(p):
      raise ValueError(
        f"{name}: at `{path_name(path)}` the update has shape {jnp.shape(g)}"
        f" and the parameter {jnp.shape(p)}; {remedy}"
      )


def restrict(
  name: str,
  inner: optax.GradientTransformationExtraArgs,
  mask: Mask | None,
) -> optax.GradientTransformationExtraArgs:
  """`optax.masked` with this library's default and its error messages.

  Args:
    name: the transformation's public name, for messages.
    inner: a transformation that needs parameters.
    mask: a function of the parameters, a tree of booleans (or a prefix of one),
      or `None` for :func:`default_mask`.

  Returns:
    A transformation with state `optax.MaskedState`.
  """

  def init_fn(params):
    return optax.masked(inner, _resolve(name, mask, params)).init(params)

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
        f"You are using `{name}`, a transformation that requires the current"
        " value of parameters, but you are not passing `params` when calling"
        " `update`."
      )
    tree = _resolve(name, mask, params)
    _check_fit(name, updates, params, tree)
    return optax.masked(inner, tree).update(
      updates, state, params, **extra_args
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
