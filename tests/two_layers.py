"""A network of two binary layers, and the training step of any method."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen

from ovsw_jax import methods, nn
from ovsw_jax import optax as transforms


class Network(linen.Module):
  """Two binary layers with all that comes around them, and a classifier."""

  method: methods.Method
  features: int = 6
  classes: int = 4
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(self, x, train=False, progress=0.0):
    activation = self.method.activation or nn.Hardtanh
    kinds = {"dtype": self.dtype, "param_dtype": self.dtype}
    for place, stride in ((1, 1), (2, 2)):
      x = self.method.conv(
        self.features, 3, strides=stride, name=f"conv{place}", **kinds
      )(x, train, progress)
      x = nn.BatchNorm(name=f"norm{place}")(x, train)
      x = activation(name=f"activation{place}")(x)
    return linen.Dense(
      self.classes, use_bias=False, param_dtype=self.dtype, name="head"
    )(x.mean((1, 2)))


def optimizer(method, learning_rate=0.1):
  """The chain of the trainer: transform, decay, momentum, rate, tail."""
  parts = [
    method.transform,
    transforms.sign_flips(mask=transforms.binary_mask())
    if method.binary
    else None,
    optax.add_decayed_weights(1e-4),
    optax.trace(0.9),
    optax.scale_by_learning_rate(learning_rate),
    method.tail,
  ]
  return optax.chain(*(part for part in parts if part is not None))


def train(method, images, labels, steps, epoch=4, learning_rate=0.1):
  """Trains the network; returns the losses and the variables at the end."""
  network, tx = Network(method), optimizer(method, learning_rate)
  variables = jax.jit(network.init)(jax.random.key(0), images)
  params, view = variables["params"], method.view
  memory = view.init(params) if view else None
  opt_state = tx.init(params)

  @jax.jit
  def step(variables, opt_state, memory, progress):
    params = variables["params"]

    def loss_fn(params):
      seen = view.apply(params, memory, progress) if view else params
      logits, updates = network.apply(
        {**variables, "params": seen},
        images,
        True,
        progress,
        mutable=["batch_stats"],
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return losses.mean(), updates

    (loss, moved), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
    base = params
    if view and view.overwrite:
      base = view.apply(params, memory, progress)
    updates, opt_state = tx.update(gradient, opt_state, base)
    if view:
      memory = view.remember(base, gradient)
    params = optax.apply_updates(base, updates)
    return {**variables, **moved, "params": params}, opt_state, memory, loss

  losses = []
  for index in range(steps):
    progress = jnp.float32(index / steps)
    if method.refresh and index % epoch == 0:
      variables = jax.jit(method.refresh)(variables, progress)
    variables, opt_state, memory, loss = step(
      variables, opt_state, memory, progress
    )
    losses.append(float(loss))
  assert step._cache_size() == 1
  return losses, variables
