"""DMC Remastered: python -m experiments.dmcr [--task=cheetah_run] [--visual_seeds=test]."""

if not __package__:
  import as_file  # noqa: F401

from . import launcher

if __name__ == '__main__':
  launcher.run('dmcr')
