"""The golden files' PyTorch names and layouts, as our variable trees."""

import re

import numpy as np

_RENAMED = (
  (r"^layer(\d)\.(\d+)", r"layer\1_block\2"),
  (r"(shortcut|downsample)\.0$", "shortcut_conv"),
  (r"(shortcut|downsample)\.1$", "shortcut_norm"),
  (r"\bbn(\d)", r"norm\1"),
  (r"nonlinear(\d)", r"activation\1"),
  (r"^(fc|linear)$", "head"),
)
_RESNET_ENDS = {
  "conv1": "stem_conv",
  "norm1": "stem_norm",
  "norm2": "head_norm",
}


def locate(key: str, architecture: str) -> tuple[str, ...]:
  """(collection, modules..., name) of a reference state_dict key."""
  module, leaf = key.rsplit(".", 1)
  for pattern, replacement in _RENAMED:
    module = re.sub(pattern, replacement, module)
  if architecture != "vgg_small":
    module = _RESNET_ENDS.get(module, module)
  parts = tuple(module.split("."))
  if leaf.startswith("running_"):
    return ("batch_stats", *parts, leaf.removeprefix("running_"))
  if leaf == "weight":
    last = parts[-1]
    real_shortcut = architecture in ("resnet18", "resnet34")
    if "norm" in last:
      leaf = "scale"
    elif "activation" in last:
      leaf = "slope"
    elif last in ("stem_conv", "conv0", "head") or (
      last == "shortcut_conv" and real_shortcut
    ):
      leaf = "kernel"
    else:
      leaf = "latent"
  return ("params", *parts, leaf)


def to_ours(value: np.ndarray, key: str, architecture: str) -> np.ndarray:
  """OIHW -> HWIO, OI -> IO; VGG's head was flattened as (C, H, W)."""
  value = np.asarray(value)
  if re.match(r"(fc|linear)\.weight", key):
    value = value.reshape(value.shape[0], -1)
    if architecture == "vgg_small":
      side = round((value.shape[1] // 512) ** 0.5)
      value = value.reshape(-1, 512, side, side).transpose(0, 2, 3, 1)
      value = value.reshape(value.shape[0], -1)
    return value.T
  return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value


def to_torch(value, key: str, architecture: str) -> np.ndarray:
  """Inverse of `to_ours`, up to trailing axes of size one."""
  value = np.asarray(value)
  if re.match(r"(fc|linear)\.weight", key):
    value = value.T
    if architecture == "vgg_small":
      side = round((value.shape[1] // 512) ** 0.5)
      value = value.reshape(-1, side, side, 512).transpose(0, 3, 1, 2)
      value = value.reshape(value.shape[0], -1)
    return value
  return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value


def convert(state: dict, architecture: str, dtype=np.float64) -> dict:
  """A reference state_dict as {"params": ..., "batch_stats": ...}."""
  variables: dict = {}
  for key, value in state.items():
    if key.endswith("num_batches_tracked"):
      continue
    *modules, name = locate(key, architecture)
    node = variables
    for module in modules:
      node = node.setdefault(module, {})
    node[name] = to_ours(value, key, architecture).astype(dtype)
  return variables


def find(variables: dict, key: str, architecture: str) -> np.ndarray:
  """The entry of our variables for a reference key, in torch's layout."""
  node = variables
  for part in locate(key, architecture):
    node = node[part]
  return to_torch(node, key, architecture)
