"""Crafter: python -m experiments.crafter [--method=dreamerv2]."""

from . import launcher

if __name__ == '__main__':
  launcher.run('crafter')
