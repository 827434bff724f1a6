"""A report on runs: python -m experiments.report RUNS... --output=report/.

    RUNS                      run folders, folders that hold some at any depth, results files or
    folders of them --reference=DIR           the authors' published scores per seed, beside the
    runs or alone --references='{"walker_stand": {"random": 144.2}}'   dashed lines, per task;
    '{"random": 0}': in all of them --title='My runs'         of the page

Writes one page that needs no network (index.html), every figure as PNG and SVG (figures/), and the
numbers as files (results/: one JSON per method and suite, scores.csv); prints the tables. The
folder must be new, empty, or an earlier report, which is written anew. Runs may still be going on;
those that cannot be read are named and left out.
"""

import datetime
import os
import pathlib
import re
import shlex
import sys

from absl import flags

from experiments import launcher
from harmony_jax.errors import UserError

flags.DEFINE_string(
  'output', 'report', 'Where the report goes: a new or empty folder, or an earlier report.'
)
flags.DEFINE_string(
  'reference',
  None,
  "A folder with the authors' scores per seed (harmony_dreamerv3.json, dreamerv3_reproduced.json).",
)
flags.DEFINE_string(
  'references',
  '{}',
  'JSON of {task: {name: score}} for dashed lines, or of {name: score} for those of every task.',
)
flags.DEFINE_string('title', '', 'Title of the page.')


def main(words):
  """Reads runs, writes the report, prints its tables."""
  from harmony_jax.reporting import (
    grouping,
    published,
    records,
    references,
    report,
    report_files,
    results_files,
  )

  options = flags.FLAGS
  if not words and not options.reference:
    raise UserError('name run folders or results files, such as runs/, or --reference=DIR')
  lines = references.parse(options.references)
  report_files.check(options.output)
  found, problems = records.collect(words) if words else ([], [])
  found = [record for record in found if not within(record['source'], options.output)]
  if options.reference:
    found = found + published.read_scores(options.reference)
  for problem in problems:
    print(f'problem: {problem}', file=sys.stderr)
  if not found:
    raise UserError('none of these holds a run that can be read')
  made = report.make(found, problems, lines, options.title)
  html = report.render(
    made, lead(), shlex.join(['python', '-m', 'experiments.report', *sys.argv[1:]])
  )
  own = [record for record in found if record['method'] not in grouping.AUTHORS]
  report_files.write(
    options.output, html, made.figures, lambda folder: results_files.write(own, folder)
  )
  for line in report.terminal(made):
    print(line)
  print(f'{options.output.rstrip("/")}/index.html')
  return 0


def within(source, folder) -> bool:
  """Whether a record comes from the results of the report that is written anew."""
  return (
    pathlib.Path(source)
    .resolve()
    .is_relative_to(pathlib.Path(os.path.expanduser(folder)).resolve())
  )


def lead() -> str:
  """When the page was made, and of which commit's code."""
  from harmony_jax.training.run_folder import git_commit

  commit = re.sub(r'^([0-9a-f]{10})[0-9a-f]{30}', r'\1', git_commit())
  return f'Made {datetime.datetime.now():%d %B %Y, %H:%M} by the code of commit {commit}.'


if __name__ == '__main__':
  launcher.command(main)
