"""RLBench: python -m experiments.rlbench [--task=reach_target]; says what is missing of it."""

if not __package__:
  import as_file  # noqa: F401

from . import launcher

if __name__ == '__main__':
  launcher.run('rlbench')
