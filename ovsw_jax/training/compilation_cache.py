"""Compiled programs that outlive the process: JAX's persistent cache, set up.

JAX keys an entry by the program, the versions of JAX and XLA, the compiler's
flags and the device, on a CPU with its instruction sets: another machine that
shares the directory compiles for itself. Entries are programs that JAX will
run, so nobody else should be able to write there. Nothing is ever removed; all
of the directory may be, at any time.
"""

import logging
import os
import pathlib

import jax

# Programs below this take longer to find than to compile: a step of tens of
# milliseconds and everything around it is kept.
_MIN_COMPILE_SECONDS = 0.01


def default_directory() -> pathlib.Path:
  """`ovsw_jax/xla` in the user's cache directory (XDG's, or `~/.cache`)."""
  cache = os.environ.get("XDG_CACHE_HOME")
  base = pathlib.Path(cache) if cache else pathlib.Path.home() / ".cache"
  return base / "ovsw_jax" / "xla"


def in_use() -> str | None:
  """Where JAX keeps compiled programs, or None if it does not."""
  if not jax.config.jax_enable_compilation_cache:
    return None
  return jax.config.jax_compilation_cache_dir


def enable(directory: str | None = None) -> str | None:
  """Has JAX keep what it compiles, and look there before it compiles.

  To be called before anything is compiled.

  Args:
    directory: where, a path that is made if absent, or a URL that JAX knows;
      the empty string is nowhere. None is where JAX was told to by itself
      (JAX_COMPILATION_CACHE_DIR), else `default_directory()`, or nowhere, with
      a warning, if that cannot be made.

  Returns:
    The directory, or None if there is no cache.

  Raises:
    OSError: a directory that was asked for cannot be made.
  """
  if directory is None:
    directory = jax.config.jax_compilation_cache_dir or _made_default()
  elif directory and "://" not in directory:
    path = pathlib.Path(directory).expanduser().absolute()
    try:
      path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise OSError(
        f"--compilation_cache={directory} cannot be made ({error.strerror}); "
        "choose another directory, or an empty name to go without"
      ) from error
    directory = str(path)
  jax.config.update("jax_compilation_cache_dir", directory or None)
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update(
      "jax_persistent_cache_min_compile_time_secs", _MIN_COMPILE_SECONDS
    )
  return in_use()


def _made_default() -> str:
  try:
    path = default_directory()
    path.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
    logging.warning(
      "no cache of compiled programs (%s); --compilation_cache=DIR makes one",
      error,
    )
    return ""
  return str(path)
