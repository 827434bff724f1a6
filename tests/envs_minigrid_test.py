"""MiniGrid: the package's own numbers behind each view, its tasks, and success by hand."""

import sys

import gymnasium
import numpy as np
import pytest

from harmony_jax.envs import make, minigrid, tasks
from harmony_jax.envs.check import check

pytest.importorskip('minigrid')
NONE, ALL = np.zeros(1, bool), np.ones(1, bool)
LEFT, RIGHT, FORWARD = (np.array([action], np.int32) for action in range(3))


@pytest.mark.parametrize('view', minigrid.VIEWS)
def test_the_convention_and_what_is_seen(view):
  env = make('minigrid', 'DoorKey-5x5', 2, view=view)
  seen = {name: array.shape for name, array in env.spec.observation.items()}
  picture = (7 * 7 * (11 + 6 + 3),) if view == 'codes' else (64, 64, 3)
  assert seen == {'direction': (4,), 'image': picture}
  assert (env.spec.num_actions, env.spec.episode_limit) == (7, 250)
  check(env, steps=12)


def test_codes_are_the_package_s():
  """Object, colour and state of a cell, by the numbers of the bare environment."""
  env, own = make('minigrid', 'DoorKey-8x8', 1), gymnasium.make('MiniGrid-DoorKey-8x8-v0')
  now, (bare, _) = env.step(LEFT, ALL, np.array([3])), own.reset(seed=3)
  rng = np.random.default_rng(0)
  for _ in range(40):
    hot = now.observation['image'].reshape(7, 7, 20)
    parts = np.split(hot, [11, 17], -1)
    assert all((part.sum(-1) == 1).all() for part in parts)
    codes = np.stack([part.argmax(-1) for part in parts], -1)
    np.testing.assert_array_equal(codes, bare['image'])
    assert now.observation['direction'][0].argmax() == bare['direction']
    action = rng.integers(7, size=1)
    now, (bare, reward, *_) = env.step(action, NONE, np.array([0])), own.step(action[0])
    assert now.reward[0] == np.float32(reward)


def test_the_goal_is_a_success_and_the_limit_is_none():
  """In an empty room of 3 × 3 the goal is two steps down of two steps to the right."""
  env = make('minigrid', 'Empty-5x5', 1)
  env.step(LEFT, ALL, np.array([0]))
  for action in (FORWARD, FORWARD, RIGHT, FORWARD, FORWARD):
    assert env.measures['success'][0] == 0
    now = env.step(action, NONE, np.array([0]))
  assert now.is_last[0] and now.is_terminal[0] and env.measures['success'][0] == 1
  assert now.reward[0] == np.float32(1 - 0.9 * 5 / 100)
  env.step(LEFT, ALL, np.array([1]))
  turns = [env.step(LEFT, NONE, np.array([0])) for _ in range(100)]
  assert [now.is_last[0] for now in turns] == [False] * 99 + [True]
  assert not turns[-1].is_terminal[0] and env.measures['success'][0] == 0


def test_lava_ends_an_episode_without_success():
  env = make('minigrid', 'LavaGapS5', 1)
  env.step(LEFT, ALL, np.array([0]))
  for _ in range(3):
    now = env.step(FORWARD, NONE, np.array([0]))
    if now.is_last[0]:
      break
  assert now.is_terminal[0] and now.reward[0] == env.measures['success'][0] == 0


def test_tasks_and_their_names():
  names = tasks('minigrid')
  assert len(names) > 60 and {'DoorKey-8x8', 'MultiRoom-N4-S5-v1', 'FourRooms'} < set(names)
  for given in ('doorkey-8x8', 'MiniGrid-DoorKey-8x8-v0'):
    assert minigrid.MiniGrid.canonical(given) == 'DoorKey-8x8'
  with pytest.raises(ValueError, match="unknown MiniGrid task 'DorKey-8x8': did you mean 'DoorKey"):
    make('minigrid', 'DorKey-8x8', 1)


def test_without_the_package_it_is_one_line(monkeypatch):
  monkeypatch.setitem(sys.modules, 'minigrid', None)
  with pytest.raises(RuntimeError, match='MiniGrid is not installed: pip install'):
    make('minigrid', 'DoorKey-8x8', 1)
