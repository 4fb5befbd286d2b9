"""Steps of a run's own training in float64, on whatever devices there are.

  python -m benchmarks.float64_steps WORKDIR OUT.npz --starts=0,100 --steps=20

From the run's state at each of these steps, 0 or those of its checkpoints, the
same batches and augmentation as main.py's. Rounding is 1e-16 of a value there
and moves an activation over zero once in a million steps, so what differs
between two layouts of devices in float64 is the program, not its rounding. OUT
holds an epoch's order, losses, gradient norms and the parameters afterwards.
Several processes make one run as main.py's do.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from benchmarks import arguments
from ovsw_jax.training import (
  carried,
  checkpoint,
  experiment,
  loop,
  mesh,
  networks,
)


def counts(text: str) -> list[int]:
  """Comma-separated whole numbers, 0 among them."""
  return [
    0 if part.strip() == "0" else arguments.count(part)
    for part in text.split(",")
  ]


def _wide(run: experiment.Experiment, state: Any) -> Any:
  """The state in float64, but for what has a precision of its own."""

  def cast(leaf, like=jnp.float64):
    value = np.asarray(leaf)
    floating = jnp.issubdtype(value.dtype, jnp.floating)
    return value.astype(like) if floating else value

  params = jax.tree.map(cast, state.params)
  kinds = jax.eval_shape(run.recipe.tx.init, params)
  return state.replace(
    step=np.asarray(state.step),
    params=params,
    batch_stats=jax.tree.map(cast, state.batch_stats),
    opt_state=jax.tree.map(
      lambda leaf, kind: cast(leaf, kind.dtype), state.opt_state, kinds
    ),
  )


def take(
  run: experiment.Experiment, state: Any, steps: int
) -> dict[str, np.ndarray]:
  """Makes steps in float64 from a state on; what they came to, by name.

  Args:
    run: built from the run's config, for the devices to use.
    state: a state of it, in its own precision.
    steps: how many to make.

  Returns:
    `order`, int32 `(examples,)` of the epoch that the state is in; `loss` and
    `gradient_norm`, float64 `(steps,)`; and each parameter after the last step
    under its path.
  """
  config = run.config
  with jax.enable_x64(True):
    recipe = dataclasses.replace(
      run.recipe, model=run.recipe.model.clone(dtype=jnp.float64)
    )
    state = mesh.put(_wide(run, state), run.mesh)
    first = int(state.step)
    state = carried.pack(state)
    split = mesh.put(run.dataset.train, run.mesh)
    losses, norms, order = [], [], None
    for step in range(first, first + steps):
      order = loop.epoch_order(
        run.order_key, step // run.steps_per_epoch, n=len(split.labels)
      )
      state, metrics = loop.train_chunk(
        state,
        split,
        order,
        run.augment_key,
        recipe=recipe,
        batch_size=config.train.batch_size,
        length=1,
      )
      losses.append(np.asarray(metrics["loss"]))
      norms.append(np.asarray(metrics["gradient_norm"]))
    state = carried.unpack(state)
    return {
      "order": np.asarray(order),
      "loss": np.concatenate(losses),
      "gradient_norm": np.concatenate(norms),
      **{
        "/".join(path): np.asarray(value)
        for path, value in traverse_util.flatten_dict(state.params).items()
      },
    }


def main(argv: Sequence[str] | None = None) -> None:
  parser = arguments.parser("float64_steps", __doc__)
  parser.add_argument("workdir", type=pathlib.Path)
  parser.add_argument("out", type=pathlib.Path)
  parser.add_argument("--starts", type=counts, default=[0])
  parser.add_argument("--steps", type=arguments.count, default=20)
  chosen = parser.parse_args(argv)
  mesh.start_processes(wanted=False)
  mesh.meet()
  config = networks.saved_config(chosen.workdir, "workdir")
  run = experiment.build(config)
  found = {}
  for start in chosen.starts:
    state = (
      checkpoint.restore(
        chosen.workdir / networks.CHECKPOINTS, start, run.abstract_state()
      )
      if start
      else run.initial_state()
    )
    for name, value in take(run, state, chosen.steps).items():
      found[f"{start}:{name}"] = value
  if mesh.first_process():
    np.savez(chosen.out, **found)


if __name__ == "__main__":
  arguments.start(main)
