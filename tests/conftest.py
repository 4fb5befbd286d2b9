"""Eight virtual CPU devices for the whole suite, and the golden vectors.

Programs are compiled once for all tests, workers and the processes that tests
start, in JAX's own cache of them, whose directory lives as long as the session.
"""

import functools
import os
import pathlib
import shutil
import tempfile

_CACHE = "JAX_COMPILATION_CACHE_DIR"
_OWN_CACHE = _CACHE not in os.environ  # of the first process; workers find it
if _OWN_CACHE:
  os.environ[_CACHE] = tempfile.mkdtemp(prefix="ovsw_jax_tests_")
  # What takes less to compile than to find is not kept.
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
  os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402, which reads what is set above
import numpy as np  # noqa: E402
import pytest  # noqa: E402

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


@pytest.fixture(autouse=True, scope="module")
def memory():
  """What a file's tests compiled goes with them: the whole suite's is 8 GB."""
  yield
  jax.clear_caches()


@pytest.fixture(scope="module")
def tiny():
  """A network that compiles in a second, whatever the config says."""
  # Not all tests have the training stack.
  from ovsw_jax.training import networks
  from tests.test_step import Tiny

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(networks.models, "make", lambda name, **_: Tiny(name=None))
    yield


@pytest.fixture
def part_sizes(monkeypatch):
  """A list that fills with the images of each part that `summed` traces."""
  from ovsw_jax.products import _chunks

  sizes, summed = [], _chunks.summed

  def noted(part, *args, **options):
    def one(first, count):
      sizes.append(count)
      return part(first, count)

    return summed(one, *args, **options)

  monkeypatch.setattr(_chunks, "summed", noted)
  return sizes


@pytest.fixture
def on_cpu():
  """For what XLA's CPU backend alone does.

  A mark would ask at import, and start the backend of all who import its file.
  """
  if jax.default_backend() != "cpu":
    pytest.skip("other platforms do this otherwise")


@pytest.fixture
def as_a_gpu(monkeypatch):
  """Everything takes the form that it has on a GPU, and runs here."""

  def choose(*args, default, cuda=None, **others):
    del others
    return (cuda or default)(*args)

  jax.clear_caches()  # what was traced before
  monkeypatch.setattr(jax.lax, "platform_dependent", choose)
  yield
  jax.clear_caches()


@pytest.fixture
def x64():
  """Float64 for the length of one test."""
  with jax.enable_x64(True):
    yield


def pytest_unconfigure():
  """The first process to start is the last to end."""
  if _OWN_CACHE:
    shutil.rmtree(os.environ[_CACHE], ignore_errors=True)
