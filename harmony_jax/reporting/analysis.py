"""Panels of the paper's analyses: metrics of methods side by side, bars, losses over updates."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas

from harmony_jax.reporting.figures import STYLES, Panel, log_scale, tick
from harmony_jax.reporting.schema import Record

Look = Mapping[str, tuple[str, str]]  # {label: (colour, key of `figures.STYLES`)}
Values = Mapping[str, Mapping[str, Sequence[float]]]  # {group: {label: [a value per run]}}


def metric(records: Sequence[Record], name: str, colors: Mapping[str, str]) -> list[Panel]:
  """Return a panel per task: a metric of training over agent steps; thin lines are the seeds, thick
  ones their mean at the steps that all of them have, over the complete runs where there are any."""
  drawn: dict[str, dict[str, list[Record]]] = {}
  for record in records:
    if name in record.metrics:
      drawn.setdefault(record.task, {}).setdefault(record.method, []).append(record)
  panels = []
  for task, by_method in drawn.items():
    lines = []
    for method, runs in by_method.items():
      points = [
        pandas.Series(run.metrics[name], run.metrics['step'], dtype=float).dropna() for run in runs
      ]
      averaged = [each for each, run in zip(points, runs) if run.complete] or points
      mean = pandas.concat(averaged, axis=1).dropna().mean(axis=1)
      lines.append((points, mean, {'color': colors[method]}))
    title = f'{task}: {name}'
    panels.append(Panel(title, 'agent steps', _drawing(lines), max(260, 8 * len(title))))
  return panels


def rows(records: Sequence[Record], names: Sequence[str]) -> list[tuple]:
  """Return (method, task, seed, measure, step, value) of scores and metrics: a figure's data."""
  found = []
  for record in records:
    of = record.method, record.task, record.seed
    for step, score in zip(record.evaluations['step'], record.scores):
      found.append((*of, record.judged_by, step, score))
    for name in [name for name in record.metrics if name.startswith(tuple(names) or '-')]:
      points = zip(record.metrics['step'], record.metrics[name])
      found += [(*of, name, step, value) for step, value in points if value is not None]
  return found


def bars(title: str, values: Values, colors: Mapping[str, str]) -> Panel:
  """Return bars of means, groups side by side, a dot per run."""

  def draw(axis):
    width = 0.8 / len(colors)
    for group, by_label in enumerate(values.values()):
      for at, label in enumerate(colors):
        if label in by_label:
          x, each = group + (at - (len(colors) - 1) / 2) * width, by_label[label]
          axis.bar(x, np.mean(each), width, color=colors[label], alpha=0.65)
          axis.plot([x] * len(each), each, 'o', color=colors[label], markersize=3)
    axis.set_xticks(range(len(values)), values)
    axis.tick_params(axis='x', labelrotation=30 if len(values) > 2 else 0)
    axis.yaxis.set_major_formatter(tick)

  return Panel(title, '', draw, width=max(260, 70 * len(values)))


def over_updates(
  title: str,
  curves: Mapping[str, Mapping[int, Mapping]],
  looks: Look,
  logarithmic: bool = False,
  low: float | None = None,
) -> Panel:
  """Return lines over updates, {label: {update: {run: value}}}: thin the runs, thick their mean at
  the updates that all of them have; what lies below `low` is cut off."""
  lines = []
  for label, by_update in curves.items():
    color, style = looks[label]
    # also the updates where no run has a number: no line goes through them
    table = pandas.DataFrame.from_dict(by_update, orient='index').reindex(sorted(by_update))
    look = {'color': color, 'linestyle': STYLES[style]}
    lines.append(([table[run] for run in table], table.mean(axis=1, skipna=False), look))
  return Panel(title, 'updates', _drawing(lines, logarithmic, low))


def _drawing(lines, logarithmic=True, low=None):
  """Of each (points of each run, of their mean, look)."""

  def draw(axis):
    for runs, mean, look in lines:
      for points in runs:
        axis.plot(points, **look, linewidth=0.6, alpha=0.4)
      axis.plot(mean, **look, linewidth=1.8)
    if low is not None and axis.get_ylim()[0] < low:
      axis.set_ylim(bottom=low)
    if logarithmic and axis.dataLim.ymin > 0:
      log_scale(axis)
    axis.xaxis.set_major_formatter(tick)

  return draw
