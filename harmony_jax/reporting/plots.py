"""What a report draws: curves over time, and comparisons of methods."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, NullLocator

from harmony_jax.reporting import figures, statistics
from harmony_jax.reporting.figures import INK, STYLES, Figure, Panel, number, tick
from harmony_jax.reporting.schema import Record

# The same everywhere; losses have colours that mean no method in the same report (harmony and none
# take the first two).
METHOD_COLORS = dict(
  zip(('harmony', 'none', 'harmony_unrectified', 'fixed', 'reciprocal'), figures.PALETTE)
)
LOSS_COLORS = dict(
  zip(('observation', 'reward', 'dynamics', 'swav', 'temporal'), (*figures.PALETTE[2:6], '#8C6D31'))
)
TAUS = np.linspace(0, 8, 161)
METRICS = {  # by prefix: (name of the file, title, what they are, points that a point averages)
  'harmony/': ('weights', 'Harmonizer weights 1/σ', 'Learned weights, logarithmic', 1),
  'loss/': ('losses', 'Loss scales', 'Losses before they are weighted, logarithmic', 5),
}
AGGREGATES = dict(zip(statistics.AGGREGATES, ('Mean', 'Median', 'IQM', 'Optimality gap')))
References = Mapping[str, Mapping[str, float]]  # {task: {name: score}}, dashed lines
_CURVES = (
  'Thick line: mean over seeds at the evaluations that all of them have, of the complete runs where '
  'there are any; shade: 95 % bootstrap interval of that mean, rough and too narrow for fewer than '
  'five seeds, none for one; thin lines: the seeds, those still running, too. No smoothing.'
)
_DASHED = {'color': INK, 'linestyle': (0, (4, 3)), 'linewidth': 0.8}


def method_colors(records: Sequence[Record]) -> dict[str, str]:
  """Return {method: colour}: that of its weighting, unless another method has it."""
  rules = {record.method: record.weighting for record in records}
  order = sorted(rules, key=lambda method: (_rank(rules[method], METHOD_COLORS), method))
  return _colors(order, {method: METHOD_COLORS.get(rule) for method, rule in rules.items()})


def _rank(name, first):
  return list(first).index(name) if name in first else len(first)


def _colors(names, wanted):
  """{name: colour}: the one it wants, or else the first that nobody has."""
  colors = {}
  for name in names:
    free = (color for color in (wanted.get(name), *figures.PALETTE) if color)
    colors[name] = next((color for color in free if color not in colors.values()), '#7F7F7F')
  return colors


# --------------------------------------------------------------------------------------------------
# Over time


def learning(
  records: Sequence[Record], colors: Mapping[str, str], references: References, x: str = 'frame'
) -> Figure | None:
  """Return learning curves: per method the mean over seeds, its 95 % interval, a line per seed.

  Where a method has complete runs of a task its mean is over these, so that a run that has just
  begun does not end it. None is returned where no evaluation has `x`: 'frame' or 'hours'.
  """
  panels, widths, seeds = [], set(), {}
  for task in sorted({record.task for record in records}):
    own, curves = [record for record in records if record.task == task], {}
    points = _points(own, x)
    for method, runs in points.groupby('method', sort=False):
      averaged = runs[runs['complete']] if runs['complete'].any() else runs
      curves[method], width = mean_curve(averaged)
      widths |= {f'{width:,}'} if width else set()
      seeds.setdefault(method, set()).add(averaged['run'].nunique())
    if curves:
      success = all(record.judged_by == 'success' for record in own)
      draw = _curves_panel(points, curves, colors, references.get(task, {}), success)
      panels.append(Panel(task, draw))
  if not panels:
    return None
  axis = {'frame': 'environment frames'}.get(x, x)
  counts = lambda method: ' or '.join(map(str, sorted(seeds[method])))
  legend = [(f'{method}, seeds: {counts(method)}', colors[method], 'solid') for method in seeds]
  binned = f' Evaluated at different frames: means over bins of {", ".join(sorted(widths))} frames.'
  return Figure(
    f'{records[0].suite}-curves-{x.rstrip("s")}s',
    f'{title_of_scores(records)} over {axis}',
    panels,
    _CURVES + (binned if widths else ''),
    [*legend, ('95 % interval of the mean', INK, 'band')],
    axis,
  )


def title_of_scores(records: Sequence[Record]) -> str:
  """Return what the scores of records are; 'Score' where they are of several kinds."""
  kinds = {record.judged_by for record in records}
  titles = {'return': 'Evaluation return', 'success': 'Success rate'}
  return 'Score' if len(kinds) > 1 else titles.get(kind := kinds.pop(), f'Evaluation’s {kind}')


def mean_curve(runs: pandas.DataFrame) -> tuple[pandas.DataFrame, int | None]:
  """Return the mean over runs at the frames that all of them have, with its interval.

  Args:
    runs: 'run', 'frame', 'x', 'score' of each evaluation.

  Returns:
    'point', 'low', 'high', 'x' (the mean over runs), and None; where runs share fewer than two
    frames, of bins of frames in which all runs have points, and the width of a bin in frames.
  """

  def shared(frames):
    wide = runs.assign(at=frames).pivot_table(index='at', columns='run', values=['x', 'score'])
    return wide.dropna()

  table, width = shared(runs['frame']), None
  if len(table) < 2 and runs.groupby('run').size().min() > 1:
    steps = runs.sort_values('frame').groupby('run')['frame'].diff()
    width = int(steps.groupby(runs['run']).median().max()) or 1
    table = shared(runs['frame'] // width)
  intervals = [statistics.mean_interval(row) for row in table['score'].to_numpy()]
  curve = pandas.DataFrame(intervals, columns=['point', 'low', 'high'], dtype=float)
  return curve.assign(x=table['x'].mean(axis=1).to_numpy()), width


def metric(records: Sequence[Record], prefix: str) -> Figure | None:
  """Return metrics over agent steps, a panel per task and a line per run; None without any.

  Args:
    records: of one suite. prefix: of the metrics' names: 'harmony/' draws learned weights, 'loss/'
      the losses that these weigh (all of a method that weighs none), others whatever begins so.
  """
  file, title, caption, window = METRICS.get(prefix, (prefix, prefix.strip('/'), 'As logged', 1))
  drawn = {}  # {task: [(part, method, points)]}
  for record in records:
    for part, points in _series(record, prefix).items():
      drawn.setdefault(record.task, []).append((part, record.method, points))
  if not drawn:
    return None
  lines = list(itertools.chain(*drawn.values()))
  methods = list(dict.fromkeys(method for _, method, _ in lines))
  styles = dict(zip(methods, itertools.cycle(STYLES)))
  parts = sorted({part for part, _, _ in lines}, key=lambda part: (_rank(part, LOSS_COLORS), part))
  colors = _colors(parts, LOSS_COLORS)
  legend = [(part, color, 'solid') for part, color in colors.items()]
  legend += [(method, INK, styles[method]) for method in methods] if len(methods) > 1 else []
  smoothed = f', each the mean of up to {window} around it' if window > 1 else ''
  return Figure(
    f'{records[0].suite}-{file}',
    f'{title} over agent steps{f", means of {window} points" if window > 1 else ""}',
    [
      Panel(task, _lines_panel(drawn[task], colors, styles, window, prefix in METRICS))
      for task in sorted(drawn)
    ],
    f'{caption}; a line per seed: at most 200 of the logged values, evenly spaced{smoothed}.',
    legend,
    'agent steps',
  )


def combined(
  records: Sequence[Record], path: pathlib.Path, references: References, title: str = ''
) -> None:
  """Write learning curves, harmonizer weights and loss scales of one task side by side."""
  drawn = [learning(records, method_colors(records), references)]
  drawn += [metric(records, prefix) for prefix in METRICS]
  drawn = [figure for figure in drawn if figure]
  with matplotlib.rc_context({**figures.RC, 'font.size': 11}):
    canvas = Canvas(figsize=(max(4.8 * len(drawn), 5), 4.2), layout='constrained')
    for axis, figure in zip(canvas.subplots(1, max(len(drawn), 1), squeeze=False).flat, drawn):
      figures.draw_panel(figure, figure.panels[0], axis)
      axis.set_title(figure.title, fontsize=10)
      below = {'loc': 'upper center', 'bbox_to_anchor': (0.5, -0.16), 'fontsize': 8.5}
      figures.draw_legend(axis, figure, **below, ncols=min(2, len(figure.legend)))
    canvas.suptitle(title, x=0.01, ha='left', fontweight='bold', fontsize=12)
    canvas.savefig(path, dpi=110, facecolor='white')


def _points(records, x):
  """A row per evaluation that has a score and a place on the axis."""
  rows = [
    (record.method, run, record.complete, frame, at, score)
    for run, record in enumerate(records)
    for frame, at, score in zip(record.evaluations['frame'], record.evaluations[x], record.scores)
    if at is not None and score is not None
  ]
  return pandas.DataFrame(rows, columns=['method', 'run', 'complete', 'frame', 'x', 'score'])


def _curves_panel(points, curves, colors, lines, success):
  def draw(axis):
    for method, curve in curves.items():
      color, own = colors[method], points[points['method'] == method]
      for _, run in own.groupby('run'):
        dot = {'marker': 'o', 'markersize': 2.5} if len(run) == 1 else {}
        axis.plot(run['x'], run['score'], color=color, alpha=0.4, linewidth=0.7, **dot)
      if curve['low'].notna().any():
        shade = {'color': color, 'alpha': 0.2}
        axis.fill_between(curve['x'], curve['low'], curve['high'], linewidth=0, **shade)
        if len(curve) == 1:  # an area needs two
          axis.vlines(curve['x'], curve['low'], curve['high'], linewidth=6, **shade)
      dot = {'marker': 'o', 'markersize': 3.5} if len(curve) < 4 else {}
      axis.plot(curve['x'], curve['point'], color=color, linewidth=1.8, **dot)
    _format(axis, figures.percent if success else tick)
    axis.set_xlim(left=min(0, axis.get_xlim()[0]))
    reference_lines(axis, lines)

  return draw


def _format(axis, y=tick):
  axis.margins(x=0.02)
  axis.xaxis.set_major_formatter(tick)
  axis.yaxis.set_major_formatter(y)
  axis.xaxis.set_major_locator(MaxNLocator(5))
  if axis.get_yscale() == 'linear':
    axis.yaxis.set_major_locator(MaxNLocator(5))


def reference_lines(axis: Axes, lines: Mapping[str, float]) -> None:
  """Draw dashed lines; one that would flatten the curves is named at the border instead."""
  low, high = axis.get_ylim()
  room = high - low
  inside = [score for score in lines.values() if low - room <= score <= high + room]
  least = min([low, *(score - 0.03 * room for score in inside)])
  axis.set_ylim(least, max([high, *(score + 0.14 * max(room, score - low) for score in inside)]))
  for name, score in lines.items():
    if score in inside:
      axis.axhline(score, **_DASHED)
      left = name == 'human'  # a random player's line may be close to people's
      at, across = (0.01 if left else 1, score), ('axes fraction', 'data')
      options = {'ha': 'left' if left else 'right', 'va': 'bottom', 'xytext': (0, 1)}
      axis.annotate(name, at, xycoords=across, textcoords='offset points', fontsize=9, **options)
    else:
      arrow, at, va = ('↑', 1, 'top') if score > high else ('↓', 0, 'bottom')
      options = {'xycoords': 'axes fraction', 'ha': 'right', 'va': va, 'fontsize': 9}
      axis.annotate(f'{name} {tick(score)} {arrow}', (1, at), **options)


def _series(record, prefix):
  """{part: points by step} of a record's metrics, of their values those that the axis can show."""
  metrics, found = record.metrics, {}
  weighed = {name.split('/')[1] for name in metrics if name.startswith('harmony/')}
  for name in metrics:
    part = name.removeprefix(prefix).removesuffix('/weight') if prefix in METRICS else name
    points = pandas.Series(metrics[name], metrics['step'], dtype=float).dropna()
    if prefix in METRICS:
      points = points[points > 0]
    shown = name.startswith(prefix) and name != 'step'
    if prefix == 'harmony/':  # those that are learned
      shown = shown and name.endswith('/weight') and points.nunique() > 1
    elif prefix == 'loss/':
      shown = shown and (not weighed or part in weighed)
    if shown and len(points):
      found[part] = points
  return found


