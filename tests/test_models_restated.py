"""Every block, shortcut, stem and head, restated in NumPy and float64.

The restatements follow the papers' descriptions, not the parts that the library
composes: each network is written out by hand.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ovsw_jax import models

TINY = {"stage_sizes": (2, 1), "widths": (4, 8)}


def hardtanh(x, _=None):
  return np.clip(x, -1, 1)


def relu(x, _=None):
  return np.maximum(x, 0)


def identity(x, _=None):
  return x


def prelu(x, p):
  return np.where(x > 0, x, p["slope"] * x)


def rprelu(x, p):
  return prelu(x + p["input_shift"], p) + p["output_shift"]


def convolve(x, kernel, strides=1):
  side = kernel.shape[0]
  edge = (side // 2, side // 2)
  x = np.pad(x, ((0, 0), edge, edge, (0, 0)))
  windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
  windows = windows[:, ::strides, ::strides]
  return np.einsum("nhwcij,ijco->nhwo", windows, kernel)


def sign(x):
  return np.where(x >= 0, 1.0, -1.0)


def binary(x, p, strides=1):
  """OvSW's layer; its normalization of activations changes no sign."""
  latent = p["latent"]
  centred = latent - latent.mean((0, 1, 2))
  deviation = np.sqrt(centred.var((0, 1, 2), ddof=1) + 1e-5)
  scale = np.abs(centred / deviation).mean((0, 1, 2))
  return convolve(sign(x), sign(latent), strides) * scale


def normalize(x, p):
  axes = tuple(range(x.ndim - 1))
  centred = x - x.mean(axes)
  return centred / np.sqrt(x.var(axes) + 1e-5) * p["scale"] + p["bias"]


def average_pool(x):
  n, height, width, channels = x.shape
  return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def max_pool_3(x):
  x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
  windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
  return windows[:, ::2, ::2].max((-2, -1))


