"""What XLA makes of a training step for a GPU, without one: kernels and bytes.

  python -m benchmarks.gpu_program
  python -m benchmarks.gpu_program --models=cifar_resnet20 --variants=sgd,ovsw
  python -m benchmarks.gpu_program --smoke

XLA's compiler for NVIDIA's GPUs needs none, but a description of one, here of
an H200. Of small layers a step is as long as it has kernels, so counting them
shows what a change is worth before a GPU is at hand. `launched` are all kernels
of a step in a scan; `elementwise and sums` those of XLA's own making, `copies`
of them what its scan could not update in place, and `GB` what all of them read
and write. cuDNN chooses no algorithms here, and each of its convolutions counts
as one kernel, where some are two or three. XLA's options may be tried, as in
XLA_FLAGS=--xla_gpu_enable_while_loop_double_buffering=true.

It takes the CUDA plugin of the jax that is installed, in an environment of its
own, as jax elsewhere would look for a GPU and complain:

  pip install --no-deps jax-cuda13-plugin==VERSION jax-cuda13-pjrt==VERSION
"""

import argparse
import collections
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from benchmarks import arguments, optimizer_cost, programs, report
from benchmarks.workload import Workload

DEVICE = "NVIDIA H200, described"
_STEPS = 50  # of a scan; its length is no matter
# Of XLA's `GpuTargetConfigProto`, what its compiler asks for.
_DESCRIPTION = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 151397597184
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 }
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200"
"""
_BYTES = {
  **dict.fromkeys(("pred", "s8", "u8"), 1),
  **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
  **dict.fromkeys(("f32", "s32", "u32"), 4),
  **dict.fromkeys(("f64", "s64", "u64"), 8),
}
# What takes no kernel.
_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant"}
_INSTRUCTION = re.compile(
  r"\s*(?:ROOT )?%(?P<name>[\w.\-]+) = (?P<shape>\(.*?\)|\S+) "
  r"(?P<op>[\w\-]+)\((?P<operands>.*?)\)"
)


def _bytes(shape: str) -> int:
  """Of an array, or of a tuple of them, as HLO writes it."""
  return sum(
    _BYTES[kind] * math.prod(int(size) for size in sizes.split(",") if size)
    for kind, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shape)
    if kind in _BYTES
  )


def kernels(program: str) -> list[tuple[str, int]]:
  """(name, bytes read and written) of what a scan's body launches.

  Args:
    program: optimized HLO with one `while` of the steps, as XLA prints it.

  Raises:
    ValueError: if it has none.
  """
  loop = re.search(r" while\(.*?body=%([\w.\-]+)", program)
  if loop is None:
    raise ValueError("the program has no loop over steps")
  begins = program.index(f"\n%{loop[1]} (")
  body = program[begins : program.index("\n}", begins)]
  shapes: dict[str, str] = {}
  found = []
  for line in body.splitlines():
    made = _INSTRUCTION.match(line)
    if made is None:
      continue
    shapes[made["name"]] = made["shape"]
    if made["op"] not in _FREE:
      read = re.findall(r"%([\w.\-]+)", made["operands"])
      moved = sum(_bytes(shapes.get(name, "")) for name in read)
      # Of an iteration's second step the same, and not a kind of its own.
      name = made["name"].removesuffix(".double_buffer_clone")
      kind = re.sub(r"[.\d]+$", "", name)
      found.append((kind, moved + _bytes(made["shape"])))
  return found


def steps_an_iteration(program: str, steps: int) -> int:
  """How many of a scan's steps XLA has put into one iteration of its loop."""
  trips = re.search(r' while\(.*known_trip_count":\{"n":"(\d+)"', program)
  return steps // int(trips[1]) if trips else 1


class Compiler:
  """Compiles for a described GPU, in the process it is in."""

  def __init__(self):
    os.environ["JAX_PLATFORMS"] = "cpu,cuda"
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # there is no cuDNN
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # nor a driver, as XLA would say
    # Algorithms cannot be tried without a device.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0"
    import jax
    from jax.experimental import topologies

    try:
      described = topologies.get_topology_desc(
        platform="cuda",
        topology_name="h200",
        target_config=_DESCRIPTION,
        topology="1x1x1",
      )
    except (NotImplementedError, RuntimeError) as error:
      version = jax.__version__
      raise ValueError(
        f"jax has no CUDA plugin here ({str(error).splitlines()[0]}); try pip "
        f"install --no-deps jax-cuda13-plugin=={version} "
        f"jax-cuda13-pjrt=={version}"
      ) from error
    self._device = jax.sharding.SingleDeviceSharding(described.devices[0])

  def measure(self, work: Workload, variant: str) -> dict[str, Any]:
    """The kernels of a step with an optimizer, most bytes first."""
    import jax
    import jax.numpy as jnp

    from benchmarks import jax_step
    from ovsw_jax.training import carried

    recipe = optimizer_cost.recipe(work, variant)
    described = lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=self._device
    )
    state = jax.eval_shape(
      lambda: carried.pack(jax_step.initial_state(work, recipe))
    )
    shape = (work.batch, work.side, work.side, 3)
    lowered = jax_step.steps.lower(
      jax.tree.map(described, state),
      described(jax.ShapeDtypeStruct(shape, jnp.float32)),
      described(jax.ShapeDtypeStruct(shape[:1], jnp.int32)),
      recipe=recipe,
      length=_STEPS,
    )
    program = lowered.compile().as_text()
    found, steps = kernels(program), steps_an_iteration(program, _STEPS)
    calls = collections.Counter(name for name, _ in found)
    moved: collections.Counter[str] = collections.Counter()
    for name, size in found:
      moved[name] += size
    return {
      **work._asdict(),
      "image_size": work.side,
      "variant": variant,
      "device": DEVICE,
      "kernels": [
        {"name": name, "calls": calls[name] / steps, "bytes": size / steps}
        for name, size in moved.most_common()
      ],
    }


def table(content: dict[str, Any]) -> str:
  """Markdown, one row a workload and optimizer."""
  header = [
    "model",
    "batch",
    "precision",
    "optimizer",
    "launched",
    "elementwise and sums",
    "copies",
    "GB",
  ]
  rows = []
  for row in content["rows"]:
    calls = {k["name"]: k["calls"] for k in row["kernels"]}
    own = sum(n for name, n in calls.items() if not name.startswith("cudnn"))
    rows.append(
      [
        row["network"],
        str(row["batch"]),
        row["dtype"],
        row["variant"],
        f"{sum(calls.values()):.0f}",
        f"{own:.0f}",
        f"{calls.get('copy', 0):.0f}",
        f"{sum(k['bytes'] for k in row['kernels']) / 1e9:.2f}",
      ]
    )
  return report.markdown(header, rows)


def parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list]:
  """The arguments, checked, and the workloads."""
  return programs.parse(
    "gpu_program",
    __doc__,
    argv,
    variants="sgd,ovsw+flips,ovsw+flips/compact",
    batches="256",
  )


def main(argv: Sequence[str] | None = None) -> None:
  chosen, work = parse(argv)
  rows = programs.measured(
    "benchmarks.gpu_program:Compiler", work, chosen.variants
  )
  report.show(report.make("gpu_program", chosen, rows, DEVICE), table)


if __name__ == "__main__":
  arguments.start(main)
