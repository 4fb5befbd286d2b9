"""Keeps the host memory that XLA's CPU backend frees and takes again each step.

An execution on the CPU takes its temporaries from malloc, tens to hundreds of
MB, and frees them at its end. glibc hands what is large straight back to the
kernel, which gives it out again page by page, each of them cleared: tens of
thousands of page faults a step. Told to keep it, glibc reuses the pages. In
pages of 2 MB, where the kernel has such, the processor finds them sooner. By
network, size of images and batch, ms a step on two cores of a Xeon with jax
0.12, median of three times 15 steps:

  =======================  ====  ======  ======  ======  ======
  kept                     no    yes     yes     yes     yes
  heaps                    many  many    many    one     one
  large pages              no    no      yes     no      yes
  =======================  ====  ======  ======  ======  ======
  ResNet-20, 8x8, 64       25    25      23      29      26
  ResNet-20, 16x16, 64     48    40      44      46      42
  ResNet-20, 32x32, 128    325   342     333     238     222
  ResNet-18, 32x32, 32     420   417     422     374     331
  =======================  ====  ======  ======  ======  ======

Memory once taken stays with the process, and glibc cannot return what a large
array of the host leaves behind. Nothing that is computed changes.

What a compiler frees lies in tens of thousands of gaps between what it leaves
behind. glibc keeps them in order of size, and thousands of times a step looks
for the place of a freed piece among them: 3.5 to 4 % of what both cores do in
ResNet-18's step. So once all is compiled they are set aside. On that Xeon its
step then takes 0.93 and 0.97 of the time, in two processes, and ResNet-20's
0.95 and 1.00. Programs that come out of a cache leave few gaps.
"""

import ctypes
import mmap
import os
import pathlib
import sys
from collections.abc import Iterator

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
# 2: the kernel counts addresses as memory, used or not.
_OVERCOMMIT = pathlib.Path("/proc/sys/vm/overcommit_memory")

# Bytes. Below the smallest, glibc has a list for each size and need not search;
# what is larger than a gap are the places of an execution's temporaries, and
# none of these is as large as the last.
_SMALLEST_GAP, _LARGEST_GAP, _BEYOND_GAPS = 2**10, 2**20, 2**30

# Whether `keep_freed_memory` has made one heap of all: settings of malloc are
# the process's.
_one_heap = False


def keep_freed_memory(one_arena: bool = False) -> bool:
  """Has glibc keep freed memory for the next execution, in large pages.

  Where the C library has no `mallopt` (macOS, Windows) or ignores it (musl),
  nothing happens. To be called before threads start; JAX's backend need not be
  there, and on an accelerator it does no harm.

  Args:
    one_arena: whether all threads share one heap. The heaps that glibc makes
      for threads hold 64 MB at most, and larger pieces go back to the kernel
      whatever it is told. So one heap pays unless images and batches are small;
      then threads wait for each other there, and compiling takes a third
      longer. Large pages are asked for in that heap alone.

  Returns:
    Whether the C library took it.
  """
  if sys.platform != "linux":
    return False
  libc = ctypes.CDLL(None)
  mallopt = getattr(libc, "mallopt", None)
  if mallopt is None:
    return False
  global _one_heap
  settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1}  # -1: never trims
  if one_arena:
    settings[_M_ARENA_MAX] = 1
  # 1 is success; musl's takes everything and answers 0.
  took = all([mallopt(name, value) for name, value in settings.items()])
  if took and _addresses_are_free():
    _one_heap = _ask_for_large_pages(_typed(libc)) and one_arena
  return took


def set_gaps_aside() -> int:
  """Takes the small gaps of the heap, and never uses them.

  To be called when programs have been compiled and have run once. It takes a
  tenth of a second, and where `keep_freed_memory` has not made one heap of all
  that may grow, it does nothing.

  Returns:
    The bytes that were set aside; what is compiled next needs others.
  """
  if not _one_heap:
    return 0
  libc = _typed(ctypes.CDLL(None))
  end = libc.malloc(_BEYOND_GAPS)
  if end is None:
    return 0
  libc.free(end)

  def pieces(size: int) -> Iterator[int]:
    """Takes pieces for as long as they come out of gaps."""
    while (place := libc.malloc(size)) is not None and place < end:
      yield place
    libc.free(place)

  total, aside, behind = 0, [], set()
  size = 2**6 * _LARGEST_GAP
  while size >= _SMALLEST_GAP:
    for place in pieces(size):
      bytes_ = libc.malloc_usable_size(place)
      # Temporaries find their place again, as a whole: what lies behind a part
      # of it belongs to it too.
      if size > _LARGEST_GAP or place in behind:
        aside.append(place)
        behind.add(place + bytes_ + ctypes.sizeof(ctypes.c_size_t))
      else:
        total += bytes_
    size = size // 2 if size > _LARGEST_GAP else size * 19 // 20
  for place in aside:
    libc.free(place)
  return total


def _addresses_are_free() -> bool:
  """Whether memory that is asked for, and not used, costs nothing here."""
  import resource  # of Unix alone

  try:
    counted = _OVERCOMMIT.read_text().strip() == "2"
  except OSError:  # not ours to read
    counted = True
  limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
  return not counted and all(
    resource.getrlimit(limit)[0] == resource.RLIM_INFINITY for limit in limits
  )


def _typed(libc: ctypes.CDLL) -> ctypes.CDLL:
  """The C library, knowing what its functions take and give."""
  libc.malloc.restype = ctypes.c_void_p
  libc.malloc.argtypes = [ctypes.c_size_t]
  libc.free.argtypes = [ctypes.c_void_p]
  libc.malloc_usable_size.restype = ctypes.c_size_t
  libc.malloc_usable_size.argtypes = [ctypes.c_void_p]
  libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
  return libc


def _ask_for_large_pages(libc: ctypes.CDLL) -> bool:
  """Has the kernel give the first heap pages of 2 MB, where it has such.

  The heap grows once, by half of the machine's memory, and these addresses are
  marked; what it grows by later would not be. As nothing is written there, they
  take no memory before they are used.

  Returns:
    Whether it grew.
  """
  size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
  place = libc.malloc(size)
  if place is None:  # no room in addresses
    return False
  first = -(-place // mmap.PAGESIZE) * mmap.PAGESIZE
  # A kernel without large pages refuses, and all is as it was.
  libc.madvise(first, place + size - first, mmap.MADV_HUGEPAGE)
  libc.free(place)
  return True