def _lines_panel(lines, colors, styles, window, logarithmic):
  def draw(axis):
    for part, method, points in lines:
      points = points.rolling(window, center=True, min_periods=1).mean()
      look = {'color': colors[part], 'linestyle': STYLES[styles[method]]}
      axis.plot(points.index, points, linewidth=1, alpha=0.9, **look)
    if logarithmic:
      axis.set_yscale('log')
      axis.yaxis.set_major_locator(LogLocator(numticks=6))
    _format(axis)
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(left=0)

  return draw


# --------------------------------------------------------------------------------------------------
# Comparisons


def aggregates(
  suite: str,
  found: Mapping[str, Mapping[str, statistics.Interval]],
  published: Mapping[str, Mapping[str, float]],
  colors: Mapping[str, str],
  over: str,
) -> Figure:
  """Return point and interval of each aggregate; of published columns, which have no intervals,
  hollow points."""
  panels = []
  for name, title in AGGREGATES.items():
    rows = [(method, *each[name], colors[method]) for method, each in found.items()]
    rows += [(column, each.get(name), None, None, None) for column, each in published.items()]
    panels.append(Panel(title, _rows_panel(rows), height=52 + 30 * len(rows), left=10))
  caption = (
    'Filled: runs that are here, with 95 % stratified bootstrap intervals over runs. More is better, '
    'but for the gap. Hollow: published columns, computed here from their mean per game.'
  )
  return Figure(f'{suite}-aggregates', f'Human-normalised aggregates, {over}', panels, caption)


