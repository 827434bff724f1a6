"""A Gymnasium game of factored actions: say the two marks that are shown.

    python -m experiments.gym --env=tests.matching:Matching-v0                     # vectors
    python -m experiments.gym --env=tests.matching:Matching-v0 --observe=render    # pictures
    python -m experiments.gym --env=tests.matching:Pulling-v0                      # mixed actions

In each of 16 steps one of 2 left marks and one of 3 right marks are shown. 1 is paid where the
action names both: 16 at best, 16 / 6 by chance. In Pulling a lever in [0, 10] must also be above
its middle where the left mark is the second one, and below where it is the first: 16 / 12 by
chance. Half a match is worth nothing, so neither factor can be learned alone.
"""

import gymnasium
import numpy as np
from gymnasium import spaces

STEPS, SIZES = 16, (2, 3)
BEST, CHANCE = {'Matching-v0': 16, 'Pulling-v0': 16}, {'Matching-v0': 16 / 6, 'Pulling-v0': 16 / 12}


class Matching(gymnasium.Env):
  """The game; `lever` makes its actions mixed."""

  metadata = {'render_modes': ['rgb_array']}

  def __init__(self, lever=False, render_mode=None):
    self.lever, self.render_mode = lever, render_mode
    self.observation_space = spaces.Box(0, 1, (sum(SIZES),), np.float32)
    pair = spaces.MultiDiscrete(SIZES)
    force = spaces.Box(0, 10, (1,), np.float32)
    self.action_space = spaces.Dict(pair=pair, lever=force) if lever else pair

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self.time = 0
    return self._show(), {}

  def step(self, action):
    pair = action['pair'] if self.lever else action
    right = np.array_equal(pair, self.marks)
    if self.lever:
      right &= (action['lever'][0] > 5) == self.marks[0]
    self.time += 1
    return self._show(), float(right), False, self.time == STEPS, {}

  def _show(self):
    self.marks = self.np_random.integers(SIZES)
    return np.concatenate([np.eye(n)[i] for n, i in zip(SIZES, self.marks)]).astype(np.float32)

  def render(self):
    """Draw each mark as a light square in a row of its own."""
    picture = np.zeros((64, 64, 3), np.uint8)
    for row, mark in enumerate(self.marks):
      picture[32 * row + 6 : 32 * row + 26, 21 * mark + 2 : 21 * mark + 20] = 255
    return picture


gymnasium.register('Matching-v0', Matching)
gymnasium.register('Pulling-v0', Matching, kwargs={'lever': True})
