"""Runs as reports take them, read from wherever they lie: folders of runs that are done or going
on, results files.

    found, problems = collect(['runs', 'results/atari100k'])
    for record in found:
      print(record['task'], record['seed'], final(record))

`form` says what a record is.
"""

from harmony_jax.configuration import ABSENT, difference
from harmony_jax.errors import UserError, one_line
from harmony_jax.reporting import finding, results_files, runs
from harmony_jax.reporting.form import final, from_run, place, rank, same_run, value
from harmony_jax.training.run_folder import FREE

__all__ = ['collect', 'final', 'read', 'value']

# Settings of the harmonizers, which another rule has not.
_HARMONIZERS = (
  'weighting.rate',
  'weighting.beta2',
  'weighting.calibrate',
  'weighting.dynamics_regularizer',
)


def read(folder) -> dict:
  """The record of one run folder. Raises UserError where it holds no run, or one that is damaged."""
  return from_run(runs.read(folder))


def collect(paths) -> tuple:
  """The records of all runs below some paths, each run once.

  Args:
    paths: run folders, folders with run folders at any depth, results files, folders with such; or
      one of them.

  Returns:
    ([record], [problem]): a problem is one line, of what was left out and why: a path that is not
    there, a run that is damaged or half written, a second, different run in the place of another;
    or of seeds whose settings differ.
  """
  found, problems = [], []
  for kind, path in finding.find(paths):
    try:
      if kind == 'run':
        found.append(read(path))
      elif kind in ('file', 'json'):
        found += results_files.read(path)
      elif kind == 'problem':
        problems.append(one_line(path))
    except results_files.NoResults as error:
      problems += [str(error)] if kind == 'file' else []  # other JSON files may lie in folders
    except UserError as error:
      problems.append(str(error))
  found, doubled = _one_per_place(found)
  return found, problems + doubled + _unlike_seeds(found)


def _one_per_place(found):
  """([record], [a line for each place that different runs claim]); of one run that was found twice,
  the longer.
  """
  kept, problems = {}, []
  for record in found:
    other = kept.setdefault(place(record), record)
    if other is record:
      continue
    if same_run(record, other):
      best = max(other, record, key=rank)
    else:
      best = max(other, record, key=lambda each: each['complete'])
      left = other if best is record else record
      problems.append(
        one_line(
          f'{left["source"]} is left out: {best["source"]} is another run of {record["task"]}, '
          f'{record["method"]}, seed {record["seed"]}'
        )
      )
    kept[place(record)] = best
  return list(kept.values()), problems


def _unlike_seeds(found):
  """A line for each record whose settings are not those of the first one of its suite, method and
  task.
  """
  first, problems = {}, []
  for record in found:
    other = first.setdefault(place(record)[:3], record)
    idle = ('seed',) if record['weighting'].startswith('harmony') else ('seed', *_HARMONIZERS)
    differing = {
      key: values
      for key, values in difference(other['config'], record['config']).items()
      if key not in idle and f'config.{key}' not in FREE and ABSENT not in values
    }
    if differing:
      told = ', '.join(
        f'{key} ({new} for {old})' for key, (old, new) in list(differing.items())[:3]
      )
      more = f' and {len(differing) - 3} more' if len(differing) > 3 else ''
      problems.append(
        one_line(
          f'{record["source"]}: its settings are not those of {other["source"]}, a seed of the '
          f'same method: {told}{more}'
        )
      )
  return problems
