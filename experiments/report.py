"""A report on runs: python -m experiments.report RUNS... --output=report/.

RUNS are run folders, folders that hold some at any depth, results files or folders of them. Writes
one page that needs no network (index.html), every figure as PNG and SVG (figures/), and the numbers
as files (results/: one JSON per method and suite, scores.csv); prints the tables. The folder must
be new, empty, or an earlier report, which is written anew. Runs may still be going on; those that
cannot be read are named and left out.
"""

if not __package__:
  import as_file  # noqa: F401

import datetime
import shlex
import sys

from absl import flags

from harmony_jax.errors import UserError

from . import launcher

flags.DEFINE(launcher.PATH, 'output', 'report', 'A new or empty folder, or an earlier report.')
flags.DEFINE(
  launcher.PATH,
  'reference',
  None,
  "A folder with the authors' scores per seed (harmony_dreamerv3.json, dreamerv3_reproduced.json).",
)
flags.DEFINE_string(
  'references', '{}', 'JSON of {task: {name: score}} for dashed lines; {name: score}: in all tasks.'
)
flags.DEFINE_string('title', '', 'Title of the page.')
flags.DEFINE_list(
  'metrics', ['harmony/', 'loss/'], 'Names or prefixes of the metrics of training to draw.'
)


def main(words: list[str]) -> int:
  """Read runs, write the report, print its tables."""
  from harmony_jax.reporting import published, records, report, results_files
  from harmony_jax.training.run_folder import git_commit

  options = flags.FLAGS
  if not words and not options.reference:
    raise UserError('name run folders or results files, such as runs/, or --reference=DIR')
  references = report.parse_references(options.references)
  output = report.check(options.output)
  own, problems = records.collect(words, options.metrics, skip=[output])
  authors = published.read_scores(options.reference) if options.reference else []
  for problem in problems:
    print(f'problem: {problem}', file=sys.stderr)
  if not own + authors:
    raise UserError('none of these holds a run that can be read')
  made = report.make(own + authors, problems, references, options.title, options.metrics)
  command = shlex.join(['python', '-m', 'experiments.report', *sys.argv[1:]])
  lead = f'Made {datetime.datetime.now():%d %B %Y, %H:%M} by the code of commit {git_commit()}.'
  html = report.render(made, lead, command)
  report.write(made, html, output, lambda folder: results_files.write(own, folder) and None)
  print('\n'.join(report.text(made)))
  print(output / 'index.html')
  return 0


if __name__ == '__main__':
  launcher.command(main)
