"""Episodes: own seeds, complete evaluations, exact resumption; and the checker finds broken
environments.
"""

import inspect
import json

import chex
import numpy as np
import pytest

from harmony_jax.envs import (
  ArraySpec,
  EpisodeResult,
  Episodes,
  Spec,
  base,
  episode_seed,
  make,
  play,
  run_episodes,
)
from harmony_jax.envs.check import check
from harmony_jax.errors import EnvironmentFault
from harmony_jax.training.evaluation import summary


class Counter:
  """Episodes last `1 + seed % 13` steps; shows seed, time and the sum of actions; pays the time."""

  def __init__(self, num_envs=3, discrete=True):
    self.num_envs = num_envs
    self.spec = Spec({'vector': ArraySpec((3,), np.float64)}, discrete, 2, 1)
    self.begun = []  # every seed that was begun, in order
    self.last = base.empty_timestep(self.spec, num_envs)

  def step(self, actions, restart, seeds, idle=None):
    idle = np.zeros(self.num_envs, bool) if idle is None else idle
    for index in np.flatnonzero(~idle):
      self.advance(index, actions[index], restart[index], seeds[index])
    return base.copy_timestep(self.last)

  def advance(self, index, action, restart, seed):
    last, row = self.last, self.last.observation['vector'][index]
    if restart:
      self.begun.append(int(seed))
      row[:] = seed, 0, 0
    else:
      assert not last.is_last[index], 'stepped after the end'
      row += 0, 1, np.sum(action)
    last.reward[index] = row[1]
    last.is_first[index] = restart
    last.is_last[index] = last.is_terminal[index] = row[1] == 1 + row[0] % 13

  def close(self):
    pass


class Frail(Counter):
  """Fails where `plan` says, {(seed, time): how often}, and shows it as `Processes` does."""

  def __init__(self, num_envs, plan):
    super().__init__(num_envs)
    self.plan = dict(plan)

  def step(self, actions, restart, seeds, idle=None):
    self.failed = np.zeros(self.num_envs, bool)
    return super().step(actions, restart, seeds, idle)

  def advance(self, index, action, restart, seed):
    first, time, _ = self.last.observation['vector'][index]
    if not restart and self.plan.get((first, time + 1)):
      self.plan[first, time + 1] -= 1
      self.failed[index] = True
      base.truncate(self.last, index)
    else:
      super().advance(index, action, restart, seed)


def still(env):
  return lambda timestep: base.zero_actions(env.spec, env.num_envs)


def test_seeds_are_stable_31_bit_and_apart():
  assert episode_seed(0, 'train', 0, 0) == 1484405854  # as when this was written
  places = [
    (run, stream, environment, episode)
    for run in range(5)
    for stream in ('train', 'eval')
    for environment in range(8)
    for episode in range(100)
  ]
  seeds = {place: episode_seed(*place) for place in places}
  assert len(set(seeds.values())) == len(places)
  assert all(0 <= seed < 2**31 and type(seed) is int for seed in seeds.values())
  # Not by luck: the last bit is the stream's.
  assert all(seed % 2 == (place[1] == 'eval') for place, seed in seeds.items())
  assert max(seeds.values()) > 2**30.9 and min(seeds.values()) < 2**27
  with pytest.raises(ValueError, match='unknown stream'):
    episode_seed(0, 'test', 0, 0)


@pytest.mark.parametrize('num_envs', [1, 3, 7, 50])
def test_exactly_one_episode_per_seed_whatever_their_lengths(num_envs):
  env = Counter(num_envs)
  seeds = [int(seed) for seed in np.random.default_rng(0).permutation(40)]
  results = run_episodes(env, seeds, still(env))
  assert sorted(env.begun) == sorted(seeds)
  assert [result.seed for result in results] == seeds
  for result in results:
    length = 1 + result.seed % 13
    assert result.length == length and result.score == length * (length + 1) / 2


def test_a_seed_may_come_twice_and_no_seed_is_no_episode():
  env = Counter(2)
  assert [result.length for result in run_episodes(env, [4, 4, 4], still(env))] == [5, 5, 5]
  assert env.begun == [4, 4, 4]
  assert run_episodes(env, [], still(env)) == []


