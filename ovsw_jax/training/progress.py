"""Says how a run is doing: a bar on a terminal, plain lines elsewhere."""

import collections
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from tqdm import tqdm

# How a metric is shown, by name; others are not.
_SHOWN = {
  "loss": ("loss", "{:.4f}"),
  "accuracy": ("acc", "{:.1%}"),
  "flip_rate": ("flips", "{:.3%}"),
}


class Progress:
  """Takes the metrics of one or several steps at once and shows the last.

  Speed is the median over the latest updates but for the first, so that
  compiling, evaluating and saving do not count as training.

  Args:
    total: steps of the whole run.
    step: steps that are done already.
    batch_size: images in a step.
    steps_per_epoch: names the epoch in plain lines, if given.
    every: seconds between plain lines, at least.
    stream: where to, stderr if None. A terminal gets the bar.
    silent: whether nothing is shown, as of all processes but one.
    clock: seconds from any origin, for tests.
  """

  def __init__(
    self,
    total: int,
    step: int,
    batch_size: int,
    *,
    steps_per_epoch: int | None = None,
    every: float = 10.0,
    stream: TextIO | None = None,
    silent: bool = False,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._total, self._step, self._batch_size = total, step, batch_size
    self._steps_per_epoch, self._every = steps_per_epoch, every
    self._stream, self._clock = stream or sys.stderr, clock
    self._seconds_per_step = collections.deque(maxlen=50)
    self._printed = clock()
    self._updated: float | None = None  # the first update waits for compiling
    self._bar = None
    self._silent = silent
    if self._stream.isatty() and not silent:
      self._bar = tqdm(
        total=total,
        initial=step,
        file=self._stream,
        unit="step",
        dynamic_ncols=True,
        bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
      )

  def __enter__(self) -> "Progress":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  @property
  def images_per_second(self) -> float:
    """Training speed of late; NaN until it is known."""
    if not self._seconds_per_step:
      return math.nan
    return self._batch_size / max(
      statistics.median(self._seconds_per_step), 1e-9
    )

  def update(self, step: int, metrics: Mapping[str, float]) -> None:
    """`step` steps are done, the last of them with `metrics`."""
    now, done = self._clock(), step - self._step
    if done > 0 and self._updated is not None:
      self._seconds_per_step.append((now - self._updated) / done)
    self._updated, self._step = now, step
    text = self._text(metrics)
    if self._bar is not None:
      self._bar.set_postfix_str(text, refresh=False)
      self._bar.update(done)
    elif now - self._printed >= self._every and not self._silent:
      self._printed = now
      line = f"{self._place()}  {text}".rstrip()
      print(line, file=self._stream, flush=True)

  def line(self, text: str) -> None:
    """A line that stays, such as an epoch's results: above the bar, if any."""
    if self._bar is not None:
      self._bar.write(text, file=sys.stdout)
    elif not self._silent:
      print(text, flush=True)
    # What follows an epoch's line was not silence.
    self._printed = self._updated = self._clock()

  def close(self) -> None:
    """Leaves the bar as it is; a second call does nothing."""
    if self._bar is not None:
      self._bar.close()
      self._bar = None

  def _place(self) -> str:
    width = len(str(self._total))
    place = f"step {self._step:{width}}/{self._total}"
    if self._steps_per_epoch is not None:
      epochs = -(-self._total // self._steps_per_epoch)
      epoch = max(-(-self._step // self._steps_per_epoch), 1)
      place = f"epoch {epoch:{len(str(epochs))}}/{epochs}  {place}"
    return place

  def _text(self, metrics: Mapping[str, float]) -> str:
    parts = [
      f"{short} {form.format(float(metrics[name]))}"
      for name, (short, form) in _SHOWN.items()
      if name in metrics
    ]
    speed = self.images_per_second
    if math.isfinite(speed):
      left = (self._total - self._step) * self._batch_size / speed
      parts += [f"{_compact(speed)} images/s", f"{duration(left)} left"]
    return "  ".join(parts)


def duration(seconds: float) -> str:
  """Seconds as people say them: "42s", "3m07s", "5h12m", "2d03h".

  Examples:
    >>> [duration(s) for s in (0.4, 59.6, 187, 18720, 183600)]
    ['0s', '1m00s', '3m07s', '5h12m', '2d03h']
  """
  seconds = round(seconds)
  minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
  if days:
    return f"{days}d{hours % 24:02}h"
  if hours:
    return f"{hours}h{minutes % 60:02}m"
  return f"{minutes}m{seconds % 60:02}s" if minutes else f"{seconds}s"


def _compact(value: float) -> str:
  return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
