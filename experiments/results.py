"""Results as files, from runs: python -m experiments.results runs/atari --output=results/atari100k.

Takes run folders, folders with run folders at any depth (also of runs that are still going on) and
results files. Writes one JSON per method with everything that reports are made from, scores.csv
(method,task,seed,step,return; or what else the suite is judged by) and a figure per task. Runs that
the files hold already stay there, so that 26 games can be added one by one.
"""

if not __package__:
  import as_file  # noqa: F401

from absl import flags

from harmony_jax.errors import UserError

from . import launcher

launcher.path('output', 'results', 'Folder for the files; of several suites, with one for each.')
flags.DEFINE_string('references', '{}', launcher.REFERENCES)
flags.DEFINE_string('title', '', 'Title of the figure.')
flags.DEFINE_bool('figure', True, 'Whether to draw curves.png, too; of several tasks one each.')
flags.DEFINE_bool('replace', False, 'Put runs in the place of different ones that a file has.')


def main(words: list[str]) -> int:
  """Read the runs and write the files."""
  from harmony_jax.reporting import figures, records, report, results_files

  options = flags.FLAGS
  if not words:
    raise UserError('name one or more run folders, or folders with such: runs/catch')
  references = report.parse_references(options.references)
  found, problems = records.collect(words)
  written, left_out = results_files.write(found, options.output, options.replace)
  launcher.note(problems + left_out)
  if not found:
    raise UserError('no run can be read there')
  for folder in {path.parent: None for path in written}:
    everything, odd = records.collect(sorted(folder.glob('*.json')))
    if {record.place for record in everything} - {record.place for record in found}:
      launcher.note(odd)  # of runs that came together in the files only
    everything = report.told_apart(everything)
    for task in (tasks := sorted({r.task for r in everything})) if options.figure else ():
      group = [record for record in everything if record.task == task]
      figure = report.combined(group, report.references_of(group, references), options.title)
      figure.name = f'curves-{figure.name}' if len(tasks) > 1 else 'curves'
      written += figures.save(figure, folder)
  print('\n'.join(report.text(report.make(found, references=references))))
  print('written: ' + ', '.join(map(str, written)))
  return 0


if __name__ == '__main__':
  launcher.command(main)
