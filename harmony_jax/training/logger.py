"""What a run writes down: metrics and scores, one JSON object per line.

`metrics.jsonl` and `scores.jsonl` are the record that reports are made from;
`trackers` show the same numbers while the run goes on.
"""

import contextlib
import json
import logging
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harmony_jax.errors import UserError
from harmony_jax.training.run_folder import atomic_write

_log = logging.getLogger(__name__)


class Order:
  """Has what is written wait for lines of a step before, so that files and trackers go by steps."""

  def __init__(self):
    self._waiting: list[tuple] | None = None

  def do(self, call: Callable, *args: Any) -> None:
    """Call now, or when what comes before has been written."""
    if self._waiting is None:
      call(*args)
    else:
      self._waiting.append((call, args))

  def hold(self) -> None:
    """Have calls wait from here on."""
    self._waiting = []

  @contextlib.contextmanager
  def first(self) -> Iterator[None]:
    """Have what is written in here come before what waits, which is written then."""
    waiting, self._waiting = self._waiting or [], None
    yield
    for call, args in waiting:
      call(*args)

  def close(self) -> None:
    """Write what waits: nothing will come before it any more."""
    with self.first():
      pass


class MetricsWriter:
  """Appends metrics and scores to the files of a run folder.

  Args:
    folder: the run folder; it exists.
    show: called with the step and the finite metrics of each line.
  """

  def __init__(
    self,
    folder: str | pathlib.Path,
    show: Callable[[int, Mapping[str, float]], None] = lambda step, values: None,
  ):
    self._metrics = pathlib.Path(folder, 'metrics.jsonl')
    self._scores = pathlib.Path(folder, 'scores.jsonl')
    self._show = show

  def write(self, step: int, frame: int, update: int, metrics: Mapping[str, Any]) -> list[str]:
    """Write one line of metrics.

    A number that is not finite is written as null, for JSON has no NaN, and its name is added to
    the line's list `nonfinite`.

    Args:
      step, frame, update: the counts at which the metrics were measured.
      metrics: {name: number} of Python, NumPy or JAX scalars.

    Returns: the names of the metrics that are not finite.

    Raises:
      ValueError: a metric that is no scalar; names it.
    """
    values = {name: _number(name, value) for name, value in metrics.items()}
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    nonfinite = [name for name in values if name not in finite]
    line: dict[str, Any] = {'step': int(step), 'frame': int(frame), 'update': int(update)}
    line |= {name: finite.get(name) for name in values}
    if nonfinite:
      line['nonfinite'] = nonfinite
    _append(self._metrics, line)
    self._show(int(step), finite)
    return nonfinite

  def write_score(self, score: Mapping[str, Any]) -> None:
    """Write one line of scores: a dict with `step`; arrays become lists.

    Raises:
      ValueError: no `step` in it, without which a resumed run would double it.
    """
    if 'step' not in score:
      raise ValueError(f'a score needs its step; got {sorted(score)}')
    _append(self._scores, _plain(score))

  def truncate_after(self, step: int, lines: Sequence[int] | None = None) -> None:
    """Drop lines of later steps, and those beyond `lines` (as of `flush`): they come again.

    A line that cannot be read is dropped, too, as the last one is that a crash left unfinished.
    Each file is replaced whole, so a crash in here loses nothing. Call it before `write`.

    Raises:
      UserError: a file that cannot be read at all.
    """
    for path, count in zip((self._metrics, self._scores), lines or (None, None)):
      if not path.exists():
        continue
      try:
        present = [line for line in path.read_bytes().split(b'\n')[:count] if line]
      except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror}') from None
      damaged = sum(_step_of(line) == math.inf for line in present)
      if damaged:
        _log.warning('dropped %d damaged line%s of %s', damaged, 's' if damaged > 1 else '', path)
      with atomic_write(path) as file:
        file.writelines(line.decode() + '\n' for line in present if _step_of(line) <= step)

  def flush(self) -> list[int]:
    """Wait until all lines are on disk; return how many [of metrics, of scores] there are.

    A checkpoint must not be newer than they.
    """
    lines = []
    for path in (self._metrics, self._scores):
      lines.append(0)
      if path.exists():
        with open(path, 'rb') as file:
          os.fsync(file.fileno())
          lines[-1] = sum(1 for _ in file)
    return lines


class NoWriter:
  """Stands where a `MetricsWriter` stands, in processes whose lines another process writes."""

  def write(self, step: int, frame: int, update: int, metrics: Mapping[str, Any]) -> list[str]:
    """Write nothing."""
    return []

  def write_score(self, score: Mapping[str, Any]) -> None:
    """Write nothing."""

  def truncate_after(self, step: int, lines: Sequence[int] | None = None) -> None:
    """Drop nothing."""

  def flush(self) -> list[int]:
    """Return that there are no lines."""
    return [0, 0]


def _append(path, line):
  """One line, written in one call and closed: a crash can only cut the last one."""
  with open(path, 'a', encoding='utf-8') as file:
    file.write(json.dumps(line, allow_nan=False) + '\n')


def _step_of(line):
  """The step of a line of bytes; infinity for a line that is not whole."""
  try:
    step = json.loads(line.decode())['step']
  except (ValueError, TypeError, KeyError, RecursionError):
    return math.inf
  return step if isinstance(step, int) else math.inf


def _number(name, value):
  array = np.asarray(value)
  if array.size != 1:
    raise ValueError(f'metric {name} has shape {array.shape}; a metric is one number')
  return float(array.reshape(()))


def _plain(value):
  """The JSON form of scores: arrays become lists, what is not finite null."""
  if isinstance(value, dict):
    return {str(key): _plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if value is None or isinstance(value, (str, bool, int)):
    return value
  if isinstance(value, float):
    return value if math.isfinite(value) else None
  array = np.asarray(value)
  if array.dtype == object:
    raise TypeError(f'a score holds a {type(value).__name__}, which JSON cannot hold')
  return _plain(array.tolist())
