"""Repeats an update that was not finite: python -m experiments.reproduce --logdir=RUN_FOLDER.

Such an update stops a run, which leaves the state before it and its batch in the folder
`nonfinite`.
"""

if not __package__:
  import as_file  # noqa: F401

from absl import flags

from . import launcher

launcher.path('logdir', None, 'The run folder.', required=True)
flags.DEFINE_integer('update', None, 'Which update; by default the last one that was written down.')
flags.DEFINE_bool('allow_import', False, launcher.ALLOW_IMPORT)


def main(words: list[str]) -> int:
  """Repeat it and say what is not finite, first."""
  launcher.no_words(words, '--logdir=…')
  from harmony_jax.training import faults

  found = faults.reproduce(flags.FLAGS.logdir, flags.FLAGS.update, flags.FLAGS.allow_import)
  print(f'update {found["update"]:,} at step {found["step"]:,}: not finite, first in')
  for name in found['found'] or ['nothing']:
    print(f'  {name}')
  if found['found'] != found['recorded']:
    print('in the run it was:')
    for name in found['recorded']:
      print(f'  {name}')
  return 0


if __name__ == '__main__':
  launcher.command(main)
