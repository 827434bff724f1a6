"""Results as files, from runs: python -m experiments.results runs/atari --output=results/atari100k.

Takes run folders, folders with run folders at any depth (also of runs that are still going on) and
results files. Writes one JSON per method with everything that reports are made from, scores.csv
(method,task,seed,step,return) and a figure. Runs that the files hold already stay there, so that 26
games can be added one by one.
"""

import sys

from absl import flags

from experiments import launcher
from harmony_jax.errors import UserError

flags.DEFINE_string(
  'output', 'results', 'Where the files go; with runs of several suites, into a folder for each.'
)
flags.DEFINE_string(
  'references',
  '{}',
  'JSON of {name: score} for dashed lines, such as {"random": -20.7}, or of {task: {name: score}}.',
)
flags.DEFINE_string('title', '', 'Title of the figure.')
flags.DEFINE_bool(
  'figure', True, 'Whether to draw curves.png, too; with several tasks, a picture of each.'
)
flags.DEFINE_bool(
  'replace',
  False,
  'Put runs in the place of different ones, of the same task and seed, that a file has.',
)


def main(words):
  """Reads the runs and writes the files."""
  from harmony_jax.reporting import records, results_files
  from harmony_jax.reporting import references as references_given

  if not words:
    raise UserError('name one or more run folders, or folders with such: runs/catch')
  references = references_given.parse(flags.FLAGS.references)
  found, problems = records.collect(words)
  for text in problems:
    print(f'note: {text}', file=sys.stderr)
  if not found:
    raise UserError('no run can be read there')
  written, left_out = results_files.write(found, flags.FLAGS.output, flags.FLAGS.replace)
  for text in left_out:
    print(f'note: {text}', file=sys.stderr)
  if flags.FLAGS.figure:
    written += _draw(written, references, flags.FLAGS.title)
  for record in sorted(
    found, key=lambda each: (each['suite'], each['method'], each['task'], each['seed'])
  ):
    print(_line(record, records.final(record)))
  print('written: ' + ', '.join(map(str, written)))
  return 0


def _line(record, score):
  """'atari Pong dreamerv3-harmony-cpu seed 0: 18.300 at step 100,000'."""
  last = (
    'no score yet'
    if score is None
    else f'{score:,.3f} at step {record["evaluations"][-1]["step"]:,}'
  )
  end = '' if record['complete'] else f' (not complete: {record["planned_steps"]:,} steps)'
  return f'{record["suite"]} {record["task"]} {record["method"]} seed {record["seed"]}: {last}{end}'


def _draw(written, references, title):
  """A figure for each task that the files beside these have, curves.png if that is but one; returns
  their paths.
  """
  from harmony_jax.reporting import figures, grouping, records

  paths = []
  for folder in dict.fromkeys(path.parent for path in written):
    tasks = {}
    for record in grouping.told_apart(records.collect(sorted(folder.glob('*.json')))[0]):
      tasks.setdefault(record['task'], []).append(record)
    for task, group in sorted(tasks.items()):
      name = (
        'curves'
        if len(tasks) == 1
        else f'curves-{"".join(c if c.isalnum() else "_" for c in task)}'
      )
      paths.append(folder / f'{name}.png')
      figures.draw(group, paths[-1], references, title)
  return paths


if __name__ == '__main__':
  launcher.command(main)
