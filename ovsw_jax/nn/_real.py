"""Full-precision layers, where the published networks differ from Flax."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from ovsw_jax import products
from ovsw_jax.nn import _geometry, _initializers
from ovsw_jax.nn._normalization import normalize

Dtype = Any


class RealConv(nn.Module):
  """Full-precision 2-D convolution that can stand in for `BinaryConv`.

  Takes the same call arguments (`train` and `progress` change nothing) and pads
  explicitly. Its parameters are Flax's `kernel` and `bias`; output float32.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import nn
    >>> layer = nn.RealConv(features=8, kernel_size=3, strides=2)
    >>> y, variables = layer.init_with_output(
    ...   jax.random.key(0), jnp.ones((1, 6, 6, 4))
    ... )
    >>> y.shape, variables["params"]["kernel"].shape
    ((1, 3, 3, 8), (3, 3, 4, 8))
  """

  features: int
  kernel_size: int | Sequence[int]
  strides: int | Sequence[int] = 1
  padding: _geometry.Padding = None
  use_bias: bool = False
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
    del train, progress
    _geometry.check_rank("RealConv", x, "(batch, height, width, channels)", 4)
    size = _geometry.pair(self.kernel_size, "kernel_size")
    geometry = _geometry.conv_geometry(size, self.strides, self.padding)
    kernel = self.param(
      "kernel",
      self.kernel_init,
      (*size, x.shape[-1], self.features),
      self.param_dtype,
    )
    y = products.real_conv(
      x.astype(self.dtype), kernel.astype(self.dtype), geometry
    ).astype(jnp.promote_types(self.dtype, jnp.float32))
    if self.use_bias:
      y += self.param(
        "bias", nn.initializers.zeros, (self.features,), self.param_dtype
      )
    return y


class BatchNorm(nn.Module):
  """Batch normalization over all axes but the last, with PyTorch's statistics.

  Normalizes with the biased batch variance and stores the *unbiased* one, as
  the published networks do; Flax stores the biased one. Statistics are over
  the global batch under `jit` with sharded data. Under `pmap` or `shard_map`,
  name the mapped axis in `axis_name` for the same.

  The batch is summed as seen from the running mean. While that is many standard
  deviations from the batch's, as it may be in the first steps, the variance is
  rounded more coarsely in float32.

  Attributes:
    momentum: share of the running statistics that each step keeps.
    epsilon: added to the variance.
    scale_init: initializer of the scale.
    axis_name: mapped axis over which statistics are averaged.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import nn
    >>> x = jnp.array([[0.0], [4.0]])
    >>> norm = nn.BatchNorm()
    >>> variables = norm.init(jax.random.key(0), x)
    >>> y, moved = norm.apply(variables, x, train=True, mutable="batch_stats")
    >>> y.round(3).ravel().tolist()
    [-1.0, 1.0]
    >>> [round(v.item(), 1) for v in jax.tree.leaves(moved)]  # mean, variance
    [0.2, 1.7]
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  scale_init: Callable[..., jax.Array] = nn.initializers.ones
  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
    shape = x.shape[-1:]
    scale = self.param("scale", self.scale_init, shape)
    bias = self.param("bias", nn.initializers.zeros, shape)
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
    running_var = self.variable("batch_stats", "var", jnp.ones, shape)
    if train:
      count = x.size // x.shape[-1]
      if self.axis_name is not None:
        count *= lax.axis_size(self.axis_name)
      if count < 2:
        raise ValueError(
          f"batch normalization of shape {x.shape} sees one value per channel "
          "and cannot train on it; use a batch of at least 2."
        )
      y, mean, var = normalize(
        x, scale, bias, running_mean.value, self.epsilon, self.axis_name
      )
      if not self.is_initializing():
        keep = self.momentum
        unbiased = var * (count / (count - 1))
        running_mean.value = keep * running_mean.value + (1 - keep) * mean
        running_var.value = keep * running_var.value + (1 - keep) * unbiased
      return y
    inverse = lax.rsqrt(running_var.value + self.epsilon)
    return (x - running_mean.value) * (scale * inverse) + bias


class Dense(nn.Module):
  """Full-precision fully connected layer, initialized as PyTorch does.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import nn
    >>> variables = nn.Dense(10).init(jax.random.key(0), jnp.ones((1, 64)))
    >>> bool(abs(variables["params"]["kernel"]).max() <= 1 / 8)
    True
  """

  features: int
  kernel_init: Callable[..., jax.Array] = _initializers.torch_uniform
  bias_init: Callable[..., jax.Array] | None = None  # None: as the kernel

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    bound = x.shape[-1] ** -0.5

    def uniform(key, shape, dtype=jnp.float32):
      return jax.random.uniform(key, shape, dtype, -bound, bound)

    kernel = self.param(
      "kernel", self.kernel_init, (x.shape[-1], self.features)
    )
    bias = self.param("bias", self.bias_init or uniform, (self.features,))
    return x @ kernel + bias
