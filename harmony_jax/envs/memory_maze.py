"""Memory Maze (Pasukonis et al. 2022): a maze drawn anew in each episode, whose objects are to be
touched in the order in which their colours are asked for.

The package's standard tasks: 64 × 64 pictures, whose border has the colour to look for, 6 actions,
4 of them a second, reward 1 for each object, and 1,000 (9x9), 2,000, 3,000 or 4,000 (15x15) steps,
none of them terminal. The score is the return.

An episode is the first one of the package's own environment with that seed, to the bit; the package
itself draws all mazes from one stream.
"""

import dataclasses
import importlib.util
import logging
import sys
from typing import Any

import numpy as np

from harmony_jax.envs import base, rendering
from harmony_jax.settings import setting

HERTZ = 4  # steps a second, of the package's own
STEPS = {'9x9': 1_000, '11x11': 2_000, '13x13': 3_000, '15x15': 4_000}


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `MemoryMaze`."""

  length: int = setting(0, "steps that end an episode; 0: the task's own, 1,000 to 4,000")


class MemoryMaze:
  """N mazes.

  Raises:
    ValueError: an unknown task.
    RuntimeError: the package is missing, or nothing can draw.
  """

  def __init__(self, task: str, num_envs: int, **options: Any):
    self.require()
    size = self.canonical(task)
    length = Options.of(options).length or STEPS[size]
    rendering.choose_backend()
    make = getattr(_tasks(), f'memory_maze_{size}')
    self.num_envs = num_envs
    self._mazes = [make(image_only_obs=True, seed=0) for _ in range(num_envs)]
    for maze in self._mazes:  # half a step before the end, as sums of steps are not exact
      _whole(maze)._time_limit = (length - 0.5) / HERTZ
    self.spec = base.Spec(
      {'image': base.ArraySpec((64, 64, 3), np.uint8)}, True, 6, 1, episode_limit=length
    )
    self._last = base.empty_timestep(self.spec, num_envs)

  @staticmethod
  def require() -> None:
    """Raise RuntimeError where the package is missing."""
    if not importlib.util.find_spec('memory_maze'):
      raise RuntimeError(
        "Memory Maze is not installed: pip install 'memory-maze>=1.0.3,<2' "
        '(harmony-jax[memory_maze])'
      )

  @staticmethod
  def tasks() -> list[str]:
    """Names of all tasks."""
    return list(STEPS)

  @staticmethod
  def canonical(task: str) -> str:
    """'9x9' or 'MemoryMaze-9x9-v0' -> '9x9'."""
    size = str(task).lower().removeprefix('memorymaze-').removesuffix('-v0')
    if size not in STEPS:
      raise base.unknown('Memory Maze task', task, list(STEPS))
    return size

  def step(
    self,
    actions: np.ndarray,
    restart: np.ndarray,
    seeds: np.ndarray,
    idle: np.ndarray | None = None,
  ) -> base.TimeStep:
    """See `base`."""
    last = self._last
    idle = np.zeros(self.num_envs, bool) if idle is None else idle
    for index in np.flatnonzero(~idle):
      maze = self._mazes[index]
      if restart[index]:
        _seed(maze, int(seeds[index]))
        now = maze.reset()
      else:
        now = maze.step(int(actions[index]))
      last.observation['image'][index] = now.observation
      last.reward[index] = now.reward or 0  # None at the beginning
      last.is_first[index], last.is_last[index] = now.first(), now.last()
      last.is_terminal[index] = now.last() and now.discount == 0
    return base.copy_timestep(last)

  def close(self) -> None:
    """Free the mazes, with their OpenGL contexts."""
    while self._mazes:
      self._mazes.pop().close()


def _tasks():
  """The package's tasks, without its own beginning: that needs `gym`, which is of the past."""
  if 'memory_maze' not in sys.modules:
    spec: Any = importlib.util.find_spec('memory_maze')
    sys.modules['memory_maze'] = importlib.util.module_from_spec(spec)
    logging.getLogger('absl').addFilter(_Useless())
  return importlib.import_module('memory_maze.tasks')


class _Useless(logging.Filter):
  """Leaves out what dm_control says at the beginning of every episode."""

  def filter(self, record):
    return 'with no free joint' not in record.getMessage()


def _whole(maze):
  """The environment of dm_control inside the package's wrappers."""
  while hasattr(maze, 'env'):
    maze = maze.env
  return maze


def _seed(maze, seed):
  """Put the maze where its package's maker with that seed would: generators, and the next map."""
  rng = maze.random_state
  rng.seed(seed)
  arena = maze.task._maze_arena
  old = arena._maze
  names = ('height', 'width', 'max_rooms', 'room_min_size', 'room_max_size', 'max_variations')
  names += ('spawns_per_room', 'objects_per_room')
  kept = {name: getattr(old, name) for name in names}
  arena._maze = type(old)(**kept, simplify=True, random_seed=rng.randint(2**31))


def _protocol(config):
  steps = base.evaluation_options(config).get('length') or STEPS[config['task']]
  facts = {'action_repeat': 1, 'episode_steps': steps, 'observation': '64 × 64 images'}
  return facts, [f'episodes of {steps:,} steps at 4 Hz', '64 × 64 images', '1 for each object']


SUITE = base.Suite(environment=MemoryMaze, title='Memory Maze', protocol=_protocol, slow=True)
