"""A run's evaluations as bars on a terminal, beside a player that chooses at random: of `demo`.

`Screen` takes the place of `progress.Progress`, and `Shown` is the hook that gives it scores, which
are those of catch.
"""

import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Group
from rich.text import Text

from harmony_jax.training.progress import Progress, format_number, split_tasks

HEIGHT, WIDTH = 8, 3  # of the chart's rows and columns, in characters
PHASES = {
  'starting': 'compiles how to act, and plays untrained',
  'collects experience': 'plays at random, to have something to learn from',
  'compiling': 'compiles how to learn: less than a minute, and kept for the next time',
}


class Point(NamedTuple):
  """One evaluation: after how many steps, of how many games how many were won."""

  step: int
  games: int
  caught: int

  @property
  def share(self) -> float:
    """Return the share of games that were won."""
    return self.caught / self.games


def interval(caught: int, games: int, level: float = 0.99) -> tuple[float, float]:
  """Return Wilson's interval of a share."""
  from scipy import stats  # which takes a second

  return tuple(stats.binomtest(caught, games).proportion_ci(level, 'wilson'))


def learned(point: Point, random: Point) -> bool:
  """Return whether a player is better than the random one: their 99 % intervals lie apart."""
  return interval(point.caught, point.games)[0] > interval(random.caught, random.games)[1]


def chart(points: Sequence[Point], random: Point, columns: int) -> Text:
  """Return bars of the share of balls caught, one for each evaluation, and a random player's line.

  Bars are green where the player is better than that. `columns`: evaluations of the whole run.
  """
  rows = []
  for row in reversed(range(HEIGHT)):
    label = {HEIGHT - 1: '100 %', HEIGHT // 2 - 1: '50 %'}.get(row, '')
    line = Text(f'{label:>6} │')
    crossed = row <= random.share * HEIGHT < row + 1
    for point in points:
      style = 'green' if learned(point, random) else 'bright_black'
      eighths = round(8 * min(1, max(0, point.share * HEIGHT - row)))
      bar = ' ▁▂▃▄▅▆▇█'[eighths] * (WIDTH - 1)
      line.append(bar if eighths or not crossed else '┄' * (WIDTH - 1), style)
      line.append('┄' if crossed else ' ', 'dim')
    rest = WIDTH * max(0, columns - len(points))
    line.append(('┄' if crossed else ' ') * rest, 'dim')
    line.append(f' random player: {random.share:.0%}' if crossed else '', 'dim')
    rows.append(line)
  last = f'step {points[-1].step:,}' if points else ''
  rows.append(Text(f'{"0 %":>6} └' + '─' * (WIDTH * max(columns, len(points)))))
  rows.append(Text(' ' * 8 + last.rjust(WIDTH * len(points))))
  return Text('\n').join(rows)


class Screen(Progress):
  """The chart on a terminal; elsewhere a bar for each evaluation.

  Attributes:
    points: evaluations so far. started, began: when it was made, and when the first update of this
      process was done, in monotonic seconds.
    sign: (step, seconds after `began`) of the first evaluation that shows learning, or None.
  """

  def __init__(self, total: int, start: int = 0, *, random: Point, columns: int, **how: Any):
    self.random, self.columns = random, columns
    self.points: list[Point] = []
    self.began: float | None = None
    self.sign: tuple[int, float] | None = None
    self.started, self._told = time.monotonic(), ''
    super().__init__(total, start, **how)

  def show(self, scores: pathlib.Path) -> None:
    """Show the evaluations that a run has written so far."""
    lines = scores.read_text(encoding='utf-8').splitlines()
    known, self.points = len(self.points), [_point(json.loads(line)) for line in lines]
    for point in self.points[known:]:
      if self.sign is None and self.began is not None and learned(point, self.random):
        self.sign = point.step, time.monotonic() - self.began
      if self._live is None:
        bar = '█' * round(30 * point.share)
        self._print(f'step {point.step:>6,}  {bar:░<30} {point.share:4.0%} caught')

  def line(self, text: str) -> None:
    """Write what went wrong; the rest of a run's lines is not for a minute's look."""
    if text.startswith('warning') or 'left out' in text:
      super().line(text)

  def prepare(self, text: str) -> None:
    """See `Progress`; in words for those who see it for the first time."""
    phase = text.partition(':')[0]
    words = PHASES.get(phase, text)
    if not text and self.began is None:
      self.began, words = time.monotonic(), ''
    if self._live is None and words and words != self._told:
      self._print(f'{words} …')
      self._told = words
    super().prepare(words)

  @property
  def weights(self) -> dict[str, str]:
    """Return harmony's weights as last logged, {task: number}."""
    tasks = split_tasks(dict(self._info))[0]
    return {task: format_number(kinds['weight']) for task, kinds in tasks.items() if kinds}

  def _text(self):
    return self._headline()

  def _render(self):
    """The chart, and what is being done."""
    seconds = time.monotonic() - self.started
    rows = [chart(self.points, self.random, self.columns)]
    rows.append(Text(f'{seconds:4.0f} s  {self._headline()}'))
    if self.weights:
      told = '  '.join(f'{task} {weight}' for task, weight in self.weights.items())
      rows.append(Text(f"harmony's weights 1/σ: {told}"))
    return Group(*rows)


def _point(score):
  """Of a line of scores.jsonl: a game's score is 1 where its ball was caught, else -1."""
  scores = score['eval_scores']
  return Point(score['step'], len(scores), sum(each > 0 for each in scores))


class Shown:
  """A hook that shows evaluations on the run's screen."""

  def __init__(self, every: int):
    self.every = every

  def __call__(self, trainer: Any) -> None:
    """Show those that were made so far."""
    trainer.progress.show(trainer.folder / 'scores.jsonl')
