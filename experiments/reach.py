"""The built-in arm: python -m experiments.reach [--preset=cpu] [--config.field=value]."""

if not __package__:
  import as_file  # noqa: F401

from . import launcher

if __name__ == '__main__':
  launcher.run('reach')
