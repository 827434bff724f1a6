"""Any Gymnasium environment: python -m experiments.gym --env=CartPole-v1 [--observe=render]."""

if not __package__:
  import as_file  # noqa: F401

from . import launcher

if __name__ == '__main__':
  launcher.run('gym')
