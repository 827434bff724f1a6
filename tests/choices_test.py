"""Actions of several choices, alone and with numbers behind them, with every method and in runs."""

import jax
import numpy as np
import pytest

from configs import common
from harmony_jax import envs, settings, trained
from harmony_jax.envs import base
from harmony_jax.envs.check import check
from harmony_jax.training import faults
from harmony_jax.training.evaluation import evaluate
from tests import matching, shooting, small
from tests.loop_test import assert_same
from tests.runs import TINY, From, Killed, die, train

TWO = dict(discrete=False, actions=5, choices=(3, 2))
MIXED = dict(discrete=False, actions=7, choices=(3, 2))
METHODS = {
  'dreamerv3': dict(shapes=small.VECTOR),
  'dreamerv2': dict(name='dreamerv2', shapes=small.VECTOR),
  'dreamerpro': {**small.PRO, 'actor__unimix': 0.01},
}


def blocks(vectors):
  """The one-hots of (3, 2) in action vectors."""
  return np.split(np.asarray(vectors)[..., :5], [3], -1)


UPDATES = [
  *(pytest.param(name, MIXED, id=f'{name}-mixed') for name in METHODS),
  pytest.param('dreamerv3', TWO, id='dreamerv3-two'),
  # the numbers of MIXED only come to what is learned of choices
  *(
    pytest.param(name, TWO, id=f'{name}-two', marks=pytest.mark.slow) for name in list(METHODS)[1:]
  ),
]


@pytest.mark.parametrize('name, kind', UPDATES)
def test_an_update_is_finite_and_changes_the_whole_actor(name, kind):
  agent = small.agent(**{**METHODS[name], **kind})
  state, batch = small.state_of(agent), small.batch(agent.shapes, **kind)
  after, metrics = small.jit(agent.train_step)(state, batch)
  assert all(np.isfinite(x) for x in metrics.values())
  assert not agent.actor_objective().through_dynamics
  for old, new in zip(
    jax.tree.leaves(state.params['actor']), jax.tree.leaves(after.params['actor'])
  ):
    assert np.isfinite(new).all() and (old != new).mean() > 0.9


@pytest.mark.parametrize('name', METHODS)
def test_actions_begin_with_exact_one_hots(name):
  """Samples and modes in the environment, and those of an imagination; numbers are in [-1, 1]."""
  agent = small.agent(**{**METHODS[name], **MIXED})
  variables = agent.variables(small.state_of(agent))
  carry, batch = agent.initial_carry(variables, 50), small.batch(agent.shapes, size=50)
  seen = {name: batch[name][:, 0] for name in agent.shapes}
  act = small.jit(agent.act, static_argnames='mode')
  for mode in (False, True):
    vectors, _ = act(variables, carry, seen, np.ones(50, bool), jax.random.key(1), mode)
    chosen, rest = base.decode(base.to_environment(np.asarray(vectors), agent.spec), (3, 2))
    assert all((block.sum(-1) == 1).all() and block.max() == 1 for block in blocks(vectors))
    assert np.abs(rest).max() <= 1 and (mode or len(set(zip(*map(tuple, chosen)))) == 6)
  if 'dream' in agent.capabilities:
    dream = small.jit(agent.capabilities['dream'], static_argnames=('count', 'length'))
    actions = dream(variables, jax.random.key(0), count=2, length=5)['action']
    assert all((np.sort(block)[..., -1] == 1).all() for block in blocks(actions))
    assert all((block.sum(-1) == 1).all() for block in blocks(actions))


def test_a_method_that_is_no_dreamer_plans_several_choices():
  chosen = settings.replace(shooting.METHOD.settings, shooting.SIZES)
  picture = {'image': (16, 16, 3)}
  one = shooting.METHOD.make(chosen, small.spec(picture, **TWO))
  state, batch = one.init(jax.random.key(0)), small.batch(picture, **TWO, size=4, length=6)
  after, metrics = small.jit(one.train_step)(state, batch)
  assert all(np.isfinite(x) for x in metrics.values())
  carry = one.initial_carry(after.params, 4)
  seen = {'image': batch['image'][:, 0]}
  vectors, _ = one.act(after.params, carry, seen, np.ones(4, bool), jax.random.key(1))
  assert all((block.sum(-1) == 1).all() for block in blocks(vectors))
  with pytest.raises(ValueError, match='no continuous actions'):
    shooting.METHOD.make(chosen, small.spec(picture, **MIXED))


