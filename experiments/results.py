"""Scores and figures from run folders: python -m experiments.results RUN_FOLDER... --output=results/catch.

Writes one JSON per group of seeds, scores.csv and curves.png.
"""

import json
import pathlib
import sys

from absl import app, flags

from harmony_jax.errors import UserError

flags.DEFINE_string('output', 'results', 'Where the files go.')
flags.DEFINE_string('references', '{}', 'JSON of {name: score} for dashed lines, such as {"random": -20.7}.')
flags.DEFINE_string('title', '', 'Title of the figure.')


def main(argv):
  """Reads the folders and writes the files."""
  from harmony_jax.reporting import figures, runs
  try:
    if len(argv) < 2:
      raise UserError('name one or more run folders, such as runs/catch/catch/*/seed*')
    found, broken = runs.read_all(argv[1:])
    for text in broken:
      print(f'left out: {text}', file=sys.stderr)
    if not found:
      raise UserError('none of the run folders can be read')
    references = json.loads(flags.FLAGS.references)
  except (UserError, ValueError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  output = pathlib.Path(flags.FLAGS.output)
  runs.write(found, output)
  figures.draw(found, output / 'curves.png', references, flags.FLAGS.title)
  for run in found:
    points = run['scores']
    last = f"{points[-1]['eval_mean']:.3f} at step {points[-1]['step']:,}" if points else 'no score yet'
    print(f"{runs.label(run)} seed {run['config']['seed']}: {last}{'' if run['complete'] else ' (not complete)'}")
  return 0


if __name__ == '__main__':
  app.run(main)
