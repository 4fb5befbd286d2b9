"""Layers of binary activations and binary weights."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ovsw_jax import products, quantizers
from ovsw_jax.nn import _geometry, _initializers, _slots

Dtype = Any
OutputScale = quantizers.OutputScale | Literal["learned"] | None
ScaleInit = Callable[[jax.Array, jax.Array], jax.Array]


def _mean_magnitude_init(key: jax.Array, latent: jax.Array) -> jax.Array:
  del key
  return quantizers.mean_magnitude(latent)


def _binary_product(
  layer: "BinaryConv | BinaryDense",
  latent: jax.Array,
  x: jax.Array,
  product: Callable[[jax.Array, jax.Array], jax.Array],
  window_mean: _slots.WindowMean,
  train: bool,
  progress: jax.typing.ArrayLike,
) -> jax.Array:
  """Quantizes both operands, multiplies, adds the bias, scales."""
  quantize = _slots.fill(layer.weight_quantizer, "weight_quantizer")
  binarize = _slots.fill(layer.activation_quantizer, "activation_quantizer")
  bits, scale = quantize(latent, progress)
  if layer.output_scale == "learned":
    scale = scale * layer.param("output_scale", layer.output_scale_init, latent)
  elif layer.output_scale is not None:
    scale = scale * layer.output_scale(latent)
  layer.sow("intermediates", "quantized", quantizers.Quantized(bits, scale))
  y = product(binarize(x, train, progress), bits)
  if layer.use_bias:
    y += layer.param(
      "bias", nn.initializers.zeros, (layer.features,), layer.param_dtype
    )
  y *= scale
  if layer.post is not None:
    y = _slots.fill(layer.post, "post")(y, x, window_mean)
  return y


def _window_mean(
  x: jax.Array, size: _geometry.Pair, geometry: products.ConvGeometry
) -> jax.Array:
  """Means over a convolution's windows, channel by channel, zeros padded."""
  total = lax.reduce_window(
    x,
    0.0,
    lax.add,
    window_dimensions=(1, *size, 1),
    window_strides=(1, *geometry.strides, 1),
    padding=((0, 0), *geometry.padding, (0, 0)),
    window_dilation=(1, *geometry.dilation, 1),
  )
  return total / math.prod(size)


