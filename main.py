"""Trains and evaluates binary neural networks.

  python main.py --config=configs/digits.py
  python main.py --config=configs/digits.py:vanilla --config.seed=1
  python main.py --config=configs/digits.py --mode=evaluate

After the colon: a method (ovsw, vanilla, irnet ... or a file), `,ovsw` to add
its gradient transformation, `smoke` for a run of seconds. Set fields as in
--config.train.epochs=30. The same command resumes. --verbosity=1: tracebacks.
"""

import sys

try:
  from absl import app, flags, logging
  from ml_collections import config_flags
except ImportError as missing:
  sys.exit(f"error: {missing}; install it with: pip install -e '.[train]'")

_CONFIG = config_flags.DEFINE_config_file("config", None, "File of configs/.")
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Place of the run; runs/<name>/<method>/seed<seed> if unset."
)
_CACHE = flags.DEFINE_string(
  "compilation_cache",
  None,
  "Place of compiled programs, which may be emptied at any time; "
  "~/.cache/ovsw_jax/xla if unset, nowhere if empty.",
)
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")


def _fail(message: str) -> None:
  logging.debug("what the error is about", exc_info=True)  # --verbosity=1
  print(f"error: {message}", file=sys.stderr)
  sys.exit(2)


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; a wrong one is one line, not a traceback."""
  flags.FLAGS.verbosity = logging.WARNING
  try:
    rest = flags.FLAGS(argv)
    if _CONFIG.value is None:
      _fail("--config is missing; try --config=configs/digits.py, or --help")
    _CONFIG.value.lock()  # fails if the file is not there
  except AttributeError as error:
    field = getattr(error.args[0], "args", error.args)[0].replace("\n", ". ")
    _fail(f"unknown config field {field}; configs/base.py lists them all")
  except (flags.Error, OSError) as error:
    while "Traceback" in str(error) and error.__context__ is not None:
      error = error.__context__  # what get_config itself said
    _fail(str(error).splitlines()[-1].strip())
  if rest[1:]:
    _fail(f"unexpected argument {rest[1]!r}; flags are written --name=value")
  return rest


def main(_: list[str]) -> None:
  from ovsw_jax.training import command

  try:
    command.run(_MODE.value, _CONFIG.value, _WORKDIR.value, _CACHE.value)
  except (ValueError, OSError, ImportError, ArithmeticError, MemoryError) as e:
    _fail(str(e))


if __name__ == "__main__":
  app.run(main, flags_parser=_parse)
