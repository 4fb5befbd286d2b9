"""One training step and one evaluation step, as pure functions.

Both work on one device under `jax.jit`, and per device under `jax.pmap` and
`jax.shard_map` when `axis_name` names the mapped axis: gradients, statistics
and metrics are then averaged over it before anything is updated.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ovsw_jax import _sums, data, methods
from ovsw_jax.training.state import TrainState

# Scalars that the transforms publish in their state, where they are in use.
STATISTICS = ("flip_rate", "silent_fraction", "never_flipped_fraction")

# The one metric of a step that has an axis: of layers.
BY_LAYER = "flip_rate_per_leaf"


# Compared by identity, so that it can be a static argument of `jax.jit`.
@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
  """What a step needs to know and never changes during training."""

  model: nn.Module
  tx: optax.GradientTransformation
  schedule: optax.Schedule  # step -> learning rate; the one inside `tx`
  total_steps: int
  mean: tuple[float, ...]  # per channel, of images on the [0, 1] scale
  std: tuple[float, ...]
  pad: int = 0  # pixels of zero padding before the random crop
  flip: bool = False  # random horizontal flips
  lighting: str | None = None  # a variant of `data.lighting`
  label_smoothing: float = 0.0
  # Steps after which the method's schedules move on, an epoch's as published.
  progress_every: int = 1
  view: methods.View | None = None  # what training sees for the parameters
  # Run on all variables before the first step and at each epoch's start.
  refresh: Callable[[Any, jax.typing.ArrayLike], Any] | None = None
  # How a batch is laid out over several devices.
  batch_sharding: jax.NamedSharding | None = None
  accumulate: int = 1  # parts of a batch whose gradients are averaged
  # Whether a step whose loss or gradient is not finite leaves the state alone.
  skip_non_finite: bool = False
  teacher: nn.Module | None = None  # frozen; its variables go to `update`
  teacher_weight: float = 1.0  # its share of the loss, the labels' is the rest

  def laid_out(self, batch: jax.Array) -> jax.Array:
    """A batch, each device having its part of the first axis."""
    if self.batch_sharding is None:
      return batch
    return jax.lax.with_sharding_constraint(batch, self.batch_sharding)

  def progress(self, step: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    """The share of training that is done, in [0, 1)."""
    return step // self.progress_every * self.progress_every / self.total_steps


def cross_entropy(
  logits: jax.Array, labels: jax.Array, smoothing: float = 0.0
) -> jax.Array:
  """Cross-entropy of each example, shape (n,), in float32 or wider.

  Args:
    logits: shape (n, classes).
    labels: shape (n,), integers.
    smoothing: share of the target spread evenly over all classes.

  Returns:
    The loss of each example.
  """
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
  return optax.losses.softmax_cross_entropy(
    logits, optax.smooth_labels(targets, smoothing)
  )


def distribution_loss(logits: jax.Array, teacher: jax.Array) -> jax.Array:
  """Cross-entropy to a teacher's distribution, shape (n,), float32 or wider.

  Args:
    logits: shape (n, classes).
    teacher: the teacher's logits, same shape.

  Returns:
    The loss of each example.

  References:
    Liu et al., `ReActNet <https://arxiv.org/abs/2003.03488>`_, ECCV 2020, the
    distributional loss; up to the teacher's entropy it is the KL divergence.
  """
  wide = jnp.promote_types(logits.dtype, jnp.float32)
  return optax.losses.softmax_cross_entropy(
    logits.astype(wide), jax.nn.softmax(teacher.astype(wide))
  )


def statistics(opt_state: optax.OptState) -> dict[str, jax.Array]:
  """The flip statistics that the optimizer state holds, by name."""
  found = {name: optax.tree.get(opt_state, name) for name in STATISTICS}
  return {name: value for name, value in found.items() if value is not None}


def flip_rates(opt_state: optax.OptState) -> dict[str, jax.Array]:
  """The flip rate of each binary layer, shape (layers,), if flips are counted.

  Layers are in the order of the parameter tree.
  """
  rates = jax.tree.leaves(optax.tree.get(opt_state, BY_LAYER))
  return {BY_LAYER: jnp.stack(rates)} if rates else {}


def update(
  state: TrainState,
  inputs: jax.Array,
  labels: jax.Array,
  recipe: Recipe,
  axis_name: str | None = None,
  teacher: Any = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """One optimizer step on normalised images.

  Args:
    state: the state before the step.
    inputs: shape (n, h, w, c), normalised.
    labels: shape (n,), int32.
    recipe: model, optimizer and constants.
    axis_name: mapped axis to average over, or None.
    teacher: variables of `recipe.teacher`, if there is one.

  Returns:
    The state after the step, and scalar metrics: loss, accuracy, learning rate,
    norm of the loss's gradient, and the optimizer's flip statistics; with one
    axis `flip_rate_per_leaf`, of shape (layers,).
  """

  def mean(tree):
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)

  progress, view = recipe.progress(state.step), recipe.view

  def seen(params):
    return view.apply(params, state.memory, progress) if view else params

  def loss_fn(params, batch_stats, inputs, labels):
    logits, updates = recipe.model.apply(
      {
        **state.variables,
        "params": seen(params),
        "batch_stats": batch_stats,
      },
      inputs,
      train=True,
      progress=progress,
      mutable=["batch_stats"],
    )
    losses = cross_entropy(logits, labels, recipe.label_smoothing)
    if recipe.teacher is not None:
      share = recipe.teacher_weight
      soft = distribution_loss(logits, _taught(recipe, teacher, inputs))
      losses = share * soft + (1 - share) * losses
    hits = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    return jnp.mean(losses), (hits, updates.get("batch_stats", {}))

  params = state.params
  if axis_name is not None:
    # shard_map sums the gradient of a replicated value over devices by itself,
    # and pmap does not. Of this per-device copy both give the device's own.
    params = jax.lax.pcast(params, axis_name, to="varying")
  (loss, (accuracy, batch_stats)), gradient = _accumulated(
    jax.value_and_grad(loss_fn, has_aux=True),
    params,
    state.batch_stats,
    inputs,
    labels,
    recipe.accumulate,
  )
  gradient, batch_stats = mean(gradient), mean(batch_stats)
  base = seen(state.params) if view and view.overwrite else state.params
  updates, opt_state = recipe.tx.update(gradient, state.opt_state, base)
  found = statistics(opt_state)
  metrics = {
    "loss": mean(loss),
    "accuracy": mean(accuracy),
    "learning_rate": jnp.asarray(recipe.schedule(state.step), loss.dtype),
    "gradient_norm": _norm(gradient),
    **found,
    **flip_rates(opt_state),
  }
  last = (metrics["gradient_norm"], *found.values())
  after = state.replace(
    params=optax.apply_updates(base, _known_after(updates, last)),
    batch_stats=batch_stats,
    opt_state=opt_state,
    memory=view.remember(base, gradient) if view else state.memory,
  )
  if recipe.skip_non_finite:
    finite = jnp.isfinite(metrics["loss"] + metrics["gradient_norm"])
    keep = functools.partial(jnp.where, finite)
    after = jax.tree.map(keep, after, state)
    metrics["skipped"] = 1.0 - finite.astype(loss.dtype)
  return after.replace(step=state.step + 1), metrics


def _known_after(updates: Any, values: Sequence[jax.Array]) -> Any:
  """`updates`, for all that XLA knows different if a value were negative.

  Backward pass and flip counts read the parameters. XLA's CPU backend, which
  orders by data alone, copies all of them first unless their change depends on
  what comes of those. None of the values ever is negative.
  """
  negative = functools.reduce(jnp.logical_or, (v < 0 for v in values))
  return jax.tree.map(
    lambda u: jnp.where(negative, jnp.zeros_like(u), u), updates
  )


def _norm(gradient: Any) -> jax.Array:
  """The global norm, of the sums of squares that `ags` computes as well."""
  squares = [_sums.by_channel(jnp.square(g)) for g in jax.tree.leaves(gradient)]
  return jnp.sqrt(sum(_sums.together(squares)))


def _accumulated(gradient_of, params, batch_stats, inputs, labels, parts: int):
  """`gradient_of` over a batch in parts, one after the other; the means.

  Batch statistics are of a part each, and those of the model move with each.
  """
  if parts == 1:
    return gradient_of(params, batch_stats, inputs, labels)
  # Every `parts`-th example, so that a batch that is cut over devices by its
  # first axis stays so.
  cut = lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:])
  inputs, labels = cut(inputs), cut(labels)

  def body(carry, index):
    batch_stats, total = carry
    (loss, (hits, batch_stats)), gradient = gradient_of(
      params, batch_stats, inputs[:, index], labels[:, index]
    )
    total = jax.tree.map(jnp.add, total, (loss, hits, gradient))
    return (batch_stats, total), None

  # The first part tells the dtypes. XLA's CPU backend has no fast convolution
  # inside of a loop, so there the parts are laid out one by one.
  (loss, (hits, batch_stats)), gradient = gradient_of(
    params, batch_stats, inputs[:, 0], labels[:, 0]
  )
  carry = (batch_stats, (loss, hits, gradient))
  if jax.default_backend() == "cpu":
    for index in range(1, parts):
      carry, _ = body(carry, index)
  else:
    carry, _ = jax.lax.scan(body, carry, jnp.arange(1, parts))
  batch_stats, total = carry
  loss, hits, gradient = jax.tree.map(lambda value: value / parts, total)
  return (loss, (hits, batch_stats)), gradient


def _taught(recipe: Recipe, variables: Any, inputs: jax.Array) -> jax.Array:
  """The teacher's logits, a constant to the gradient."""
  logits = recipe.teacher.apply(variables, inputs, train=False, progress=1.0)
  return jax.lax.stop_gradient(logits)


