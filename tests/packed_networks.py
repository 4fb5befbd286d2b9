"""Small networks whose statistics are as odd as those of trained ones."""

import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np

from ovsw_jax import models, nn

IMAGE = (8, 8, 3)


def network(method=None, **options):
  """Two stages, every kind of layer; images of shape `IMAGE`."""
  conv, activation = nn.BinaryConv, None
  if method is not None:
    conv, activation = method.conv, method.activation
  options = {"block": "basic", "shortcut": "binary"} | options
  if activation is not None:
    options["activation"] = activation
  return models.ResNet(
    stage_sizes=(1, 1), widths=(16, 32), num_classes=5, conv=conv, **options
  )


def variables_of(model, seed=0, image=IMAGE):
  """Random variables: negative scales of norms and of outputs among them."""
  shapes = jax.eval_shape(
    functools.partial(model.init, train=False),
    jax.random.key(seed),
    jnp.zeros((1, *image)),
  )
  rng = np.random.default_rng(seed)

  def odd(path, leaf):
    names = [part.key for part in path]
    normal = rng.normal(size=leaf.shape).astype(np.float32)
    if names[-1] == "var":
      return np.exp(normal)
    if names[-1] in ("kernel", "squeeze", "excite"):
      return normal / np.sqrt(normal[..., 0].size, dtype=np.float32)
    if names[-1] == "slope":
      return np.abs(normal) + 0.1
    return normal

  return jax.tree_util.tree_map_with_path(odd, shapes)


def images_of(count=2, seed=0, image=IMAGE):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(count, *image)).astype(np.float32)


def with_bits(model, variables, images):
  """Logits, and the sign of every binary layer's input, by its path."""
  found = {}

  def record(call, args, kwargs, context):
    if isinstance(context.module, nn.BinaryConv) and args:
      found["/".join(context.module.path)] = args[0] >= 0
    return call(*args, **kwargs)

  def run(variables, images):
    found.clear()
    with flax.linen.intercept_methods(record):
      logits = model.apply(variables, images, train=False)
    return logits, dict(found)

  return jax.jit(run)(variables, images)


def packed_with_bits(packed, images, *, real=False):
  """The same of a packed network; with `real` compiled sooner."""
  module = packed.description.module(real=real)

  def run(images):
    logits, sown = module.apply(
      packed.variables, images, mutable=["intermediates"]
    )
    flat = flax.traverse_util.flatten_dict(sown["intermediates"])
    bits = {"/".join(path[:-1]): value[0] > 0 for path, value in flat.items()}
    return logits, bits

  return jax.jit(run)(images)
