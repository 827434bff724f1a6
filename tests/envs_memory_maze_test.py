"""Memory Maze: the package's own episodes, to the bit, whatever was played before."""

import importlib.util

import numpy as np
import pytest

from harmony_jax.envs import make, memory_maze, tasks
from harmony_jax.envs.check import check

if not importlib.util.find_spec('memory_maze'):
  pytest.skip('memory-maze is not installed', allow_module_level=True)
NONE, ALL = np.zeros(1, bool), np.ones(1, bool)


@pytest.fixture(scope='module')
def env():
  made = make('memory_maze', '9x9', 1, length=6)
  yield made
  made.close()


@pytest.mark.slow
def test_the_convention(env):
  """Twice the same from a seed; a step costs 50 of physics, a maze a second."""
  check(env, steps=4)


def test_an_episode_is_the_package_s(env):
  own = memory_maze._tasks().memory_maze_9x9(image_only_obs=True, seed=5)
  now, expected = env.step(np.zeros(1, np.int32), ALL, np.array([5])), own.reset()
  for count, action in enumerate((1, 1, 4, 2, 1, 5), 1):
    np.testing.assert_array_equal(now.observation['image'][0], expected.observation)
    now, expected = env.step(np.array([action]), NONE, np.array([0])), own.step(action)
    assert now.reward[0] == expected.reward
    assert (now.is_last[0], now.is_terminal[0]) == (count == 6, False)
  assert memory_maze._whole(own)._time_limit == pytest.approx(
    memory_maze.STEPS['9x9'] / 4, abs=1e-2
  )
  own.close()


def test_tasks_and_their_names(monkeypatch):
  assert tasks('memory_maze') == ['9x9', '11x11', '13x13', '15x15']
  assert memory_maze.MemoryMaze.canonical('MemoryMaze-11x11-v0') == '11x11'
  with pytest.raises(ValueError, match="unknown Memory Maze task '9x8': did you mean '9x9'"):
    make('memory_maze', '9x8', 1)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(RuntimeError, match='Memory Maze is not installed: pip install'):
    make('memory_maze', '9x9', 1)
