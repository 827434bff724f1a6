"""Figures that compare methods: aggregates, performance profiles, probability of improvement, bars
per game.
"""

import itertools

import numpy as np

from harmony_jax.reporting import grouping, published, statistics
from harmony_jax.reporting.charts import INK, Figure, Panel, number, tick

NAMES = {'mean': 'Mean', 'median': 'Median', 'iqm': 'IQM', 'optimality_gap': 'Optimality gap'}
TAUS = np.linspace(0, 8, 161)


def published_scores(games) -> dict:
  """{column of the paper's Table 2: {game: [score]}} over `games`."""
  return {
    column: {game: [scores[game]] for game in games if scores.get(game) is not None}
    for column, scores in published.TABLE_2.items()
  }


def published_aggregates(games) -> dict:
  """{column: {'mean', 'median'}}: all that can be computed from one mean per game, over `games`."""
  result = {}
  for column, scores in published_scores(games).items():
    if len(scores) == len(games):
      found = statistics.aggregates(grouping.normalized(scores), reps=1)
      result[column] = {name: found[name].point for name in ('mean', 'median')}
  return result


def aggregates(suite, found, colors, context=None, title='Human-normalised aggregates') -> Figure:
  """Point and interval of each aggregate, a panel per aggregate.

  Args:
    found: {method: {'mean' …: Interval}}. colors: {method: colour}. context: {column: {'mean',
      'median'}}, points only.
  """
  context = context or {}
  rows = [*found, *context]
  panels = [
    Panel(
      title,
      _points_panel([(row, *_row(row, name, found, context, colors)) for row in rows], None),
      height=52 + 30 * len(rows),
      left=10,
    )
    for name, title in NAMES.items()
    if all(name in each for each in found.values())
  ]
  caption = (
    f'{title}. Filled: runs that are here, with 95 % stratified bootstrap intervals over runs. More is '
    'better, but for the gap.'
  )
  if context:
    caption += (
      ' Hollow: published columns, computed here from their mean per game, so without an interval, and '
      'without IQM and gap, which need single runs.'
    )
  return Figure(
    f'{suite}-aggregates',
    title,
    panels,
    columns=4,
    caption=caption,
    alt=f'{title} of {", ".join(rows)}; the numbers are in the table.',
  )


def _row(row, name, found, context, colors):
  if row in found:
    interval = found[row][name]
    return interval.point, interval.low, interval.high, colors[row], True
  return context[row].get(name), None, None, INK, False


def _points_panel(rows, line, limits=None):
  """Rows from top to bottom: (label, point, low, high, colour, filled), the label above its row."""

  def draw(axis):
    for at, (label, point, low, high, color, filled) in enumerate(rows):
      if low is not None and np.isfinite(low) and np.isfinite(high):
        axis.plot(
          [low, high], [-at, -at], color=color, linewidth=5, alpha=0.35, solid_capstyle='butt'
        )
      if point is not None:
        axis.plot(
          [point],
          [-at],
          marker='o',
          markersize=5,
          color=color,
          markerfacecolor=color if filled else 'none',
        )
      axis.annotate(
        f'{label}  {"–" if point is None else number(point)}',
        (0, -at),
        fontsize=9.5,
        xytext=(0, 6),
        xycoords=('axes fraction', 'data'),
        textcoords='offset points',
      )
    if line is not None:
      for at in range(len(rows)):  # not through the labels
        axis.plot(
          [line, line], [-at - 0.4, -at + 0.12], color=INK, linestyle=(0, (3, 2)), linewidth=0.8
        )
    axis.set_ylim(-len(rows) + 0.6, 0.85)
    axis.set_yticks([])
    axis.spines['left'].set_visible(False)
    axis.margins(x=0.06)
    if limits:
      axis.set_xlim(*limits)
    axis.xaxis.set_major_formatter(tick)

  return draw


