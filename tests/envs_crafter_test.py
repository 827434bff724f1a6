"""Crafter: its own numbers, episodes that repeat to the bit, and its score."""

import functools
import importlib

import numpy as np
import pytest

from harmony_jax.envs import crafter, make, random_policy, run_episodes
from harmony_jax.envs.check import check

crafter_ = pytest.importorskip('crafter')


@pytest.fixture
def small_worlds(monkeypatch):
  """Worlds of a seventh of the size: the package needs seconds to make one."""
  monkeypatch.setattr(crafter_, 'Env', functools.partial(crafter_.Env, area=(24, 24)))


@pytest.mark.usefixtures('small_worlds')
def test_the_convention():
  """Twice the same from a seed, creatures that come and go included."""
  check(make('crafter', 'crafter', 2), steps=60)


@pytest.mark.usefixtures('small_worlds')
def test_it_is_the_package():
  """The same pictures, rewards and achievements as of the package's own environment."""
  env, own = make('crafter', 'crafter', 1), crafter_.Env(seed=5)
  own._balance_chunk = lambda chunk, objs: None  # which depends on addresses in memory
  env._worlds[0]._balance_chunk = own._balance_chunk
  none, rng = np.zeros(1, bool), np.random.default_rng(0)
  now = env.step(np.zeros(1, np.int32), ~none, np.array([5]))
  np.testing.assert_array_equal(now.observation['image'][0], own.reset())
  for _ in range(100):
    action = rng.integers(17)
    now = env.step(np.array([action], np.int32), none, np.array([0]))
    image, reward, done, info = own.step(action)
    np.testing.assert_array_equal(now.observation['image'][0], image)
    assert now.reward[0] == np.float32(reward) and now.is_last[0] == done
    assert {k: v[0] > 0 for k, v in env.measures.items()} == {
      k: v > 0 for k, v in info['achievements'].items()
    }
    if done:
      break


@pytest.mark.usefixtures('small_worlds')
def test_an_end_by_the_limit_is_not_terminal():
  (result,) = run_episodes(
    make('crafter', 'crafter', 1, length=20), [0], lambda now: np.zeros(1, np.int32)
  )
  assert result.length == 20
  env, all_ = make('crafter', 'crafter', 1, length=3), np.ones(1, bool)
  env.step(np.zeros(1, np.int32), all_, np.array([0]))
  shown = [env.step(np.zeros(1, np.int32), ~all_, np.array([0])) for _ in range(3)]
  assert [now.is_last[0] for now in shown] == [False, False, True]
  assert not shown[-1].is_terminal[0]


def test_the_score_is_the_geometric_mean_of_rates():
  """By hand."""
  rates = dict.fromkeys(crafter.ACHIEVEMENTS, 0.0)
  assert crafter.score(rates) == 0
  assert crafter.score(dict.fromkeys(rates, 1.0)) == pytest.approx(100)
  assert crafter.score({**rates, 'eat_cow': 0.5}) == pytest.approx(51 ** (1 / 22) - 1)


@pytest.mark.slow
def test_the_score_of_a_random_player():
  """Who unlocks few: about 1.6 in the paper."""
  env = make('crafter', 'crafter', 4)
  played = run_episodes(env, range(10), random_policy(env.spec, 0))
  found = crafter.SUITE.summary(
    {name: np.mean([one.measures[name] for one in played]) for name in crafter.ACHIEVEMENTS}
  )
  assert 0.8 < found['crafter_score'] < 3


def test_without_the_package_it_is_one_line(monkeypatch):
  monkeypatch.setitem(importlib.import_module('sys').modules, 'crafter', None)
  with pytest.raises(RuntimeError, match='Crafter is not installed: pip install'):
    make('crafter', 'crafter', 1)
