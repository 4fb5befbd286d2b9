"""What AGS, SAD and the flip statistics add to a training step.

  python -m benchmarks.optimizer_cost
  python -m benchmarks.optimizer_cost --models=cifar_resnet18 --batches=32
  python -m benchmarks.optimizer_cost --smoke

Whole training steps with plain SGD and with each transform before it take turns
in one process: sgd, ags, sgd, sad, sgd, ... All are compiled first, and a turn
begins with an untimed step. `step / sgd's` is the median over ratios of
neighbours, with the 95 % interval of that median. Where a process has its
arrays in memory moves that median by a percent or two, of which its interval
knows nothing: `--processes` does all of it in so many processes, and gives the
median of their medians with an interval of its own. `update alone` is how much
longer the optimizer's part takes than plain SGD's when it is compiled and timed
on its own. Bytes are those of the live optimizer state beyond the momentum,
which plain SGD holds as well.
"""

import argparse
import functools
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks import arguments, report, timing, workers
from benchmarks.workload import Workload

BASE = "sgd"
# Transforms of `ovsw_jax.optax`, in their order, and how they keep their state.
VARIANTS: dict[str, tuple[tuple[str, ...], str]] = {
  "flips": (("sign_flips",), "full"),
  "ags": (("ags",), "full"),
  "sad": (("sad",), "full"),
  "ovsw": (("ovsw",), "full"),
  "ovsw+flips": (("ovsw", "sign_flips"), "full"),
  "flips/compact": (("sign_flips",), "compact"),
  "sad/compact": (("sad",), "compact"),
  "ovsw+flips/compact": (("ovsw", "sign_flips"), "compact"),
}
# What a row has of times.
_SUMMARIES = {"seconds", "over_sgd", "update_seconds", "update_seconds_more"}


class Options(NamedTuple):
  """What a measurement is told."""

  variants: list[str]
  rounds: int
  turn_seconds: float
  chunk: int | None


class Update:
  """The optimizer's part of a step, on a gradient that never changes."""

  def __init__(self, params: Any, tx: Any):
    import jax
    import jax.numpy as jnp
    import optax

    self._params = jax.tree.map(jnp.copy, params)  # a step donates its own
    self._gradient = jax.tree.map(lambda p: 0.01 * p, self._params)
    self._state = tx.init(self._params)

    @functools.partial(jax.jit, donate_argnums=(1, 2), keep_unused=True)
    def apply(gradient, state, params):
      updates, state = tx.update(gradient, state, params)
      return state, optax.apply_updates(params, updates)

    self._apply = apply

  def run(self, count: int) -> int:
    """Makes so many updates; waits for the last."""
    import jax

    for _ in range(count):
      self._state, self._params = self._apply(
        self._gradient, self._state, self._params
      )
    jax.block_until_ready((self._state, self._params))
    return count


def recipe(work: Workload, variant: str) -> Any:
  """A vanilla network's step with a variant's optimizer, or plain SGD's."""
  import optax

  from benchmarks import jax_step
  from ovsw_jax import methods
  from ovsw_jax import optax as transforms

  transform = None
  if variant != BASE:
    parts, kind = VARIANTS[variant]
    mask = transforms.binary_mask()
    options = {"state": "compact"} if kind == "compact" else {}
    transform = optax.chain(
      *(getattr(transforms, part)(mask=mask, **options) for part in parts)
    )
  tx = jax_step.optimizer_chain(transform, statistics=False)
  return jax_step.recipe(work, tx, {"conv": methods.make("vanilla").conv})


class Cost:
  """Measures in the process it is in, which should be one of its own."""

  def available(self) -> list[str]:
    """The variants that this version of the transforms has."""
    from ovsw_jax import optax as transforms

    compact = "state" in inspect.signature(transforms.sign_flips).parameters
    return [n for n, (_, kind) in VARIANTS.items() if kind == "full" or compact]

  def measure(self, work: Workload, options: Options) -> list[dict[str, Any]]:
    """One row a variant, plain SGD first."""
    from benchmarks import jax_step
    from ovsw_jax.training.state import parameter_counts

    show = report.Progress(f"{work.network}, batch {work.batch}: ")
    recipes = {name: recipe(work, name) for name in (BASE, *options.variants)}
    steps = {
      name: jax_step.JaxStep(work, made, chunk=options.chunk)
      for name, made in recipes.items()
    }
    params = steps[BASE].state.params
    updates = {name: Update(params, made.tx) for name, made in recipes.items()}
    whole = _alternate(steps, options.rounds, options.turn_seconds, show)
    alone = _alternate(updates, options.rounds, options.turn_seconds / 4, show)
    show.clear()

    described = steps[BASE].describe()
    _, binary = parameter_counts(steps[BASE].state.params)
    momentum = _bytes(steps[BASE].state.opt_state)
    rows = []
    for name, step in steps.items():
      more = _bytes(step.state.opt_state) - momentum
      rows.append(
        {
          **work._asdict(),
          "image_size": work.side,
          "variant": name,
          "device": described["device"],
          "chunk": described["chunk"],
          "binary_weights": binary,
          "state_bytes": more,
          "state_bytes_per_binary_weight": more / binary,
          **_times(name, whole, alone),
        }
      )
    return rows


