"""Turns a trained network into bits, affines and thresholds."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, traverse_util

from ovsw_jax import products
from ovsw_jax.deploy import _describe
from ovsw_jax.deploy._network import PackedNetwork

Layer = tuple[str, ...]
_EPSILON = 1e-5  # of `nn.BatchNorm`


class _Sums(NamedTuple):
  """What a convolution makes of its sums of bits: (sums + bias) * scale."""

  bits: np.ndarray
  scale: np.ndarray
  bias: np.ndarray


def pack(
  model: linen.Module,
  variables: Mapping[str, Any],
  *,
  image_shape: tuple[int, int, int] | None = None,
  metadata: Mapping[str, Any] | None = None,
) -> PackedNetwork:
  """Turns a trained network into one that holds and multiplies bits.

  Each binary weight becomes a bit, packed along the input channels. Its scale,
  the output scale and the batch normalization after it become one affine map
  for each channel, or, where a sign comes next, an integer threshold. Latent
  weights are dropped. The result computes what
  ``model.apply(variables, images, train=False)`` computes, on the same bits.

  Args:
    model: a network of `ovsw_jax.models`, with any of the binary methods.
    variables: all that the model has: "params", "batch_stats", ...
    image_shape: (height, width, channels); None finds it where the network
      depends on it, and takes 32 x 32 or 224 x 224 else.
    metadata: plain values to keep beside: "classes", "mean", "std",
      "accuracy", ...; see `PackedNetwork`.

  Returns:
    The packed network. Its `notes` name what had to stay real-valued.

  Raises:
    ValueError: the network has no binary weights, or a part that is not of
      this package; the message names the layer.

  Examples:
    >>> import jax, jax.numpy as jnp
    >>> import ovsw_jax as ovsw
    >>> net = ovsw.models.cifar_resnet20()
    >>> images = jnp.ones((1, 8, 8, 3))
    >>> shapes = jax.eval_shape(net.init, jax.random.key(0), images)
    >>> variables = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
    >>> packed = ovsw.deploy.pack(net, variables)
    >>> words = packed.variables["params"]["layer3_block1"]["conv1"]["words"]
    >>> words.shape, words.dtype  # 64 bits in two words
    ((3, 3, 2, 64), dtype('uint32'))
  """
  name = type(model).__name__
  if _describe.NETWORKS.get(name) is not type(model):
    raise ValueError(
      f"{name} is no network of ovsw_jax.models, which are "
      f"{', '.join(_describe.NETWORKS)}; only those are packed."
    )
  if model.norm is not _describe.nn.BatchNorm:
    raise ValueError(f"{name}: its `norm` is not nn.BatchNorm.")
  params = traverse_util.flatten_dict(variables["params"])
  latents = [path[:-1] for path in params if path[-1] == "latent"]
  if not latents:
    raise ValueError(
      f"{name} has no binary weights: it is a full-precision network."
    )
  first = variables["params"]
  for part in latents[0]:
    first = first[part]
  try:
    form = _describe.conv_form(model.conv, first)
  except ValueError as error:
    raise ValueError(f"{name} cannot be packed: {error}") from error
  image_shape = image_shape or _image_shape(model, params)
  quantized = _quantized(model, variables, params, image_shape)
  statistics = traverse_util.flatten_dict(variables["batch_stats"])
  packed: dict[Layer, np.ndarray] = {}
  thresholds = _thresholds(model, params, form)
  for path, value in params.items():
    layer, leaf = path[:-1], path[-1]
    if leaf == "latent":
      _check_bits(layer, quantized[layer])
      words = products.pack_kernel(quantized[layer].bits)
      packed[(*layer, "words")] = np.asarray(words)
    elif (*layer, "mean") in statistics:
      if leaf != "scale":
        continue
      norm = _Norm(
        *(np.asarray(params[(*layer, part)]) for part in ("scale", "bias")),
        *(np.asarray(statistics[(*layer, part)]) for part in ("mean", "var")),
      )
      conv = _conv_before(layer)
      sums = quantized.get(conv)
      arrays = (
        norm.threshold(sums)
        if sums is not None and layer[-1] in thresholds
        else norm.affine(sums)
      )
      packed |= {(*layer, key): array for key, array in arrays.items()}
    elif not _is_of_layer(path, quantized) or "activation_quantizer" in path:
      packed[path] = np.asarray(value)
  description = _describe.Description(
    network=name,
    options=_describe.options(model),
    thresholds=tuple(thresholds),
    **form,
  )
  return PackedNetwork(
    description=description,
    variables={"params": traverse_util.unflatten_dict(packed)},
    image_shape=tuple(image_shape),
    metadata=dict(metadata or {}),
  )


def _is_of_layer(path: Layer, layers: Mapping[Layer, Any]) -> bool:
  return any(path[:end] in layers for end in range(1, len(path)))


def _conv_before(norm: Layer) -> Layer:
  """The convolution that a normalization follows, by its name."""
  return (*norm[:-1], norm[-1].replace("norm", "conv"))


def _check_bits(layer: Layer, sums: _Sums) -> None:
  bits = sums.bits
  if not np.all(np.abs(bits) == 1):
    bad = bits[np.abs(bits) != 1].ravel()[0]
    raise ValueError(
      f"{'/'.join(layer)} has a weight of {bad}, where a bit is +1 or -1: it "
      "is of the first stage of two-step training, or an output channel whose "
      "weights are all equal."
    )
  if not np.all(np.isfinite(sums.scale)):
    raise ValueError(f"{'/'.join(layer)} has an output scale of {sums.scale}.")


def _image_shape(model, params) -> tuple[int, int, int]:
  if isinstance(model, _describe.models.VGGSmall):
    features = params[("head", "kernel")].shape[0]
    side = 8 * round((features / params[("norm5", "scale")].shape[0]) ** 0.5)
    return side, side, params[("conv0", "kernel")].shape[2]
  side = 32 if model.stem == "cifar" else 224
  return side, side, params[("stem_conv", "kernel")].shape[2]


def _quantized(model, variables, params, image_shape) -> dict[Layer, _Sums]:
  """Bits and scale of every binary layer, as its forward pass computes them."""

  def compute(variables, images):
    # Only what the weights became is returned: the network itself is not run.
    _, sown = model.apply(
      variables, images, train=False, mutable=["intermediates"]
    )
    flat = traverse_util.flatten_dict(sown["intermediates"])
    return {
      path[:-1]: tuple(value[0])
      for path, value in flat.items()
      if path[-1] == "quantized"
    }

  images = jnp.zeros((1, *image_shape))
  found = jax.jit(compute)(variables, images)
  sums = {}
  for layer, (bits, scale) in found.items():
    bits, scale = np.asarray(bits), np.asarray(scale)
    # Negative scales would not pass pooling: bits are negated in their place.
    sign = np.where(scale < 0, -1, 1).astype(bits.dtype)
    bias = np.asarray(params.get((*layer, "bias"), np.zeros_like(scale)))
    sums[layer] = _Sums(bits * sign, scale * sign, bias * sign)
  return sums


def _thresholds(model, params, form) -> tuple[str, ...]:
  """Normalizations whose result is nothing but the input of a sign."""
  if form["binarizer"] != "sign" or form["input_scale"]:
    return ()
  if isinstance(model, _describe.models.VGGSmall):
    between = {f"norm{i}": f"activation{i}" for i in range(1, 5)}
  elif model.block == "basic":
    between = {"norm1": "activation1"}
  else:  # a shortcut is added before every sign
    return ()
  kind = _describe.options(model)["activation"]
  if kind == "prelu":  # keeps signs where its slopes are positive
    slopes = {
      name: [
        value
        for path, value in params.items()
        if path[-1] == "slope" and path[-2] == activation
      ]
      for name, activation in between.items()
    }
    return tuple(
      name
      for name in between
      if all(np.all(np.asarray(slope) > 0) for slope in slopes[name])
    )
  return tuple(between) if kind in ("hardtanh", "identity") else ()


class _Norm:
  """A batch normalization in evaluation, to be put together with its input."""

  def __init__(self, scale, bias, mean, var):
    self.scale, self.bias, self.mean, self.var = scale, bias, mean, var

  def affine(self, sums: _Sums | None) -> dict[str, np.ndarray]:
    """As `Affine`, with the convolution's scale; rounded once, at the end."""
    slope = np.float64(self.scale) / np.sqrt(np.float64(self.var) + _EPSILON)
    start = self.bias - self.mean * slope
    if sums is not None:
      start += sums.bias * np.float64(sums.scale) * slope
      slope *= sums.scale
    dtype = self.scale.dtype
    return {"scale": slope.astype(dtype), "bias": start.astype(dtype)}

  def threshold(self, sums: _Sums) -> dict[str, np.ndarray]:
    """As `Threshold`: the sign at every sum that there can be."""
    dtype, most = self.scale.dtype, sums.bits[..., 0].size
    values = np.arange(-most, most + 1, dtype=dtype)[:, None]
    # To the letter as training's evaluation computes it: every operation
    # rounds, but none out of order, so that there is one change of sign.
    y = (values + sums.bias) * sums.scale
    inverse = 1 / np.sqrt(self.var + dtype.type(_EPSILON))
    y = (y - self.mean) * (self.scale * inverse) + self.bias
    positive = y >= 0
    falling = positive[0] & ~positive[-1]
    rising = positive != falling
    # The first sum at which it holds; beyond all where it never does.
    count = np.argmax(rising, axis=0)
    count = np.where(rising.any(axis=0), count, len(values))
    return {
      "threshold": (count - most).astype(np.int32),
      "falling": falling.astype(np.uint8),
    }
