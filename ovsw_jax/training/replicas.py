"""Seeds in parallel: one program trains several replicas of a network.

A replica is a run of one seed. What differs between replicas (parameters,
optimizer state, order of the data, crops) has a leading axis, one entry for
each seed; a run of one replica has no such axis anywhere. This file alone knows
how the axis is mapped over and how its numbers become a mean and a deviation.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def seeds(config: Any) -> list[int]:
  """The seed of each replica: `config.seed` and those that follow it."""
  return list(range(config.seed, config.seed + config.replicas))


def stack(trees: list[Any]) -> Any:
  """Trees of one replica each as one; a single tree as it is."""
  if len(trees) == 1:
    return trees[0]
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def first(tree: Any, count: int) -> Any:
  """The first replica of `count`."""
  return tree if count == 1 else jax.tree.map(lambda leaf: leaf[0], tree)


def each(function: Callable[..., Any], count: int) -> Callable[..., Any]:
  """`function` of one replica as a function of `count`, to be traced.

  On an accelerator that is `jax.vmap`: every operation grows by an axis, but
  for convolutions, which a GPU makes one by one (`products._repeated`). Two
  replicas of ResNet-20 with OvSW, batch 256, bfloat16, took an H200 0.51 s an
  epoch and replica, evaluation included; the steps alone of one took 0.54 s. On
  XLA's CPU backend a `vmap` over convolution kernels is a grouped convolution,
  which has no fast path there: ResNet-20 on 16x16 images, batch 64, five
  replicas on two cores took 184 ms a step and replica, and 50 ms in this form,
  one replica after the other in one program (one network alone: 51 to 59 ms). A
  loop of XLA instead of Python's would lose the fast convolutions too, see
  `loop`.
  """
  if count == 1:
    return function
  if not _one_after_the_other():
    return jax.vmap(function)

  def unrolled(*args):
    replica = lambda i: jax.tree.map(lambda leaf: leaf[i], args)
    return stack([function(*replica(i)) for i in range(count)])

  return unrolled


def _one_after_the_other() -> bool:
  return jax.default_backend() == "cpu"


def mean(values: np.ndarray, ndim: int) -> np.ndarray:
  """The mean over the leading axis that a value of `ndim` axes may have."""
  return values if values.ndim == ndim else values.mean(axis=0)


def spread(values: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Numbers by name; of one for each replica, mean and sample deviation.

  Args:
    values: of shape () or (replicas,).

  Returns:
    A mean under its own name, and a deviation under `<name>_std`.

  Examples:
    >>> spread({"loss": np.float32(0.5)})
    {'loss': 0.5}
    >>> spread({"accuracy": np.float32([0.5, 0.75, 1.0])})
    {'accuracy': 0.75, 'accuracy_std': 0.25}
  """
  numbers = {}
  for name, value in values.items():
    if np.ndim(value) == 0:
      numbers[name] = float(value)
    else:
      # In float64, and back to the shortest decimals of the value's own dtype.
      wide, dtype = value.astype(np.float64), value.dtype.type
      numbers[name] = float(str(dtype(wide.mean())))
      numbers[f"{name}_std"] = float(str(dtype(wide.std(ddof=1))))
  return numbers


def percent(values: Mapping[str, float], name: str) -> str:
  """A share as text: `95.12%`, or `95.1% ± 0.4` over replicas.

  Examples:
    >>> percent({"accuracy": 0.9512}, "accuracy")
    '95.12%'
    >>> percent({"accuracy": 0.9512, "accuracy_std": 0.004}, "accuracy")
    '95.1% ± 0.4'
  """
  deviation = values.get(f"{name}_std")
  if deviation is None:
    return f"{values[name]:.2%}"
  return f"{values[name]:.1%} ± {100 * deviation:.1f}"
