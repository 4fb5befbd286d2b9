"""For commands that compile a step with each of several optimizers."""

import argparse
import itertools
from collections.abc import Sequence
from typing import Any

from benchmarks import arguments, optimizer_cost, report, workers
from benchmarks.workload import Workload


def parse(
  name: str,
  description: str | None,
  argv: Sequence[str] | None,
  *,
  variants: str,
  **defaults: str,
) -> tuple[argparse.Namespace, list[Workload]]:
  """The arguments, checked, and the workloads.

  Args:
    name: of the command.
    description: its docstring.
    argv: what it was called with.
    variants: optimizers by default, comma-separated.
    **defaults: of `arguments.add_workloads`.
  """
  parser = arguments.parser(name, description)
  arguments.add_workloads(parser, **defaults)
  known = (optimizer_cost.BASE, *optimizer_cost.VARIANTS)
  parser.add_argument(
    "--variants",
    type=arguments.names(known),
    default=variants,
    metavar="NAMES",
    help=f"comma-separated: {', '.join(known)} (default: %(default)s)",
  )
  arguments.add_out(parser, name)
  chosen = parser.parse_args(argv)
  return chosen, arguments.workloads(parser, chosen)


def measured(
  compiler: str, work: Sequence[Workload], variants: Sequence[str]
) -> list[dict[str, Any]]:
  """One row a workload and optimizer, of a compiler's `measure`.

  Args:
    compiler: as `workers.Worker` names it.
    work: the workloads.
    variants: the optimizers.
  """
  rows = []
  show = report.Progress()
  # In a process of its own, as jax asks for its platforms once.
  with workers.Worker(compiler, {}) as worker:
    for item, variant in itertools.product(work, variants):
      show(f"{item.network}, batch {item.batch}: {variant}")
      rows.append(worker.call("measure", item, variant))
  show.clear()
  return rows
