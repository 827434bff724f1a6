"""Figures over time: learning curves, and metrics of training. A panel per task."""

import itertools
from collections.abc import Collection, Mapping, Sequence

import pandas
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from harmony_jax.reporting import figures, protocol, statistics
from harmony_jax.reporting.figures import INK, PALETTE, STYLES, Figure, Panel, percent, tick
from harmony_jax.reporting.schema import Record

# The same everywhere; losses have colours that mean no method in the same report (harmony and none
# take the first two).
METHODS: dict[str, str | None] = dict(
  zip(('harmony', 'none', 'harmony_unrectified', 'fixed', 'reciprocal'), PALETTE)
)
LOSSES: dict[str, str | None] = dict(
  zip(('observation', 'reward', 'dynamics', 'swav', 'temporal'), PALETTE[2:])
)
METRICS = {  # by prefix, on logarithmic axes: (name of the file, title)
  'harmony/': ('weights', 'Harmonizer weights 1/σ, learned'),
  'loss/': ('losses', 'Losses before they are weighted'),
}
# Rules whose weights are 1/σ, or nothing that is learned.
_HARMONIZERS = {'harmony', 'harmony_unrectified', 'harmony_tied', 'uncertainty'}
_HARMONIZERS |= {'none', 'fixed', '–'}
AXES = {'frame': 'environment frames', 'hours': 'hours'}
References = Mapping[str, Mapping[str, float]]  # {task: {name: score}}, dashed lines
DASHED = {'color': INK, 'linestyle': (0, (4, 3)), 'linewidth': 0.8}
_CURVES = (
  'Thick line: mean over seeds at the evaluations that all have, of the complete runs where there '
  'are any; shade: 95 % bootstrap interval of that mean, rough and too narrow for fewer than '
  'five seeds, none for one; thin lines: the seeds, those still running, too. No smoothing.'
)


def method_colors(records: Sequence[Record]) -> dict[str, str]:
  """Return {method: colour} of one suite: that of its weighting, unless another method has it."""
  rules = {record.method: METHODS.get(record.weighting) for record in records}
  return figures.colors_of(sorted(rules), rules)


def learning(
  records: Sequence[Record], colors: Mapping[str, str], references: References, x: str = 'frame'
) -> Figure | None:
  """Return learning curves: per method the mean over seeds, its 95 % interval, a line per seed.

  Where a method has complete runs of a task its mean is over these, so that a run that has just
  begun does not end it. None is returned where no evaluation has `x`: 'frame' or 'hours'.
  """
  panels, widths, seeds, few = [], set(), {}, {}
  for task in sorted({record.task for record in records}):
    own, curves = [record for record in records if record.task == task], {}
    points = _points(own, x)
    for method, runs in points.groupby('method', sort=False):
      averaged = runs[runs['complete']] if runs['complete'].any() else runs
      curves[method], width = mean_curve(averaged)
      widths |= {f'{width:,}'} if width else set()
      seeds.setdefault(method, []).append({own[run].seed for run in averaged['run'].unique()})
      if len(curves[method]) < 3:
        few.setdefault(task, []).append(f'{method} {len(curves[method])}')
    if curves:
      success = all(record.judged_by == 'success' for record in own)
      draw = _curves_panel(points, curves, colors, references.get(task, {}), success)
      panels.append(Panel(task, AXES[x], draw))
  if not panels:
    return None
  methods = [method for method in dict.fromkeys(r.method for r in records) if method in seeds]
  legend = [(f'{each}, {seeds_of(seeds[each])}', colors[each], 'solid') for each in methods]
  notes = []
  if widths:
    binned = f'means over bins of {", ".join(sorted(widths))} frames.'
    notes.append(f'Evaluated at different frames: {binned}')
  if few:
    told = protocol.some([f'{task} ({", ".join(each)})' for task, each in few.items()])
    notes.append(f'One or two points are no course; so few evaluations have: {told}.')
  return Figure(
    f'{records[0].suite}-curves-{x.rstrip("s")}s',
    f'{title_of_scores(records)} over {AXES[x]}',
    _CURVES,
    panels,
    [*legend, ('95 % interval of the mean', INK, 'band')],
    ' '.join(notes),
  )


def seeds_of(by_task: Sequence[Collection[int]]) -> str:
  """Return how many seeds each of some tasks has, and which: '3 seeds: 0–2', '1 or 3 of the seeds
  0–2'."""
  counts, every = sorted({len(seeds) for seeds in by_task}), set().union(*by_task)
  if len(every) == 1:
    return f'seed {figures.ranges(every)}'
  if counts == [len(every)]:
    return f'{counts[0]} seeds: {figures.ranges(every)}'
  return f'{" or ".join(map(str, counts))} of the seeds {figures.ranges(every)}'


