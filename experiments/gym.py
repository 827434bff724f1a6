"""Any Gymnasium environment: python -m experiments.gym --env=CartPole-v1 [--observe=render]."""

from . import launcher

if __name__ == '__main__':
  launcher.run('gym')