class BinaryConv(nn.Module):
  """2-D convolution of binary activations with binary weights.

  The input is binarized by `activation_quantizer`, the parameter `latent` of
  shape (height, width, in / groups, features) by `weight_quantizer`; their
  convolution is multiplied by the weight's scale and the output scale. Padding
  is with zeros *after* binarization, so border taps count nothing. The
  defaults are OvSW's layer.

  Input shape (batch, height, width, in), any float dtype; output float32
  (float64 for float64). Call with `train=True` in training: the activation
  quantizer may normalize then.

  Quantizers and `post` are *slots*: each takes a function, or the class of a
  Flax module (or a `functools.partial` of one) that is called like that
  function, and whose parameters then live under the slot's name. What the
  weight became, `Quantized(bits, scale)` with the output scale included, is
  sown into the collection "intermediates" under the name "quantized".

  Attributes:
    features: number of output channels.
    kernel_size: one integer or a pair.
    strides: one integer or a pair.
    padding: an integer, a pair, or ((top, bottom), (left, right)); `None` is
      symmetric and keeps the size at stride 1.
    kernel_dilation: one integer or a pair.
    feature_group_count: number of groups.
    use_bias: adds a bias before the output scale, as the reference does.
    weight_quantizer: slot of `(latent, progress) -> Quantized`; see
      `ovsw_jax.quantizers`.
    activation_quantizer: slot of `(x, train, progress) -> bits`; see
      `ovsw_jax.quantizers`.
    output_scale: a function of the latent weight, "learned" for a parameter
      `output_scale` of shape (features,), or None.
    output_scale_init: initializer `(key, latent) -> (features,)` of the learned
      scale; the default is the mean |w|.
    post: slot of `(y, x, window_mean) -> y`, applied last: `y` is the scaled
      output, `x` the layer's input, and `window_mean` averages an array of the
      input's height and width over the windows of the convolution. Or None.
    kernel_init: initializer of the latent weight.
    dtype: dtype of the product's operands; accumulation and output are float32.
      On a GPU the gradients of a 16-bit product are rounded to it.
    param_dtype: dtype of the parameters.

  Raises:
    ValueError: for geometry that does not fit, naming the argument.
    TypeError: for a module instance in a slot.

  References:
    Xiang et al., `OvSW: Overcoming Silent Weights for Accurate Binary Neural
    Networks <https://arxiv.org/abs/2407.05257>`_, 2024

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> layer = ovsw.nn.BinaryConv(features=8, kernel_size=3, strides=2)
    >>> x = jnp.ones((1, 6, 6, 4))
    >>> variables = layer.init(jax.random.key(0), x, train=False)
    >>> variables["params"]["latent"].shape
    (3, 3, 4, 8)
    >>> layer.apply(variables, x, train=True).shape
    (1, 3, 3, 8)
  """

  features: int
  kernel_size: int | Sequence[int]
  strides: int | Sequence[int] = 1
  padding: _geometry.Padding = None
  kernel_dilation: int | Sequence[int] = 1
  feature_group_count: int = 1
  use_bias: bool = False
  weight_quantizer: _slots.WeightSlot = quantizers.sign_weights()
  activation_quantizer: _slots.ActivationSlot = quantizers.sign_activations()
  output_scale: OutputScale = quantizers.standardized_magnitude
  output_scale_init: ScaleInit = _mean_magnitude_init
  post: _slots.PostSlot = None
  kernel_init: Callable[..., jax.Array] = _initializers.he_normal
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    train: bool = False,
    progress: jax.typing.ArrayLike = 0.0,
  ) -> jax.Array:
    _geometry.check_rank("BinaryConv", x, "(batch, height, width, channels)", 4)
    size = _geometry.pair(self.kernel_size, "kernel_size")
    groups = self.feature_group_count
    _geometry.check_groups(x.shape[-1], self.features, groups)
    geometry = _geometry.conv_geometry(
      size, self.strides, self.padding, self.kernel_dilation, groups
    )
    latent = self.param(
      "latent",
      self.kernel_init,
      (*size, x.shape[-1] // groups, self.features),
      self.param_dtype,
    )
    product = functools.partial(
      products.binary_conv,
      geometry=geometry,
      dtype=self.dtype,
      binary_kernel=self.weight_quantizer is not quantizers.real_weights,
    )
    window_mean = functools.partial(_window_mean, size=size, geometry=geometry)
    return _binary_product(
      self, latent, x, product, window_mean, train, progress
    )


class BinaryDense(nn.Module):
  """Fully connected layer of binary activations and binary weights.

  Input shape (batch, ..., in), output (batch, ..., features) in float32. The
  attributes are those of `BinaryConv`; the parameter `latent` has shape (in,
  features).

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> layer = ovsw.nn.BinaryDense(features=3)
    >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 5)))
    >>> variables["params"]["latent"].shape
    (5, 3)
  """

  features: int
  use_bias: bool = False
  weight_quantizer: _slots.WeightSlot = quantizers.sign_weights()
  activation_quantizer: _slots.ActivationSlot = quantizers.sign_activations()
  output_scale: OutputScale = quantizers.standardized_magnitude
  output_scale_init: ScaleInit = _mean_magnitude_init
  post: _slots.PostSlot = None
  kernel_init: Callable[..., jax.Array] = _initializers.he_normal
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    train: bool = False,
    progress: jax.typing.ArrayLike = 0.0,
  ) -> jax.Array:
    if x.ndim < 2:
      _geometry.check_rank("BinaryDense", x, "(batch, ..., in)", 2)
    latent = self.param(
      "latent",
      self.kernel_init,
      (x.shape[-1], self.features),
      self.param_dtype,
    )
    product = functools.partial(products.binary_dot, dtype=self.dtype)
    # A window is one position: its mean is what is there.
    return _binary_product(
      self, latent, x, product, lambda mean: mean, train, progress
    )