def _alternate(contestants, rounds, seconds, show) -> timing.Times:
  turns = {
    name: functools.partial(timing.measure, one.run)
    for name, one in contestants.items()
  }
  return timing.alternate(
    turns.pop(BASE),
    turns,
    rounds=rounds,
    seconds=seconds,
    lead=1,  # whose arrays the caches hold is the one before it
    progress=show,
  )


def _bytes(opt_state: Any) -> int:
  import jax

  return sum(leaf.nbytes for leaf in jax.tree.leaves(opt_state))


def _times(name: str, whole: timing.Times, alone: timing.Times) -> dict:
  if name == BASE:
    return {
      "seconds": timing.summary(whole.base),
      "update_seconds": timing.summary(alone.base),
      "samples": whole.base,
    }
  step, update = whole.others[name], alone.others[name]
  return {
    "seconds": timing.summary([t.other for t in step]),
    "over_sgd": timing.ratio(step),
    "update_seconds": timing.summary([t.other for t in update]),
    "update_seconds_more": timing.summary(
      [t.other - (t.before + t.after) / 2 for t in update]
    ),
    "samples": step,
  }


def table(content: dict[str, Any]) -> str:
  """Markdown, one row a workload and transform."""
  header = [
    "model",
    "batch",
    "precision",
    "optimizer",
    "ms a step",
    "step / sgd's",
    "update alone, ms",
    "bytes a binary weight",
  ]
  rows = []
  for row in content["rows"]:
    if row["variant"] == BASE:
      more = ["", f"{row['update_seconds']['median'] * 1e3:.2f}", ""]
    else:
      more = [
        report.times(row["over_sgd"], 3),
        f"{row['update_seconds_more']['median'] * 1e3:+.2f}",
        f"{row['state_bytes_per_binary_weight']:.2f}",
      ]
    rows.append(
      [
        row["network"],
        str(row["batch"]),
        row["dtype"],
        row["variant"],
        report.milliseconds(row["seconds"]),
        *more,
      ]
    )
  return report.markdown(header, rows)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list]:
  """The arguments, checked, and the workloads."""
  parser = arguments.parser("optimizer_cost", __doc__)
  arguments.add_workloads(parser)
  parser.add_argument(
    "--variants",
    type=arguments.names(VARIANTS),
    metavar="NAMES",
    help=f"comma-separated: {', '.join(VARIANTS)} (default: all that this "
    "version has)",
  )
  arguments.add_turns(parser)
  arguments.add_rounds(parser)
  parser.add_argument(
    "--processes",
    type=arguments.count,
    default=1,
    help="so many processes one after the other (default: %(default)s)",
  )
  arguments.add_process(parser)
  arguments.add_out(parser, "optimizer_cost")
  chosen = parser.parse_args(argv)
  if chosen.smoke:
    chosen.rounds, chosen.turn_seconds = 2, 0.0
  return chosen, arguments.workloads(parser, chosen)


def _measured(chosen: argparse.Namespace, item: Workload) -> list[dict]:
  """The rows of a workload, out of a process that is made for them."""
  with workers.Worker(
    "benchmarks.optimizer_cost:Cost",
    {},
    threads=chosen.threads,
    allocator=chosen.allocator,
  ) as worker:
    available = worker.call("available")
    asked = chosen.variants or available
    if missing := sorted(set(asked) - set(available)):
      raise ValueError(
        f"this version of ovsw_jax.optax has no {missing[0]!r}; it has "
        f"{', '.join(available)}"
      )
    options = Options(asked, chosen.rounds, chosen.turn_seconds, chosen.chunk)
    return worker.call("measure", item, options)


def _over_processes(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The row of a variant out of those of several processes."""
  times = {
    name: timing.summary([row[name]["median"] for row in rows])
    for name in rows[0].keys() & _SUMMARIES
  }
  return rows[0] | times | {"samples": [row["samples"] for row in rows]}


def main(argv: Sequence[str] | None = None) -> None:
  chosen, work = parse(argv)
  rows = []
  for item in work:
    made = [_measured(chosen, item) for _ in range(chosen.processes)]
    rows += (
      made[0]
      if len(made) == 1
      else [_over_processes(same) for same in zip(*made, strict=True)]
    )
  content = report.make("optimizer_cost", chosen, rows, rows[0]["device"])
  report.show(content, table)


if __name__ == "__main__":
  arguments.start(main)
