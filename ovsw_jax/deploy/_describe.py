"""A network as plain values, and back."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

from ovsw_jax import models, nn
from ovsw_jax.deploy import _layers
from ovsw_jax.models import _options

NETWORKS = {"ResNet": models.ResNet, "VGGSmall": models.VGGSmall}
# What says how to train a network, or is put in its place here.
_LEFT = (
  "conv",
  "conv_init",
  "head_init",
  "norm",
  "norm_axis_name",
  "norm_scale",
)
_DTYPES = ("float32", "bfloat16", "float16", "float64")
_ACTIVATIONS = ("activation", "last_activation", "stem_activation")


@dataclasses.dataclass(frozen=True)
class Description:
  """Everything about a packed network but its arrays.

  Attributes:
    network: a key of `NETWORKS`.
    options: attributes of that network: numbers, names, lists of numbers.
    binarizer: how activations become bits, a key of `_layers.BINARIZERS`.
    reduction: of the binarizer, if it has one.
    input_scale: whether outputs are multiplied by the input's magnitude.
    thresholds: names of the normalizations that became thresholds.
  """

  network: str
  options: dict[str, Any]
  binarizer: str = "sign"
  reduction: int | None = None
  input_scale: bool = False
  thresholds: tuple[str, ...] = ()

  def module(self, *, real: bool = False) -> linen.Module:
    """The packed network.

    Args:
      real: whether bits are multiplied as float32, and not counted.

    Raises:
      ValueError: for a network, option or value that does not exist.
    """
    if self.network not in NETWORKS:
      raise ValueError(
        f"network {self.network!r} is not one of {', '.join(NETWORKS)}."
      )
    if self.binarizer not in _layers.BINARIZERS:
      raise ValueError(
        f"binarizer {self.binarizer!r} is not one of "
        f"{', '.join(_layers.BINARIZERS)}."
      )
    network = NETWORKS[self.network]
    known = {field.name for field in dataclasses.fields(network)}
    for name in self.options:
      if name not in known or name in _LEFT:
        raise ValueError(f"network {self.network!r} has no option {name!r}.")
    options = {k: _frozen(v) for k, v in self.options.items()}
    for name in _ACTIVATIONS:
      if name in options:
        activation = _options.named(name, options[name], _options.ACTIVATIONS)
        options[name] = _layers.materialized(activation)
    dtype = options.get("dtype", "float32")
    if dtype not in _DTYPES:
      raise ValueError(f"dtype={dtype!r} is not one of {', '.join(_DTYPES)}.")
    options["dtype"] = jnp.dtype(dtype)  # of the real convolutions
    conv = functools.partial(
      _layers.PackedConv,
      binarizer=self.binarizer,
      reduction=self.reduction,
      input_scale=self.input_scale,
      real=real,
    )
    return network(**options, conv=conv, norm=_layers.norms(self.thresholds))


def _frozen(value: Any) -> Any:
  return tuple(value) if isinstance(value, list) else value


def options(model: linen.Module) -> dict[str, Any]:
  """A network's options as plain values.

  Raises:
    ValueError: for an option that is no plain value, naming it.
  """
  found = {}
  for name in _options.names_of(model):
    if name in _LEFT:
      continue
    value = getattr(model, name)
    if name == "dtype":
      value = jnp.dtype(value).name
    elif callable(value):
      value = _name_of(name, value)
    found[name] = list(value) if isinstance(value, tuple) else value
  return found | {"num_classes": model.num_classes}


def _name_of(argument: str, value: Callable[..., Any]) -> str:
  tables = {"shortcut": models._resnet.SHORTCUTS}
  for name, meaning in tables.get(argument, _options.ACTIVATIONS).items():
    if meaning is value:
      return name
  raise ValueError(
    f"{argument}={value!r} is none that a packed network can name; use one of "
    f"{', '.join(tables.get(argument, _options.ACTIVATIONS))}."
  )


def _conv_parts(conv: Callable[..., Any]) -> Mapping[str, Any]:
  """What a factory sets of `nn.BinaryConv`, defaults included."""
  arguments: dict[str, Any] = {}
  while isinstance(conv, functools.partial):
    if conv.args:
      raise ValueError("its `conv` sets arguments by position.")
    arguments = {**conv.keywords, **arguments}
    conv = conv.func
  if conv is not nn.BinaryConv:
    name = getattr(conv, "__name__", repr(conv))
    raise ValueError(
      f"its convolutions are made by {name}, which is not nn.BinaryConv or a "
      "functools.partial of it, so that they have no bits to pack."
    )
  defaults = {
    field.name: field.default for field in dataclasses.fields(nn.BinaryConv)
  }
  return defaults | arguments


def conv_form(
  conv: Callable[..., Any], params: Mapping[str, Any]
) -> dict[str, Any]:
  """The fields of `Description` that a factory of convolutions decides.

  Functions are told by what they compute, modules by their class.

  Args:
    conv: `nn.BinaryConv` or a `functools.partial` of it.
    params: of one of its layers.

  Raises:
    ValueError: for a slot that a packed network has not.
  """
  parts = _conv_parts(conv)
  for name in ("padding", "kernel_dilation", "feature_group_count"):
    if parts[name] not in (None, 1):
      raise ValueError(f"its `conv` sets {name}, which is not packed.")
  form: dict[str, Any] = _post(parts["post"])
  if form["input_scale"] and parts["use_bias"]:
    raise ValueError("its `conv` has both a bias and an input scale.")
  slot = parts["activation_quantizer"]
  kind = slot
  while isinstance(kind, functools.partial):
    kind = kind.func
  if kind is nn.RSign:
    return form | {"binarizer": "shifted_sign"}
  if kind is nn.SelfDistributionActivations:
    squeeze = params["activation_quantizer"]["squeeze"]
    reduction = squeeze.shape[0] // squeeze.shape[1]
    return form | {
      "binarizer": "self_distribution_sign",
      "reduction": reduction,
    }
  if not isinstance(kind, type):
    x = _probe()
    bits = np.asarray(slot(x, False, 0.0))
    for name in ("sign", "centred_sign"):
      if np.array_equal(bits, _layers.BINARIZERS[name](x, False, 0.0)):
        return form | {"binarizer": name}
  raise ValueError(
    f"its activation quantizer {kind!r} is none that a packed network has: "
    f"{', '.join(_layers.BINARIZERS)}."
  )


def _probe() -> jax.Array:
  """Examples of unlike means and sizes, with zeros and tiny values."""
  x = np.random.default_rng(0).normal(size=(4, 6, 6, 8)).astype(np.float32)
  x *= np.float32([1e-6, 0.01, 1, 100])[:, None, None, None]
  x += np.float32([0, 0.02, -1.5, 0])[:, None, None, None]
  x[:, 0, 0] = [0, -0.0, 1e-30, -1e-30, 1, -1, 1e-3, -1e-3]
  return jnp.asarray(x)


def _post(post: Any) -> dict[str, bool]:
  """Whether a `post` multiplies by the mean |x| of each window, or is none."""
  if post is None:
    return {"input_scale": False}
  if not isinstance(post, type) and not isinstance(post, functools.partial):
    y, x = _probe(), 1 + _probe()[:, ::2]
    y = y[:, ::2]
    window_mean = lambda mean: mean + 0.5
    expected = y * window_mean(jnp.mean(jnp.abs(x), axis=-1, keepdims=True))
    if np.allclose(post(y, x, window_mean), expected, rtol=1e-6):
      return {"input_scale": True}
  raise ValueError(f"its `post` {post!r} is none that a packed network has.")
