"""The layers as anybody would write them in linen, for comparison.

The same mathematics as `ovsw_jax.nn.BinaryConv` with its defaults, from the two
sign estimators, `lax.conv_general_dilated` and ordinary autodiff, and linen's
own batch normalization: no packed residual, no product or backward pass of our
own, nothing said to the compiler. In bfloat16 the convolution's output is
bfloat16 too, so sums beyond 256 are rounded.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ovsw_jax import sign
from ovsw_jax.nn import he_normal


class PlainBinaryConv(nn.Module):
  """Binary convolution; pass it as `conv=` to a model.

  Input (batch, height, width, in), output (batch, height', width', features) in
  float32 or wider. Its parameter has the name and shape of `BinaryConv`'s.
  """

  features: int
  kernel_size: int
  strides: int = 1
  kernel_init: nn.initializers.Initializer = he_normal
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False, progress=0.0):
    del progress
    size = self.kernel_size
    latent = self.param(
      "latent", self.kernel_init, (size, size, x.shape[-1], self.features)
    )
    centred = latent - jnp.mean(latent, axis=(0, 1, 2))
    deviation = jnp.sqrt(jnp.var(centred, axis=(0, 1, 2), ddof=1) + 1e-5)
    scale = jnp.mean(jnp.abs(centred / deviation), axis=(0, 1, 2))
    if train:
      variance = jnp.var(x, axis=(1, 2, 3), ddof=1, keepdims=True)
      x = x / lax.stop_gradient(jnp.sqrt(variance + 1e-5))
    side = size // 2
    y = lax.conv_general_dilated(
      sign.approx(x).astype(self.dtype),
      sign.ste(latent).astype(self.dtype),
      window_strides=(self.strides, self.strides),
      padding=((side, side), (side, side)),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    wide = jnp.promote_types(self.dtype, jnp.float32)
    return y.astype(wide) * lax.stop_gradient(scale)


class PlainBatchNorm(nn.Module):
  """Linen's batch normalization; pass it as `norm=` to a model."""

  scale_init: nn.initializers.Initializer = nn.initializers.ones
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False):
    return nn.BatchNorm(
      use_running_average=not train,
      momentum=0.9,
      scale_init=self.scale_init,
      axis_name=self.axis_name,
    )(x)
