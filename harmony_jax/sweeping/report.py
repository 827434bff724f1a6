"""What a sweep prints before and after: the plan with its estimated hours, and the aggregate
report.
"""

import json
import pathlib
import shlex

from harmony_jax.errors import one_line
from harmony_jax.reporting import aggregate, records, results_files
from harmony_jax.sweeping.board import end_of
from harmony_jax.sweeping.estimate import Estimate, wall_clock
from harmony_jax.sweeping.job import locked_by
from harmony_jax.training.run_folder import atomic_write


def headline(jobs):
  """'4 runs: 2 tasks × 1 configuration × 2 seeds, 0 finished, 4 to run'."""
  every = [run for job in jobs for run in job.runs]
  kinds = [
    ('task', {run.task for run in every}),
    ('configuration', {(run.method, run.weighting) for run in every}),
    ('seed', {run.seed for run in every}),
  ]
  product = ' × '.join(
    f'{len(values)} {name}{"s" if len(values) > 1 else ""}' for name, values in kinds
  )
  done = sum(run.is_complete() for run in every)
  return (
    f"{len(every)} run{'s' if len(every) > 1 else ''}: {product}, preset '{every[0].preset}'; {done} finished, "
    f'{len(every) - done} to run'
  )


def plan_lines(jobs, board, hours, overridden, root, workers):
  """The plan, line by line.

  Args:
    jobs: of `plan.make`. board: their `Board`, refreshed. hours: HOURS of the suite's
      configuration.
    overridden: whether there are --config flags. root: the folder of run folders.
    workers: how many jobs at a time; 0 where that is not known here.
  """
  estimate, left, unknown = Estimate(root, hours, overridden), [], 0
  rows = {row.run: row for row in board.rows}
  yield headline(jobs)
  for job in jobs:
    needed = []
    for run in job.runs:
      each, source = estimate.of(run)
      row = rows[run]
      holder = locked_by(run.folder)
      if run.is_complete():
        yield f'{run.label}: finished ({end_of(run.folder).get("hours", 0.0):.2f} h), {run.folder}'
        continue
      done = row.step / run.steps
      needed.append(None if each is None else each * max(0.0, 1 - done))
      state = (
        f'in use by {holder}'
        if holder
        else f'at step {row.step:,} of {run.steps:,}'
        if row.step
        else 'waiting'
      )
      hours_left = f'{_hours(needed[-1])} ({source})' if each is not None else 'hours not measured'
      yield f'{run.label}: {state}, {hours_left}, {run.folder}'
    if needed:
      yield f'  {shlex.join(["python", *job.words])}'
      unknown += needed.count(None)
      # seeds in one program: as if one after the other
      left.append(sum(hours or 0.0 for hours in needed))
  if unknown:
    yield f'total: not measured for {unknown} of the runs that are left'
  elif left:
    clock = (
      f'{_hours(wall_clock(left, workers))} with {workers} at a time'
      if workers
      else 'by how many run at a time'
    )
    yield f'total: {_hours(sum(left))} of runs; wall clock: {clock}'


def _hours(hours):
  return f'about {hours * 60:.0f} min' if hours < 1 else f'about {hours:.1f} h'


def finish(board, output):
  """Writes aggregate.json, scores.csv and a JSON per method of what there is; returns the lines to
  print.

  Args:
    board: a refreshed `Board`. output: the folder.
  """
  output = pathlib.Path(output)
  output.mkdir(parents=True, exist_ok=True)
  every = [row.run for row in board.rows]
  found, broken = records.collect(
    [run.folder for run in every if pathlib.Path(run.folder, 'config.json').exists()]
  )
  results_files.write(found, output, replace=True)
  wanted = [(run.task, f'{run.method}-{run.weighting}', run.seed) for run in every]
  result = aggregate.aggregate(
    aggregate.finished(found), wanted, atari=every[0].suite == 'atari100k'
  )
  states = {
    f'{row.run.task} {row.run.method}-{row.run.weighting} {row.run.seed}': row.state
    for row in board.rows
  }
  with atomic_write(output / 'aggregate.json') as file:
    json.dump(
      {
        'suite': every[0].suite,
        'preset': every[0].preset,
        'score': every[0].score,
        **result,
        'states': states,
      },
      file,
      indent=1,
    )
    file.write('\n')
  caps = {record['config'].get('env', {}).get('frame_cap') for record in found} - {None, 0}
  note = (
    [f'episodes were cut after {max(caps)} frames: not to be compared with scores of whole games']
    if caps
    else []
  )
  return [
    *(f'note: {one_line(text)}' for text in broken),
    '',
    *aggregate.lines(result),
    *note,
    '',
    f'report: {output}',
  ]
