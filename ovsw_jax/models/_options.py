"""Options of the networks: what they may be, and how they change a network."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from flax import linen as nn

from ovsw_jax import nn as layers
from ovsw_jax.nn import _initializers

ModuleFactory = Callable[..., Callable[..., Any]]
Named = (
  str | Callable[..., Any]
)  # a name in a table below, or what it stands for

ACTIVATIONS: dict[str, ModuleFactory] = {
  "hardtanh": layers.Hardtanh,
  "identity": layers.Identity,
  "prelu": layers.PReLU,
  "relu": layers.ReLU,
  "rprelu": layers.RPReLU,
}

fan_out_normal = _initializers.variance_scaling(2.0, "fan_out", "normal")

INITIALIZERS: dict[str, Callable[..., Any]] = {
  "fan_out_normal": fan_out_normal,
  "he_normal": layers.he_normal,
  "torch_uniform": layers.torch_uniform,
}


def named(argument: str, value: Named, table: Mapping[str, Any]) -> Any:
  """What a name stands for in `table`; a callable stands for itself."""
  if callable(value):
    return value
  if not isinstance(value, str) or value not in table:
    known = ", ".join(repr(name) for name in table)
    raise ValueError(f"{argument}={value!r} is not one of {known}.")
  return table[value]


def changed(published: dict[str, Any], options: Mapping[str, Any]) -> dict:
  """A network's published options as `options` change them; None does not."""
  return published | {k: v for k, v in options.items() if v is not None}


def names_of(network: nn.Module) -> list[str]:
  """The options that a network takes beside its number of classes."""
  structural = ("num_classes", "parent", "name")
  fields = [field.name for field in dataclasses.fields(network)]
  return [name for name in fields if name not in structural]
