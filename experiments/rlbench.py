"""RLBench: python -m experiments.rlbench [--task=reach_target]; says what is missing of it."""

from . import launcher

if __name__ == '__main__':
  launcher.run('rlbench')
