"""DMC Remastered: python -m experiments.dmcr [--task=cheetah_run] [--visual_seeds=test]
[--vary=all].
"""

from configs import dmcr
from experiments import launcher

if __name__ == '__main__':
  launcher.run(dmcr)
