"""What a number is measured on: processor, versions, commit, command, date.

  python -m benchmarks.machine

prints it, and which packages main.py still lacks here for a run on a folder or
archive of images: what to carry to a machine without a network.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
# Of main.py on `folder:` data; setup.cfg's `train` has those of other data too.
_NEEDED = (
  "jax",
  "flax",
  "optax",
  "numpy",
  "absl-py",
  "matplotlib",
  "ml-collections",
  "orbax-checkpoint",
  "pillow",
  "tqdm",
)


def cores() -> int:
  """CPU cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def processor() -> str:
  """The CPU's model in words."""
  try:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
      if line.startswith("model name"):
        return line.partition(":")[2].strip()
  except OSError:
    pass  # not Linux
  return platform.processor() or platform.machine()


def version(package: str) -> str | None:
  """The installed version of a package, None if it is not installed."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def versions() -> dict[str, str]:
  """Versions of Python and of those packages that are installed."""
  found = {package: version(package) for package in _PACKAGES}
  installed = {k: v for k, v in found.items() if v is not None}
  return {"python": platform.python_version()} | installed


def missing() -> list[str]:
  """Packages that main.py lacks here, for `folder:` data."""
  return [package for package in _NEEDED if version(package) is None]


def commit() -> str | None:
  """The commit that is checked out, with "+changes" if files differ from it."""

  def git(*arguments: str) -> str:
    return subprocess.run(
      ["git", *arguments],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()

  try:
    # What a benchmark has just written into results/ changes no code.
    changed = git("status", "--porcelain", "-uno", "--", ".", ":!results")
    return git("rev-parse", "--short=12", "HEAD") + "+changes" * bool(changed)
  except (OSError, subprocess.CalledProcessError):
    return None  # not a clone


def command() -> str:
  """The command line that runs, from the interpreter's arguments on."""
  return shlex.join(["python", *sys.orig_argv[1:]])


def load() -> list[float] | None:
  """Programs that ran or waited, means of 1, 5 and 15 minutes, if known."""
  if not hasattr(os, "getloadavg"):
    return None  # not POSIX
  return [round(mean, 2) for mean in os.getloadavg()]


def describe() -> dict:
  """All of this, in plain values; the device is the worker's to tell."""
  flags = os.environ.get("XLA_FLAGS")
  return {
    "command": command(),
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "commit": commit(),
    "processor": processor(),
    "cores": cores(),
    "load": load(),
    "system": f"{platform.system()} {platform.machine()}",
    "versions": versions(),
    **({"xla_flags": flags} if flags else {}),
  }


if __name__ == "__main__":
  print(json.dumps(describe(), indent=1))
  lacking = missing()
  print("missing for main.py:", " ".join(lacking) or "nothing")
  sys.exit(bool(lacking))
