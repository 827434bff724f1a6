"""The agent: sizes, properties of a training step, and what the recorded runs do not cover."""

import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dreamerv3
from harmony_jax import distributions as dists
from harmony_jax.agent import Agent, parameter_count, shift_actions
from harmony_jax.behavior import Noise
from harmony_jax.returns import Percentiles
from tests import small

GOLDENS = pathlib.Path(__file__).parent / 'goldens' / 'agent.json'
CASES = {
  'discrete': dict(),
  'continuous': dict(discrete=False, weighting__rule='none'),
  'vector': dict(shapes=small.VECTOR, weighting__rule='reciprocal'),
  'both': dict(
    shapes={**small.IMAGE, **small.VECTOR},
    weighting__harmonize_vector=True,
    weighting__rate=3.0,
    weighting__beta2=0.99,
  ),
}


def train(steps=2, **case):
  """State, metrics and the size of every update after some steps of a case. Kept, as compiling
  takes long.
  """
  key = (steps, repr(sorted(case.items())))
  if key not in _trained:
    agent = small.agent(**case)
    batch = small.batch(**{k: v for k, v in case.items() if k in ('shapes', 'discrete')})
    start = state = agent.init(jax.random.key(0))
    step = jax.jit(agent.train_step)
    for _ in range(steps):
      state, metrics = step(state, batch)
    moved = jax.tree.map(lambda a, b: float(jnp.linalg.norm(a - b)), state.params, start.params)
    moved = {jax.tree_util.keystr(p): v for p, v in jax.tree_util.tree_leaves_with_path(moved)}
    _trained[key] = agent, state, {k: float(v) for k, v in metrics.items()}, moved
  return _trained[key]


_trained = {}


def test_parameter_counts():
  """The exact counts of the authors' Atari 100K model with 6 actions."""
  agent = Agent.from_config(dreamerv3.get_config(), {'image': (64, 64, 3)}, 6, True)
  params = jax.eval_shape(agent.init, jax.random.key(0)).params
  model = {k: parameter_count(v) for k, v in params['world_model'].items()}
  assert model == {
    'encoder': 690_624,
    'rssm': 5_778_944,
    'decoder': 6_985_667,
    'reward': 1_181_439,
    'continue': 1_051_137,
    'harmony': 3,
  }
  counts = {k: parameter_count(v) for k, v in params.items()}
  assert counts == {'world_model': 15_687_814, 'actor': 1_053_702, 'critic': 1_181_439}
  assert parameter_count(params) == 17_922_955


@pytest.mark.parametrize(
  'name', [pytest.param(name, marks=[pytest.mark.slow] * (name == 'both')) for name in CASES]
)
def test_goldens(name):
  """Metrics and the size of every update equal those recorded from this code when it agreed with
  the authors'.
  """
  _, _, metrics, moved = train(**CASES[name])
  recorded = json.loads(GOLDENS.read_text())[name]
  for group, now, limit in (('metrics', metrics, 1e-3), ('moved', moved, 2e-2)):
    assert set(now) == set(recorded[group])
    for key, value in recorded[group].items():
      np.testing.assert_allclose(now[key], value, rtol=limit, atol=1e-6, err_msg=f'{name} {key}')


def record_goldens():
  """Writes the goldens anew: python -c 'from tests import agent_test; agent_test.record_goldens()'."""
  record = {}
  for name, case in CASES.items():
    _, _, metrics, moved = train(**case)
    record[name] = {'metrics': metrics, 'moved': moved}
  GOLDENS.write_text(json.dumps(record, indent=1) + '\n')