def zero_channels(x):
  quarter = np.zeros((*x.shape[:-1], x.shape[-1] // 2))
  return np.concatenate([quarter, x, quarter], axis=-1)


def shortcut(kind, x, p):
  """Where the size halves and the width doubles."""
  if kind == "strided":
    return zero_channels(x[:, ::2, ::2])
  if kind == "pooled":
    return zero_channels(average_pool(x))
  if kind == "real":
    y = convolve(x, p["shortcut_conv"]["kernel"], 2)
  elif kind == "pooled_real":
    y = convolve(average_pool(x), p["shortcut_conv"]["kernel"])
  elif kind == "binary":
    y = binary(x, p["shortcut_conv"], 2)
  return normalize(y, p["shortcut_norm"])


def basic(x, p, strides, kind, activation):
  y = normalize(binary(x, p["conv1"], strides), p["norm1"])
  y = activation(y, p.get("activation1"))
  y = normalize(binary(y, p["conv2"]), p["norm2"])
  x = x if strides == 1 else shortcut(kind, x, p)
  return activation(y + x, p.get("activation2"))


def single(x, p, strides, kind, activation):
  y = normalize(binary(x, p["conv1"], strides), p["norm1"])
  x = x if strides == 1 else shortcut(kind, x, p)
  return activation(y + x, p.get("activation1"))


def bireal(x, p, strides, kind, activation):
  x = single(x, p, strides, kind, activation)
  y = normalize(binary(x, p["conv2"]), p["norm2"])
  return activation(y + x, p.get("activation2"))


def mobile(x, p, strides, kind, activation):
  """ReActNet-A: twice the channels are two 1x1 convolutions side by side."""
  y = normalize(binary(x, p["conv1"], strides), p["norm1"])
  x = activation(y + (x if strides == 1 else average_pool(x)), p["activation1"])
  channels = x.shape[-1]
  outputs = []
  for start in range(0, p["conv2"]["latent"].shape[-1], channels):
    half = slice(start, start + channels)
    conv = {"latent": p["conv2"]["latent"][..., half]}
    norm = {name: value[half] for name, value in p["norm2"].items()}
    outputs.append(normalize(binary(x, conv), norm) + x)
  return activation(np.concatenate(outputs, axis=-1), p["activation2"])


def head(x, p):
  return x @ p["head"]["kernel"] + p["head"]["bias"]


def resnet(
  p,
  x,
  block,
  kind=None,
  activation=hardtanh,
  stem=identity,
  last=identity,
  last_norm=True,
  stem_strides=1,
):
  kernel = p["stem_conv"]["kernel"]
  x = stem(normalize(convolve(x, kernel, stem_strides), p["stem_norm"]))
  if kernel.shape[0] == 7:
    x = max_pool_3(x)
  for name in ("layer1_block0", "layer1_block1", "layer2_block0"):
    strides = 2 if name == "layer2_block0" else 1
    x = block(x, p[name], strides, kind, activation)
  x = x.mean((1, 2))
  if last_norm:
    x = normalize(x, p["head_norm"])
  return head(last(x), p)


def vgg(p, x, activation, last):
  for index in range(6):
    conv = p[f"conv{index}"]
    x = binary(x, conv) if index else convolve(x, conv["kernel"])
    if index in (1, 3, 5):
      n, height, width, channels = x.shape
      x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
    x = normalize(x, p[f"norm{index}"])
    function = last if index == 5 else activation
    x = function(x, p.get(f"activation{index}"))
  return head(x.reshape(len(x), -1), p)


def case(label, restated, name, side=8, **options):
  if name != "vgg_small":
    options = TINY | options
  return pytest.param(restated, name, side, options, id=label)


_resnet = functools.partial(functools.partial, resnet)
_pooled_real = functools.partial(
  _resnet, block=single, kind="pooled_real", last_norm=False
)
CASES = [
  case(
    "irnet_resnet20",
    _resnet(block=bireal, kind="strided", stem=hardtanh),
    "cifar_resnet20",
    shortcut="strided",
  ),
  case(
    "irnet_resnet20_1w32a",
    _resnet(block=basic, kind="strided", activation=relu, last=relu),
    "cifar_resnet20",
    shortcut="strided",
    block="basic",
    activation="relu",
    stem_activation="identity",
    last_activation="relu",
  ),
  case(
    "irnet_resnet18",
    _resnet(block=basic, kind="real"),
    "cifar_resnet18",
    shortcut="real",
  ),
  case(
    "sdbnn_resnet18",
    _resnet(block=basic, kind="real", stem=hardtanh),
    "cifar_resnet18",
    shortcut="real",
    stem_activation="hardtanh",
  ),
  case(
    "basic_binary_rprelu",
    _resnet(block=basic, kind="binary", activation=rprelu),
    "cifar_resnet18",
    activation="rprelu",
  ),
  case(
    "bireal_pooled_prelu",
    _resnet(block=bireal, kind="pooled", activation=prelu, stem=hardtanh),
    "cifar_resnet20",
    activation="prelu",
  ),
  case(
    "irnet_imagenet",
    _resnet(block=bireal, kind="real", stem=hardtanh, stem_strides=2),
    "resnet18",
    side=16,
    norm_scale=1.0,
  ),
  case(
    "birealnet",
    _pooled_real(activation=identity, stem_strides=2),
    "birealnet18",
    side=16,
  ),
  case(
    "reactnet",
    _pooled_real(activation=rprelu, stem_strides=2),
    "birealnet18",
    side=16,
    activation="rprelu",
  ),
  case(
    "sdbnn_imagenet",
    _pooled_real(activation=prelu, stem_strides=2),
    "birealnet34",
    side=16,
    activation="prelu",
  ),
  case(
    "cifar_birealnet20",
    _pooled_real(activation=rprelu),
    "cifar_birealnet20",
    activation="rprelu",
  ),
  case(
    "reactnet_a",
    _resnet(block=mobile, activation=rprelu, stem_strides=2, last_norm=False),
    "reactnet_a",
    stem_width=2,
  ),
  case(
    "irnet_vgg",
    functools.partial(vgg, activation=hardtanh, last=hardtanh),
    "vgg_small",
    last_activation="hardtanh",
  ),
]


@pytest.mark.parametrize(("restated", "name", "side", "options"), CASES)
def test_training_forward_pass_and_gradients(
  restated, name, side, options, x64
):
  model = models.make(name, num_classes=5, dtype=jnp.float64, **options)
  images = jax.random.normal(jax.random.key(0), (3, side, side, 3))
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  draw = np.random.default_rng(1).normal
  params = jax.tree.map(lambda leaf: draw(size=leaf.shape), shapes["params"])
  statistics = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape), shapes["batch_stats"]
  )

  @jax.jit
  def run(params):
    def loss(params):
      logits, _ = model.apply(
        {"params": params, "batch_stats": statistics},
        images,
        train=True,
        progress=0.5,
        mutable=["batch_stats"],
      )
      return jnp.sum(jnp.sin(logits)), logits

    return jax.grad(loss, has_aux=True)(params)

  gradients, logits = run(params)
  assert logits.shape == (3, 5) and logits.dtype == jnp.float64
  expected = restated(params, np.asarray(images))
  np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)
  for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(leaf).all(), path
    assert np.any(leaf != 0), path
