"""What a number was measured on: processor, versions, commit, command, date."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


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


def versions() -> dict[str, str]:
  """Versions of Python and of those packages that are installed."""
  found = {"python": platform.python_version()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


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
    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short=12", "HEAD") + "+changes" * bool(changed)
  except (OSError, subprocess.CalledProcessError):
    return None  # not a clone


def command() -> str:
  """The command line that runs, from the interpreter's arguments on."""
  return shlex.join(["python", *sys.orig_argv[1:]])


def describe() -> dict:
  """All of this, in plain values; the device is the worker's to tell."""
  return {
    "command": command(),
    "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "commit": commit(),
    "processor": processor(),
    "cores": cores(),
    "system": f"{platform.system()} {platform.machine()}",
    "versions": versions(),
  }