WEIGHTINGS = {
  'harmony': (dict(), {}, 3 * np.log(2) - np.log(2) / 6),
  'paper_bracket': (dict(weighting__dynamics_regularizer='paper'), {}, 3 * np.log(2)),
  'unrectified': (dict(weighting__rule='harmony_unrectified'), {}, 0.0),
  'none': (dict(weighting__rule='none'), {'dynamics': 0.6}, 0.0),
  'fixed': (
    dict(weighting__rule='fixed', weighting__w_r=100.0, weighting__w_o=0.0),
    {'reward': 100.0, 'observation': 0.0},
    0.0,
  ),
  'some_tasks': (
    dict(weighting__tasks=('observation', 'reward')),
    {'dynamics': 0.6},
    2 * np.log(2),
  ),
}


@pytest.mark.parametrize('name', WEIGHTINGS)
def test_weighting_rules_of_the_configuration(name):
  """The total that each setting makes of the same losses, at σ = 1; the continue loss has weight 1
  in all.
  """
  changes, weights, constant = WEIGHTINGS[name]
  model = small.agent(**changes).world_model
  params, state = model.weighting.init(model.tasks)
  losses = {'observation': 50.0, 'reward': 2.0, 'dynamics': 3.0, 'continue': 0.5}
  total, _, _ = model.weighting.weigh({k: jnp.float32(v) for k, v in losses.items()}, params, state)
  np.testing.assert_allclose(
    total, sum(weights.get(k, 1.0) * v for k, v in losses.items()) + constant, rtol=1e-6
  )


def test_harmonizers_are_leaves_of_the_world_model():
  """Updated by the same Adam: after one step each has moved by the model's learning rate, towards
  its loss.
  """
  _, state, metrics, _ = train(1)
  harmony = state.params['world_model']['harmony']
  assert set(harmony) == {'observation', 'reward', 'dynamics'}
  lr = small.config().model_opt.lr
  for task, s in harmony.items():
    loss = metrics[f'loss/{task}']
    # -d/ds of loss exp(-s) + c log(1 + exp(s)) at 0
    slope = loss - 0.5 * (5 / 6 if task == 'dynamics' else 1)
    np.testing.assert_allclose(s, np.sign(slope) * lr, rtol=1e-3)
  adam = state.opt_state['world_model'][1][0]
  # one vector for all leaves, these too
  assert adam.mu.shape == (parameter_count(state.params['world_model']),)


def test_same_state_and_batch_give_the_same_result():
  agent, one, _, _ = train(2)
  step, other = jax.jit(agent.train_step), agent.init(jax.random.key(0))
  for _ in range(2):
    other, _ = step(other, small.batch())
  chex.assert_trees_all_equal(jax.tree.leaves(one.params), jax.tree.leaves(other.params))


def test_draws_belong_to_rows():
  """The noise of a batch's first rows does not depend on how many rows follow; rows and steps
  differ.
  """
  agent = small.agent()
  key = jax.random.key(3)
  whole, part = agent._train_noise(key, 4, 5), agent._train_noise(key, 2, 5)
  chex.assert_trees_all_equal(whole['posterior']['latent'][:2], part['posterior']['latent'])
  chex.assert_trees_all_equal(whole['imagination'][0][:, :10], part['imagination'][0])
  assert float(jnp.abs(jnp.subtract(*whole['posterior']['latent'][:2])).max()) > 0.1


def test_train_step_compiles_once():
  agent = small.agent()
  state = agent.init(jax.random.key(0))
  step = jax.jit(chex.assert_max_traces(agent.train_step, n=1))
  for seed in range(3):
    state, _ = step(state, small.batch(seed=seed))
  assert int(state.step) == 3


def test_free_nats_clamp():
  """A KL below 1 counts as 1 and sends no gradient; above it counts as it is."""
  model = small.agent().world_model
  batch = small.batch()
  params, _, _ = model.init(jax.random.key(0))
  carry = small.agent().initial_carry({'world_model': params}, 3)
  out = model.forward(
    params, carry.latent, batch, shift_actions(batch['action'], carry.action), None
  )
  for spread in (0.0, 6.0):
    logit = dists.unimix(jax.random.normal(jax.random.key(1), out.prior_stats.shape) * spread, 0.01)
    same = out._replace(
      posterior=out.posterior._replace(stats=logit), prior_stats=jnp.zeros_like(logit)
    )
    losses = model.step_losses(same, batch)
    kl = dists.categorical_kl(logit, jnp.zeros_like(logit)).sum(-1)
    np.testing.assert_allclose(losses['dyn'], np.maximum(1.0, kl), rtol=1e-5)
    assert bool((kl < 1).all()) == (spread == 0)


