"""Kept memory: fewer page faults, in a process of its own."""

import platform
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
