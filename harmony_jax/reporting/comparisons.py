"""Figures that compare methods."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from harmony_jax.reporting import statistics
from harmony_jax.reporting.curves import DASHED
from harmony_jax.reporting.figures import INK, Figure, Panel, number, tick
from harmony_jax.reporting.statistics import Interval, Scores

AGGREGATES = dict(zip(statistics.AGGREGATES, ('Mean', 'Median', 'IQM', 'Optimality gap')))
TAUS = np.linspace(0, 8, 161)
_NORMALISED = 'human-normalised score'
Colors = Mapping[str, str]


def aggregates(
  found: Mapping[str, Mapping[str, Interval]],
  published: Mapping[str, Mapping[str, float]],
  colors: Colors,
  over: str,
) -> Figure:
  """Return point and interval of each aggregate; of published columns, which have no intervals,
  hollow points."""
  panels = []
  for name, title in AGGREGATES.items():
    rows = [(method, *each[name], colors[method]) for method, each in found.items()]
    rows += [(column, each.get(name), None, None, None) for column, each in published.items()]
    panels.append(Panel(title, '', _rows_panel(rows), height=52 + 30 * len(rows), left=10))
  caption = (
    'Filled: runs that are here, with 95 % stratified bootstrap intervals over runs. More is better, '
    'but for the gap. Hollow: published columns, computed here from their mean per game.'
  )
  return Figure('atari-aggregates', f'Human-normalised aggregates, {over}', caption, panels)


def profiles(scores: Mapping[str, Scores], colors: Colors, over: str) -> Figure:
  """Return the fraction of runs that score above τ, with 95 % bands."""

  def draw(axis):
    for method, each in scores.items():
      fractions, lows, highs = statistics.performance_profile(each, TAUS)
      axis.fill_between(TAUS, lows, highs, color=colors[method], alpha=0.2, linewidth=0)
      axis.plot(TAUS, fractions, color=colors[method], linewidth=1.8)
    axis.axvline(1, **DASHED)
    axis.annotate('human', (1.05, 0.99), va='top', fontsize=9)
    axis.set(xlim=(0, TAUS[-1]), ylim=(0, 1))

  return Figure(
    'atari-profiles',
    f'Performance profiles, {over}',
    'The higher, the better: the share of runs (all games, all seeds) whose human-normalised score '
    'is above τ; shade: 95 % stratified bootstrap bands.',
    [Panel('fraction of runs > τ', f'{_NORMALISED} τ', draw, width=340, height=230)],
    [(method, colors[method], 'solid') for method in scores],
  )


def improvement(suite: str, pairs: Mapping[tuple[str, str], Interval], colors: Colors) -> Figure:
  """Return P(x > y) of each pair of methods."""
  rows = [(f'{x}\nover {y}', *interval, colors[x]) for (x, y), interval in pairs.items()]
  draw, height = _rows_panel(rows, line=0.5, xlim=(-0.02, 1.02)), 56 + 48 * len(rows)
  return Figure(
    f'{suite}-improvement',
    'Probability of improvement',
    'How probable it is that a run of the first method scores higher than one of the second on a '
    'task that both have, averaged over these tasks. Dashed: no difference. Bars: 95 % intervals.',
    [Panel('', 'P(first > second)', draw, width=340, height=height, left=10)],
  )


def bars(means: Mapping[str, Mapping[str, float]], colors: Colors) -> Figure:
  """Return human-normalised means per game, sorted, a panel per method."""
  panels, above = [], []
  for method, scores in means.items():
    draw, height = _bars_panel(scores, colors[method]), 60 + 15 * len(scores)
    panels.append(Panel(method, _NORMALISED, draw, width=320, height=height, left=108))
    above.append(f'{method}: {sum(score > 1 for score in scores.values())} of {len(scores)}')
  caption = (
    'Mean over seeds; linear between −0.1 and 0.1, logarithmic outside. Dashed: human (1). Games '
    f'above human: {"; ".join(above)}.'
  )
  return Figure('atari-games', f'Games, sorted by {_NORMALISED}', caption, panels)


def _rows_panel(rows, line=None, **limits) -> Callable[[Axes], None]:
  """Rows from top to bottom: (label above the row, point, low, high, colour or None: hollow)."""

  def draw(axis):
    for at, (label, point, low, high, color) in enumerate(rows):
      if low is not None:
        bar = {'linewidth': 5, 'alpha': 0.35, 'solid_capstyle': 'butt'}
        axis.plot([low, high], [-at, -at], color=color, **bar)
      if point is not None:
        face = {'color': color or INK, 'markerfacecolor': color or 'none'}
        axis.plot([point], [-at], marker='o', markersize=5, **face)
      if line is not None:  # not through the labels
        axis.plot([line, line], [-at - 0.4, -at + 0.12], **DASHED)
      text = f'{label}  {"–" if point is None else number(point)}'
      across = {'xycoords': ('axes fraction', 'data'), 'textcoords': 'offset points'}
      axis.annotate(text, (0, -at), xytext=(0, 6), fontsize=9.5, **across)
    axis.spines['left'].set_visible(False)
    axis.margins(x=0.06)
    axis.set(ylim=(-len(rows) + 0.6, 0.85), yticks=[], **limits)
    axis.xaxis.set_major_formatter(tick)

  return draw


def _bars_panel(scores, color):
  def draw(axis):
    games = sorted(scores, key=scores.get)
    values = [scores[game] for game in games]
    drawn = axis.barh(games, values, color=color, height=0.72, linewidth=0)
    axis.bar_label(drawn, [number(value, 2) for value in values], padding=3, fontsize=8.5)
    axis.set_xscale('symlog', linthresh=0.1, linscale=0.5)
    axis.axvline(1, **DASHED)
    axis.axvline(0, color=INK, linewidth=0.6)
    low = min([-0.05, *(1.2 * value for value in values)])
    axis.set(ylim=(-0.7, len(games) - 0.3), xlim=(low, max([2, *values]) * 3.5))
    axis.xaxis.set_major_locator(FixedLocator([-1, -0.1, 0, 0.1, 1, 10, 100]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(tick)

  return draw