def profiles(
  suite: str, scores: Mapping[str, statistics.Scores], colors: Mapping[str, str], over: str
) -> Figure:
  """Return the fraction of runs that score above τ, with 95 % bands."""

  def draw(axis):
    for method, each in scores.items():
      fractions, lows, highs = statistics.performance_profile(each, TAUS)
      axis.fill_between(TAUS, lows, highs, color=colors[method], alpha=0.2, linewidth=0)
      axis.plot(TAUS, fractions, color=colors[method], linewidth=1.8)
    axis.axvline(1, **_DASHED)
    axis.annotate('human', (1.05, 0.99), va='top', fontsize=9)
    axis.set(xlim=(0, TAUS[-1]), ylim=(0, 1))

  return Figure(
    f'{suite}-profiles',
    f'Performance profiles, {over}',
    [Panel('', draw, width=340, height=230)],
    'The higher, the better: the share of runs (all games, all seeds) whose human-normalised score '
    'is above τ; shade: 95 % stratified bootstrap bands.',
    [(method, colors[method], 'solid') for method in scores],
    'human-normalised score τ',
  )


def improvement(
  suite: str, pairs: Mapping[tuple[str, str], statistics.Interval], colors: Mapping[str, str]
) -> Figure:
  """Return P(x > y) of each pair of methods."""
  rows = [(f'{x}\nover {y}', *interval, colors[x]) for (x, y), interval in pairs.items()]
  draw = _rows_panel(rows, line=0.5, limits=(-0.02, 1.02))
  return Figure(
    f'{suite}-improvement',
    'Probability of improvement',
    [Panel('', draw, width=340, height=56 + 48 * len(rows), left=10)],
    'How probable it is that a run of the first method scores higher than one of the second on a '
    'task that both have, averaged over these tasks. Dashed: no difference. Bars: 95 % intervals.',
    xlabel='P(first > second)',
  )


