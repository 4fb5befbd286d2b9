"""Eight virtual CPU devices for the whole suite, and the golden vectors."""

import functools
import pathlib

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 8)

_GOLDEN = pathlib.Path(__file__).parent / "golden"


@functools.cache
def _load(name):
  with np.load(_GOLDEN / f"{name}.npz", allow_pickle=False) as archive:
    return dict(archive)


@pytest.fixture(scope="session")
def golden():
  """`golden("ags")` is the dict of arrays in `tests/golden/ags.npz`."""
  return _load


@pytest.fixture
def x64():
  """Float64 for the length of one test."""
  with jax.enable_x64(True):
    yield
