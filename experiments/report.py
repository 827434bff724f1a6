"""A report on runs: python -m experiments.report RUNS... --output=report/.

RUNS are run folders, folders that hold some at any depth, results files or folders of them. Writes
one page that needs no network (index.html), every figure as PNG and SVG (figures/), and the numbers
as files (results/: one JSON per method and suite, scores.csv); prints the tables. The folder must
be new, empty, or an earlier report, which is written anew. Runs may still be going on; those that
cannot be read are named and left out.

With --watch nothing is written: the page is served to this machine's browsers, and follows its runs
until Ctrl-C.
"""

if not __package__:
  import as_file  # noqa: F401

import datetime
import shlex
import sys

from absl import flags

from harmony_jax.errors import UserError

from . import launcher

_NOTHING = 'none of these holds a run that can be read'

launcher.path('output', 'report', 'A new or empty folder, or an earlier report.')
launcher.path('reference', None, "Folder of the authors' scores per seed (harmony_dreamerv3.json).")
flags.DEFINE_string('references', '{}', launcher.REFERENCES)
flags.DEFINE_string('title', '', 'Title of the page.')
flags.DEFINE_list('metrics', 'harmony/,loss/', 'Names or prefixes of the metrics to draw.')
flags.DEFINE_bool('watch', False, 'Serve the page here, and make it again as runs write.')
flags.DEFINE_integer('port', 8600, 'Of this machine, for --watch.', 1, 65535)


def main(words: list[str]) -> int:
  """Read runs, write the report, print its tables; or serve it."""
  from harmony_jax.reporting import published, records, report, results_files
  from harmony_jax.training.run_folder import git_commit

  options = flags.FLAGS
  if not words and not options.reference:
    raise UserError('name run folders or results files, such as runs/, or --reference=DIR')
  references = report.parse_references(options.references)
  authors = published.read_scores(options.reference) if options.reference else []
  if options.watch:
    return _watch(words, references, authors)
  output = report.check(options.output)
  own, problems = records.collect(words, options.metrics, skip=[output])
  problems += report.unlogged(own, options.metrics)
  for problem in problems:
    print(f'problem: {problem}', file=sys.stderr)
  if not own + authors:
    raise UserError(_NOTHING)
  made = report.make(own + authors, problems, references, options.title, options.metrics)
  html = report.render(made, *_origin(git_commit()))
  report.write(made, html, output, lambda folder: results_files.write(own, folder) and None)
  print('\n'.join(report.text(made)))
  print(output / 'index.html')
  return 0


def _watch(words, references, authors):
  """Serve the report of what there is at each time, until Ctrl-C."""
  from harmony_jax.reporting import live, media, records, report
  from harmony_jax.training.run_folder import git_commit

  options, commit = flags.FLAGS, git_commit()
  if options['output'].present:
    raise UserError('--watch writes nothing: leave out --output, or --watch')

  def make(state):
    own, problems = records.collect(words, options.metrics)
    if not own + authors:
      raise UserError('; '.join([_NOTHING, *problems[:1]]))
    problems += report.unlogged(own, options.metrics)
    made = report.make(own + authors, problems, references, options.title, options.metrics)
    return made, report.render(made, *_origin(commit), live=state)

  stamp = lambda: records.stamps(words, media.FOLDERS)
  with live.Server(live.Live(make, stamp), options.port) as server:
    print(f'{server.address} follows these runs until Ctrl-C', flush=True)
    server.serve()
  return 0


def _origin(commit):
  """(When and of which commit a page is, the command that makes it)."""
  command = shlex.join(['python', '-m', 'experiments.report', *sys.argv[1:]])
  now = datetime.datetime.now()
  return f'Made {now:%d %B %Y, %H:%M} by the code of commit {commit}.', command


if __name__ == '__main__':
  launcher.command(main)
