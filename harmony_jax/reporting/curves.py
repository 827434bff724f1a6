"""Figures over time: learning curves, harmonizer weights, loss scales. Small multiples, a panel per
task.
"""

import itertools

import numpy as np

from harmony_jax.reporting import form, grouping, statistics
from harmony_jax.reporting import references as references_given
from harmony_jax.reporting.atari_scores import RANDOM_AND_HUMAN
from harmony_jax.reporting.charts import INK, TASKS, Figure, Panel, percent, tick

STYLES = ('-', (0, (1.2, 1.2)), (0, (5, 2)), (0, (5, 1.5, 1, 1.5)), (0, (1, 4)))
STYLE_NAMES = dict(zip(STYLES, ('line', 'dotted', 'dashed', 'dash-dotted', 'sparse')))
WINDOW = 5  # points that a point of a loss averages
THINNED = f'at most {form.MOST} of the logged values, evenly spaced'
AXES = {'frame': 'environment frames', 'step': 'agent steps', 'hours': 'hours'}


def references_of(task, suite, references=None) -> dict:
  """{name: score} of a task's dashed lines: a random player and people for Atari, what the user
  gave for the others.
  """
  given = references_given.of(task, references)
  if suite == 'atari' and task in RANDOM_AND_HUMAN:
    random, human = RANDOM_AND_HUMAN[task]
    return {'random': random, 'human': human, **given}
  return given


def learning(suite, records, colors, references=None, x='frame') -> Figure | None:
  """Learning curves: per method the mean over seeds, its 95 % bootstrap interval, and a thin line
  per seed.

  Where a method has complete runs of a task its mean is over these, so that a run that has just
  begun does not end it.

  Args:
    suite, records: of `grouping.by_suite`, told apart by `grouping.told_apart`. colors: {method:
      colour}.
    references: of `references.parse`. x: 'frame', 'step' or 'hours'.

  Returns:
    The figure, or None where no run has an evaluation with this x.
  """
  panels, binned, single, few, several, going = [], set(), set(), False, False, False
  counts = {}  # {method: {how many seeds a mean is over}}
  for task, methods in grouping.by_task(records).items():
    runs = {method: grouping.averaged(group, x) for method, group in methods.items()}
    runs = {method: pair for method, pair in runs.items() if pair[0]}
    if not runs:
      continue
    grids = {method: grouping.common_grid(group) for method, (group, _) in runs.items()}
    for method, (group, _) in runs.items():
      counts.setdefault(method, set()).add(len(group))
    binned |= {width for _, width in grids.values() if width}
    single |= {f'{method} on {task}' for method, (group, _) in runs.items() if len(group) == 1}
    several |= any(len(group) > 1 for group, _ in runs.values())
    few |= any(1 < len(group) < 5 for group, _ in runs.values())
    going |= any(others for _, others in runs.values())
    success = all(record['score'] == 'success' for group in methods.values() for record in group)
    panels.append(
      Panel(
        task, _learning_panel(runs, grids, colors, references_of(task, suite, references), success)
      )
    )
  if not panels:
    return None
  methods = list(grouping.by_method(records))
  legend = [
    (f'{method}{_seeds(counts.get(method, ()))}', colors[method], 'line') for method in methods
  ]
  if several:
    legend.append(('95 % interval of the mean', INK, 'band'))
  judged = grouping.judged_by(records)
  return Figure(
    f'{suite}-curves-{x}s'.replace('hourss', 'hours'),
    f'{judged} over {AXES[x]}',
    panels,
    alt=f'{judged} over {AXES[x]} for {", ".join(methods)}, a thin line per seed.',
    caption=_caption(x, binned, single, few, going),
    legend=legend,
    xlabel=AXES[x],
  )


def _caption(x, binned, single, few, going):
  text = [
    'Thick line: mean over seeds at the evaluations that all of them have; shade: 95 % bootstrap interval of '
    'that mean; thin lines: the seeds. No smoothing.'
  ]
  if going:
    text.append(
      'Runs that are not complete are thin lines only, in no mean, where the method has complete ones.'
    )
  if binned:
    widths = ', '.join(f'{width:,}' for width in sorted(binned))
    text.append(
      f'Seeds that were evaluated at different frames are averaged in bins of {widths} frames.'
    )
  if x == 'hours':
    text.append(
      'The mean stands at the mean of the hours at which its seeds had come to the evaluation.'
    )
  if few:
    text.append('An interval of fewer than five seeds is rough, and too narrow.')
  if single:
    text.append(f'One seed only, so no interval: {some(sorted(single))}.')
  return ' '.join(text)


def _seeds(counts):
  """', 3 seeds', where the means over all of the method's tasks are over the same number."""
  return f', {(count := min(counts))} seed{"" if count == 1 else "s"}' if len(counts) == 1 else ''


def some(names, most=4) -> str:
  """Names with commas; of many, the first ones and how many more."""
  return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')


def _learning_panel(runs, grids, colors, lines, success):
  def draw(axis):
    for method, (group, others) in runs.items():
      color, (rows, _) = colors[method], grids[method]
      for run in [*(group if len(group) > 1 else []), *others]:
        axis.plot(
          [x for _, x, _ in run],
          [score for _, _, score in run],
          color=color,
          alpha=0.4,
          linewidth=0.7,
          marker='o' if len(run) == 1 else None,
          markersize=2.5,
        )
      if len(group) == 1:
        _thick(axis, [x for _, x, _ in group[0]], [score for _, _, score in group[0]], color)
      elif rows:
        rows_x, intervals = (
          [x for x, _ in rows],
          [statistics.mean_interval(scores) for _, scores in rows],
        )
        lows, highs = [each.low for each in intervals], [each.high for each in intervals]
        if len(rows) == 1:  # an area needs two
          axis.vlines(rows_x, lows, highs, color=color, alpha=0.2, linewidth=6)
        axis.fill_between(rows_x, lows, highs, color=color, alpha=0.2, linewidth=0)
        _thick(axis, rows_x, [each.point for each in intervals], color)
    axis.margins(x=0.02)
    axis.set_xlim(left=min(0, axis.get_xlim()[0]))
    _format(axis, success)
    _reference_lines(axis, lines)

  return draw


