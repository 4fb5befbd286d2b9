"""Binary neural networks in JAX.

The flagship method is OvSW (Overcoming Silent Weights, ECCV 2024). Importing
this package costs jax and optax; what needs Flax (`nn`, `models`, `methods`,
`summary`, `deploy`, `interop`) loads when it is first used.

  sign        sign estimators: a sign whose derivative is chosen
  quantizers  latent weight -> bits * scale, activation -> +1 or -1
  products    convolution and dot product of bits
  optax       AGS, SAD and flip statistics as Optax transformations
  nn          Flax layers: BinaryConv, BinaryDense, ...
  models      the published networks
  methods     a method of training a binary network, as a value
  summary     a model's table: bits, memory, multiplications by precision
  deploy      trained networks as bits: packed, in a file, as StableHLO or ONNX
  interop     the OvSW authors' PyTorch checkpoints, read and written
"""

import importlib
import typing

from ovsw_jax import optax as optax
from ovsw_jax import products as products
from ovsw_jax import quantizers as quantizers
from ovsw_jax import sign as sign
from ovsw_jax._version import __version__ as __version__

if typing.TYPE_CHECKING:
  from ovsw_jax import deploy as deploy
  from ovsw_jax import interop as interop
  from ovsw_jax import methods as methods
  from ovsw_jax import models as models
  from ovsw_jax import nn as nn
  from ovsw_jax._summary import summary as summary

_NEEDS_FLAX = ("deploy", "interop", "methods", "models", "nn", "summary")


def __getattr__(name: str):
  if name == "summary":  # a function, so its module has another name
    return importlib.import_module("ovsw_jax._summary").summary
  if name in _NEEDS_FLAX:
    return importlib.import_module(f"ovsw_jax.{name}")
  raise AttributeError(f"module 'ovsw_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted([*globals(), *_NEEDS_FLAX])
