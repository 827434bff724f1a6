"""A Gymnasium game of one continuous action: move a light square onto a dark line.

    python -m experiments.gym --env=tests.reaching:Reaching-v0 --method=tdmpc

In each of 12 steps the square moves by a fifth of the action; the reward is 1 - its distance. With
--observe=render it is seen as a picture.
"""

import gymnasium
import numpy as np
from gymnasium import spaces

STEPS = 12


class Reaching(gymnasium.Env):
  """The game."""

  metadata = {'render_modes': ['rgb_array']}

  def __init__(self, render_mode=None):
    self.render_mode = render_mode
    self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
    self.action_space = spaces.Box(-1, 1, (1,), np.float32)

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self.time, (self.place, self.goal) = 0, self.np_random.uniform(-1, 1, 2)
    return self._show(), {}

  def step(self, action):
    self.place = float(np.clip(self.place + action[0] / 5, -1, 1))
    self.time += 1
    reward = 1 - abs(self.place - self.goal)
    return self._show(), reward, False, self.time == STEPS, {}

  def _show(self):
    return np.array([self.place, self.goal], np.float32)

  def render(self):
    """Draw both in a row of 64 pixels."""
    picture = np.full((64, 64, 3), 128, np.uint8)
    column = lambda x: int(4 + 55 * (x + 1) / 2)
    picture[:, column(self.goal) - 1 : column(self.goal) + 1] = 0
    picture[28:36, column(self.place) - 4 : column(self.place) + 4] = 255
    return picture


gymnasium.register('Reaching-v0', Reaching)
