"""Layers of a packed network, in the places of those that it was trained with.

A network is built by the code that trained it: these layers are its `conv`,
`norm` and `activation`, and bear the same names.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax import lax

from ovsw_jax import nn, products, quantizers
from ovsw_jax.nn import _geometry, _slots
from ovsw_jax.nn._binary import _window_mean
from ovsw_jax.products import _xla

# How activations become bits. The first is foldable: where it follows a
# normalization, the two are one comparison. The others need what they name.
BINARIZERS: dict[str, Callable[..., Any]] = {
  "sign": quantizers.sign_activations(normalize=False),
  "shifted_sign": nn.RSign,
  "centred_sign": quantizers.standardized_sign_activations(),
  "self_distribution_sign": nn.SelfDistributionActivations,
}
DYNAMIC = {
  "centred_sign": "the mean of each example",
  "self_distribution_sign": "a shift that is computed of each example",
}


def binarizer(name: str, reduction: int | None = None) -> Callable[..., Any]:
  """The activation quantizer of a name; `reduction` is SD-BNN's."""
  made = BINARIZERS[name]
  if name == "self_distribution_sign":
    return functools.partial(made, reduction=reduction)
  return made


class PackedConv(linen.Module):
  """`nn.BinaryConv` in evaluation, of packed weights and without its scale.

  The scale is in the `Affine` or `Threshold` that follows. Parameter: `words`
  of shape (height, width, words, features), see `products.pack_kernel`, and
  those of the binarizer.

  Attributes:
    features: number of output channels.
    kernel_size: as of `nn.BinaryConv`, like all geometry.
    strides: see there.
    padding: see there.
    kernel_dilation: see there.
    feature_group_count: see there.
    binarizer: a key of `BINARIZERS`.
    reduction: of the "self_distribution_sign".
    input_scale: multiplies the output by the mean |x| of each window, which is
      XNOR-Net's K.
    real: multiplies as float32, where nothing counts bits.
  """

  features: int
  kernel_size: int | tuple[int, int]
  strides: int | tuple[int, int] = 1
  padding: _geometry.Padding = None
  kernel_dilation: int | tuple[int, int] = 1
  feature_group_count: int = 1
  binarizer: str = "sign"
  reduction: int | None = None
  input_scale: bool = False
  real: bool = False
  dtype: Any = jnp.float32  # of training; takes no part here
  kernel_init: Any = None  # likewise

  @linen.compact
  def __call__(
    self,
    x: jax.Array,
    train: bool = False,
    progress: jax.typing.ArrayLike = 0.0,
  ) -> jax.Array:
    size = _geometry.pair(self.kernel_size, "kernel_size")
    geometry = _geometry.conv_geometry(
      size,
      self.strides,
      self.padding,
      self.kernel_dilation,
      self.feature_group_count,
    )
    inputs = x.shape[-1] // self.feature_group_count
    like = jax.eval_shape(
      products.pack_kernel,
      jax.ShapeDtypeStruct((*size, inputs, self.features), jnp.float32),
    )
    words = self.param("words", lambda key: jnp.zeros(like.shape, like.dtype))
    slot = binarizer(self.binarizer, self.reduction)
    bits = _slots.fill(slot, "activation_quantizer")(x, False, progress)
    self.sow("intermediates", "bits", bits)
    if self.real:
      with jax.ensure_compile_time_eval():  # a constant of the program
        kernel = products.unpack_bits(words, inputs, jnp.int8, axis=2)
      sums = _xla.convolve(bits, kernel, geometry, jnp.float32)
      # They are whole numbers; this keeps a runtime from multiplying what comes
      # next into the kernel, where a sum of zero would no more be zero.
      sums = jnp.round(sums)
    else:
      sums = products.packed_conv(bits, words, geometry).astype(jnp.float32)
    if self.input_scale:
      mean = jnp.mean(jnp.abs(x), axis=-1, keepdims=True)
      sums *= _window_mean(mean, size=size, geometry=geometry)
    return sums


class Affine(linen.Module):
  """Batch normalization and all scales before it: `x * scale + bias`."""

  @linen.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    shape = x.shape[-1:]
    scale = self.param("scale", linen.initializers.ones, shape)
    return x * scale + self.param("bias", linen.initializers.zeros, shape)


class Threshold(linen.Module):
  """Scales, batch normalization and sign: sums of bits to +1 and -1.

  +1 where ``x >= threshold``, and the other way round in channels that are
  `falling`. Parameters of shape (channels,): `threshold`, int32, and `falling`,
  uint8 of 0 and 1.
  """

  @linen.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    shape = x.shape[-1:]
    threshold = self.param("threshold", lambda key: jnp.zeros(shape, jnp.int32))
    falling = self.param("falling", lambda key: jnp.zeros(shape, jnp.uint8))
    rises = x >= threshold.astype(x.dtype)
    return jnp.where(rises != (falling != 0), 1, -1).astype(x.dtype)


def norms(thresholds: tuple[str, ...]) -> Callable[..., linen.Module]:
  """A network's `norm`: thresholds under these names, affines elsewhere."""

  def make(name: str, **_: Any) -> linen.Module:
    return Threshold(name=name) if name in thresholds else Affine(name=name)

  return make


def materialized(activation: Callable[..., Any]) -> Callable[..., Any]:
  """An activation whose result is computed once for all that read it.

  XLA would fuse the counting of bits into every reader, and count anew in each.
  """

  def make(**arguments: Any) -> Callable[[jax.Array], jax.Array]:
    function = activation(**arguments)
    return lambda x: lax.optimization_barrier(function(x))

  return make
