"""The layout of a program's temporaries, read out of XLA's own record."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import layout


@pytest.fixture(scope="module")
def program():
  """Several temporaries of 1 MiB, in one piece of memory."""

  def f(x):
    a, b, c = (f(x) @ x for f in (jnp.sin, jnp.cos, jnp.tanh))
    return (a @ b) @ c

  return jax.jit(f).lower(jnp.ones((512, 512))).compile()


def test_temporaries_lie_within_their_memory(program):
  found = layout.of(program)
  assert found.size == program.memory_analysis().temp_size_in_bytes
  assert found.size >= 2 * 2**20
  assert sum(size == 2**20 for _, size in found.pieces) >= 2
  for offset, size in found.pieces:
    assert 0 <= offset <= found.size - size


def test_whole_pages_are_those_of_large_temporaries():
  pieces = [(0, 2**20), (2**20, 2**20), (2**21 + 64, 2**20), (100, 8)]
  assert layout.Layout(4 * 2**20, pieces).in_pages == pytest.approx(2 / 3)
  assert layout.Layout(8, [(100, 8)]).in_pages == 1


def test_a_program_without_temporaries():
  compiled = jax.jit(lambda x: x).lower(jnp.ones(3)).compile()
  found = layout.of(compiled)
  assert found.size == 0 and found.in_pages == 1
