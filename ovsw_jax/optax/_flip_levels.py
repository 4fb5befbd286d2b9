"""SAD's moving average of flips as fifteen bits on a logarithmic scale."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ovsw_jax.optax import _statistics

_TOP = 0x7FFF  # The highest level: an average of 1.
# 2**32 times the golden ratio's fraction: its multiples, modulo 2**32, are as
# evenly spread as any.
_GOLDEN = 0x9E3779B9


class FlipLevels(NamedTuple):
  r"""A logarithmic scale for averages :math:`T` of flips in [0, 1].

  Level :math:`\ell > 0` stands for :math:`T = e^{u (\ell - a)} T_a`, level 0
  for averages too small to matter. The spacing :math:`u = -\log(m) / d` is so
  chosen that an update without a flip, :math:`T \leftarrow m T`, takes exactly
  :math:`d` levels. An update with a flip, :math:`T \leftarrow m T + 1 - m`, is
  a sum of :math:`m T` and the average :math:`1 - m` after a first flip. With
  their levels :math:`\ell_1` and :math:`\ell_2` that sum has level

  .. math::

    \max(\ell_1, \ell_2) + g(u |\ell_1 - \ell_2|) / u, \qquad
    g(x) = \log(1 + e^{-x}).
  """

  decay: int  # d, levels that an update without a flip takes.
  first: int  # Level after a first flip.
  silent: int  # Levels below are silent.
  spacing: float  # u, natural logarithm of the ratio of neighbours.
  log_zero: float  # Natural logarithm of T at level 0, were it one of them.
  # Of the polynomial in levels whose 8th power is g / u, from the constant on.
  coefficients: tuple[float, ...]

  def level(self, average: float) -> int:
    """The highest level that is not above an average in [0, 1]."""
    if average == 0:
      return 0
    level = (math.log(average) - self.log_zero) / self.spacing
    return min(max(math.floor(level + 1e-9), 0), _TOP)

  def update(
    self, code: jax.Array, positive: jax.Array, dither: jax.Array
  ) -> jax.Array:
    """The code after an update.

    Args:
      code: codes before, uint16.
      positive: the signs now, booleans of the same shape.
      dither: in [-0.5, 0.5), what is added to a level before it is rounded.

    Returns:
      Codes, uint16 of the same shape.
    """
    level, sign = code & jnp.uint16(_TOP), _statistics.sign_bit(positive)
    fallen = jnp.maximum(level, jnp.uint16(self.decay)) - jnp.uint16(self.decay)
    higher = jnp.maximum(fallen, jnp.uint16(self.first))
    lower = jnp.minimum(fallen, jnp.uint16(self.first))
    # At level 0 nothing is left to add; just above, less than half an update.
    gain = jnp.minimum(_rounded(self._gain(higher - lower) + dither), fallen)
    raised = jnp.minimum(higher + gain, jnp.uint16(_TOP))
    flipped = (code ^ sign) >= jnp.uint16(_statistics.SIGN)
    return jnp.where(flipped, raised, fallen) | sign

  def is_silent(self, code: jax.Array) -> jax.Array:
    """Where the average is below the threshold."""
    return (code & jnp.uint16(_TOP)) < jnp.uint16(self.silent)

  def _gain(self, distance: jax.Array) -> jax.Array:
    """`g(u * distance) / u` in levels, float32."""
    distance = distance.astype(jnp.int32).astype(jnp.float32)
    root = jnp.float32(self.coefficients[-1])
    for coefficient in self.coefficients[-2::-1]:
      root = root * distance + jnp.float32(coefficient)
    return jnp.square(jnp.square(jnp.square(root)))


def make(momentum: float, threshold: float) -> FlipLevels | None:
  """The finest scale for an average, or None if fifteen bits are too few.

  It reaches from 1 down to the threshold, and so far below `1 - momentum` that
  what level 0 forgets of an average moves the silence after a later flip by at
  most half an update.
  """
  # Below this momentum one update without a flip ends every average anyway.
  fall = -math.log(max(momentum, 1e-6))
  first = 1.0 - momentum
  lowest = min(threshold or 1.0, 0.5 * first * min(fall, 1.0))
  decay = min(int((_TOP - 1) * fall / -math.log(lowest)), _TOP)
  if decay < 1:
    return None
  spacing = fall / decay
  # The threshold, where it is an average, lies exactly on a level.
  anchor = threshold if 0 < threshold <= 1 else 1.0
  anchor_level = _TOP - math.floor(-math.log(anchor) / spacing + 1e-9)
  silent = anchor_level if anchor == threshold else _TOP + 1 if threshold else 0
  scale = FlipLevels(
    decay=decay,
    first=0,
    silent=silent,
    spacing=spacing,
    log_zero=math.log(anchor) - anchor_level * spacing,
    coefficients=(),
  )
  first = scale.level(first)
  root = np.polynomial.Chebyshev.interpolate(
    lambda x: (np.log1p(np.exp(-spacing * x)) / spacing) ** 0.125,
    deg=6,
    domain=[0, max(first, _TOP - first)],
  )
  root = root.convert(kind=np.polynomial.Polynomial)
  return scale._replace(first=first, coefficients=tuple(map(float, root.coef)))


def dither(count: jax.Array) -> jax.Array:
  """Numbers in [-0.5, 0.5), evenly spread over the counts of any stretch.

  Without it an average that flips drive at a regular rate `r` would stop where
  its way to `r` is less than half a level an update, up to `r / (2 * decay)`
  of itself short of it.
  """
  spread = count.astype(jnp.uint32) * jnp.uint32(_GOLDEN)
  return (spread >> 8).astype(jnp.float32) * jnp.float32(2.0**-24) - 0.5


def average(
  code: jax.Array, log_zero: jax.Array, spacing: jax.Array
) -> jax.Array:
  """The averages that codes stand for, float32; of level 0 it is 0.

  Args:
    code: uint16.
    log_zero: of the scale, as is
    spacing: float32.
  """
  level = code & jnp.uint16(_TOP)
  value = jnp.exp(log_zero + spacing * level.astype(jnp.float32))
  return jnp.where(level == 0, jnp.zeros_like(value), value)


def _rounded(x: jax.Array) -> jax.Array:
  """The integer next to `x`, of [-0.5, 2**16) in float32, as uint16.

  From 2**23 on float32 holds integers only, in its last bits, so that a sum
  with such a number rounds. A conversion costs more on CPUs: it has to treat
  what does not fit.
  """
  shifted = x + jnp.float32(1.5 * 2**23)
  return jax.lax.bitcast_convert_type(shifted, jnp.uint32).astype(jnp.uint16)
