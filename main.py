"""Trains and evaluates binary neural networks.

  python main.py --config=configs/digits.py
  python main.py --config=configs/digits.py:vanilla --config.seed=1
  python main.py --config=configs/digits.py --mode=evaluate
  python main.py --config=configs/digits.py --mode=sweep --sweep=seed=0,1,2
  python main.py --mode=report --workdir=runs/a --compare=runs/b,runs/c
  python main.py --mode=export --workdir=runs/a --format=packed
  python main.py --mode=predict --workdir=runs/a image.png

After the colon: a method (ovsw, vanilla, irnet ... or a file), `,ovsw` to add
its gradient transformation, `smoke` for a run of seconds. Set fields as in
--config.train.epochs=30. The same command resumes. --verbosity=1: tracebacks.
"""

import sys

try:
  from absl import app, flags
  from ml_collections import config_flags

  from ovsw_jax import commands
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
_MODE = flags.DEFINE_enum("mode", "train", commands.MODES, "What to do.")
_FORMAT = flags.DEFINE_enum(
  "format", "packed", list(commands.EXPORTED), "Of an exported network."
)
_COMPARE = flags.DEFINE_list("compare", [], "Further workdirs of a report.")
_SWEEP = flags.DEFINE_multi_string("sweep", [], commands.SWEEP_HELP)
_DRY_RUN = flags.DEFINE_boolean(
  "dry-run", False, "Print the commands of a sweep, and their time."
)


def main(argv: list[str]) -> None:
  commands.run(
    _MODE.value,
    _CONFIG.value,
    _WORKDIR.value,
    _CACHE.value,
    _COMPARE.value,
    _FORMAT.value,
    _SWEEP.value,
    _DRY_RUN.value,
    argv[1:],
  )


if __name__ == "__main__":
  app.run(
    main, flags_parser=lambda argv: commands.parse(argv, lambda: _CONFIG.value)
  )
