"""Non-linearities of the published networks.

Those without parameters are modules too, so that any of them can be the
`activation` of a network.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


@jax.custom_jvp
def hardtanh(x: jax.Array) -> jax.Array:
  """Clips to [-1, 1]; its gradient is 0 at exactly -1 and 1, as PyTorch's.

  Examples:
    >>> import jax
    >>> from ovsw_jax import nn
    >>> [float(jax.grad(nn.hardtanh)(x)) for x in (0.5, 1.0)]
    [1.0, 0.0]
  """
  # The clip alone says as much, but XLA's CPU backend would not store that: it
  # would compute all that leads to it anew wherever it is read.
  return jnp.where(jnp.abs(x) < 1, x, jnp.clip(x, -1, 1))


@hardtanh.defjvp
def _hardtanh_jvp(primals, tangents):
  # Where it clipped is seen in what came out, which is in memory anyway; what
  # went in would have to be kept, or computed again.
  y = hardtanh(*primals)
  return y, jnp.where(jnp.abs(y) < 1, tangents[0], 0)


class Hardtanh(nn.Module):
  """`hardtanh` as a module.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import nn
    >>> nn.Hardtanh().apply({}, jnp.array([-2.0, 0.5])).tolist()
    [-1.0, 0.5]
  """

  def __call__(self, x: jax.Array) -> jax.Array:
    return hardtanh(x)


class Identity(nn.Module):
  """No non-linearity: Bi-Real Net has none but the next layer's sign.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import nn
    >>> nn.Identity().apply({}, jnp.array([-2.0, 0.5])).tolist()
    [-2.0, 0.5]
  """

  def __call__(self, x: jax.Array) -> jax.Array:
    return x


class ReLU(nn.Module):
  """max(x, 0); its gradient is 0 at 0.

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import nn
    >>> nn.ReLU().apply({}, jnp.array([-2.0, 0.5])).tolist()
    [0.0, 0.5]
  """

  def __call__(self, x: jax.Array) -> jax.Array:
    return nn.relu(x)


def _leaky(x: jax.Array, slope: jax.Array) -> jax.Array:
  return jnp.where(x > 0, x, slope * x)


class PReLU(nn.Module):
  """Leaky rectifier with a learned slope per channel (the last axis).

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> from ovsw_jax import nn
    >>> x = jnp.array([[-2.0, 0.5]])
    >>> y, variables = nn.PReLU().init_with_output(jax.random.key(0), x)
    >>> y.tolist(), variables["params"]["slope"].shape
    ([[-0.5, 0.5]], (2,))
  """

  initial_slope: float = 0.25

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = nn.initializers.constant(self.initial_slope)
    return _leaky(x, self.param("slope", init, x.shape[-1:]))


class RPReLU(nn.Module):
  """Shifted PReLU: ``PReLU(x + input_shift) + output_shift``, all learned.

  All three parameters have shape (channels,), that of the last axis. Shifts
  start at 0, so that it starts as a PReLU.

  References:
    Liu et al., `ReActNet: Towards Precise Binary Neural Network with
    Generalized Activation Functions <https://arxiv.org/abs/2003.03488>`_, 2020

  Examples:
    >>> import jax.numpy as jnp
    >>> from ovsw_jax import nn
    >>> shifts = {"input_shift": jnp.ones(1), "output_shift": jnp.full(1, 3.0)}
    >>> params = shifts | {"slope": jnp.full(1, 0.5)}
    >>> x = jnp.array([[-5.0], [1.0]])
    >>> nn.RPReLU().apply({"params": params}, x).ravel().tolist()
    [1.0, 5.0]
  """

  initial_slope: float = 0.25

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape, zeros = x.shape[-1:], nn.initializers.zeros
    input_shift = self.param("input_shift", zeros, shape)
    slope = self.param(
      "slope", nn.initializers.constant(self.initial_slope), shape
    )
    output_shift = self.param("output_shift", zeros, shape)
    return _leaky(x + input_shift, slope) + output_shift
