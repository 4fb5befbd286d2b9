"""Trains every method on the digits, several seeds each, and prints a table.

  python benchmarks/digits_table.py --workdir=runs/digits --seeds=0,1,2

Each run is one `main.py` command in a process of its own, printed as it starts;
runs that are finished already are read, so the script may be stopped and
started again. Writes one JSON line a run to --out, and prints the Markdown
table of the README: mean and standard deviation over seeds, of the final epoch.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
METHODS = ("vanilla", "ags", "sad", "ovsw")


def run(config: str, method: str, seed: int, workdir: pathlib.Path) -> dict:
  """The result of one run, trained now if it has none yet."""
  place = workdir / method / f"seed{seed}"
  result = ROOT / place / "result.json"
  if not result.exists():
    command = [
      sys.executable,
      "main.py",
      f"--config={config}:{method}",
      f"--config.seed={seed}",
      f"--workdir={place}",
    ]
    print("$", *command[1:], flush=True)
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
  return {"method": method} | json.loads(result.read_text())


def spread(values: list[float], scale: float = 1.0) -> str:
  """Mean and sample standard deviation as `95.0 ± 0.2`."""
  mean = statistics.mean(values) * scale
  if len(values) < 2:
    return f"{mean:.1f}"
  return f"{mean:.1f} ± {statistics.stdev(values) * scale:.1f}"


def table(results: list[dict]) -> str:
  """Markdown, one row a method."""
  lines = [
    "| method | seeds | test accuracy, % | never flipped, % | seconds a run |",
    "|---|--:|--:|--:|--:|",
  ]
  for method in METHODS:
    rows = [r for r in results if r["method"] == method]
    accuracy = spread([r["accuracy"] for r in rows], 100)
    flipped = spread([r["never_flipped_fraction"] for r in rows], 100)
    seconds = statistics.median(r["seconds"] for r in rows)
    lines.append(
      f"| {method} | {len(rows)} | {accuracy} | {flipped} | {seconds:.0f} |"
    )
  first = results[0]
  lines.append("")
  lines.append(
    f"{first['epochs']} epochs, final epoch; {first['device']}, "
    f"jax {first['versions']['jax']}, Python {first['versions']['python']}."
  )
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", default="configs/digits.py")
  parser.add_argument(
    "--workdir",
    type=pathlib.Path,
    default="runs/digits",
    help="place of the runs, below the repository unless absolute",
  )
  parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
  parser.add_argument(
    "--out", type=pathlib.Path, default=ROOT / "results" / "digits.jsonl"
  )
  arguments = parser.parse_args()
  seeds = [int(seed) for seed in arguments.seeds.split(",")]
  results = [
    run(arguments.config, method, seed, arguments.workdir)
    for seed in seeds
    for method in METHODS
  ]
  arguments.out.parent.mkdir(parents=True, exist_ok=True)
  arguments.out.write_text("".join(json.dumps(r) + "\n" for r in results))
  print(table(results))


if __name__ == "__main__":
  main()
