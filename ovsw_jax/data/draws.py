"""Randomness of a stream on the host: pure functions of (seed, epoch, index).

Philox is counter-based: any draw is had without those before it, in any
process. Only its raw output is used, which NumPy keeps the same over versions.
"""

import numpy as np

# What sets the streams of numbers of one seed apart.
_ORDER, _EXAMPLE = range(2)


def _raw(seed: int, use: int, epoch: int, index: int, count: int) -> np.ndarray:
  # Words of the counter are 64 bits; the lowest counts the draws themselves.
  bits = np.random.Philox(key=[seed, use], counter=[0, epoch, index, 0])
  return bits.random_raw(count)


def host_order(seed: int, epoch: int, n: int) -> np.ndarray:
  """The order in which an epoch visits the examples of a stream.

  Args:
    seed: of the run.
    epoch: the epoch's number, from 0.
    n: how many examples there are.

  Returns:
    A permutation of `0 .. n-1`, int64 `(n,)`.

  Raises:
    ValueError: `n` is less than 1.

  Examples:
    >>> from ovsw_jax import data
    >>> sorted(data.host_order(seed=0, epoch=3, n=5).tolist())
    [0, 1, 2, 3, 4]
  """
  if n < 1:
    raise ValueError(f"n must be at least 1, got {n}: nothing to put in order")
  return np.argsort(_raw(seed, _ORDER, epoch, 0, n), kind="stable")


def uniforms(seed: int, epoch: int, index: int, count: int) -> np.ndarray:
  """Numbers in [0, 1) that belong to one example in one epoch.

  Args:
    seed: of the run.
    epoch: the epoch's number, from 0.
    index: the example's, from 0.
    count: how many numbers.

  Returns:
    float64 `(count,)`, of 53 random bits each.

  Examples:
    >>> from ovsw_jax import data
    >>> a, b = (data.uniforms(0, epoch=1, index=7, count=c) for c in (2, 4))
    >>> bool((a == b[:2]).all())
    True
  """
  raw = _raw(seed, _EXAMPLE, epoch, index, count)
  return (raw >> np.uint64(11)) * 2.0**-53