def title_of_scores(records: Sequence[Record]) -> str:
  """Return what the scores of records are; 'Score' where they are of several kinds."""
  kinds = {record.judged_by for record in records}
  titles = {'return': 'Evaluation return', 'success': 'Success rate'}
  return 'Score' if len(kinds) > 1 else titles.get(kind := kinds.pop(), f'Evaluation’s {kind}')


def mean_curve(runs: pandas.DataFrame) -> tuple[pandas.DataFrame, int | None]:
  """Return the mean over runs ('point', 'low', 'high', 'x') at the frames that all of them have,
  and None; where they share fewer than two, in bins that all have points in, and their width."""

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

  Of names that begin with 'harmony/' these are the learned weights, with 'loss/' the losses that
  they weigh (all where nothing is weighed), with any other prefix all.
  """
  file, title = METRICS.get(prefix, (prefix, prefix.strip('/')))
  drawn, rules = {}, set()  # {task: [(part, method, points)]}, those of the runs among them
  weighed = {name.split('/')[1] for r in records for name in r.metrics if name[:8] == 'harmony/'}
  for record in sorted(records, key=lambda record: record.task):
    for part, points in _series(record.metrics, prefix, weighed).items():
      drawn.setdefault(record.task, []).append((part, record.method, points))
      rules.add(record.weighting)
  lines = list(itertools.chain(*drawn.values()))
  if not lines:
    return None
  if prefix == 'harmony/' and rules - _HARMONIZERS:
    title = 'Weights that the rules found'
  methods = list(dict.fromkeys(method for _, method, _ in lines))
  # Of all records, so that a method looks the same where others have no such metric.
  styles = dict(zip(dict.fromkeys(each.method for each in records), itertools.cycle(STYLES)))
  parts = {part for part, _, _ in lines}
  colors = figures.colors_of(
    [*(p for p in LOSSES if p in parts), *sorted(parts - {*LOSSES})], LOSSES
  )
  legend = [(part, color, 'solid') for part, color in colors.items()]
  legend += [(method, INK, styles[method]) for method in methods] if len(methods) > 1 else []
  draw = lambda task: _lines_panel(drawn[task], colors, styles, prefix in METRICS)
  return Figure(
    f'{records[0].suite}-{file}',
    f'{title}, over agent steps',
    'A line per seed: of many logged values about 200, evenly spaced, unsmoothed.',
    [Panel(task, 'agent steps', draw(task)) for task in drawn],
    legend,
  )


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
    _format(axis, percent if success else tick)
    axis.set_xlim(left=min(0, axis.get_xlim()[0]))
    reference_lines(axis, lines)

  return draw


def _format(axis, y=tick):
  axis.margins(x=0.02)
  axis.xaxis.set_major_formatter(tick)
  axis.yaxis.set_major_formatter(y)
  axis.xaxis.set_major_locator(MaxNLocator(5))
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
      axis.axhline(score, **DASHED)
      left = name == 'human'  # a random player's line may be close to people's
      at, across = (0.01 if left else 1, score), ('axes fraction', 'data')
      options = {'ha': 'left' if left else 'right', 'va': 'bottom', 'xytext': (0, 1)}
      axis.annotate(name, at, xycoords=across, textcoords='offset points', fontsize=9, **options)
    else:
      arrow, at, va = ('↑', 1, 'top') if score > high else ('↓', 0, 'bottom')
      options = {'xycoords': 'axes fraction', 'ha': 'right', 'va': va, 'fontsize': 9}
      axis.annotate(f'{name} {tick(score)} {arrow}', (1, at), **options)


def _series(metrics, prefix, weighed):
  """{part: points by step} of a record's metrics, of their values those that the axis can show."""
  found = {}
  for name in [name for name in metrics if name.startswith(prefix) and name != 'step']:
    points = pandas.Series(metrics[name], metrics['step'], dtype=float).dropna()
    part = name.removeprefix(prefix).removesuffix('/weight') if prefix in METRICS else name
    if prefix in METRICS:
      points = points[points > 0]
    learned = name.endswith('/weight') and points.nunique() > 1
    shown = {'harmony/': learned, 'loss/': not weighed or part in weighed}.get(prefix, True)
    found |= {part: points} if shown and len(points) else {}
  return found


def _lines_panel(lines, colors, styles, logarithmic):
  def draw(axis):
    for part, method, points in lines:
      look = {'color': colors[part], 'linestyle': STYLES[styles[method]]}
      axis.plot(points.index, points, linewidth=1, alpha=0.9, **look)
    _format(axis)
    if logarithmic:
      figures.log_scale(axis)
    axis.set_xlim(left=0)

  return draw
