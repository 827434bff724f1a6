"""Crafter: python -m experiments.crafter [--method=dreamerv2]."""

if not __package__:
  import as_file  # noqa: F401

from . import launcher

if __name__ == '__main__':
  launcher.run('crafter')
