"""Vector environments: the episodes of the same environments stepped singly, in every mode."""

import functools

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from harmony_jax.envs import Episodes, random_policy, run_episodes
from harmony_jax.envs.gym import Gym
from harmony_jax.errors import EnvironmentFault

MODES = [mode.value for mode in AutoresetMode]


class Walk(gymnasium.Env):
  """A walk from a drawn place; ends after 2 to 6 steps, or is cut after 5."""

  observation_space = gymnasium.spaces.Dict(
    place=gymnasium.spaces.Box(-99, 99, (2,), np.float32), side=gymnasium.spaces.Discrete(2)
  )
  action_space = gymnasium.spaces.Discrete(3, start=-1)

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self.place, self.time = self.np_random.normal(size=2).astype(np.float32), 0
    self.length = int(self.np_random.integers(2, 7))
    return self.seen(), {}

  def seen(self):
    return {'place': self.place.copy(), 'side': int(self.place[0] > 0)}

  def step(self, action):
    self.time += 1
    self.place = self.place + np.float32([action, self.np_random.normal()])
    ends = self.time == self.length
    return self.seen(), float(self.place[1]), ends, self.time == 5, {'won': bool(action == 1)}


class Whole(SyncVectorEnv):
  """Resets all rows or none, from one seed, as environments of one array do."""

  def reset(self, *, seed=None, options=None):
    assert not isinstance(seed, list | np.ndarray)
    return super().reset(seed=seed)


class Slow(Walk):
  """Shows nothing but a clock that strikes after every third step."""

  observation_space = gymnasium.spaces.Discrete(9)

  def seen(self):
    return self.time // 3


class Forgetful(SyncVectorEnv):
  """Takes any seeds, and resets all rows whatever it is asked for."""

  def reset(self, *, seed=None, options=None):
    return super().reset(seed=int(np.ravel(seed)[0]))


def many(num_envs, autoreset_mode='NextStep', kind=SyncVectorEnv, copy=True):
  return kind([Walk] * num_envs, autoreset_mode=autoreset_mode, copy=copy)


@pytest.fixture(autouse=True)
def registered():
  gymnasium.register('Walk-v0', Walk, vector_entry_point=many)
  gymnasium.register('Walks-v0', vector_entry_point=functools.partial(many, kind=Whole))
  yield
  for name in ('Walk-v0', 'Walks-v0'):
    del gymnasium.registry[name]


def test_rows_that_look_as_at_their_beginning_are_not_taken_for_untouched():
  """After one step nothing has moved yet, so that a reset of all looks as one of the first."""
  for kind, waves in ((Forgetful, True), (SyncVectorEnv, False)):
    made = lambda num_envs, kind=kind: kind([Slow] * num_envs)
    gymnasium.register('Slow-v0', vector_entry_point=made)
    env = Gym('Slow-v0', 2)
    assert env.waves == waves
    del gymnasium.registry['Slow-v0']


class Talkative(SyncVectorEnv):
  """Says something of all rows together."""

  def step(self, actions):
    *result, infos = super().step(actions)
    of_all = {'bright': True, 'name': 'walk', 'names': ['walk'], 'ragged': [[1], [2, 3], 4]}
    return *result, infos | of_all


def test_an_info_without_rows_is_that_of_all():
  gymnasium.register('Talk-v0', vector_entry_point=functools.partial(many, kind=Talkative))
  env, no = Gym('Talk-v0', 2, success='bright'), np.zeros(2, bool)
  env.step(np.zeros(2, np.int32), ~no, np.arange(2))
  env.step(np.zeros(2, np.int32), no, np.arange(2))
  assert env.measures['success'].tolist() == [1, 1]
  del gymnasium.registry['Talk-v0']


def test_running_statistics_around_all_rows_are_refused():
  made = lambda num_envs: gymnasium.wrappers.vector.NormalizeReward(many(num_envs))
  gymnasium.register('Scaled-v0', vector_entry_point=made)
  with pytest.raises(ValueError, match='^Scaled-v0: its wrapper NormalizeReward normalises by'):
    Gym('Scaled-v0', 2)
  del gymnasium.registry['Scaled-v0']


class Other(SyncVectorEnv):
  """Resets in the step of an end, and says that it does so later, or nothing."""

  def __init__(self, count, said):
    super().__init__([Walk] * count, autoreset_mode='SameStep')
    self.metadata = said


def test_another_autoreset_mode_than_is_declared_is_told():
  gymnasium.register('Other-v0', vector_entry_point=lambda num_envs, said: Other(num_envs, said))
  with pytest.raises(ValueError, match="^Other-v0: its metadata say no 'autoreset_mode'"):
    Gym('Other-v0', 2, said={})
  episodes = Episodes(Gym('Other-v0', 2, said={'autoreset_mode': MODES[0]}), 0, 'train')
  episodes.step(None)
  with pytest.raises(EnvironmentFault, match="mode is NextStep, and its info has a 'final_obs'"):
    for _ in range(6):
      episodes.step(np.ones(2, int))
  del gymnasium.registry['Other-v0']


