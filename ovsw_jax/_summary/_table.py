"""What the model table holds, and how it looks."""

import dataclasses
import html
from typing import Any, NamedTuple


class LayerSummary(NamedTuple):
  """A row of the table: one layer, for one example."""

  name: str  # path of the module, such as "layer1_block0/conv1"
  kind: str  # its class
  input_bits: int | None  # of what it multiplies; None if it multiplies nothing
  output_shape: tuple[int, ...]  # without batch axis
  parameters_1bit: int
  parameters_32bit: int
  statistics: int  # of batch normalization, 32 bits each
  macs_1bit: int
  macs_32bit: int

  @property
  def memory_bits(self) -> int:
    """Bits of parameters and statistics."""
    return self.parameters_1bit + 32 * (self.parameters_32bit + self.statistics)


@dataclasses.dataclass(frozen=True)
class Summary:
  """Bits, memory and multiplications of a model; see `ovsw_jax.summary`.

  Attributes:
    model: class of the model.
    input_shape: shape of one example.
    layers: a row for each layer, in the order in which they are called.
  """

  model: str
  input_shape: tuple[int, ...]
  layers: tuple[LayerSummary, ...]

  def _total(self, field: str) -> int:
    return sum(getattr(layer, field) for layer in self.layers)

  @property
  def parameters_1bit(self) -> int:
    """Number of trained parameters that are bits."""
    return self._total("parameters_1bit")

  @property
  def parameters_32bit(self) -> int:
    """Number of the other trained parameters."""
    return self._total("parameters_32bit")

  @property
  def parameters(self) -> int:
    """Number of all trained parameters."""
    return self.parameters_1bit + self.parameters_32bit

  @property
  def statistics(self) -> int:
    """Number of batch statistics."""
    return self._total("statistics")

  @property
  def memory_bytes(self) -> float:
    """Parameters and statistics, bits as bits."""
    return self._total("memory_bits") / 8

  @property
  def float_memory_bytes(self) -> float:
    """The same if all of them took 32 bits."""
    return 4.0 * (self.parameters + self.statistics)

  @property
  def compression_ratio(self) -> float:
    """How many times less memory the bits make it; 1 without any."""
    if not self.memory_bytes:
      return 1.0
    return self.float_memory_bytes / self.memory_bytes

  @property
  def macs_1bit(self) -> int:
    """Multiply-accumulates of bits by bits."""
    return self._total("macs_1bit")

  @property
  def macs_32bit(self) -> int:
    """All other multiply-accumulates."""
    return self._total("macs_32bit")

  @property
  def binarized_share(self) -> float:
    """Share of the multiply-accumulates that are of bits; 0 without any."""
    macs = self.macs_1bit + self.macs_32bit
    return self.macs_1bit / macs if macs else 0.0

  def to_dict(self) -> dict[str, Any]:
    """Every number, with plain Python types, ready for JSON."""
    totals = (
      "parameters",
      "parameters_1bit",
      "parameters_32bit",
      "statistics",
      "memory_bytes",
      "float_memory_bytes",
      "compression_ratio",
      "macs_1bit",
      "macs_32bit",
      "binarized_share",
    )
    return {
      "model": self.model,
      "input_shape": list(self.input_shape),
      **{name: getattr(self, name) for name in totals},
      "layers": [
        layer._asdict()
        | {
          "output_shape": list(layer.output_shape),
          "memory_bytes": layer.memory_bits / 8,
        }
        for layer in self.layers
      ],
    }

  def __str__(self) -> str:
    rows = self._rows()
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
      "  ".join(
        # Names on the left, numbers on the right.
        cell.ljust(width) if place < _TEXT_COLUMNS else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
      ).rstrip()
      for row in rows
    ]
    rule = "-" * max(map(len, lines))
    notes = self._notes()
    wide = max(map(len, notes))
    return "\n".join(
      [
        self._title(),
        rule,
        lines[0],
        rule,
        *lines[1:-1],
        rule,
        lines[-1],
        rule,
        *(f"{name.ljust(wide)}  {value}" for name, value in notes.items()),
      ]
    )

  __repr__ = __str__

  def _repr_html_(self) -> str:
    """The table in a notebook."""
    number = "padding:2px 8px;text-align:right;white-space:nowrap"
    text = number.replace("right", "left")

    def row(cells, tag: str, style: str = "") -> str:
      parts = (
        f'<{tag} style="{text if place < _TEXT_COLUMNS else number}{style}">'
        f"{html.escape(cell)}</{tag}>"
        for place, cell in enumerate(cells)
      )
      return f"<tr>{''.join(parts)}</tr>"

    head, *body, total = self._rows()
    line = ";border-top:1px solid currentColor"
    notes = "".join(
      f'<tr><td style="{text}">{html.escape(name)}</td>'
      f'<td style="{text}">{html.escape(value)}</td></tr>'
      for name, value in self._notes().items()
    )
    return (
      '<div style="overflow-x:auto">'
      f"<p><b>{html.escape(self._title())}</b></p>"
      f"<table><thead>{row(head, 'th')}</thead>"
      f"<tbody>{''.join(row(cells, 'td') for cells in body)}</tbody>"
      f"<tfoot>{row(total, 'th', line)}</tfoot></table>"
      f"<table><tbody>{notes}</tbody></table></div>"
    )

  def _title(self) -> str:
    return f"{self.model}, input {_shape(self.input_shape)}"

  def _rows(self) -> list[list[str]]:
    """Header, a row for each layer, totals."""
    rows = [
      [
        layer.name,
        layer.kind,
        str(layer.input_bits or "-"),
        _shape(layer.output_shape),
        *map(
          _count,
          (layer.parameters_1bit, layer.parameters_32bit, layer.statistics),
        ),
        _kib(layer.memory_bits / 8),
        _count(layer.macs_1bit),
        _count(layer.macs_32bit),
      ]
      for layer in self.layers
    ]
    total = [
      "total",
      "",
      "",
      "",
      *map(
        _count, (self.parameters_1bit, self.parameters_32bit, self.statistics)
      ),
      _kib(self.memory_bytes),
      _count(self.macs_1bit),
      _count(self.macs_32bit),
    ]
    return [list(_COLUMNS), *rows, total]

  def _notes(self) -> dict[str, str]:
    macs = self.macs_1bit + self.macs_32bit
    share = self.parameters_1bit / self.parameters if self.parameters else 0.0
    return {
      "parameters": f"{self.parameters:,}, of which {share:.2%} are 1-bit",
      "memory": f"{_kib(self.memory_bytes)} KiB, in 32 bits "
      f"{_kib(self.float_memory_bytes)} KiB",
      "compression": f"{self.compression_ratio:.2f} times smaller",
      "MACs": f"{macs:,}, of which {self.binarized_share:.2%} are binarized",
    }


_COLUMNS = (
  "layer",
  "type",
  "input bits",
  "output",
  "1-bit params",
  "32-bit params",
  "statistics",
  "memory KiB",
  "1-bit MACs",
  "32-bit MACs",
)
_TEXT_COLUMNS = 2


def _shape(shape: tuple[int, ...]) -> str:
  return "x".join(map(str, shape)) or "scalar"


def _count(number: int) -> str:
  return f"{number:,}" if number else "-"


def _kib(size: float) -> str:
  return f"{size / 1024:,.2f}"
