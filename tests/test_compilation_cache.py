"""Compiled programs on disk: found again, and never in the way."""

import logging
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from ovsw_jax.training import compilation_cache

ROOT = pathlib.Path(__file__).parents[1]
OPTIONS = (
  "jax_compilation_cache_dir",
  "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def options(monkeypatch):
  """JAX's settings and the environment as they were, after every test."""
  before = {name: getattr(jax.config, name) for name in OPTIONS}
  for name in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
    monkeypatch.delenv(name, raising=False)
  jax.config.update("jax_compilation_cache_dir", None)  # the tests' own
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_the_default_is_in_the_users_cache(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  place = tmp_path / ".cache" / "ovsw_jax" / "xla"
  assert compilation_cache.default_directory() == place
  assert compilation_cache.enable() == str(place)
  assert place.is_dir()
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
  place = tmp_path / "xdg" / "ovsw_jax" / "xla"
  assert compilation_cache.default_directory() == place


def test_a_directory_is_made_and_home_is_understood(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert compilation_cache.enable("~/a/b") == str(tmp_path / "a" / "b")
  assert (tmp_path / "a" / "b").is_dir()
  assert compilation_cache.in_use() == str(tmp_path / "a" / "b")


def test_what_jax_was_told_already_stays(tmp_path):
  place = str(tmp_path / "jax")
  jax.config.update("jax_compilation_cache_dir", place)
  assert compilation_cache.enable() == place
  assert compilation_cache.enable("") is None
  assert compilation_cache.in_use() is None


def test_a_url_is_jaxs_business():
  assert compilation_cache.enable("gs://bucket/xla") == "gs://bucket/xla"


def test_a_cache_that_jax_has_off_is_none(tmp_path):
  jax.config.update("jax_enable_compilation_cache", False)
  try:
    assert compilation_cache.enable(str(tmp_path)) is None
  finally:
    jax.config.update("jax_enable_compilation_cache", True)


def test_a_threshold_of_the_users_stays(tmp_path, monkeypatch):
  monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
  compilation_cache.enable(str(tmp_path))
  assert jax.config.jax_persistent_cache_min_compile_time_secs == 7.0


def test_a_place_that_cannot_be_is_an_error_if_asked_for(tmp_path):
  (tmp_path / "file").write_text("mine")
  with pytest.raises(
    OSError, match=r"--compilation_cache=.*file/x cannot be made .*empty name"
  ):
    compilation_cache.enable(str(tmp_path / "file" / "x"))


def test_a_default_that_cannot_be_is_a_warning(tmp_path, monkeypatch, caplog):
  (tmp_path / "file").write_text("mine")
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  with caplog.at_level(logging.WARNING):
    assert compilation_cache.enable() is None
  assert "--compilation_cache=DIR" in caplog.text


# Prints the digits of a compiled function and how often XLA compiled it anew.
PROGRAM = """
import sys, jax, jax.monitoring, jax.numpy as jnp
from ovsw_jax.training import compilation_cache
compilation_cache.enable(sys.argv[1])
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

@jax.jit
def function(x):
  return jnp.linalg.norm(jnp.sin(x @ x.T))

print(float(function(jnp.arange(12.0).reshape(3, 4))).hex())
print(events.count("/jax/compilation_cache/cache_hits"))
"""


def program(cache):
  result = subprocess.run(
    [sys.executable, "-W", "always", "-c", PROGRAM, str(cache)],
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    check=True,
  )
  value, hits = result.stdout.split()
  return value, int(hits), result.stderr


def test_the_next_process_finds_it_and_computes_the_same(tmp_path):
  cache = tmp_path / "cache"
  cold, hits, _ = program(cache)
  assert hits == 0
  entries = sorted(cache.iterdir())
  assert entries
  warm, hits, errors = program(cache)
  assert warm == cold
  assert hits >= 1
  assert errors == ""
  assert sorted(cache.iterdir()) == entries
  without, hits, _ = program("")
  assert without == cold
  assert hits == 0

  # A kill while an entry is written: told, and compiled anew.
  for entry in cache.iterdir():
    entry.write_bytes(entry.read_bytes()[:100])
  damaged, hits, errors = program(cache)
  assert damaged == cold
  assert hits == 0
  assert "Error reading persistent compilation cache" in errors
