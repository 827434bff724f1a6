"""Meta-World: python -m experiments.metaworld [--task=lever_pull] [--method=dreamerv2]."""

from . import launcher

if __name__ == '__main__':
  launcher.run('metaworld')