def test_dynamics_halves_train_their_own_side():
  """dyn moves the prior only, rep the posterior only."""
  model = small.agent().world_model
  post = jnp.log(jax.nn.softmax(jax.random.normal(jax.random.key(0), (1, 1, 4, 4)) * 3))
  prior = jnp.log(jax.nn.softmax(jax.random.normal(jax.random.key(1), (1, 1, 4, 4)) * 3))
  batch = {k: v[:1, :1] for k, v in small.batch().items()}
  params, _, _ = model.init(jax.random.key(0))
  carry = small.agent().initial_carry({'world_model': params}, 1)
  out = model.forward(
    params, carry.latent, batch, shift_actions(batch['action'], carry.action), None
  )

  def loss(name, post, prior):
    changed = out._replace(posterior=out.posterior._replace(stats=post), prior_stats=prior)
    return model.step_losses(changed, batch)[name].sum()

  for name, still in (('dyn', 0), ('rep', 1)):
    gradients = jax.grad(lambda *x: loss(name, *x), argnums=(0, 1))(post, prior)
    assert not gradients[still].any() and gradients[1 - still].any()


def test_large_returns_are_scaled_down():
  """Above a range of 1 the actor's objective is divided by it; below it is left alone."""
  agent = small.agent(deterministic=True)
  state = agent.init(jax.random.key(0))
  batch = small.batch()
  params = state.params
  # A reward head that is sure of large, varied rewards.
  big = jax.tree.map(lambda x: x, params['world_model'])
  big['reward']['out_0']['kernel'] = 5 * jax.random.normal(
    jax.random.key(1), big['reward']['out_0']['kernel'].shape
  )
  out = agent.world_model.forward(big, state.carry.latent, batch, batch['action'], None)
  start = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out.posterior)
  loss = lambda normalizer: agent.behavior.actor_loss(
    params['actor'],
    agent.world_model,
    big,
    {'fast': params['critic']},
    start,
    jnp.ones(15),
    Noise(),
    normalizer,
  )
  _, (trajectory, returns, normalizer, metrics) = loss(Percentiles(jnp.float32(0), jnp.float32(50)))
  low, high = np.percentile(returns, [5, 95])
  np.testing.assert_allclose(metrics['return/scale'], 0.99 * 50 + 0.01 * (high - low), rtol=1e-4)
  unscaled = loss(Percentiles(jnp.float32(0), jnp.float32(0)))[1][3]
  ratio = metrics['return/scale'] / unscaled['return/scale']
  np.testing.assert_allclose(
    unscaled['actor/advantage'], metrics['actor/advantage'] * ratio, rtol=1e-4
  )


def test_slow_critic_copies_then_follows():
  _, one, _, _ = train(1)
  chex.assert_trees_all_close(one.targets['critic'], one.params['critic'], rtol=1e-6)
  _, two, _, _ = train(2)
  wanted = jax.tree.map(
    lambda slow, fast: 0.98 * slow + 0.02 * fast, one.targets['critic'], two.params['critic']
  )
  chex.assert_trees_all_close(two.targets['critic'], wanted, atol=1e-6)


def test_bfloat16_computes_close_to_float32():
  """Parameters, losses and optimiser stay float32; the losses agree to bfloat16's precision."""
  _, _, exact, _ = train(1)
  _, state, rough, _ = train(1, compute_dtype='bfloat16')
  kept = jax.tree.leaves((state.params, state.opt_state, state.normalizer, state.carry))
  assert {str(leaf.dtype) for leaf in kept} <= {'float32', 'int32'}
  for name in ('loss/observation', 'loss/reward', 'loss/continue'):
    np.testing.assert_allclose(rough[name], exact[name], rtol=0.02)


