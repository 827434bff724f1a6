"""The built-in pixel game: python -m experiments.catch [--seed=0] [--preset=cpu]
[--config.some.field=value].
"""

from configs import catch
from experiments import launcher

if __name__ == '__main__':
  launcher.run(catch)