# The game of tests/matching.py.


def play(env, policy):
  """The score of one episode of each environment."""
  return np.mean([result.score for result in envs.run_episodes(env, range(100), policy)])


@pytest.mark.parametrize('task', matching.BEST)
@pytest.mark.parametrize('observe', ['auto', 'render'])
def test_the_game_keeps_the_convention(task, observe):
  check(envs.make('gym', f'tests.matching:{task}', 2, observe=observe), steps=20)


@pytest.mark.parametrize('task', matching.BEST)
def test_scores_of_the_game(task):
  env = envs.make('gym', f'tests.matching:{task}', 10)

  def expert(timestep):
    seen = timestep.observation['state']
    lever = 2 * seen[:, 1:2] - 1
    return np.concatenate([seen, lever], -1)[:, : env.spec.num_actions]

  assert play(env, expert) == matching.BEST[task]
  chance = matching.CHANCE[task]
  assert abs(play(env, envs.random_policy(env.spec, 0)) - chance) < 0.2 * chance


def config_of(task):
  """Return the configuration of a tiny run of a small method: what is around methods is tested."""
  made = common.make(common.suite('gym'), 'tests.linear:METHOD', 'tiny', f'tests.matching:{task}')
  return made.replace({**TINY, 'prefill_chunk': 8})


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  return folder, train(folder, config_of('Pulling-v0'))


def test_a_killed_run_ends_as_the_undisturbed_one(whole, tmp_path):
  config = config_of('Pulling-v0')
  with pytest.raises(Killed):
    train(tmp_path, config, From(120, die))
  assert_same(*whole, tmp_path, train(tmp_path, config))


def test_what_was_stored_and_learned(whole):
  """Vectors in the replay; a trained agent's actions as the environment takes them."""
  folder, trainer = whole
  stored = trainer.replay.sample(0)
  (left, right), lever = blocks_of(stored['action'])
  going = ~stored['is_last']
  assert (left.sum(-1) == going).all() and (right.sum(-1) == going).all() and lever.any()
  agent = trained.Agent.load(folder, allow_import=True)
  assert agent.spec == trainer.env.spec and agent.spec.choices == (2, 3)
  env = agent.make_env(3)
  timestep = envs.Episodes(env, 0, 'eval').step(None)
  action, state = agent.policy(timestep.observation)
  assert action.shape == (3, 6) and action.dtype == np.float32
  env.step(action, np.zeros(3, bool), np.zeros(3, int))
  single, _ = agent.policy(timestep.observation['state'][0])
  (left, right), _ = base.decode(single, agent.spec.choices)
  assert single.shape == (6,) and left in range(2) and right in range(3)
  played = evaluate(agent.method, agent.compiled, agent.variables, [env], 0, 160, 4, mode=True)
  assert all(result.length == matching.STEPS for result in played)


def blocks_of(vectors):
  """The one-hots of (2, 3), and the lever."""
  return np.split(vectors[..., :5], [2], -1), vectors[..., 5:]


def test_an_update_that_went_wrong_is_repeated_with_its_choices(whole, monkeypatch):
  folder, trainer = whole
  monkeypatch.setattr(faults, 'first_not_finite', lambda of, *_: [str(of.spec.choices)])
  faults.dump(trainer.method, trainer.updates.state, trainer.replay.sample(0), folder, 160, 1)
  found = faults.reproduce(folder, allow_import=True)
  assert found['found'] == found['recorded'] == ['(2, 3)']


def test_an_agent_of_other_choices_does_not_fit(whole):
  agent = trained.Agent.load(whole[0], allow_import=True)
  other = agent.config.replace({'task': 'tests.matching:Matching-v0'})
  stranger = trained.Agent(other, agent.method, agent.variables)
  with pytest.raises(trained.UserError, match='2 × 3 choices and 1 continuous actions, here are'):
    stranger.make_env()
