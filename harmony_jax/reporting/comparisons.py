"""Figures that compare methods."""

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes

from harmony_jax.reporting import statistics
from harmony_jax.reporting.curves import DASHED
from harmony_jax.reporting.figures import INK, Figure, Panel, number, tick
from harmony_jax.reporting.statistics import Interval, Scores

AGGREGATES = dict(zip(statistics.AGGREGATES, ('Mean', 'Median', 'IQM', 'Optimality gap')))
TAUS = np.linspace(0, 8, 161)
Colors = Mapping[str, str]


def aggregates(
  found: Mapping[str, Mapping[str, Interval]],
  published: Mapping[str, Mapping[str, float]],
  colors: Colors,
  over: str,
) -> Figure:
  """Return point and interval of each aggregate; of published columns points alone."""
  panels = []
  for name, title in AGGREGATES.items():
    rows = [(method, *each[name], colors[method]) for method, each in found.items()]
    rows += [(column, each.get(name), None, None, None) for column, each in published.items()]
    panels.append(Panel(title, '', _rows_panel(rows), height=52 + 30 * len(rows), left=10))
  caption = (
    'Filled: runs that are here, with 95 % stratified bootstrap intervals over runs. More is '
    'better but for the gap. Hollow: published columns, computed here from their mean per game.'
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
    [Panel('fraction of runs > τ', 'human-normalised score τ', draw, width=340, height=230)],
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