def train_step(
  state: TrainState,
  images: jax.Array,
  labels: jax.Array,
  key: jax.Array,
  recipe: Recipe,
  axis_name: str | None = None,
  teacher: Any = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Augments and normalises uint8 images, then `update`.

  Args:
    state: the state before the step.
    images: shape (n, h, w, c), uint8.
    labels: shape (n,), int32.
    key: the run's augmentation key; the step's own is folded in here.
    recipe: model, optimizer and constants.
    axis_name: mapped axis to average over, or None. Each device then draws its
      own crops and flips.
    teacher: as of `update`.

  Returns:
    As `update`.
  """
  key = jax.random.fold_in(key, state.step)
  if axis_name is not None:
    key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
  images = data.augment(images, key, pad=recipe.pad, flip=recipe.flip)
  if recipe.lighting is not None:
    images = data.lighting(images, jax.random.fold_in(key, 1), recipe.lighting)
  inputs = _normalized(images, recipe)
  return update(state, inputs, labels, recipe, axis_name, teacher)


def _normalized(images: jax.Array, recipe: Recipe) -> jax.Array:
  """The model's inputs, in its precision but float32 at least."""
  dtype = getattr(recipe.model, "dtype", None) or jnp.float32
  dtype = jnp.promote_types(dtype, jnp.float32)
  return data.normalize(images, recipe.mean, recipe.std, dtype)


def eval_step(
  variables: Any,
  images: jax.Array,
  labels: jax.Array,
  weights: jax.Array,
  recipe: Recipe,
) -> dict[str, jax.Array]:
  """Weighted sums of loss and hits over a batch of uint8 images.

  Args:
    variables: of the model, by collection.
    images: shape (n, h, w, c), uint8.
    labels: shape (n,), int32.
    weights: shape (n,), 1 for an example and 0 for padding.
    recipe: model and constants.

  Returns:
    The sums `loss`, `accuracy`, `top5` and `weight`, scalars.
  """
  inputs = _normalized(images, recipe)
  logits = recipe.model.apply(
    variables,
    inputs,
    train=False,
    progress=1.0,
  )
  _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
  hits = best == labels[:, None]
  per_example = {
    "loss": cross_entropy(logits, labels),
    "accuracy": hits[:, 0],
    "top5": jnp.any(hits, axis=-1),
    "weight": jnp.ones_like(weights),
  }
  # `where`, since 0 * inf would let a padded row spoil the sum.
  return {
    name: jnp.sum(jnp.where(weights > 0, value, 0.0))
    for name, value in per_example.items()
  }
