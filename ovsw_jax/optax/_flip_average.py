"""SAD's moving average of flips as a number of fifteen bits."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ovsw_jax.optax import _statistics

_BITS = 15
_MOST = (1 << _BITS) - 1
# Of float32: bits of the mantissa, and of the number 1.
_MANTISSA, _ONE = 23, 127 << 23
# 2**32 times the golden ratio's fraction: its multiples, modulo 2**32, are as
# evenly spread as any.
_GOLDEN = 0x9E3779B9


class Moment(NamedTuple):
  """What an update needs to know that the average does not; scalars."""

  kept: jax.Array  # What is left of `x - 1` without a flip, float32.
  added: jax.Array  # What a flip adds, float32.
  dither: jax.Array  # Less than one in the last place, to round with, uint32.
  limit: jax.Array  # Codes of numbers below are silent, uint16.
  unit: jax.Array  # The average for which `x - 1` is 1, float32.


class FlipAverage(NamedTuple):
  r"""Fifteen bits for an average :math:`T` of flips in [0, 1].

  The undecayed average :math:`T_t / m^t` changes with flips only, each of which
  adds :math:`(1 - m) / m^t`. So do the numbers

  .. math::

    x_t = 1 + a\, 2^{\phi_t}\, T_t, \qquad \phi_t = -t \log_2 m \bmod 1,

  but for the updates in which :math:`\phi` begins anew, where :math:`x - 1` is
  halved. They are kept as floats without a sign from 1 up to :math:`2^{2^e}`,
  with :math:`e` bits of exponent and the other :math:`15 - e` of mantissa: for
  large averages the spacing is relative, for small ones absolute. To halve
  is exact while the 1 is a whole number of such spacings.
  """

  mantissa: int  # 15 - e, bits.
  scale: float  # a, the largest for which no average is too large.
  octaves: int  # -log2(m), in units of 2**-32.
  first: float  # 1 - m, the average after a single flip.
  threshold: float

  def initial(self, average: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Before the first update an average's code, the unit and the limit."""
    scale = jnp.float32(self.scale)
    code = self._nearest(scale, average)
    return jnp.minimum(code, jnp.uint16(_MOST)), 1 / scale, self._limit(scale)

  def moment(self, count: jax.Array) -> Moment:
    """That of the update after `count` others, int32."""
    count = count.astype(jnp.uint32)
    whole, part = divmod(self.octaves, 2**32)
    phase = (count + 1) * jnp.uint32(part)  # Modulo 2**32.
    left = jnp.where(phase < jnp.uint32(part), 0.5, 1.0).astype(jnp.float32)
    octave = phase.astype(jnp.float32) * jnp.float32(2.0**-32)
    scale = jnp.float32(self.scale) * jnp.exp2(octave)
    # Of a weight's first flip this alone is rounded.
    added = _number(self._nearest(scale, self.first), self.mantissa) - 1
    return Moment(
      kept=left * jnp.float32(2.0**-whole),
      added=added,
      dither=count * jnp.uint32(_GOLDEN) >> 32 - _MANTISSA + self.mantissa,
      limit=self._limit(scale),
      unit=1 / scale,
    )

  def update(
    self, code: jax.Array, positive: jax.Array, moment: Moment
  ) -> jax.Array:
    """The code after an update.

    Args:
      code: codes before, uint16.
      positive: the signs now, booleans of the same shape.
      moment: of this update.

    Returns:
      Codes, uint16 of the same shape.
    """
    sign = _statistics.sign_bit(positive)
    flipped = (code ^ sign) >= jnp.uint16(_statistics.SIGN)
    # The same for all, whether flipped or halved or not: rounding leaves a
    # number alone that has no bits beyond the last place. Rounded to the
    # nearest, an average that flips at a regular rate might stop short of it.
    rest = 1 - moment.kept
    x = _number(code, self.mantissa) * moment.kept
    x += jnp.where(flipped, rest + moment.added, rest)
    x = jnp.minimum(_code(x, self.mantissa, moment.dither), jnp.uint16(_MOST))
    return x | sign

  def is_silent(self, code: jax.Array, limit: jax.Array) -> jax.Array:
    """Where the average is below the threshold."""
    return (code & jnp.uint16(_MOST)) < limit

  def _limit(self, scale: jax.Array) -> jax.Array:
    """The code of the threshold, or of more than any average."""
    return self._nearest(scale, min(self.threshold, 2.0))

  def _nearest(self, scale: jax.Array, average: float) -> jax.Array:
    """The code next to an average, where an average of 1 adds `scale`."""
    half = jnp.uint32(1 << _MANTISSA - self.mantissa - 1)
    return _code(1 + scale * jnp.float32(average), self.mantissa, half)


def make(momentum: float, threshold: float) -> FlipAverage | None:
  """The numbers that suit an average best, or None if fifteen bits are too few.

  These are the closest at the threshold or after a first flip, whichever is
  less, as long as neighbours are no more than an update or so apart there.
  """
  # Below this momentum one update without a flip ends every average anyway.
  octaves = -math.log2(max(momentum, 2.0**-60))
  lowest = min(threshold or 1.0, 1.0 - momentum)
  scales = {e: 2.0 ** (2**e - 1) - 1 for e in range(1, 7)}
  spacing, exponent = min(
    (2.0 ** (e - _BITS) * (1 + 1 / (scale * lowest)), e)
    for e, scale in scales.items()
  )
  if spacing > 1.3 * octaves * math.log(2):
    return None
  return FlipAverage(
    mantissa=_BITS - exponent,
    scale=scales[exponent],
    octaves=round(octaves * 2**32),
    first=1.0 - momentum,
    threshold=threshold,
  )


def average(code: jax.Array, unit: jax.Array, mantissa: jax.Array) -> jax.Array:
  """The averages that codes stand for, float32.

  Args:
    code: uint16.
    unit: the average for which a number is 1 above the lowest, float32.
    mantissa: bits, int32.
  """
  return (_number(code, mantissa) - 1) * unit


def _number(code: jax.Array, mantissa) -> jax.Array:
  """`x` of a code, whatever the sign beside it, float32."""
  shift = jnp.uint32(_MANTISSA) - jnp.asarray(mantissa).astype(jnp.uint32)
  bits = (code & jnp.uint16(_MOST)).astype(jnp.uint32) << shift
  bits += jnp.uint32(_ONE)
  return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _code(x: jax.Array, mantissa: int, rounding: jax.Array) -> jax.Array:
  """The code of `x`, cut off after `rounding` is added to its bits, uint16."""
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  bits += rounding - jnp.uint32(_ONE)
  return (bits >> _MANTISSA - mantissa).astype(jnp.uint16)
