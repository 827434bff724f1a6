"""DMC Remastered: python -m experiments.dmcr [--task=cheetah_run] [--visual_seeds=test]."""

from . import launcher

if __name__ == '__main__':
  launcher.run('dmcr')
