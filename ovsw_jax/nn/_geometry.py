"""The geometry of a convolution, spelled out and checked."""

from collections.abc import Sequence

import jax

from ovsw_jax import products

Pair = products.Pair
Padding = int | Sequence[int] | Sequence[tuple[int, int]] | None


def pair(value: int | Sequence[int], name: str) -> Pair:
  pair = (value, value) if isinstance(value, int) else tuple(value)
  if len(pair) != 2 or any(not isinstance(v, int) or v < 1 for v in pair):
    raise ValueError(
      f"{name} must be a positive integer or a pair of them, got {value!r}."
    )
  return pair


def conv_geometry(
  kernel_size: Pair,
  strides: int | Sequence[int] = 1,
  padding: Padding = None,
  dilation: int | Sequence[int] = 1,
  groups: int = 1,
) -> products.ConvGeometry:
  """Spells out a convolution's geometry; see `BinaryConv` for the arguments.

  Raises:
    ValueError: for padding by name, and for `padding=None` with an even kernel.

  Examples:
    >>> from ovsw_jax import nn
    >>> nn.conv_geometry((3, 3), strides=2).padding
    ((1, 1), (1, 1))
  """
  strides, dilation = pair(strides, "strides"), pair(dilation, "dilation")
  if isinstance(padding, str):
    raise ValueError(
      f"padding={padding!r}: padding is explicit here, because 'SAME' pads one "
      "side only at stride 2; pass an integer, a pair, or ((top, bottom), "
      "(left, right)), or None for symmetric 'same' padding."
    )
  if padding is None:
    if any(size % 2 == 0 for size in kernel_size):
      raise ValueError(
        f"kernel_size={kernel_size} is even, so no symmetric padding keeps the "
        "size; pass padding explicitly."
      )
    padding = [d * (k // 2) for d, k in zip(dilation, kernel_size, strict=True)]
  elif isinstance(padding, int):
    padding = (padding, padding)
  sides = [(p, p) if isinstance(p, int) else tuple(p) for p in padding]
  if len(sides) != 2 or any(len(side) != 2 or min(side) < 0 for side in sides):
    raise ValueError(
      f"padding={padding!r} must be a non-negative integer, a pair, or "
      "((top, bottom), (left, right))."
    )
  return products.ConvGeometry(strides, (sides[0], sides[1]), dilation, groups)


def check_groups(in_features: int, features: int, groups: int) -> None:
  if in_features % groups or features % groups:
    raise ValueError(
      f"feature_group_count={groups} must divide both the {in_features} input "
      f"channels and the {features} features."
    )


def check_rank(layer: str, x: jax.Array, layout: str, rank: int) -> None:
  if x.ndim != rank:
    raise ValueError(
      f"{layer} takes input of shape {layout}, got shape {x.shape}; add or "
      "drop a batch axis."
    )