@pytest.mark.parametrize('discrete', [True, False])
def test_policy(discrete):
  """Actions are one-hot or bounded by their distribution, differ by key, and is_first forgets the
  past.
  """
  agent = small.agent(discrete=discrete)
  state = agent.init(jax.random.key(0))
  observation = {'image': jnp.ones((4, 16, 16, 3), jnp.uint8)}
  first, later = jnp.ones(4, bool), jnp.zeros(4, bool)
  carry = agent.initial_carry(state.params, 4)
  action, carry = agent.policy(state.params, carry, observation, first, jax.random.key(1))
  chex.assert_shape(action, (4, 3))
  if discrete:
    np.testing.assert_allclose(action.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(action.max(-1), 1, rtol=1e-6)
  again, _ = agent.policy(state.params, carry, observation, first, jax.random.key(1))
  chex.assert_trees_all_close(again, action)
  other, _ = agent.policy(state.params, carry, observation, later, jax.random.key(2))
  if not discrete:
    assert float(jnp.abs(other - action).max()) > 1e-3
  one, _ = agent.policy(state.params, carry, observation, later, None)
  mode, _ = agent.policy(state.params, carry, observation, later, None, mode=True)
  chex.assert_trees_all_equal(one, mode)


@pytest.mark.parametrize('discrete', [True, False])
def test_acting_filters_as_training_does(discrete):
  """One step of `RSSM.filter` is one of `RSSM.observe`: draws, a first step and a large action
  included.
  """
  agent = small.agent(discrete=discrete)
  model, params = agent.world_model, agent.init(jax.random.key(0)).params['world_model']
  keys = jax.random.split(jax.random.key(1), 4)
  state = jax.tree.map(lambda x: x + 0.1, model.rssm.initial(params['rssm'], 4))
  embed = jax.random.normal(keys[0], (4, model.encoder.size()))
  action, uniform = (
    3 * jax.random.normal(keys[1], (4, 3)),
    jax.random.uniform(keys[2], (4, model.rssm.stoch)),
  )
  first = jnp.array([True, False, False, True])
  one = model.rssm.filter(params['rssm'], state, embed, action, first, uniform)
  many, _ = model.rssm.observe(
    params['rssm'], state, embed[:, None], action[:, None], first[:, None], uniform[:, None]
  )
  chex.assert_trees_all_close(one, jax.tree.map(lambda x: x[:, 0], many), atol=1e-5)


def test_open_loop_report():
  agent, state, _, _ = train(1)
  found = agent.report(state, small.batch(), context=2)
  chex.assert_shape(found['observation']['image'], (3, 5, 16, 16, 3))
  chex.assert_shape((found['reward'], found['continue']), (3, 5))


def test_with_harmonizers():
  agent, state, _, _ = train(1)
  losses = agent.task_losses(state, small.batch())
  state = agent.with_harmonizers(state, losses)
  for task, s in state.params['world_model']['harmony'].items():
    loss = float(losses[task])
    loss *= 6 / 5 if task == 'dynamics' else 1  # its regulariser's weight is 5/6
    np.testing.assert_allclose(np.exp(s), (loss + np.sqrt(loss**2 + 4 * loss)) / 2, rtol=1e-4)


@pytest.mark.parametrize('rule', ['none', 'fixed', 'reciprocal'])
def test_a_rate_for_harmonizers_that_are_not_there(rule):
  """The presets for CPUs give the harmonizers a rate of their own, whatever rule is chosen."""
  agent = small.agent(
    small.VECTOR, weighting__rule=rule, weighting__rate=3.0, weighting__beta2=0.99
  )
  state = jax.eval_shape(agent.init, jax.random.key(0))
  after, _ = jax.eval_shape(agent.train_step, state, small.batch(small.VECTOR))
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
