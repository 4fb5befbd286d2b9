"""Slots of the binary layers: a function, or a factory of Flax modules."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from ovsw_jax import quantizers

ModuleFactory = Callable[..., nn.Module]
WeightSlot = quantizers.WeightQuantizer | ModuleFactory
ActivationSlot = quantizers.ActivationQuantizer | ModuleFactory
WindowMean = Callable[[jax.Array], jax.Array]
Post = Callable[[jax.Array, jax.Array, WindowMean], jax.Array]
PostSlot = Post | ModuleFactory | None


def fill(slot: Any, name: str) -> Any:
  """What a layer calls: the slot's function, or the module that it makes.

  Called inside the layer's `__call__`, so that the module becomes its child
  `name` and the module's parameters the layer's own.

  Raises:
    TypeError: for a module *instance*: two layers that hold it would share its
      parameters without a word.
  """
  made = slot
  while isinstance(made, functools.partial):
    made = made.func
  if isinstance(made, nn.Module):
    kind = type(made).__name__
    raise TypeError(
      f"{name} is an instance of {kind}, whose parameters all layers with it "
      f"would share; pass the class {kind}, or functools.partial({kind}, ...)."
    )
  if isinstance(made, type) and issubclass(made, nn.Module):
    return slot(name=name)
  return slot
