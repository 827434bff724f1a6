"""The built-in pixel game: python -m experiments.catch [--preset=cpu] [--config.field=value]."""

if not __package__:
  import as_file  # noqa: F401

from . import launcher

if __name__ == '__main__':
  launcher.run('catch')
