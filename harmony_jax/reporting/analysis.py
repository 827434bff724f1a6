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
  panels = []
  for task in dict.fromkeys(record.task for record in records):
    if found := _series(records, task, name):
      title = f'{task}: {name}'
      wide = max(260, 8 * len(title))
      panels.append(Panel(title, 'agent steps', _metric_drawing(found, colors), wide))
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
  look: Look,
  logarithmic: bool = False,
  low: float | None = None,
) -> Panel:
  """Return lines over updates, {label: {update: {run: value}}}: thin the runs, thick their mean at
  the updates that all of them have.

  Args:
    low: what lies below it is cut off.
  """

  def draw(axis):
    for label, by_update in curves.items():
      (color, style), updates = look[label], sorted(by_update)
      how = {'color': color, 'linestyle': STYLES[style]}
      runs = sorted(set().union(*by_update.values()))
      points = [[by_update[update].get(run, np.nan) for run in runs] for update in updates]
      axis.plot(updates, points, **how, linewidth=0.5, alpha=0.4)
      axis.plot(updates, np.mean(points, axis=1), **how, linewidth=1.8)
    if low is not None and axis.get_ylim()[0] < low:
      axis.set_ylim(bottom=low)
    if logarithmic and axis.dataLim.ymin > 0:
      log_scale(axis)
    axis.xaxis.set_major_formatter(tick)

  return Panel(title, 'updates', draw)


def _series(records, task, name):
  """{method: [(points by step, whether it is complete) of each seed]} of a task, where any has the
  metric."""
  found = {}
  for record in records:
    if record.task == task and name in record.metrics:
      points = pandas.Series(record.metrics[name], record.metrics['step'], dtype=float).dropna()
      found.setdefault(record.method, []).append((points, record.complete))
  return found


def _metric_drawing(found, colors):
  def draw(axis):
    for method, runs in found.items():
      for points, _ in runs:
        axis.plot(points.index, points, color=colors[method], linewidth=0.6, alpha=0.4)
      averaged = [points for points, complete in runs if complete] or [points for points, _ in runs]
      mean = pandas.concat(averaged, axis=1).dropna().mean(axis=1)
      axis.plot(mean.index, mean, color=colors[method], linewidth=1.8)
    if axis.dataLim.ymin > 0:
      log_scale(axis)
    axis.xaxis.set_major_formatter(tick)

  return draw
