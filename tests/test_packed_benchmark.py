"""The benchmark of packed inference, end to end at a tiny size."""

import json

import pytest

from benchmarks import packed_inference, table


def test_a_layer_and_its_table(tmp_path, capsys):
  out = tmp_path / "x.json"
  packed_inference.main(["--smoke", f"--out={out}"])
  (row,) = json.loads(out.read_text())["rows"]
  assert row["packed_seconds"]["median"] > 0
  assert (
    row["facts"]["xla"]["weight_bytes"]
    == 32 * (row["facts"]["packed"]["weight_bytes"])
  )
  assert min(row["parts"].values()) > 0
  printed = capsys.readouterr().out
  assert "| 8@4, 3x3, batch 1 |" in printed and "pack, ms" in printed
  assert table.of_file(out) in printed


@pytest.mark.parametrize(
  ("argument", "message"),
  (
    ("--layers=3", "'3' is no list of SIZExCHANNELS"),
    ("--networks=vgg", "unknown 'vgg'"),
  ),
)
def test_wrong_arguments(argument, message, capsys):
  with pytest.raises(SystemExit):
    packed_inference.parse([argument])
  assert message in capsys.readouterr().err
