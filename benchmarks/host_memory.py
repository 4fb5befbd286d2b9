"""Keeps freed memory in the process, for steps on the CPU.

XLA's CPU backend and PyTorch both allocate a step's large arrays with malloc,
and glibc gives such memory back to the system at once: the next step takes a
page fault for every four kilobytes of it. On other systems nothing is changed.
"""

import ctypes
import sys

# Of <malloc.h>. Their values: one arena; nothing mapped apart; never shrink;
# grow by half a gibibyte.
_OPTIONS = {
  "M_ARENA_MAX": (-8, 1),
  "M_MMAP_MAX": (-4, 0),
  "M_TRIM_THRESHOLD": (-1, 2**31 - 1),
  "M_TOP_PAD": (-2, 2**29),
}


def keep() -> bool:
  """Sets glibc's malloc so, and says whether it took; before any thread."""
  if not sys.platform.startswith("linux"):
    return False
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
  if mallopt is None:
    return False
  return all(mallopt(name, value) for name, value in _OPTIONS.values())
