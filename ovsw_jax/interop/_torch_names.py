"""The OvSW authors' names and layouts of parameters, and ours.

Kernels are (out, in, height, width) there and (height, width, in, out) here;
dense ones (out, in) and (in, out). VGG-Small's classifier takes images that are
flattened as (channels, height, width) there, and channels last here.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# Their architecture: ours.
ARCHITECTURES = {
  "cResNet18_1w1a": "cifar_resnet18",
  "cResNet20_1w1a": "cifar_resnet20",
  "cResNet34_1w1a": "cifar_resnet34",
  "ResNet18_1w1a": "resnet18",
  "ResNet34_1w1a": "resnet34",
  "VGGSmall_1w1a": "vgg_small",
}
IMAGENET = ("resnet18", "resnet34")
# What SAD keeps of every binary weight, beside it.
FLIP_EMA, PREVIOUS = "tracker", "weight_prev"
# Of every batch normalization, and of no use here.
BATCHES = "num_batches_tracked"

_RENAMED = (
  (r"^layer(\d+)\.(\d+)", r"layer\1_block\2"),
  (r"(shortcut|downsample)\.0$", "shortcut_conv"),
  (r"(shortcut|downsample)\.1$", "shortcut_norm"),
  (r"\bbn(\d)", r"norm\1"),
  (r"(nonlinear|\bact)(\d)", r"activation\2"),
  (r"^(fc|linear)$", "head"),
)
_RESNET_ENDS = {
  "conv1": "stem_conv",
  "norm1": "stem_norm",
  "norm2": "head_norm",
}
_HEAD = re.compile(r"(fc|linear)\.weight")


def locate(key: str, architecture: str) -> tuple[str, ...]:
  """(collection, modules..., name) of a key of their `state_dict`.

  What SAD keeps is located where its weight is, in collections of its own.

  Args:
    key: without prefix, and not that of a count of batches.
    architecture: ours.
  """
  module, _, leaf = key.rpartition(".")
  for pattern, replacement in _RENAMED:
    module = re.sub(pattern, replacement, module)
  if architecture != "vgg_small":
    module = _RESNET_ENDS.get(module, module)
  parts = tuple(module.split("."))
  if leaf in (FLIP_EMA, PREVIOUS):
    return (leaf, *parts, "latent")
  if leaf.startswith("running_"):
    return ("batch_stats", *parts, leaf.removeprefix("running_"))
  if leaf == "scaling_factor":
    leaf = "output_scale"
  if leaf == "weight":
    last = parts[-1]
    if "norm" in last:
      leaf = "scale"
    elif "activation" in last:
      leaf = "slope"
    elif last in ("stem_conv", "conv0", "head") or (
      last == "shortcut_conv" and architecture in IMAGENET
    ):
      leaf = "kernel"
    else:
      leaf = "latent"
  return ("params", *parts, leaf)


def _vgg_side(features: int) -> int:
  return round((features / 512) ** 0.5)


def to_ours(value: np.ndarray, key: str, architecture: str) -> np.ndarray:
  """An array of theirs in our layout."""
  value = np.asarray(value)
  if _HEAD.match(key) and value.ndim > 1:
    value = value.reshape(value.shape[0], -1)
    side = _vgg_side(value.shape[1])
    if architecture == "vgg_small" and value.shape[1] == 512 * side**2:
      value = value.reshape(-1, 512, side, side).transpose(0, 2, 3, 1)
      value = value.reshape(value.shape[0], -1)
    return value.T
  return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value


def to_torch(value: Any, key: str, architecture: str) -> np.ndarray:
  """An array of ours in their layout."""
  value = np.asarray(value)
  if _HEAD.match(key):
    value = value.T
    if architecture == "vgg_small":
      side = _vgg_side(value.shape[1])
      value = value.reshape(-1, side, side, 512).transpose(0, 3, 1, 2)
      value = value.reshape(value.shape[0], -1)
    elif architecture in ("cifar_resnet18", "cifar_resnet34"):
      value = value[:, :, None, None]  # a 1x1 convolution there
    return value
  return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value


def guess(keys: Mapping[str, Any]) -> str:
  """Our architecture of a `state_dict`'s keys, without prefix.

  Raises:
    ValueError: they are of none of the OvSW authors' networks.
  """
  if "conv0.weight" in keys:
    return "vgg_small"
  deep = "layer1.2.conv1.weight" in keys
  if "layer2.0.downsample.0.weight" in keys:
    return "resnet34" if deep else "resnet18"
  if "layer2.0.shortcut.0.weight" in keys:
    return "cifar_resnet34" if deep else "cifar_resnet18"
  if "linear.weight" in keys and deep:
    return "cifar_resnet20"
  raise ValueError(
    "its keys are of none of the OvSW authors' networks, which are "
    f"{', '.join(ARCHITECTURES)}; it has {', '.join(list(keys)[:4])}, ..."
  )


def _norm(module: str) -> Iterator[str]:
  for leaf in ("weight", "bias", "running_mean", "running_var"):
    yield f"{module}.{leaf}"
  yield f"{module}.{BATCHES}"


def _conv(module: str) -> Iterator[str]:
  for leaf in ("weight", "scaling_factor", PREVIOUS, FLIP_EMA):
    yield f"{module}.{leaf}"


def keys(architecture: str) -> Iterator[str]:
  """Keys that a network of theirs may have, in their order.

  Optimizers number parameters in this order. Of what a network need not have
  (slopes, learned scales, what SAD keeps, further blocks) all is given.
  """
  if architecture == "vgg_small":
    yield "conv0.weight"
    yield from _norm("bn0")
    for index in range(1, 6):
      yield from _conv(f"conv{index}")
      yield from _norm(f"bn{index}")
    for index in range(6):
      yield f"nonlinear{index}.weight"
    yield from ("fc.weight", "fc.bias")
    return
  yield "conv1.weight"
  yield from _norm("bn1")
  shortcut = "downsample" if architecture in IMAGENET else "shortcut"
  stages = 3 if architecture == "cifar_resnet20" else 4
  for stage in range(1, stages + 1):
    for index in range(6):
      block = f"layer{stage}.{index}"
      for place in (1, 2):
        yield from _conv(f"{block}.conv{place}")
        yield from _norm(f"{block}.bn{place}")
      yield from _conv(f"{block}.{shortcut}.0")
      yield from _norm(f"{block}.{shortcut}.1")
      yield from (f"{block}.act1.weight", f"{block}.act2.weight")
  yield from _norm("bn2")
  head = "linear" if architecture == "cifar_resnet20" else "fc"
  yield from (f"{head}.weight", f"{head}.bias")
