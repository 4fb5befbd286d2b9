"""The reproduction queue, with a main.py that only pretends, and its tables."""

import json
import pathlib
import textwrap
import time

import pytest

from benchmarks import machine, reproduce, table

ROOT = pathlib.Path(__file__).parents[1]

# Leaves what main.py leaves: checkpoints one after the other, then a result.
MAIN = """
import json, pathlib, sys, time
flags = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
config, method = flags["config"].split(":")
if flags.get("config.optimizer.learning_rate") == "nan":
  sys.exit("error: loss is nan at step 1")
workdir = pathlib.Path(flags["workdir"])
place = workdir / "checkpoints"
place.mkdir(parents=True, exist_ok=True)
start = max((int(p.name) for p in place.iterdir()), default=0)
print("starts at", start)
for step in range(start + 1, 5):
  time.sleep(0.3)
  (place / str(step)).mkdir()
  print("epoch", step, flush=True)
result = {
  "accuracy": 0.5 + int(flags["config.seed"]) / 100,
  "never_flipped_fraction": 0.25,
  "epochs": 4,
  "seconds": 1.2,
  "device": "a device",
  "versions": {"jax": "9.9", "python": "3.99"},
}
config = {"data": {"name": "digits"}, "seed": int(flags["config.seed"])}
(workdir / "config.json").write_text(json.dumps(config))
(workdir / "result.json").write_text(json.dumps(result))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
  """A repository with that main.py and one config."""
  monkeypatch.setattr(machine, "ROOT", tmp_path)
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "toy.py").touch()
  (tmp_path / "main.py").write_text(textwrap.dedent(MAIN))
  return tmp_path


def queue(*argv):
  """Status of the queue with these arguments."""
  try:
    reproduce.main(["--config=configs/toy.py", *argv])
  except SystemExit as end:
    return end.code
  return 0


def lines(place):
  path = place / "results" / "toy.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_queue_in_pieces_makes_every_run_once(place, capsys):
  arguments = ("--methods=vanilla,ovsw", "--seeds=1,2", "--label=Toys")
  codes = []
  while not codes or codes[-1] == 3:
    codes.append(queue(*arguments, "--minutes=0.025"))
    assert len(codes) < 20
  assert codes[-1] == 0 and len(codes) > 1
  records = lines(place)
  assert [(r["method"], r["seed"]) for r in records] == [
    ("vanilla", 1),
    ("ovsw", 1),
    ("vanilla", 2),
    ("ovsw", 2),
  ]
  first = records[0]
  assert first["data"] == "Toys" and first["config"]["seed"] == 1
  assert first["versions"]["jax"] == "9.9"  # the run's own
  assert first["run"]["config"] == "configs/toy.py" and first["processor"]
  # Stopped at checkpoints: no run made a step twice.
  for log in place.glob("runs/toy/*/*.log"):
    steps = [s for s in log.read_text().splitlines() if s.startswith("epoch")]
    assert steps == [f"epoch {n}" for n in range(1, 5)]
  capsys.readouterr()

  # All is done: nothing runs again, the table is printed.
  began = time.monotonic()
  assert queue(*arguments) == 0
  assert time.monotonic() - began < 1
  assert "51.5 ± 0.7" in capsys.readouterr().out
  assert lines(place) == records


def test_time_that_is_up_before_a_checkpoint_stops_the_run(place, capsys):
  assert queue("--methods=sad", "--seeds=0", "--minutes=0.002") == 3
  assert "time is up before sad seed 0" in capsys.readouterr().out
  assert not (place / "results").exists()
  # No time at all: main.py is not even started.
  (place / "main.py").unlink()
  assert queue("--methods=sad", "--seeds=0", "--minutes=0") == 3


def test_other_arguments_make_another_run(place, capsys):
  assert queue("--methods=ags", "--seeds=0") == 0
  more = ("--", "--config.train.epochs=4")
  assert queue("--methods=ags", "--seeds=0", "--dry-run", *more) == 0
  printed = capsys.readouterr().out.splitlines()[-1]
  assert printed == (
    "python main.py --config=configs/toy.py:ags --config.seed=0 "
    "--config.train.epochs=4 --workdir=runs/toy/ags/seed0"
  )
  assert queue("--methods=ags", "--seeds=0", "--dry-run") == 0
  assert capsys.readouterr().out == ""


def test_a_run_that_fails_ends_the_queue_with_its_last_words(place):
  with pytest.raises(
    ValueError, match=r"ags seed 0 failed with status 1; (.|\n)*loss is nan"
  ):
    queue(
      "--methods=ags", "--seeds=0", "--", "--config.optimizer.learning_rate=nan"
    )


def test_a_deadline_stops_at_the_last_checkpoint_in_time():
  now = 0.0
  deadline = reproduce.Deadline(100.0, clock=lambda: now)
  assert deadline.start(0)
  now = 30.0
  assert not deadline.due(0)
  now = 40.0
  assert not deadline.due(10)  # the next at 80, if it takes as long
  now = 65.0
  assert not deadline.due(20)  # the next at 90
  now = 90.0
  assert deadline.due(30)
  # Another run would not come to its first checkpoint.
  assert not deadline.start(0)
  now = 59.0
  assert deadline.start(0)
  now = 100.0
  assert deadline.due(0)
  assert not reproduce.Deadline(None).due(5)


def test_a_real_run(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
  out = tmp_path / "digits.jsonl"
  arguments = [
    "--config=configs/digits.py",
    "--methods=vanilla",
    "--seeds=3",
    f"--workdir={tmp_path}",
    f"--out={out}",
    "--",
    "--config.train.epochs=1",
    "--config.schedule.warmup_epochs=0",
    "--config.data.limit=16",
    "--config.train.batch_size=16",
  ]
  reproduce.main(arguments)
  (line,) = table.read_lines(out)
  assert line["config"]["seed"] == line["seed"] == 3
  assert line["epochs"] == 1 and line["data"] == "digits"
  assert {"accuracy", "device", "processor", "command", "commit"} <= line.keys()
  assert "| vanilla |     1 |" in capsys.readouterr().out
  log = (tmp_path / "vanilla" / "seed3.log").read_text()
  assert "epoch 1/1" in log


# Tables ----------------------------------------------------------------------


def cells(text):
  """The cells of Markdown tables, by row, without the rules."""
  rows = [
    [cell.strip() for cell in line.strip().strip("|").split("|")]
    for line in text.splitlines()
    if line.startswith("|")
  ]
  return [row for row in rows if not row[1].startswith("--")]


def test_the_readme_has_the_tables_of_the_results():
  written = cells((ROOT / "README.md").read_text())
  for row in cells(table.of_file(ROOT / "results" / "digits.jsonl")):
    assert row in written


def test_every_file_of_results_makes_a_table():
  for path in (ROOT / "results").glob("*.json*"):
    assert len(cells(table.of_file(path))) > 1


def test_tables_in_a_text_are_renewed(tmp_path, capsys):
  text = tmp_path / "README.md"
  name = "results/digits.jsonl"
  text.write_text(
    f"before\n<!-- table: {name} -->\n| old |\n<!-- end -->\nafter\n"
  )
  table.main([f"--into={text}"])
  renewed = text.read_text()
  assert table.of_file(ROOT / name) in renewed and "old" not in renewed
  assert renewed.startswith("before\n<!--") and renewed.endswith(">\nafter\n")
  table.main([f"--into={text}"])
  assert text.read_text() == renewed

  text.write_text("nothing")
  with pytest.raises(ValueError, match=r"marks no table: put `<!-- table:"):
    table.main([f"--into={text}"])


def test_runs_without_bits_have_no_flips():
  run = {
    "method": "full_precision",
    "accuracy": 0.9,
    "never_flipped_fraction": None,
    "epochs": 1,
    "seconds": 1.0,
    "device": "cpu",
    "versions": {"jax": "1", "python": "3"},
  }
  (row,) = cells(table.runs([run]))[1:]
  assert row == ["full_precision", "1", "90.0", "-", "1"]


def test_replicas_count_as_seeds():
  path = ROOT / "results" / "digits.jsonl"
  lines = [r for r in table.read_lines(path) if r["method"] == "sad"]
  replicas = lines[0] | {
    f"{name}_per_seed": [line[name] for line in lines]
    for name in ("accuracy", "never_flipped_fraction")
  }
  assert cells(table.runs([replicas]))[1][:4] == cells(table.runs(lines))[1][:4]


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("a.json", None, "no results at .*a.json"),
    ("a.jsonl", "", "a.jsonl: no finished run yet"),
    ("a.jsonl", '{"kind": "eval"}\n', "a.jsonl: no finished run yet"),
    ("a.jsonl", "{}\n{", r"a.jsonl, line 2, is no JSON"),
    ("a.json", "[]", "a.json is no benchmark's report"),
    ("a.json", '{"benchmark": "x"}', "a report of 'x'; known: .*epoch_time"),
  ],
)
def test_files_without_a_table_are_named(tmp_path, name, content, message):
  path = tmp_path / name
  if content is not None:
    path.write_text(content)
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    table.of_file(path)