@pytest.mark.parametrize('num_envs', [1, 3])
def test_an_episode_cut_off_by_a_failure_is_played_again(num_envs):
  env = Frail(num_envs, {(2, 1): 1, (4, 5): 2, (11, 12): 1})
  seeds = list(range(13))
  assert run_episodes(env, seeds, still(env)) == run_episodes(Counter(num_envs), seeds, still(env))
  assert sorted(env.begun) == sorted(seeds + [2, 4, 4, 11])


class Measured(Counter):
  """Tells two outcomes: 'half', 1 only in the middle of an episode of an even seed, and 'debt',
  minus the time left.
  """

  def __init__(self, num_envs):
    super().__init__(num_envs)
    self.measures = {name: np.zeros(num_envs, np.float32) for name in ('half', 'debt')}

  def advance(self, index, action, restart, seed):
    super().advance(index, action, restart, seed)
    first, time, _ = self.last.observation['vector'][index]
    length = 1 + first % 13
    self.measures['half'][index] = first % 2 == 0 and time == length // 2
    self.measures['debt'][index] = time - length - first


@pytest.mark.parametrize('num_envs', [1, 3])
def test_episodes_that_do_not_end_are_cut(num_envs):
  """At the limit and not before; one that ends there by itself is whole."""
  seeds = range(13)
  game = play(Counter(num_envs), seeds, limit=5)
  timestep = next(game)
  with pytest.raises(StopIteration) as end:
    while True:
      timestep = game.send(np.zeros(len(timestep.reward), np.int32))
  results = end.value.value
  assert [result.length for result in results] == [min(1 + seed, 5) for seed in seeds]
  assert [result.cut for result in results] == [1 + seed > 5 for seed in seeds]
  assert [result.score for result in results] == [sum(range(min(1 + s, 5) + 1)) for s in seeds]
  assert summary(results)['cut'] == 8 and 'cut' not in summary(results[:5])


def test_last_rewards_can_be_left_out():
  game = play(Counter(2), range(5), ends=False)
  timestep = next(game)
  with pytest.raises(StopIteration) as end:
    while True:
      timestep = game.send(np.zeros(len(timestep.reward), np.int32))
  assert [(one.score, one.length) for one in end.value.value] == [
    (sum(range(1 + seed)), 1 + seed) for seed in range(5)
  ]


@pytest.mark.parametrize('num_envs', [1, 4])
def test_measures_are_the_maximum_over_the_episode_and_of_no_other(num_envs):
  env = Measured(num_envs)
  seeds = list(range(2, 22))
  results = run_episodes(env, seeds, still(env))
  assert [result.measures for result in results] == [
    {'half': float(seed % 2 == 0), 'debt': float(-seed)} for seed in seeds
  ]
  told = summary(results)
  assert (told['half'], told['debt']) == (0.5, -11.5)
  assert told['mean'] == np.mean([result.score for result in results])


def test_without_measures_there_are_none():
  env = Counter(2)
  results = run_episodes(env, [3, 4], still(env))
  assert [result.measures for result in results] == [{}, {}]
  assert summary(results).keys() == {'mean', 'std', 'scores', 'lengths'}
  assert EpisodeResult(1, 2.0, 3).measures == {}


@pytest.mark.parametrize('name', ['reward', 'vector'])
def test_no_score_is_of_numbers_that_are_none(name):
  class Broken(Counter):
    def advance(self, index, action, restart, seed):
      super().advance(index, action, restart, seed)
      if (seed, self.last.observation['vector'][index, 1]) == (11, 4):
        {'reward': self.last.reward, **self.last.observation}[name][index] = np.nan

  run_episodes(Broken(2), range(9), still(Broken(2)))
  with pytest.raises(EnvironmentFault, match=f"'{name}' has nan in it, in an evaluation"):
    run_episodes(Broken(2), range(13), still(Broken(2)))


def test_evaluation_abandons_what_was_running():
  env = Counter(2)
  for time in range(3):
    env.step(np.zeros(2, np.int32), np.full(2, time == 0), np.array([12, 12]))
  assert [result.length for result in run_episodes(env, [5, 6, 7], still(env))] == [6, 7, 8]


