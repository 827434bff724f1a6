"""What DreamerV2 has and the recorded runs do not cover: discrete actions, the discount head,
residual networks.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import dreamerv2
from harmony_jax import distributions as dists
from harmony_jax.agent import Agent, parameter_count
from harmony_jax.behavior import Noise
from tests import small

ENDING = {'method': 'dreamerv2', 'continue_head__enabled': True, 'continue_head__layers': 1}


@pytest.mark.parametrize(
  'actions,rssm,model,actor',
  [(4, 13_125_632, 27_130_423, 1_304_008), (6, 13_127_680, 27_132_471, 1_305_612)],
)
def test_parameter_counts(actions, rssm, model, actor):
  """The exact counts of the authors' models for Meta-World and DMC Remastered."""
  agent = Agent.from_config(dreamerv2.get_config(), {'image': (64, 64, 3)}, actions, False)
  params = jax.eval_shape(agent.init, jax.random.key(0)).params
  counts = {k: parameter_count(v) for k, v in params['world_model'].items()}
  assert counts == {
    'encoder': 1_551_312,
    'rssm': rssm,
    'decoder': 11_152_275,
    'reward': 1_301_201,
    'harmony': 3,
  }
  assert {k: parameter_count(v) for k, v in params.items()} == {
    'world_model': model,
    'actor': actor,
    'critic': 1_301_201,
  }


def test_initialisation():
  """Glorot uniform kernels and zero biases; the GRU's layer has PyTorch's default, ±1/√inputs for
  both.
  """
  agent = small.agent(method='dreamerv2', rssm__deter=64, rssm__units=48)
  params = agent.init(jax.random.key(0)).params['world_model']
  gru = params['rssm']['gru']
  limit = 1 / np.sqrt(64 + 48)
  for leaf in (gru['kernel'], gru['bias']):
    assert 0.9 * limit < jnp.abs(leaf).max() <= limit
  out = params['rssm']['img_out']
  limit = np.sqrt(6 / (64 + 48))
  assert 0.9 * limit < jnp.abs(out['kernel']).max() <= limit and not out['bias'].any()
  assert 'initial' not in params['rssm'] and 'norm' not in out


def _imagination(**case):
  """An agent, its state, and an actor's loss with everything around it, every draw replaced by the
  mode.
  """
  agent = small.agent(deterministic=True, **case)
  # A reward head and critics with something to say, and a slow critic that is not the fast one.
  shake = lambda seed: lambda p: p + 0.3 * jax.random.normal(jax.random.key(seed), p.shape)
  state = agent.init(jax.random.key(1))
  state = state.replace(
    params=jax.tree.map(shake(2), state.params), targets=jax.tree.map(shake(3), state.targets)
  )
  batch = small.batch(discrete=case.get('discrete', True))
  model, params, behavior = agent.world_model, state.params['world_model'], agent.behavior
  _, out = model.losses(params, state.carry.latent, batch, jnp.zeros_like(batch['action']), None)
  start = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out.posterior)
  alive = 1 - batch['is_terminal'].astype(jnp.float32).reshape(-1)
  loss, (trajectory, targets, _, _) = behavior.actor_loss(
    state.params['actor'],
    model,
    params,
    {'fast': state.params['critic'], 'slow': state.targets['critic']},
    start,
    alive,
    Noise(),
    state.normalizer,
  )
  critic, _ = behavior.critic_loss(
    state.params['critic'], state.targets['critic'], trajectory, targets
  )
  return agent, state, trajectory, alive, float(loss), np.asarray(targets), float(critic)


@pytest.mark.parametrize('discrete', (True, False))
def test_losses_of_the_behaviour_by_hand(discrete):
  """Loops over time in NumPy: rewards of the present state, the slow critic, actions judged by the
  next return.
  """
  agent, state, trajectory, alive, loss, targets, critic_loss = _imagination(
    discrete=discrete, **ENDING
  )
  behavior, model, params = agent.behavior, agent.world_model, state.params['world_model']
  gamma, lam, horizon = behavior.discount, behavior.lam, behavior.horizon
  feature = trajectory.feature
  reward = np.asarray(model.reward_logits(params, feature)[..., 0])
  slow = np.asarray(behavior.critic.apply({'params': state.targets['critic']}, feature)[..., 0])
  fast = np.asarray(behavior.critic.apply({'params': state.params['critic']}, feature)[..., 0])
  # the head predicts γ, not 1
  discount = np.array(jax.nn.sigmoid(model.continue_logit(params, feature)))
  discount[0] = gamma * alive
  returns, future = [None] * horizon, slow[horizon]
  for t in reversed(range(horizon)):
    future = returns[t] = reward[t] + discount[t] * ((1 - lam) * slow[t + 1] + lam * future)
  weight = [np.ones_like(discount[0])]
  for t in range(horizon):
    weight.append(weight[-1] * discount[t])
  policy = behavior.actor(state.params['actor'], feature)
  entropy = np.asarray(behavior.actor.entropy(policy))
  log_prob = np.asarray(behavior.actor.log_prob(policy, trajectory.action))
  terms, wanted = [], [returns[0]]
  for t in range(horizon - 1):
    judged = log_prob[t] * (returns[t + 1] - slow[t]) if discrete else returns[t + 1]
    terms.append(weight[t] * (judged + behavior.entropy * entropy[t]))
    # The authors' in-place addition reaches the critic's targets where returns are the objective
    # itself.
    wanted.append(returns[t + 1] + (0 if discrete else behavior.entropy * entropy[t]))
  np.testing.assert_allclose(loss, -np.mean(terms), rtol=1e-4)
  np.testing.assert_allclose(targets, wanted, rtol=1e-4, atol=1e-5)
  critic = np.mean([weight[t] * 0.5 * (fast[t] - wanted[t]) ** 2 for t in range(horizon)])
  np.testing.assert_allclose(critic_loss, critic, rtol=1e-4)


