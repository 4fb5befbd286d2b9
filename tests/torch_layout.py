"""The golden files' PyTorch names and layouts, as our variable trees."""

import numpy as np

from ovsw_jax.interop._torch_names import BATCHES, locate, to_ours, to_torch


def convert(state: dict, architecture: str, dtype=np.float64) -> dict:
  """A reference state_dict as {"params": ..., "batch_stats": ...}."""
  variables: dict = {}
  for key, value in state.items():
    if key.endswith(BATCHES):
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
