"""Atari 100K: python -m experiments.atari100k --game=Pong [--seed=0] [--config.field=value]."""

if not __package__:
  import as_file  # noqa: F401

from . import launcher

if __name__ == '__main__':
  launcher.run('atari100k')