def test_the_policy_and_the_callback_see_every_step_of_every_episode():
  env = Counter(3)
  seen, asked = [], []

  def policy(timestep):
    asked.append(timestep)
    return np.array([1, 0, 1], np.int32)

  results = run_episodes(env, list(range(10)), policy, lambda *pair: seen.append(pair))
  assert len(seen) == len(asked)
  chex.assert_trees_all_equal([pair[0] for pair in seen], asked)
  assert all(pair[1].tolist() == [1, 0, 1] for pair in seen)
  frames, ended = 0, np.ones(3, bool)
  for timestep in asked:
    frames += (timestep.is_first | ~ended).sum()
    ended = timestep.is_last
  assert frames == sum(result.length + 1 for result in results)
  assert sum(timestep.is_first.sum() for timestep in asked) == 10


def test_episodes_begin_again_by_themselves_with_the_next_seed():
  env = Counter(2)
  episodes = Episodes(env, 5, 'train')
  timestep = episodes.step(None)
  assert timestep.is_first.all()
  ended = np.zeros(2, bool)
  for _ in range(60):
    timestep = episodes.step(np.zeros(2, np.int32))
    np.testing.assert_array_equal(timestep.is_first, ended)
    ended = timestep.is_last
  begun = {seed: count for count, seed in enumerate(env.begun)}
  for index in range(2):
    expected = [
      episode_seed(5, 'train', index, k) for k in range(episodes.state()['episode'][index] + 1)
    ]
    order = [begun[seed] for seed in expected]
    assert order == sorted(order) and len(order) > 2
  with pytest.raises(ValueError, match='actions are None'):
    Episodes.step(episodes, None)


@pytest.mark.parametrize('discrete', [True, False])
@pytest.mark.parametrize('stop', [1, 2, 5, 14, 33])
def test_a_resumed_run_is_where_it_was(stop, discrete):
  rng = np.random.default_rng(0)
  actions = (
    rng.integers(2, size=(60, 3), dtype=np.int32)
    if discrete
    else rng.uniform(-1, 1, (60, 3, 2)).astype(np.float32)
  )
  whole = Episodes(Counter(3, discrete), 1, 'train')
  for time in range(stop):
    before = whole.step(actions[time] if time else None)
  state = json.loads(json.dumps(whole.state()))
  resumed = Episodes(Counter(3, discrete), 1, 'train')
  chex.assert_trees_all_equal(resumed.restore(state), before)
  for time in range(stop, 60):
    chex.assert_trees_all_equal(resumed.step(actions[time]), whole.step(actions[time]))
  assert resumed.state() == whole.state()


@pytest.mark.parametrize('stop', [1, 4])
def test_a_run_resumed_right_after_a_failure_is_where_it_was(stop):
  """The step that failed may succeed when it is played again; its episode is over nevertheless."""
  first = [episode_seed(1, 'train', index, 0) for index in range(3)]
  assert min(seed % 13 for seed in first) >= 4  # all last longer than this test waits
  rng = np.random.default_rng(0)
  actions = rng.integers(2, size=(60, 3), dtype=np.int32)
  whole = Episodes(Frail(3, {(first[1], stop): 1}), 1, 'train')
  for time in range(stop + 1):
    before = whole.step(actions[time] if time else None)
  assert before.is_last.tolist() == [False, True, False]
  state = json.loads(json.dumps(whole.state()))
  disturbed = Frail(3, {(first[0], 1): 2, (first[2], stop): 1})  # fails while it replays
  for env in (Counter(3), disturbed):
    resumed = Episodes(env, 1, 'train')
    chex.assert_trees_all_equal(resumed.restore(state), before)
    assert resumed.state() == whole.state()
  assert not any(disturbed.plan.values())
  for time in range(stop + 1, 60):
    chex.assert_trees_all_equal(resumed.step(actions[time]), whole.step(actions[time]))
  assert resumed.state() == whole.state()


def test_an_episode_that_ends_otherwise_when_it_is_played_again_begins_anew(caplog):
  """Of an environment that is no function of its seed: it is not stepped past its end."""

  class Unseeded(Counter):
    def advance(self, index, action, restart, seed):
      super().advance(index, action, restart, 2 + len(self.begun) if restart else seed)

  whole = Episodes(Unseeded(2), 1, 'train')  # episodes of 3, 4, 5, … steps
  for time in range(4):
    now = whole.step(np.ones(2, np.int32) if time else None)
  assert now.is_last.tolist() == [True, False]
  env = Unseeded(2)
  env.begun += [0] * 10  # so that they are of 13 and 1
  resumed = Episodes(env, 1, 'train')
  now = resumed.restore(json.loads(json.dumps(whole.state())))
  assert now.is_first.all() and not now.is_last.any() and not resumed.lengths.any()
  assert all(f'environment {index} does not repeat' in caplog.text for index in range(2))
  for _ in range(20):
    resumed.step(np.ones(2, np.int32))