def profiles(suite, scores, colors, title='Performance profiles') -> Figure:
  """Fraction of runs that score above τ, with 95 % bands. scores: {method: {game: [human-normalised
  score]}}.
  """

  def draw(axis):
    for method, each in scores.items():
      fractions, lows, highs = statistics.performance_profile(each, TAUS)
      axis.fill_between(TAUS, lows, highs, color=colors[method], alpha=0.2, linewidth=0)
      axis.plot(TAUS, fractions, color=colors[method], linewidth=1.8)
    axis.axvline(1, color=INK, linestyle=(0, (4, 3)), linewidth=0.8)
    axis.annotate(
      'human',
      (1, 1),
      xycoords=('data', 'axes fraction'),
      xytext=(3, -2),
      textcoords='offset points',
      va='top',
      fontsize=9,
    )
    axis.set(xlim=(0, TAUS[-1]), ylim=(0, 1))

  return Figure(
    f'{suite}-profiles',
    title,
    [Panel('', draw, width=340, height=230)],
    columns=1,
    alt=f'Fraction of runs above each human-normalised score, for {", ".join(scores)}.',
    caption=f'{title}. The higher, the better: the share of runs (all games, all seeds) whose human-'
    'normalised score is above τ; shade: 95 % stratified bootstrap bands.',
    legend=[(method, colors[method], 'line') for method in scores],
    xlabel='human-normalised score τ',
    ylabel='fraction of runs > τ',
  )


def improvements(finals) -> list:
  """[(x, y, Interval, shared tasks)]: P(x > y) of each pair of methods that share tasks, harmony
  first.
  """
  pairs = []
  for x, y in itertools.combinations(finals, 2):
    shared = [task for task in finals[x] if task in finals[y]]
    if shared:
      pairs.append(
        (
          x,
          y,
          statistics.probability_of_improvement(
            {task: finals[x][task] for task in shared}, {task: finals[y][task] for task in shared}
          ),
          shared,
        )
      )
  return pairs


def improvement(suite, pairs, colors) -> Figure:
  """P(X > Y) per pair of `improvements`."""
  rows = [(f'{x}\nover {y}', *interval, colors[x], True) for x, y, interval, _ in pairs]
  known = any(interval.low is not None for _, _, interval, _ in pairs)
  return Figure(
    f'{suite}-improvement',
    'Probability of improvement',
    [
      Panel(
        '', _points_panel(rows, 0.5, (-0.02, 1.02)), width=340, height=56 + 48 * len(rows), left=10
      )
    ],
    alt='; '.join(f'{label}: {number(point)}'.replace('\n', ' ') for label, point, *_ in rows),
    caption='How probable it is that a run of the first method scores higher than one of the second on a '
    'task that both have, averaged over these tasks. Dashed: no difference.'
    + (' Bar: 95 % stratified bootstrap interval.' if known else ' Single runs, so no intervals.'),
    xlabel='P(first > second)',
  )


def bars(suite, means, colors) -> Figure:
  """Human-normalised means per game, sorted, a panel per method. means: {method: {game: score}}."""
  panels = [
    Panel(
      method, _bars_panel(scores, colors[method]), width=320, height=60 + 15 * len(scores), left=108
    )
    for method, scores in means.items()
  ]
  above = '; '.join(
    f'{method}: {sum(score > 1 for score in scores.values())} of {len(scores)}'
    for method, scores in means.items()
  )
  return Figure(
    f'{suite}-games',
    'Games, sorted by human-normalised score',
    panels,
    columns=3,
    alt=f'Bars of human-normalised scores per game. Above human: {above}.',
    xlabel='human-normalised score',
    caption=f'Mean over seeds; linear between −0.1 and 0.1, logarithmic outside. Dashed: human (1). '
    f'Games above human: {above}.',
  )


def _bars_panel(scores, color):
  def draw(axis):
    from matplotlib.ticker import FixedLocator, NullLocator

    games = sorted(scores, key=scores.get)
    values = [scores[game] for game in games]
    axis.barh(range(len(games)), values, color=color, height=0.72, linewidth=0)
    axis.set_xscale('symlog', linthresh=0.1, linscale=0.5)
    for at, each in enumerate(values):
      axis.annotate(
        f'{each:.2f}'.replace('-', '−'),
        (max(each, 0), at),
        xytext=(3, 0),
        textcoords='offset points',
        va='center',
        fontsize=8.5,
      )
    axis.axvline(1, color=INK, linestyle=(0, (4, 3)), linewidth=0.8)
    axis.axvline(0, color=INK, linewidth=0.6)
    axis.set_yticks(range(len(games)), games)
    axis.set(
      ylim=(-0.7, len(games) - 0.3),
      xlim=(min([-0.05, *(1.2 * each for each in values)]), max([2, *values]) * 3.5),
    )
    axis.xaxis.set_major_locator(FixedLocator([-1, -0.1, 0, 0.1, 1, 10, 100]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(tick)

  return draw
