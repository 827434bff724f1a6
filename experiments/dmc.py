"""DeepMind Control: python -m experiments.dmc [--task=cheetah_run] [--method=dreamerv2]
[--render=fast].
"""

from configs import dmc
from experiments import launcher

if __name__ == '__main__':
  launcher.run(dmc)
