"""Drawings of studies for `experiments.analysis`: what the paper shows of models on a buffer.

Each takes {task: study} and returns panels, the colours of their legend, and rows of data: (label,
task, buffer, seed, measure, update, value).
"""

# pyright: reportArgumentType=false

import math
import pathlib
from collections.abc import Mapping

import numpy as np

from harmony_jax.errors import UserError
from harmony_jax.offline import buffer as buffers
from harmony_jax.offline import table
from harmony_jax.offline.study import Study
from harmony_jax.paths import joined
from harmony_jax.reporting import analysis, curves, figures
from harmony_jax.training import panels as pictures
from harmony_jax.training import video

Studies = Mapping[str, Study]
Drawn = tuple[list[figures.Panel], Mapping[str, str], list[tuple]]


def losses(studies: Studies) -> Drawn:
  """Figure 2b: the losses before they are weighed, over updates, with weights of 1."""
  panels, found = [], []
  for task, study in studies.items():
    measured = table.curves(study, ['loss/'])
    names = [name for name in measured if name.endswith('/training')]
    parts = {name.split('/')[1]: measured[name]['w_r1'] for name in names}
    colors = figures.colors_of(parts, curves.LOSSES)
    looks = {part: (color, 'solid') for part, color in colors.items()}
    panels.append(analysis.over_updates(task, parts, looks, logarithmic=True))
    found += _rows(task, measured)
  return panels, colors, found


def states(studies: Studies) -> Drawn:
  """Figure 2c: what an MLP does not find of the state in the features, per number of the state."""
  panels, found = [], []
  for task, study in studies.items():
    measured = table.curves(study, ['state_mlp/'])
    colors = figures.colors_of(study.labels, {})
    values = {
      name.removeprefix('state_mlp/'): {
        label: [1 - value for value in each] for label, each in _ends(study, by_label).items()
      }
      for name, by_label in measured.items()
    }
    panels.append(analysis.bars(f'{task}: error ÷ variance of the state', values, colors))
    found += _rows(task, measured)
  return panels, colors, found


def reward_errors(studies: Studies) -> Drawn:
  """Appendix E.10: squared errors of rewards that are predicted, with and without a decoder."""
  values, found = {}, []
  for task, study in studies.items():
    measured = table.curves(study, ['reward/mse'])
    (by_label,) = measured.values()
    values[task] = _ends(study, by_label)
    found += _rows(task, measured)
  colors = figures.colors_of(study.labels, {})
  return [analysis.bars('squared error of predicted rewards', values, colors)], colors, found


def _ends(study, by_label):
  """{label: the value of each finished run after the last update}; NaN where that is not finite, as
  a mean of the others would be of other runs."""
  found = {}
  for run in filter(study.finished, study.runs()):
    values = table.last(study.updates)(by_label.get(run.label, {}))
    found.setdefault(run.label, []).append(values.get((run.buffer, run.seed), math.nan))
  return found


def _rows(task, measured):
  """A figure's data: (label, task, buffer, seed, measure, update, value)."""
  return [
    (label, task, *pair, name, update, value)
    for name, by_label in measured.items()
    for label, by_update in by_label.items()
    for update, values in by_update.items()
    for pair, value in values.items()
  ]


def strips(studies: Studies, output: pathlib.Path, name: str) -> list[pathlib.Path]:
  """Figure 3: pictures and rewards that are predicted of a window; write one per task."""
  paths = []
  for task, study in studies.items():
    runs = [run for run in study.runs() if (run.buffer, run.seed) == (0, study.seeds[0])]
    if not runs or not all(map(study.finished, runs)):
      raise UserError(
        f'{study.path} has not finished the runs of seed {study.seeds[0]}, which figure 3 shows'
      )
    found = {}
    for run in runs:
      path = study.path / f'{run.name}.npz'
      if not path.exists():
        raise UserError(f'{path} is missing: remove {run.name}.jsonl there to train it again')
      with np.load(path) as file:
        found[run.label] = {key: file[key][0] for key in file.files}
    first = next(iter(found.values()))
    if not (names := [key for key in first if key.startswith('picture/')]):
      raise UserError(f'{task}: its models predict no pictures, which figure 3 would show')
    recorded = study.plan['buffers'][0]
    buffer = buffers.load(recorded['path'])
    if buffers.checksum(recorded['path']) != recorded['sha256']:
      raise UserError(
        f'{recorded["path"]} is not the buffer any more that {study.path} has learned'
      )
    window = slice(first['first'], first['first'] + len(first['reward']))
    truth = buffer.observation[names[0].removeprefix('picture/')][window], first['reward']
    rows = {label: (each[names[0]], each['expected']) for label, each in found.items()}
    tolerance = 0.1 * np.ptp(buffer.rows['reward']) * study.plan.get('reward_scale', 1)
    drawn = pictures.compare({'true': truth, **rows}, study.plan['context'], tolerance)
    paths.append(video.save_image(output / f'{name}_{joined(task)}.png', drawn))
  return paths
