"""RLBench: python -m experiments.rlbench [--task=reach_target]; says what is missing of the
simulator.
"""

from configs import rlbench
from experiments import launcher

if __name__ == '__main__':
  launcher.run(rlbench)
