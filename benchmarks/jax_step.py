"""A training step of ours, on a batch that stays on the device."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.extend.core import Var

from benchmarks import plain_linen, workload
from ovsw_jax import methods, models
from ovsw_jax.training import carried, host_memory, optimizer
from ovsw_jax.training import state as train_state
from ovsw_jax.training.step import Recipe, cross_entropy, update

# `ours` has the method's own layers, `linen` plain ones in their place.
FORMS = ("ours", "linen")


def optimizer_chain(
  transform: optax.GradientTransformation | None, statistics: bool
) -> optax.GradientTransformationExtraArgs:
  """SGD with momentum and weight decay behind a method's transform."""
  return optimizer.make(
    "sgd",
    workload.LEARNING_RATE,
    momentum=workload.MOMENTUM,
    weight_decay=workload.WEIGHT_DECAY,
    transform=transform,
    binary=statistics,
  )


def network(work: workload.Workload, layers: dict[str, Any]) -> nn.Module:
  """The network, with such layers: its options `conv` and `norm`."""
  model = models.make(
    work.network,
    num_classes=work.classes,
    **layers,
    dtype=jnp.dtype(work.dtype),
  )
  if work.blocks is None:
    return model
  return model.clone(
    stage_sizes=work.blocks, widths=model.widths[: len(work.blocks)]
  )


def recipe(
  work: workload.Workload,
  tx: optax.GradientTransformation,
  layers: dict[str, Any],
) -> Recipe:
  """What `update` needs to know, for a network with such layers."""
  return Recipe(
    model=network(work, layers),
    tx=tx,
    schedule=lambda step: jnp.float32(workload.LEARNING_RATE),
    total_steps=1_000_000,
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
  )


def initial_state(
  work: workload.Workload, recipe: Recipe
) -> train_state.TrainState:
  """The state before the first step."""
  key = jax.random.key(0, impl="rbg")  # compiles in a third of the time
  return train_state.create(
    recipe.model, recipe.tx, key, (work.side, work.side, 3)
  )


def batch(work: workload.Workload) -> tuple[jax.Array, jax.Array]:
  """Normalised images and labels, on the device."""
  images, labels = jax.random.split(jax.random.key(1))
  shape = (work.batch, work.side, work.side, 3)
  return (
    jax.random.normal(images, shape),
    jax.random.randint(labels, (work.batch,), 0, work.classes),
  )


@functools.partial(
  jax.jit,
  static_argnames=("recipe", "length"),
  donate_argnames="state",
  keep_unused=True,  # as main.py
)
def steps(state, images, labels, *, recipe: Recipe, length: int):
  """So many updates of a packed state in one dispatch; metrics of the last."""
  state = carried.unpack(state)

  def body(state, _):
    return update(state, images, labels, recipe)

  if length == 1:
    state, metrics = body(state, None)
  else:
    state, metrics = jax.lax.scan(body, state, length=length)
    metrics = jax.tree.map(lambda value: value[-1], metrics)
  return carried.pack(state), metrics


class JaxStep:
  """Forward, cross-entropy, backward and optimizer, `n` times at a call."""

  def __init__(
    self,
    work: workload.Workload,
    recipe: Recipe,
    *,
    chunk: int | None = None,
  ):
    # As main.py: on XLA's CPU backend a loop loses the fast convolutions, and
    # elsewhere a dispatch of one step leaves the device waiting for the host.
    cpu = jax.default_backend() == "cpu"
    self.chunk = chunk or (1 if cpu else 50)
    self._recipe = recipe
    self._state = carried.pack(initial_state(work, recipe))
    self._images, self._labels = batch(work)
    self._metrics: dict[str, jax.Array] = {}

  def run(self, count: int) -> int:
    """Makes at least `count` steps, whole chunks; waits for the last."""
    chunks, first = -(-count // self.chunk), not self._metrics
    for _ in range(chunks):
      self._state, self._metrics = steps(
        self._state,
        self._images,
        self._labels,
        recipe=self._recipe,
        length=self.chunk,
      )
    jax.block_until_ready((self._state, self._metrics))
    if first:  # compiled by now, as where main.py does so
      host_memory.set_gaps_aside()
    return chunks * self.chunk

  @property
  def state(self) -> train_state.TrainState:
    """The state after the last step."""
    return carried.unpack(self._state)

  def loss(self) -> float:
    """The loss of the last step."""
    return float(self._metrics["loss"])

  def compiled(self) -> jax.stages.Compiled:
    """One step, compiled, to be asked about its memory."""
    return steps.lower(
      jax.eval_shape(lambda: self._state),
      self._images,
      self._labels,
      recipe=self._recipe,
      length=1,
    ).compile()

  def kept_for_backward(self) -> dict[str, int]:
    """Bytes that differentiation keeps of the forward pass, by dtype.

    Traced only: what the pullback of the loss closes over, each array once,
    without the parameters and images that are there anyway.
    """

    def pullback(params, batch_stats, images, labels):
      def loss(params):
        logits, _ = self._recipe.model.apply(
          {"params": params, "batch_stats": batch_stats},
          images,
          train=True,
          mutable=["batch_stats"],
        )
        return jnp.mean(cross_entropy(logits, labels))

      return jax.vjp(loss, params)[1]

    state = self.state
    traced = jax.make_jaxpr(pullback)(
      state.params, state.batch_stats, self._images, self._labels
    ).jaxpr
    there = {*traced.invars, *traced.constvars}
    kept = {v for v in traced.outvars if isinstance(v, Var) and v not in there}
    sizes: dict[str, int] = {}
    for variable in kept:
      name = str(variable.aval.dtype)
      size = variable.aval.size * variable.aval.dtype.itemsize
      sizes[name] = sizes.get(name, 0) + size
    return sizes

  def describe(self) -> dict[str, Any]:
    """What was measured on, in plain values."""
    device = jax.devices()[0]
    memory = device.memory_stats() or {}
    return {
      "jax": jax.__version__,
      "device": device.device_kind,
      "platform": device.platform,
      "chunk": self.chunk,
      "peak_bytes": memory.get("peak_bytes_in_use"),
    }


def build(
  work: workload.Workload,
  *,
  form: str = "ours",
  method: str = "vanilla",
  statistics: bool = True,
  chunk: int | None = None,
) -> JaxStep:
  """A method's step as main.py makes it, or with the plain layer instead.

  Args:
    work: network, batch and precision.
    form: one of FORMS.
    method: a key of `ovsw_jax.methods.METHODS`.
    statistics: whether sign flips are counted, as main.py does.
    chunk: steps in one dispatch; None as main.py.

  Raises:
    ValueError: for an unknown form or method, or for a form that the method has
      not.
  """
  chosen = methods.make(method)
  if form not in FORMS:
    raise ValueError(f"unknown form {form!r}; the forms are {', '.join(FORMS)}")
  if form == "linen" and not chosen.binary:
    raise ValueError(f"method {method!r} has no binary layer to write in linen")
  layers = (
    {"conv": plain_linen.PlainBinaryConv, "norm": plain_linen.PlainBatchNorm}
    if form == "linen"
    else {"conv": chosen.conv}
  )
  tx = optimizer_chain(chosen.transform, statistics and chosen.binary)
  return JaxStep(work, recipe(work, tx, layers), chunk=chunk)
