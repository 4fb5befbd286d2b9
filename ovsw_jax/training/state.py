"""What training carries from step to step."""

from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ovsw_jax import methods
from ovsw_jax.training import replicas


@flax.struct.dataclass
class TrainState:
  """Everything that a step reads and writes; randomness comes from outside.

  Of several replicas every leaf has a leading axis, `step` included.
  """

  step: jax.Array  # shape (), int32: updates made so far
  params: Any
  batch_stats: Any
  opt_state: optax.OptState
  # Further variables of the model by collection, which a step reads only.
  constants: Any = flax.struct.field(default_factory=dict)
  memory: Any = ()  # what the method's view remembers of the step before

  @property
  def variables(self) -> dict[str, Any]:
    """All variables of the model, by collection."""
    return {
      "params": self.params,
      "batch_stats": self.batch_stats,
      **self.constants,
    }

  def with_variables(self, variables: Mapping[str, Any]) -> "TrainState":
    """The state with other variables of the model."""
    constants = dict(variables)
    return self.replace(
      params=constants.pop("params"),
      batch_stats=constants.pop("batch_stats"),
      constants=constants,
    )


def create(
  model: nn.Module,
  tx: optax.GradientTransformation,
  key: jax.Array,
  image_shape: tuple[int, ...],
  *,
  view: methods.View | None = None,
  refresh: Callable[[Any, jax.typing.ArrayLike], Any] | None = None,
) -> TrainState:
  """The state before the first step, for images of shape (h, w, c).

  Of several keys, shape (replicas,), each makes a replica: to the bit what it
  makes alone.
  """

  def init(key):
    variables = model.init(
      key, jnp.zeros((1, *image_shape), jnp.float32), train=False
    )
    return beginning({"batch_stats": {}, **variables}, tx, view, refresh)

  init = jax.jit(init)
  return replicas.stack([init(k) for k in key]) if key.ndim else init(key)


def beginning(
  variables: Mapping[str, Any],
  tx: optax.GradientTransformation,
  view: methods.View | None,
  refresh: Callable[[Any, jax.typing.ArrayLike], Any] | None,
) -> TrainState:
  """The state before the first step, of the variables that it starts from."""
  if refresh is not None:
    variables = refresh(variables, 0.0)
  params = variables["params"]
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats={},
    opt_state=tx.init(params),
    memory=view.init(params) if view else (),
  )
  return state.with_variables(variables)


def abstract(
  model: nn.Module,
  tx: optax.GradientTransformation,
  image_shape: tuple[int, ...],
  key: jax.Array | None = None,
  **parts: Any,
) -> TrainState:
  """The shapes and dtypes of `create`'s result, without computing it."""
  return jax.eval_shape(
    lambda key: create(model, tx, key, image_shape, **parts),
    jax.random.key(0) if key is None else key,
  )


def is_latent(path: tuple[Any, ...]) -> bool:
  """Whether a parameter's path names a latent binary weight."""
  return getattr(path[-1], "key", None) == "latent"


def parameter_counts(params: Any) -> tuple[int, int]:
  """Number of all parameters, and of the binary ones among them."""
  leaves = jax.tree.leaves_with_path(params)
  total = sum(leaf.size for _, leaf in leaves)
  binary = sum(leaf.size for path, leaf in leaves if is_latent(path))
  return total, binary
