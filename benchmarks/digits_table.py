"""The README's table of the digits; a name for one `benchmarks.reproduce`.

  python benchmarks/digits_table.py --workdir=runs/digits --seeds=0,1,2,3,4

is `python -m benchmarks.reproduce --config=configs/digits.py` with these and
any further arguments.
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]

if __name__ == "__main__":
  sys.exit(
    subprocess.call(
      [
        sys.executable,
        "-m",
        "benchmarks.reproduce",
        "--config=configs/digits.py",
        "--seeds=0,1,2,3,4",
        *sys.argv[1:],
      ],
      cwd=ROOT,
    )
  )