def test_the_papers_critic_target_has_no_entropy():
  _, _, _, _, _, code, _ = _imagination(discrete=False, behavior__entropy=1.0, **ENDING)
  _, _, _, _, _, paper, _ = _imagination(
    discrete=False, behavior__entropy=1.0, behavior__critic_entropy=False, **ENDING
  )
  np.testing.assert_array_equal(code[0], paper[0])
  assert (np.abs(code[1:] - paper[1:]) > 0.1).all()


def test_discount_head_learns_the_discount():
  """Cross entropy to γ (1 - terminal): least at the entropy of γ, where the logit is logit(γ)."""
  agent = small.agent(**ENDING)
  model, batch = agent.world_model, small.batch()
  params, _, _ = model.init(jax.random.key(0))
  out = model.forward(
    params,
    agent.initial_carry({'world_model': params}, 3).latent,
    batch,
    jnp.zeros_like(batch['action']),
    None,
  )
  exact = jnp.where(batch['is_terminal'], -30.0, np.log(0.99 / 0.01))
  losses = model.step_losses(out._replace(continue_logit=exact), batch)['continue']
  entropy = -(0.99 * np.log(0.99) + 0.01 * np.log(0.01))
  np.testing.assert_allclose(losses, np.where(batch['is_terminal'], 0, entropy), atol=1e-5)
  assert (
    'continue' not in small.agent(method='dreamerv2').init(jax.random.key(0)).params['world_model']
  )


def test_free_nats_after_averaging():
  """The mean over the batch is clamped, not every step's KL."""
  agent = small.agent(method='dreamerv2', losses__free_nats=1.0)
  model, batch = agent.world_model, small.batch()
  params, _, _ = model.init(jax.random.key(0))
  latent = agent.initial_carry({'world_model': params}, 3).latent
  out = model.forward(params, latent, batch, jnp.zeros_like(batch['action']), None)
  sure = 30 * jax.nn.one_hot(jnp.zeros(out.prior_stats.shape[:-1], int), 4)
  # Four groups of log 4 nats in one step of fifteen: 0.37 on average, although that step has 5.5.
  posterior = jnp.zeros_like(sure).at[0, 0].set(sure[0, 0])
  out = out._replace(
    prior_stats=jnp.zeros_like(sure), posterior=out.posterior._replace(stats=posterior)
  )
  steps = model.step_losses(out, batch)
  np.testing.assert_allclose(steps['dyn'][0, 0], 4 * np.log(4), rtol=1e-5)
  assert float(steps['dyn'].mean()) < 1
  clamped = model._clamp(steps['dyn'].mean())
  assert float(clamped) == 1.0


def test_weight_decay_reaches_every_parameter():
  """L2 decay joins the gradient before Adam: with a zero gradient every parameter still moves by
  the rate.
  """
  agent = small.agent(method='dreamerv2', model_opt__weight_decay=1e-2)
  params = jax.tree.map(jnp.ones_like, agent.init(jax.random.key(0)).params['world_model'])
  transform = agent.optimizers['world_model']
  updates, _ = transform.update(
    jax.tree.map(jnp.zeros_like, params), transform.init(params), params
  )
  for leaf in jax.tree.leaves(updates):
    np.testing.assert_allclose(leaf, -1e-3, rtol=1e-2)


