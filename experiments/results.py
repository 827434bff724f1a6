"""Results as files, from runs: python -m experiments.results runs/atari --output=results/atari100k.

Takes run folders, folders with run folders at any depth (also of runs that are still going on) and results files. Writes
one JSON per method with everything that reports are made from, scores.csv (method,task,seed,step,return) and a figure.
Runs that the files hold already stay there, so that 26 games can be added one by one.
"""

import json
import pathlib
import sys

from absl import app, flags

from harmony_jax.errors import UserError

flags.DEFINE_string('output', 'results', 'Where the files go; with runs of several suites, into a folder for each.')
flags.DEFINE_string('references', '{}', 'JSON of {name: score} for dashed lines, such as {"random": -20.7}.')
flags.DEFINE_string('title', '', 'Title of the figure.')
flags.DEFINE_bool('figure', True, 'Whether to draw curves.png, too.')
flags.DEFINE_bool('replace', False, 'Put runs in the place of different ones, of the same task and seed, that a file '
                  'has.')


def main(argv):
  """Reads the runs and writes the files."""
  from harmony_jax.reporting import records, results_files
  try:
    if len(argv) < 2:
      raise UserError('name one or more run folders, or folders with such: runs/catch')
    references = _references(flags.FLAGS.references)
    found, problems = records.collect(argv[1:])
    for text in problems:
      print(f'note: {text}', file=sys.stderr)
    if not found:
      raise UserError('no run can be read there')
    written, left_out = results_files.write(found, flags.FLAGS.output, flags.FLAGS.replace)
    for text in left_out:
      print(f'note: {text}', file=sys.stderr)
  except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  if flags.FLAGS.figure:
    written += _draw(found, pathlib.Path(flags.FLAGS.output), references, flags.FLAGS.title)
  for record in sorted(found, key=lambda each: (each['suite'], each['method'], each['task'], each['seed'])):
    print(_line(record, records.final(record)))
  print('written: ' + ', '.join(map(str, written)))
  return 0


def _references(text):
  try:
    references = json.loads(text)
    if not isinstance(references, dict) or not all(type(score) in (int, float) for score in references.values()):
      raise ValueError
    return references
  except (ValueError, RecursionError):
    raise UserError('--references must be JSON of {name: score}, such as {"random": -20.7}') from None


def _line(record, score):
  """'atari Pong dreamerv3-harmony-cpu seed 0: 18.300 at step 100,000'."""
  last = 'no score yet' if score is None else f"{score:,.3f} at step {record['evaluations'][-1]['step']:,}"
  end = '' if record['complete'] else f" (not complete: {record['planned_steps']:,} steps)"
  return f"{record['suite']} {record['task']} {record['method']} seed {record['seed']}: {last}{end}"


def _draw(found, output, references, title):
  """curves.png of one task, or one for each of several; returns their paths."""
  from harmony_jax.reporting import figures
  groups, paths = {}, []
  for record in found:
    groups.setdefault((record['suite'], record['task']), []).append(record)
  for suite, task in groups:
    name = 'curves' if len(groups) == 1 else f'curves-{suite}-{"".join(c if c.isalnum() else "_" for c in task)}'
    paths.append(output / f'{name}.png')
    output.mkdir(parents=True, exist_ok=True)
    figures.draw(groups[suite, task], paths[-1], references, title)
  return paths


if __name__ == '__main__':
  app.run(main)
