"""Latent weights of a tree of parameters, by the layer that holds them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import traverse_util

Layer = tuple[str, ...]  # path of a binary layer


def by_layer(params: Any) -> dict[Layer, jax.Array]:
  """The latent weight of every binary layer.

  Raises:
    ValueError: if there is none, with the paths that there are.
  """
  flat = traverse_util.flatten_dict(params)
  found = {path[:-1]: w for path, w in flat.items() if path[-1] == "latent"}
  if not found:
    paths = ", ".join("/".join(path) for path in flat)
    raise ValueError(f"no latent weight among the parameters: {paths}.")
  return found


def tree(latents: Mapping[Layer, jax.Array]) -> Any:
  """Nested dicts with nothing but these latent weights."""
  return traverse_util.unflatten_dict(
    {(*layer, "latent"): w for layer, w in latents.items()}
  )


def replace(params: Any, latents: Mapping[Layer, jax.Array]) -> Any:
  """The parameters with these latent weights in the place of theirs."""
  flat = dict(traverse_util.flatten_dict(params))
  flat.update({(*layer, "latent"): w for layer, w in latents.items()})
  return traverse_util.unflatten_dict(flat)


def update(params: Any, function: Callable[[jax.Array], jax.Array]) -> Any:
  """The parameters with a function applied to every latent weight."""
  return replace(
    params, {layer: function(w) for layer, w in by_layer(params).items()}
  )