@pytest.mark.parametrize(
  'method,kind',
  [('dreamerv2', 'plain'), pytest.param('dreamerv3', 'residual', marks=pytest.mark.slow)],
)
def test_a_step_of_every_kind(method, kind):
  """Residual networks for either method: shapes fit, everything moves, running statistics follow
  the batches.
  """
  shapes = {'image': (32, 32, 3)}
  agent = small.agent(shapes=shapes, method=method, encoder__kind=kind, decoder__kind=kind)
  batch = small.batch(shapes=shapes)
  state = agent.init(jax.random.key(0))
  after, metrics = jax.jit(agent.train_step)(state, batch)
  assert all(np.isfinite(float(v)) for v in metrics.values())
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), after.params['world_model'], state.params['world_model']
  )
  assert all(jax.tree.leaves(moved['encoder'])) and all(jax.tree.leaves(moved['decoder']))
  assert bool(state.statistics) == (kind == 'residual')
  changed = jax.tree.map(lambda a, b: bool((a != b).any()), after.statistics, state.statistics)
  assert all(jax.tree.leaves(changed))
  # Acting takes the running statistics: what one environment sees does not change what another
  # does.
  observation = {'image': batch['image'][:2, 0]}
  carry, first = agent.initial_carry(after.params, 2), jnp.ones(2, bool)
  both, _ = agent.policy(after.weights, carry, observation, first, jax.random.key(3))
  other = {'image': observation['image'].at[1].set(0)}
  changed, _ = agent.policy(after.weights, carry, other, first, jax.random.key(3))
  np.testing.assert_array_equal(both[0], changed[0])


def test_gaussian_vectors():
  """Vectors under likelihood 'gaussian': half the squared error, no symlog, in the encoder neither."""
  agent = small.agent(
    shapes=small.VECTOR, method='dreamerv2', encoder__mlp_layers=1, decoder__mlp_layers=1
  )
  model, batch = agent.world_model, small.batch(shapes=small.VECTOR)
  params, _, _ = model.init(jax.random.key(0))
  out = model.forward(
    params,
    agent.initial_carry({'world_model': params}, 3).latent,
    batch,
    jnp.zeros_like(batch['action']),
    None,
  )
  wanted = sum(
    0.5 * np.square(np.asarray(out.decoded[k]) - batch[k]).reshape(3, 5, -1).sum(-1)
    for k in small.VECTOR
  )
  np.testing.assert_allclose(model.step_losses(out, batch)['vector'], wanted, rtol=1e-4)
  scaled = {k: 10 * v for k, v in batch.items() if k in small.VECTOR}
  first = agent.world_model.encoder.apply(
    {'params': {'h_0': params['encoder']['h_0']}}, {k: v[0, :1] for k, v in scaled.items()}
  )
  x = jnp.concatenate([scaled['joints'][0, :1], scaled['speed'][0, :1, None]], -1)
  np.testing.assert_allclose(
    first, jax.nn.elu(x @ params['encoder']['h_0']['kernel']), rtol=1e-4, atol=1e-5
  )


def test_modes_and_draws_of_the_truncated_normal_actor():
  agent = small.agent(method='dreamerv2', discrete=False)
  actor = agent.behavior.actor
  policy = dists.TruncatedNormal(jnp.array([[0.9, -0.2, 0.0]]), jnp.array([[0.5, 0.1, 1.0]]))
  np.testing.assert_allclose(actor.mode(policy), [[0.9, -0.2, 0.0]], rtol=1e-6)
  noise = actor.noise(jax.random.key(0), (4000, 1))
  draws = np.asarray(actor.sample(policy, noise))
  assert (np.abs(draws) < 1).all()
  assert abs(np.median(draws[:, 0, 0]) - float(actor.sample(policy, None)[0, 0])) < 0.02


@pytest.mark.parametrize('method', ['dreamerv2', 'dreamerpro'])
def test_the_actor_learns_from_a_head_that_the_features_do_not(method):
  """A continue head outside the authors' `grad_heads` sends its training loss no further than
  itself; what it predicts in imagination still has a gradient with respect to the actions.
  """
  gradients = []
  for flows in (True, False):
    case = {**ENDING, 'method': method, 'continue_head__gradient': flows}
    agent = small.agent(discrete=False, deterministic=True, **case)
    state = agent.init(jax.random.key(0))
    shake = lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape)
    params = jax.tree.map(shake, state.params)
    latent = agent.initial_carry(params, 6).latent
    loss = lambda actor, agent=agent, params=params, latent=latent, state=state: (
      agent.behavior.actor_loss(
        actor,
        agent.world_model,
        params['world_model'],
        {'fast': params['critic'], 'slow': params['critic']},
        latent,
        jnp.ones(6),
        Noise(),
        state.normalizer,
      )[0]
    )
    gradients.append(jax.jit(jax.grad(loss))(params['actor']))
  for with_head, without in zip(*map(jax.tree.leaves, gradients), strict=True):
    np.testing.assert_allclose(without, with_head, rtol=1e-5, atol=1e-9)
