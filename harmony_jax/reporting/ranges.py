"""The ranges that our own runs had, `expected.json`, and a run beside them: what `diagnosis` knows
of a method on a suite, and how `experiments.doctor --measure` makes it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from harmony_jax.config import nested_flat
from harmony_jax.errors import UserError
from harmony_jax.reporting import protocol, records, results_files
from harmony_jax.reporting.figures import number as long_number
from harmony_jax.reporting.schema import Record
from harmony_jax.training.run_folder import FREE, atomic_write

EXPECTED = pathlib.Path(__file__).with_name('expected.json')
PARTS = 4  # of a run's steps, each with a range of its own
FACTOR = 3  # a value so many times outside of our runs' range is unusual
READ = ('update', 'nonfinite_updates', 'actor/', 'critic/', 'grad_norm/', 'return/', 'harmony/')
READ += ('env/', 'speed/', 'time/')  # metrics beside those that every record has
MODEL = ('observation', 'reward', 'dynamics', 'continue', 'swav', 'temporal')  # its losses
# Settings that change nothing of what is compared, or are compared by themselves; as `eval…` do.
_IDLE = {'task', 'seed', 'steps', 'score', 'label', 'log_every', 'checkpoint_every', 'video_every'}
_IDLE |= {'final_eval_episodes', *FREE}


@dataclasses.dataclass(frozen=True)
class Sign:
  """Something unusual (`unusual`) or worth knowing, and what it usually means."""

  text: str
  meaning: str = ''
  unusual: bool = True


def measure(found: Sequence[Record]) -> dict[str, Any]:
  """Return the ranges of complete runs: {'suite method': {'runs', 'tasks', 'steps', 'settings' that
  all of them share, 'speed': {devices: [lowest, highest] steps per second}, 'ranges': {metric:
  [[lowest, highest, of how many runs] of each of `PARTS` parts of a run]}}}.
  """
  groups, table = {}, {}
  for record in found:
    if record.complete:
      groups.setdefault(f'{record.suite} {record.method}', []).append(record)
  for key, runs in sorted(groups.items()):
    names = sorted({name for run in runs for name in run.metrics if _compared(name)})
    ranges = {}
    for name in names:
      parts = [[_in_part(run, name, part) for run in runs] for part in range(PARTS)]
      values = [[x for x in each if x is not None] for each in parts]
      if all(values):
        ranges[name] = [[_short(min(each)), _short(max(each)), len(each)] for each in values]
    speeds = {}
    for run in runs:
      speeds.setdefault(run.environment['devices'], []).append(run.steps_per_second)
    speeds = {k: [x for x in each if x] for k, each in speeds.items() if k and any(each)}
    table[key] = {
      'runs': len(runs),
      'tasks': sorted({run.task for run in runs}),
      'steps': sorted({run.steps for run in runs}),
      'settings': _shared(runs),
      'speed': {k: [_short(min(each)), _short(max(each))] for k, each in speeds.items()},
      'ranges': ranges,
    }
  return table


def expected() -> dict[str, Any]:
  """Return what `measure` made of our runs."""
  return json.loads(EXPECTED.read_text(encoding='utf-8'))


def compare(record: Record) -> tuple[list[Sign], list[tuple[str, str, str]]]:
  """Return (signs, (metric, its value, our runs' range)) of a record beside `expected`."""
  ours = expected().get(f'{record.suite} {record.method}')
  if not ours:
    known = [key for key in expected() if key.startswith(f'{record.suite} ')]
    others = f'; there are {", ".join(known)}' if known else ''
    told = f'no run of ours is of {record.suite} {record.method}{others}: no ranges to compare with'
    return [Sign(told, unusual=False)], []
  step = record.metrics['step'][-1] if record.metrics['step'] else 0
  # the last one that is over: what a part begins with is not what the median of all of it is
  part = (PARTS if record.complete else min(PARTS, PARTS * step // record.steps)) - 1
  signs, rows, other = [], [], _other(record, ours)
  if other:
    told = f'our runs of this method had other settings: {protocol.some(other)}'
    signs.append(Sign(told, 'their ranges need not hold here', unusual=False))
  if part < 0:
    told = f'part 1 of {PARTS} of the run is not over: too early to compare it with our runs'
    signs.append(Sign(told, unusual=False))
  for name, parts in ours['ranges'].items() if part >= 0 else ():
    value, (low, high, runs) = _in_part(record, name, part), parts[part]
    if value is None:
      continue
    rows.append((name, text(value), f'{text(low)} to {text(high)}'))
    if not low / FACTOR <= value <= high * FACTOR and low > 0:
      told = f'{name} is {text(value)} in part {part + 1} of {PARTS} of the run; in ours it was '
      of = f'{runs} run{"s" * (runs > 1)} of {", ".join(ours["tasks"])}'
      signs.append(Sign(f'{told}{text(low)} to {text(high)} (from {of})', unusual=not other))
  if record.steps_per_second:  # nothing odd: a run may share its machine
    for devices, (low, high) in ours['speed'].items():
      told = f'{text(low)} to {text(high)} on {devices}'
      rows.append(('steps per second', text(record.steps_per_second), told))
  return signs, rows


def _other(record, ours):
  """['steps 8,000 for 4,000']: in what a run is not as ours are, among the settings of both."""
  own, task, steps = _settings(record), record.task, record.steps
  found = [] if task in ours['tasks'] else [f'task {task} for {", ".join(ours["tasks"])}']
  counts = ', '.join(f'{count:,}' for count in ours['steps'])
  found += [] if steps in ours['steps'] else [f'steps {steps:,} for {counts}']
  pairs = [(name, own[name], each) for name, each in ours['settings'].items() if name in own]
  return found + [f'{name} {here} for {there}' for name, here, there in pairs if here != there]


def _shared(runs):
  first, *others = map(_settings, runs)
  return {k: v for k, v in first.items() if all(k in each and each[k] == v for each in others)}


def _settings(record):
  flat = sorted(nested_flat(record.config).items())
  return {k: each for k, each in flat if k not in _IDLE and not k.startswith('eval')}


def _compared(name):
  if name.startswith(('loss/', 'harmony/')):
    return name.endswith(('weight', *MODEL))
  return name == 'actor/entropy' or name.startswith('grad_norm/')


def _in_part(record, name, part):
  """The median of a metric in a part of the run; None without one."""
  points = zip(record.metrics['step'], record.metrics.get(name, []))
  inside = [
    value
    for step, value in points
    if value is not None and part <= PARTS * step / record.steps <= part + 1
  ]
  return float(np.median(inside)) if inside else None


def write(words: Sequence[str], path: pathlib.Path) -> tuple[dict[str, Any], list[str]]:
  """Write the ranges of runs below some paths to a file; return them, and what is wrong with runs.

  Raises:
    UserError: there is no complete run.
  """
  found, problems = records.collect(words, READ)
  table = measure(found)
  if not table:
    raise UserError('; '.join(['none of these holds a complete run', *problems[:1]]))
  with atomic_write(path) as file:
    file.write(results_files.dumps(table) + '\n')
  return table, problems


def text(value: float) -> str:
  """Return '1,234', '0.0123': three digits of a small number."""
  return long_number(value) if abs(value) >= 10 else f'{value:.3g}'


def _short(value):
  return float(f'{value:.3g}')
