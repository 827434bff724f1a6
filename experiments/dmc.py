"""DeepMind Control: python -m experiments.dmc [--task=cheetah_run] [--render=fast]."""

from . import launcher

if __name__ == '__main__':
  launcher.run('dmc')
