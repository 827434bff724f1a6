"""DeepMind Control: python -m experiments.dmc [--task=cheetah_run] [--render=fast]."""

if not __package__:
  import as_file  # noqa: F401

from . import launcher

if __name__ == '__main__':
  launcher.run('dmc')