def test_without_replay_interrupted_episodes_begin_anew_with_their_seeds():
  whole = Episodes(Counter(3), 1, 'train')
  timestep = whole.step(None)
  while timestep.is_last.sum() != 1:  # one has ended, two are interrupted
    timestep = whole.step(np.zeros(3, np.int32))
  env = Counter(3)
  resumed = Episodes(env, 1, 'train')
  assert resumed.restore(whole.state(), replay=False) is None
  assert resumed.step(None).is_first.all()
  assert env.begun == [
    episode_seed(1, 'train', index, episode + timestep.is_last[index])
    for index, episode in enumerate(whole.state()['episode'])
  ]


def test_a_state_that_was_saved_before_failures_were_told():
  whole = Episodes(Counter(3), 1, 'train')
  timestep = whole.step(None)
  state = whole.state()
  del state['failed']
  chex.assert_trees_all_equal(Episodes(Counter(3), 1, 'train').restore(state), timestep)


def test_a_state_from_before_the_first_step_and_one_that_does_not_fit():
  fresh = Episodes(Counter(3), 1, 'train')
  resumed = Episodes(Counter(3), 1, 'train')
  assert resumed.restore(fresh.state()) is None
  chex.assert_trees_all_equal(resumed.step(None), fresh.step(None))
  with pytest.raises(ValueError, match='the state has 3 environments; here are 2'):
    Episodes(Counter(2), 1, 'train').restore(fresh.state())


def test_unknown_suites_and_tasks_name_the_nearest():
  with pytest.raises(
    ValueError, match="^unknown suite 'atary': did you mean 'atari'.*known: .*catch"
  ) as error:
    make('atary', 'Pong', 1)
  assert '\n' not in str(error.value)


# The checker: a sound environment passes, and each broken promise is found.


@pytest.mark.parametrize('discrete', [True, False])
@pytest.mark.parametrize('num_envs', [1, 3])
def test_check_passes_a_sound_environment(num_envs, discrete):
  check(Counter(num_envs, discrete))


def changed(change):
  class Broken(Counter):
    def step(self, actions, restart, seeds, idle=None):
      return change(self, super().step(actions, restart, seeds, idle), restart)

  return Broken()


BROKEN = {
  'has shape': lambda env, t, r: t._replace(reward=t.reward[:, None]),
  'has dtype': lambda env, t, r: t._replace(reward=t.reward.astype(np.float64)),
  'not a NumPy array': lambda env, t, r: t._replace(is_last=t.is_last.tolist()),
  'observation has': lambda env, t, r: t._replace(observation={'image': t.observation['vector']}),
  'changed the arrays': lambda env, t, r: env.last,
  'reward .* where is_first': lambda env, t, r: t._replace(reward=t.reward + 1),
  'is_first is': lambda env, t, r: t._replace(is_first=np.zeros(3, bool)),
  'is_terminal without is_last': lambda env, t, r: t._replace(is_terminal=~t.is_last),
  'is_first and is_last at once': lambda env, t, r: t._replace(is_last=t.is_last | r),
  'but step . differs': lambda env, t, r: t._replace(
    observation={'vector': t.observation['vector'] + len(env.begun)}
  ),
  'not a TimeStep|returned a tuple': lambda env, t, r: tuple(t),
}


def check_without_assertions(env):
  """`check` as Python has it with -O."""
  source, found = inspect.getsource(inspect.getmodule(check)), {}
  exec(compile(source, 'check.py', 'exec', optimize=1), found)
  found['check'](env)


checks = pytest.mark.parametrize('check', [check, check_without_assertions])


@checks
@pytest.mark.parametrize('message', BROKEN)
def test_check_finds_a_broken_promise(message, check):
  with pytest.raises(AssertionError, match=message):
    check(changed(BROKEN[message]))


@checks
def test_check_finds_an_environment_that_steps_while_idle(check):
  class Restless(Counter):
    def step(self, actions, restart, seeds, idle=None):
      return super().step(actions, restart, seeds)

  with pytest.raises(AssertionError, match='idle'):
    check(Restless())