def assert_same(a, b, rows=slice(None)):
  for name in a.observation:
    np.testing.assert_array_equal(a.observation[name][rows], b.observation[name][rows])
  for one, other in zip(a[1:], b[1:], strict=True):
    np.testing.assert_array_equal(one[rows], other[rows])


@pytest.mark.parametrize('mode', MODES)
def test_training_is_as_with_single_ones(mode):
  """Flags, last observations, rewards and success of episodes with seeds, bit by bit; every step
  and reset writes into the same arrays.
  """
  single = Gym('Walk-v0', 3, success='won')
  env = Gym('Walk-v0', 3, vector=True, autoreset_mode=mode, success='won', copy=False)
  assert env.spec == single.spec and not env.waves and not env.replays
  policy, ends = random_policy(env.spec, 0), np.zeros(2, int)
  both = [Episodes(each, 0, 'train') for each in (single, env)]
  now, other = (each.step(None) for each in both)
  for _ in range(80):
    assert_same(now, other)
    np.testing.assert_array_equal(single.measures['success'], env.measures['success'])
    ends += now.is_terminal.sum(), now.is_last.sum()
    actions = policy(now)
    now, other = (each.step(actions) for each in both)
  assert 0 < ends[0] < ends[1]  # there were both kinds


@pytest.mark.parametrize('mode', MODES)
def test_evaluation_is_as_with_single_ones(mode):
  """Rows idle at the end, and the next evaluation begins within their episodes."""
  env, still = Gym('Walk-v0', 3, vector=True, autoreset_mode=mode), lambda now: np.ones(3, int)
  for seeds in (range(7), range(20, 22)):
    assert run_episodes(env, seeds, still) == run_episodes(Gym('Walk-v0', 3), seeds, still)


def test_one_that_resets_all_rows_or_none():
  """Training goes on without seeds, evaluation plays in waves: a first one with those of 0, 1, 2
  is that of single ones.
  """
  env, single = Gym('Walks-v0', 3), Gym('Walk-v0', 3)
  assert env.waves and 'those that begin together from one seed' in env.spec.readings[-1]
  still = lambda now: np.ones(3, int)
  first = run_episodes(env, range(3), still)
  assert first == run_episodes(single, range(3), still)
  six = run_episodes(env, range(6), still)
  assert six[:3] == first and six == run_episodes(single, range(6), still)
  episodes, policy = Episodes(env, 0, 'train'), random_policy(env.spec, 0)
  now, before = episodes.step(None), np.zeros(3, bool)
  for _ in range(40):
    np.testing.assert_array_equal(now.is_first, before | (episodes.ended == 0) & now.is_first)
    assert not now.reward[now.is_first].any()
    before, now = now.is_last, episodes.step(policy(now))


@pytest.mark.parametrize(
  'options, told',
  [
    ({'autoreset_mode': 'SameStep'}, 'its autoreset mode is SameStep and it does not reset rows'),
    ({'autoreset_mode': 'Disabled'}, 'its autoreset mode is Disabled and it does not reset rows'),
    ({'action_repeat': 2}, 'is made as one VectorEnv, which has no config.env.action_repeat'),
    ({'observe': 'render'}, 'is made as one VectorEnv, which has no config.env.observe'),
  ],
)
def test_what_it_cannot_be_is_one_line(options, told):
  with pytest.raises(ValueError, match=told):
    Gym('Walks-v0', 2, **options)
  gymnasium.register('Alone-v0', Walk)
  with pytest.raises(ValueError, match='^Alone-v0 has no VectorEnv of its own'):
    Gym('Alone-v0', 2, vector=True)
  del gymnasium.registry['Alone-v0']


def test_a_row_cannot_idle_within_an_episode():
  env, seeds = Gym('Walk-v0', 2, vector=True), np.arange(2)
  actions, none = np.ones(2, np.int32), np.zeros(2, bool)
  now = env.step(actions, ~none, seeds)
  later = env.step(actions, none, seeds, idle=np.array([True, False]))
  assert_same(now, later, 0)
  with pytest.raises(EnvironmentFault, match='cannot idle within an episode'):
    env.step(actions, later.is_last, seeds)


def test_a_stopped_run_begins_its_episodes_anew():
  env = Gym('Walk-v0', 2, vector=True)
  episodes = Episodes(env, 0, 'train')
  first = episodes.step(None)
  episodes.step(np.ones(2, int))
  again = Episodes(env, 0, 'train')
  assert again.restore(episodes.state()) is None
  assert_same(again.step(None), first)
