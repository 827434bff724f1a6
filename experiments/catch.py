"""The built-in pixel game: python -m experiments.catch [--preset=cpu] [--config.field=value]."""

from . import launcher

if __name__ == '__main__':
  launcher.run('catch')