def _thick(axis, x, y, color):
  axis.plot(x, y, color=color, linewidth=1.8, marker='o' if len(x) < 4 else None, markersize=3.5)


def _format(axis, success=False):
  from matplotlib.ticker import FuncFormatter, MaxNLocator

  axis.yaxis.set_major_formatter(FuncFormatter(percent if success else tick))
  axis.xaxis.set_major_formatter(FuncFormatter(tick))
  axis.xaxis.set_major_locator(MaxNLocator(5))
  axis.yaxis.set_major_locator(MaxNLocator(5))


def _reference_lines(axis, lines):
  """Dashed lines; one that would flatten the curves is named at the border instead."""
  low, high = axis.get_ylim()
  room = high - low
  inside = [score for score in lines.values() if low - room <= score <= high + room]
  axis.set_ylim(
    min([low, *(score - 0.03 * room for score in inside)]),
    max([high, *(score + 0.14 * max(room, score - low) for score in inside)]),
  )
  for name, score in lines.items():
    if score in inside:
      axis.axhline(score, color=INK, linestyle=(0, (4, 3)), linewidth=0.8, alpha=0.75)
      left = name == 'human'  # a random player's line may be close to people's
      axis.annotate(
        name,
        (0.01 if left else 1, score),
        xycoords=('axes fraction', 'data'),
        va='bottom',
        fontsize=9,
        ha='left' if left else 'right',
        xytext=(0, 1),
        textcoords='offset points',
        color=INK,
      )
    else:
      above = score > high
      axis.annotate(
        f'{name} {tick(score)} {"↑" if above else "↓"}',
        (1, 1 if above else 0),
        xycoords='axes fraction',
        ha='right',
        va='top' if above else 'bottom',
        fontsize=9,
        color=INK,
      )


def harmonizers(suite, records) -> Figure | None:
  """The learned weights 1/σ over time (the paper's Fig. 23), a panel per task."""
  return _over_time(
    suite,
    [record for record in records if str(record.get('weighting')).startswith('harmony')],
    'weights',
    'Harmonizer weights 1/σ',
    'harmony/{}/weight',
    1,
    f'Learned weight 1/σ of each of the world model’s tasks, logarithmic; a line per seed, unsmoothed: {THINNED}.',
  )


def losses(suite, records) -> Figure | None:
  """The unweighted losses over time (the paper's Fig. 2b): their scales, and what harmony changes
  in them.
  """
  return _over_time(
    suite,
    records,
    'losses',
    'Loss scales',
    'loss/{}',
    WINDOW,
    f'Losses of the world model’s tasks, before they are weighted, logarithmic; a line per seed: {THINNED}, each '
    f'then the mean of up to {WINDOW} of these around it.',
  )


def _over_time(suite, records, name, title, metric, window, caption):
  methods = [
    method
    for method, group in grouping.by_method(records).items()
    if any(_positive(record, metric.format(part)) for record in group for part in TASKS)
  ]
  styles = dict(zip(methods, itertools.cycle(STYLES)))
  panels, seen = [], set()
  for task, groups in grouping.by_task(records).items():
    lines = [
      (part, styles[method], record['metrics'][metric.format(part)])
      for method, group in groups.items()
      for record in group
      for part in TASKS
      if _positive(record, metric.format(part))
    ]
    if lines:
      panels.append(Panel(task, _lines_panel(lines, window)))
      seen |= {part for part, _, _ in lines}
  if not panels:
    return None
  legend = [(part, TASKS[part], 'line') for part in TASKS if part in seen]
  if len(methods) > 1:
    legend += [(method, INK, STYLE_NAMES[styles[method]]) for method in methods]
  smoothed = f', means of {window} points' if window > 1 else ''
  return Figure(
    f'{suite}-{name}',
    f'{title} over agent steps{smoothed}',
    panels,
    alt=f'{title} of {", ".join(part for part in TASKS if part in seen)} over agent steps, logarithmic.',
    caption=caption,
    legend=legend,
    xlabel=AXES['step'],
  )


def _positive(record, name):
  """Whether a run has anything of a metric that a logarithmic scale can show."""
  series = record.get('metrics', {}).get(name)
  return bool(series and series[0]) and any(
    (grouping.number_or_none(each) or 0) > 0 for each in series[1]
  )


def _lines_panel(lines, window):
  def draw(axis):
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for part, style, (steps, values) in lines:
      kept = [
        (step, each)
        for step, each in zip(steps, values)
        if (grouping.number_or_none(each) or 0) > 0
      ]
      steps, values = zip(*kept)
      axis.plot(
        steps, _averaged(values, window), color=TASKS[part], linestyle=style, linewidth=1, alpha=0.9
      )
    axis.set_yscale('log')
    axis.margins(x=0.02)
    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(FuncFormatter(tick))
    axis.yaxis.set_major_locator(LogLocator(numticks=6))
    axis.yaxis.set_major_formatter(FuncFormatter(tick))
    axis.yaxis.set_minor_formatter(NullFormatter())

  return draw


def _averaged(values, window):
  """The mean of up to `window` values around each; fewer at the ends."""
  kernel = np.ones(min(window, len(values)))
  return np.convolve(values, kernel, 'same') / np.convolve(np.ones(len(values)), kernel, 'same')