def bars(suite: str, means: Mapping[str, Mapping[str, float]], colors: Mapping[str, str]) -> Figure:
  """Return human-normalised means per game, sorted, a panel per method."""
  size = lambda scores: {'width': 320, 'height': 60 + 15 * len(scores), 'left': 108}
  panels = [
    Panel(method, _bars_panel(scores, colors[method]), **size(scores))
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
    'Mean over seeds; linear between −0.1 and 0.1, logarithmic outside. Dashed: human (1). Games '
    f'above human: {above}.',
    xlabel='human-normalised score',
  )


def _rows_panel(rows, line=None, limits=None):
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
        axis.plot([line, line], [-at - 0.4, -at + 0.12], **_DASHED)
      text, above = f'{label}  {"–" if point is None else number(point)}', {'xytext': (0, 6)}
      across = {'xycoords': ('axes fraction', 'data'), 'textcoords': 'offset points'}
      axis.annotate(text, (0, -at), fontsize=9.5, **above, **across)
    axis.set(ylim=(-len(rows) + 0.6, 0.85), yticks=[])
    axis.spines['left'].set_visible(False)
    axis.margins(x=0.06)
    if limits:
      axis.set_xlim(*limits)
    axis.xaxis.set_major_formatter(tick)

  return draw


def _bars_panel(scores, color):
  def draw(axis):
    games = sorted(scores, key=scores.get)
    values = [scores[game] for game in games]
    axis.barh(games, values, color=color, height=0.72, linewidth=0)
    axis.set_xscale('symlog', linthresh=0.1, linscale=0.5)
    for at, value in enumerate(values):
      text = {'xytext': (3, 0), 'textcoords': 'offset points', 'va': 'center', 'fontsize': 8.5}
      axis.annotate(number(value, 2), (max(value, 0), at), **text)
    axis.axvline(1, **_DASHED)
    axis.axvline(0, color=INK, linewidth=0.6)
    low = min([-0.05, *(1.2 * value for value in values)])
    axis.set(ylim=(-0.7, len(games) - 0.3), xlim=(low, max([2, *values]) * 3.5))
    axis.xaxis.set_major_locator(FixedLocator([-1, -0.1, 0, 0.1, 1, 10, 100]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(tick)

  return draw
