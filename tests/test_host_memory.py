"""Kept memory: fewer and larger pages, in a process of its own."""

import mmap
import os
import pathlib
import platform
import resource
import subprocess
import sys

import pytest

from ovsw_jax.training import host_memory

# Page faults of a call of a function whose temporaries take `size` MB.
COUNT = """
import resource, sys
from ovsw_jax.training import host_memory
how, size = sys.argv[1], int(sys.argv[2])
if how != "as it is":
  assert host_memory.keep_freed_memory(one_arena=how == "one arena")
import jax, jax.numpy as jnp

@jax.jit
def large(x):
  # A convolution's operand and result are in memory whole.
  operand = x * jnp.arange(size * 2**17, dtype=jnp.float32)
  return jnp.convolve(operand, jnp.ones(3)).max()

def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

x = jnp.ones(())
for _ in range(10):  # every thread makes its heap
  large(x).block_until_ready()
before = faults()
for _ in range(10):
  large(x).block_until_ready()
print((faults() - before) // 10)
"""


def faults(how, size):
  result = subprocess.run(
    [sys.executable, "-c", COUNT, how, str(size)],
    capture_output=True,
    text=True,
    check=True,
  )
  return int(result.stdout)


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's"
)
@pytest.mark.parametrize(
  # The heap of a thread ends at 64 MB.
  ("how", "size"),
  [("keep", 48), ("one arena", 96)],
)
def test_an_execution_finds_its_memory_where_it_left_it(how, size):
  without, with_ = faults("as it is", size), faults(how, size)
  # Pages are of 4 KB, or of 2 MB where the kernel hands out large ones.
  assert without > size // 2
  assert with_ < without / 2


# MB in large pages of a heap that 256 MB were written to.
LARGE = """
import pathlib, re, sys
from ovsw_jax.training import host_memory
if sys.argv[1] == "kept":
  assert host_memory.keep_freed_memory(one_arena=True)
import numpy as np
written = np.ones(2**25)
rollup = pathlib.Path("/proc/self/smaps_rollup").read_text()
print(int(re.search(r"AnonHugePages: *(\\d+) kB", rollup)[1]) // 2**10)
"""


def large_pages(how):
  result = subprocess.run(
    [sys.executable, "-c", LARGE, how],
    # NumPy would ask for them itself.
    env=os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"},
    capture_output=True,
    text=True,
    check=True,
  )
  return int(result.stdout)


def they_are_given_when_asked():
  path = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
  given = path.is_file() and "[madvise]" in path.read_text()
  return given and host_memory._addresses_are_free()


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc" or not they_are_given_when_asked(),
  reason="this kernel gives large pages to all or none",
)
def test_the_heap_is_of_large_pages():
  # How many depends on what memory is in one piece.
  assert large_pages("as it is") < 8 <= large_pages("kept")


@pytest.mark.parametrize("limit", [resource.RLIMIT_AS, resource.RLIMIT_DATA])
def test_addresses_that_are_limited_are_not_taken(monkeypatch, tmp_path, limit):
  overcommit = tmp_path / "overcommit_memory"
  overcommit.write_text("0\n")
  monkeypatch.setattr(host_memory, "_OVERCOMMIT", overcommit)
  unlimited = resource.RLIM_INFINITY
  limits = dict.fromkeys((resource.RLIMIT_AS, resource.RLIMIT_DATA), unlimited)
  monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which],) * 2)
  assert host_memory._addresses_are_free()
  limits[limit] = 2**34
  assert not host_memory._addresses_are_free()


def test_addresses_that_count_as_memory_are_not_taken(monkeypatch, tmp_path):
  monkeypatch.setattr(host_memory, "_OVERCOMMIT", tmp_path / "overcommit")
  assert not host_memory._addresses_are_free()  # not told
  (tmp_path / "overcommit").write_text("2\n")
  assert not host_memory._addresses_are_free()


# A compiler's heap in small: gaps of all sizes, and the place of an execution's
# temporaries, between pieces that stay. Prints the bytes of the gaps, how many
# of them are found again, and whether the place is.
GAPS = """
import ctypes, sys
import numpy as np
from ovsw_jax.training import host_memory
assert host_memory.keep_freed_memory(one_arena=sys.argv[1] == "one arena")
libc = host_memory._typed(ctypes.CDLL(None))

def taken(size):
  place = libc.malloc(size)
  libc.malloc(2**15)  # or neighbours would become one
  return place

sizes = [int(x) for x in np.geomspace(2**11, 2**19, 500)]
large = 9_876_543
gaps, whole = [taken(size) for size in sizes], taken(large)
for place in (*gaps, whole):
  libc.free(place)
aside = host_memory.set_gaps_aside()
found = libc.malloc(large) == whole
again = {libc.malloc(size) for size in reversed(sizes)}
print(aside, sum(sizes), len(again & set(gaps)), found)
"""


def gaps(how):
  result = subprocess.run(
    [sys.executable, "-c", GAPS, how],
    capture_output=True,
    text=True,
    check=True,
  )
  aside, size, again, whole = result.stdout.split()
  return int(aside), int(size), int(again), whole == "True"


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc" or not host_memory._addresses_are_free(),
  reason="one heap is of glibc, and of a process that may take addresses",
)
def test_gaps_are_set_aside_and_the_place_of_temporaries_is_not():
  aside, size, again, whole = gaps("one arena")
  assert aside > 0.99 * size  # all but what is less than the smallest piece
  assert again == 0
  assert whole


@pytest.mark.skipif(
  platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's"
)
def test_gaps_of_one_heap_among_others_stay():
  aside, _, again, whole = gaps("many")
  assert aside == 0
  assert again > 400
  assert whole


class Libc:
  """glibc's functions, which say what they were asked for."""

  def __init__(self, place):
    self.asked = []

    def function(name, answer):
      def called(*arguments):
        self.asked.append((name, *arguments))
        return answer

      return called

    self.malloc = function("malloc", place)
    self.madvise = function("madvise", -1)
    self.free = function("free", None)


def test_a_heap_that_cannot_grow_stays_as_it_is():
  libc = Libc(None)
  assert not host_memory._ask_for_large_pages(libc)
  assert [name for name, *_ in libc.asked] == ["malloc"]


@pytest.mark.skipif(
  not hasattr(mmap, "MADV_HUGEPAGE"), reason="the advice is Linux's"
)
def test_what_the_heap_grew_by_is_advised_in_whole_pages_and_freed():
  libc, page = Libc(place := 2**40 + 16), mmap.PAGESIZE
  assert host_memory._ask_for_large_pages(libc)
  (_, size), (_, first, length, advice), (_, freed) = libc.asked
  assert (freed, advice) == (place, mmap.MADV_HUGEPAGE)
  assert first % page == 0
  assert place <= first < place + page
  assert first + length == place + size


def test_nothing_happens_elsewhere(monkeypatch):
  monkeypatch.setattr(sys, "platform", "darwin")
  monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: pytest.fail())
  assert host_memory.keep_freed_memory() is False


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
  monkeypatch.setattr(sys, "platform", "linux")
  monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: object())
  assert host_memory.keep_freed_memory(one_arena=True) is False


def test_a_c_library_that_refuses_says_so(monkeypatch):
  """musl has the function, and it does nothing."""
  asked = {}

  class Musl:
    def mallopt(self, name, value):
      asked[name] = value
      return 0

  monkeypatch.setattr(sys, "platform", "linux")
  monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda _: Musl())
  assert host_memory.keep_freed_memory(one_arena=True) is False
  assert len(asked) == 3
