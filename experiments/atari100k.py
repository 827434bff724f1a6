"""Atari 100K: python -m experiments.atari100k --game=Pong [--seed=0] [--preset=auto]
[--config.some.field=value].
"""

from configs import atari100k
from experiments import launcher

if __name__ == '__main__':
  launcher.run(atari100k)
