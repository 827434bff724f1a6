"""Any gymnasium environment: python -m experiments.gym --env=CartPole-v1 [--observe=render]."""

from configs import gym
from experiments import launcher

if __name__ == '__main__':
  launcher.run(gym)
