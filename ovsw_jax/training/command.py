"""What `main.py` does once it has read its flags."""

import os
from typing import Any

from ovsw_jax.training import (
  compilation_cache,
  host_memory,
  settings,
  stages,
)

MODES = {"train": stages.train, "evaluate": stages.evaluate_newest}


def run(
  mode: str,
  config: Any,
  workdir: str | None = None,
  cache: str | None = None,
) -> None:
  """Runs a config in one of `MODES`, in a process that does nothing else.

  Args:
    mode: what to do.
    config: nested config, as `configs/*.py` make them.
    workdir: place of the run; `settings.default_workdir(config)` if not given.
    cache: place of compiled programs, as `compilation_cache.enable` takes it.
  """
  host_memory.keep_freed_memory(
    # Measured on two cores; many threads would wait more for one heap.
    one_arena=config.train.batch_size >= 128 and (os.cpu_count() or 1) <= 4
  )
  compilation_cache.enable(cache)
  MODES[mode](config, workdir or settings.default_workdir(config))
