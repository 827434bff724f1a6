"""A Dreamer: sizes, the world model's losses by hand, and whole updates as they were recorded."""

import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import harmony, method
from harmony_jax.optimizers import parameter_count, weighed
from harmony_jax.rssm import Categorical, State
from tests import small

GOLDENS = pathlib.Path(__file__).parent / 'goldens' / 'agent.json'

# By method and number of actions: parameters of the authors' models by entry of the world model,
# then of actor and critic.
COUNTS = {
  ('dreamerv3', 6): (
    dict(
      encoder=690_624,
      rssm=5_778_944,
      decoder=6_985_667,
      reward=1_181_439,
      **{'continue': 1_051_137, 'harmony': 3},
    ),
    (1_053_702, 1_181_439),
  ),
  ('dreamerv2', 4): (
    dict(encoder=1_551_312, rssm=13_125_632, decoder=11_152_275, reward=1_301_201, harmony=3),
    (1_304_008, 1_301_201),
  ),
  ('dreamerv2', 6): (
    dict(encoder=1_551_312, rssm=13_127_680, decoder=11_152_275, reward=1_301_201, harmony=3),
    (1_305_612, 1_301_201),
  ),
  # 719,568 is the RSSM with the two projections; 80,000 are the prototypes.
  ('dreamerpro', 6): (
    dict(
      encoder=1_551_312,
      rssm=719_568 - 56_640,
      prototypes=80_000 + 56_640,
      reward=574_801,
      harmony=4,
    ),
    (579_212, 574_801),
  ),
}


@pytest.mark.parametrize('name, actions', COUNTS)
def test_parameter_counts(name, actions):
  entry = method.entry(name)
  spec = small.spec({'image': (64, 64, 3)}, actions, discrete=name == 'dreamerv3')
  params = jax.eval_shape(entry.make(entry.settings, spec).init, jax.random.key(0)).params
  model, (actor, critic) = COUNTS[name, actions]
  assert {k: parameter_count(v) for k, v in params['world_model'].items()} == model
  assert (parameter_count(params['actor']), parameter_count(params['critic'])) == (actor, critic)
  if name == 'dreamerpro':
    assert parameter_count(params['world_model']['prototypes']['vectors']) == 80_000
    assert sum(model.values()) == 2_925_681 + 4
  assert name != 'dreamerv3' or parameter_count(params) == 17_922_955


# ----------------------------------------------------------------------------------------------
# Whole updates


def moved(trained):
  """{leaf: the size of two updates}."""
  change = jax.tree.map(
    lambda a, b: float(np.linalg.norm(np.asarray(a) - np.asarray(b))),
    trained.states[2].params,
    trained.states[0].params,
  )
  return {jax.tree_util.keystr(path): v for path, v in jax.tree_util.tree_leaves_with_path(change)}


@pytest.mark.parametrize(
  'name', [pytest.param(k, marks=[pytest.mark.slow] * (k == 'both')) for k in small.GOLDEN]
)
def test_goldens(name):
  """Metrics, and the size of two updates, equal those recorded when this code agreed with the
  authors'.
  """
  trained, recorded = small.trained(name), json.loads(GOLDENS.read_text())[name]
  for now, group, limit in ((trained.metrics[1], 'metrics', 1e-3), (moved(trained), 'moved', 2e-2)):
    assert set(now) == set(recorded[group])
    for key, value in recorded[group].items():
      np.testing.assert_allclose(now[key], value, rtol=limit, atol=1e-6, err_msg=f'{name} {key}')


def record_goldens():
  """Write the goldens: python -c 'from tests import dreamer_test as t; t.record_goldens()'."""
  record = {}
  for name in small.GOLDEN:
    trained = small.trained(name)
    record[name] = {'metrics': trained.metrics[1], 'moved': moved(trained)}
  GOLDENS.write_text(json.dumps(record, indent=1) + '\n')


def test_an_update_is_compiled_once_and_repeats():
  """Other batches and later states are no other program; the same ones have the same result."""
  _, batch, step, states, _ = small.trained('discrete')
  again, _ = step(states[1], batch)
  chex.assert_trees_all_equal(jax.tree.leaves(again.params), jax.tree.leaves(states[2].params))
  after, _ = step(states[2], small.batch(seed=1))
  assert int(after.step) == 3 and step._cache_size() == 1


def test_harmonizers_are_leaves_of_the_world_model():
  """Adam moves each of them by the model's learning rate in its first update, towards its loss."""
  _, _, _, states, metrics = small.trained('discrete')
  harmony = states[1].params['world_model']['harmony']
  assert set(harmony) == {'observation', 'reward', 'dynamics'}
  for task, s in harmony.items():
    # -d/ds of loss exp(-s) + c log(1 + exp(s)) at 0
    slope = metrics[0][f'loss/{task}'] - 0.5 * (5 / 6 if task == 'dynamics' else 1)
    np.testing.assert_allclose(s, np.sign(slope) * 1e-3, rtol=1e-3)
  adam = states[1].opt_state['world_model'][1][0]  # one vector for all leaves, these too
  assert adam.mu.shape == (parameter_count(states[1].params['world_model']),)


def test_the_slow_critic_copies_then_follows():
  _, one, two = small.trained('discrete').states
  chex.assert_trees_all_close(one.targets['critic'], one.params['critic'], rtol=1e-6)
  wanted = jax.tree.map(
    lambda slow, fast: 0.98 * slow + 0.02 * fast, one.targets['critic'], two.params['critic']
  )
  chex.assert_trees_all_close(two.targets['critic'], wanted, atol=1e-6)


def test_bfloat16_computes_close_to_float32():
  """Parameters, losses and optimisers stay float32; the losses agree to bfloat16's precision."""
  exact, rough = (
    small.agent(small.VECTOR, deterministic=True, compute_dtype=k) for k in ('float32', 'bfloat16')
  )
  state, batch = small.state_of(exact), small.batch(small.VECTOR)
  one, other = (
    small.jit(lambda s, b, agent=agent: agent.task_losses(s, b))(state, batch)
    for agent in (exact, rough)
  )
  for name, loss in other.items():
    assert loss.dtype == jnp.float32 and loss != one[name]
    np.testing.assert_allclose(loss, one[name], rtol=0.05, err_msg=name)
  after, metrics = jax.eval_shape(rough.train_step, state, batch)
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
  assert all(v.dtype in (jnp.float32, jnp.int32) for v in metrics.values())


def test_draws_belong_to_rows():
  """The noise of a batch's first rows does not depend on how many follow; rows and steps differ."""
  agent, key = small.agent(), jax.random.key(3)
  draw = small.jit(agent.draws, static_argnums=(1, 2))
  whole, part = draw(key, 4, 5), draw(key, 2, 5)
  chex.assert_trees_all_equal(whole.posterior[:2], part.posterior)
  chex.assert_trees_all_equal(whole.latent[:, :10], part.latent)
  chex.assert_trees_all_equal(whole.action[:, :10], part.action)
  for drawn in (whole.posterior.reshape(20, -1), whole.latent.reshape(80, -1)):
    assert len(np.unique(drawn, axis=0)) == len(drawn)


# ----------------------------------------------------------------------------------------------
# The world model's losses, by hand in float64


def two_hot_loss(logits, value):
  """Cross entropy to the two bins around symlog(value), [...]."""
  bins, x = np.linspace(-20, 20, 255), np.sign(value) * np.log1p(np.abs(value))
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  weight = np.maximum(0, 1 - np.abs(x[..., None] - bins) / (bins[1] - bins[0]))
  return -(weight * log_p).sum(-1)


LOSSES = {
  'free nats of every step': dict(losses__free_nats=0.7, continue_head__scale=2.5),
  'of the mean, all vectors': dict(
    shapes=small.VECTOR,
    losses__free_average=True,
    losses__free_nats=0.5,
    losses__dyn=0.3,
    losses__rep=0.7,
    weighting__harmonize_vector=True,
  ),
  'DreamerV2': dict(
    name='dreamerv2', shapes=small.VECTOR, losses__free_nats=0.4, continue_head__enabled=True
  ),
}


@pytest.mark.parametrize('case', LOSSES)
def test_losses_by_hand(case):
  changes = {'shapes': small.IMAGE | small.VECTOR, **LOSSES[case]}
  agent = small.agent(deterministic=True, **changes)
  state, batch = small.state_of(agent), small.batch(agent.shapes)
  before = jnp.concatenate([jnp.zeros((3, 1, 3)), batch['action'][:, :-1]], 1)

  @small.jit
  def run(params):
    losses, post, _ = agent.losses(params, state, batch, state.carry, agent.draws(state.rng, 3, 5))
    embed = agent.encode({'world_model': params}, batch)
    first = batch['is_first']
    again, prior = agent.rssm.observe(
      params['rssm'], state.carry.latent, embed, before, first, None
    )
    feature = post.feature()
    decoded = agent.objective.decoder.decode(params['decoder'], None, feature)
    heads = agent.reward(params['reward'], feature), agent.continue_logit(params, feature)
    return losses, post.stats, again.stats, prior, decoded, heads

  found = jax.tree.map(np.float64, run(state.params['world_model']))
  losses, post, again, prior, decoded, (reward, logit) = found
  np.testing.assert_allclose(post, again, atol=1e-5)
  v2, free = agent.settings.losses.likelihood == 'gaussian', agent.settings.losses
  kl = (np.exp(post) * (post - prior)).sum((-1, -2))
  assert (kl < free.free_nats).any() and (kl > free.free_nats).any()
  if free.free_average:
    kl = max(kl.mean(), free.free_nats)
  else:
    kl = np.maximum(kl, free.free_nats).mean()
  # Both halves have one value; their gradients differ.
  np.testing.assert_allclose(losses['dynamics'], kl, rtol=1e-4)
  symlog = lambda x: x if v2 else np.sign(x) * np.log1p(np.abs(x))
  errors = dict.fromkeys(('image', 'vector'), 0.0)
  for name, out in decoded.items():
    wanted = np.asarray(batch[name], np.float64)
    wanted = wanted / 255 if name == 'image' else symlog(wanted)
    squares = ((out.reshape(wanted.shape) - wanted) ** 2).sum() / 15
    errors['image' if name == 'image' else 'vector'] += squares * (0.5 if v2 else 1)
  if agent.settings.weighting.harmonize_vector:
    np.testing.assert_allclose(losses['observation'], sum(errors.values()), rtol=1e-4)
    assert 'vector' not in losses
  else:
    np.testing.assert_allclose(losses['vector'], errors['vector'], rtol=1e-4)
    assert ('observation' in losses) == ('image' in agent.shapes)
    np.testing.assert_allclose(losses.get('observation', 0), errors['image'], rtol=1e-4)
  of_reward = np.asarray(batch['reward'], np.float64)
  wanted = (reward[..., 0] - of_reward) ** 2 / 2 if v2 else two_hot_loss(reward, of_reward)
  np.testing.assert_allclose(losses['reward'], wanted.mean(), rtol=1e-4)
  goes_on = (0.99 if v2 else 1.0) * (1 - np.asarray(batch['is_terminal'], np.float64))
  wanted = (np.logaddexp(0, logit) - goes_on * logit).mean() * agent.settings.continue_head.scale
  np.testing.assert_allclose(losses['continue'], wanted, rtol=1e-4)


def test_the_halves_of_the_dynamics_train_their_own_side():
  """With one step in a batch: `dyn` moves the prior only, `rep` the posterior only; neither below
  the free nats.
  """
  case = dict(shapes=small.VECTOR, deterministic=True, rssm__learned_initial=False)
  case |= dict(losses__free_nats=0.0, weighting__rule='none')
  halves = [dict(losses__rep=0.0), dict(losses__dyn=0.0), dict(losses__free_nats=1e3)]
  agents = [small.agent(**case | half) for half in halves]
  state = small.state_of(agents[0])
  batch = jax.tree.map(lambda x: x[:, :1], small.batch(small.VECTOR))

  @small.jit
  def gradients(params):
    loss = lambda params, agent: agent.losses(
      params, state, batch, state.carry, agent.draws(state.rng, 3, 1)
    )[0]['dynamics']
    return [jax.grad(loss)(params, agent)['rssm'] for agent in agents]

  found = gradients(state.params['world_model'])
  moves = [[bool(g[k]['kernel'].any()) for k in ('img_stats', 'obs_stats')] for g in found]
  assert moves == [[True, False], [False, True], [False, False]]


def test_halves_of_one_weight_are_whole_in_dreamerv2():
  """The authors' `kl.balance` of 0.5 balances nothing, and free nats are of every step."""
  latents = Categorical(4, 4, 0.0)
  post, prior = (latents.stats(jax.random.normal(jax.random.key(i), (2, 3, 16))) for i in (0, 1))
  kl = latents.kl(post, prior)
  free, half = float(jnp.sort(kl.ravel())[2:4].mean()), {'losses__dyn': 0.3, 'losses__rep': 0.3}
  for name, share in (('dreamerv2', 1.0), ('dreamerv3', 0.5)):
    agent = small.agent(small.VECTOR, name=name, losses__free_nats=free, **half)
    loss, found = jax.value_and_grad(agent.dynamics_loss, (0, 1))(post, prior)
    wanted = jax.grad(lambda *x: jnp.maximum(free, latents.kl(*x)).mean(), (0, 1))(post, prior)
    np.testing.assert_allclose(loss, jnp.maximum(free, kl).mean(), rtol=1e-6)
    np.testing.assert_allclose(found, share * np.stack(wanted), rtol=1e-5, atol=1e-8)


# ----------------------------------------------------------------------------------------------
# Weighting


W = lambda loss: 2 / (loss + np.sqrt(loss**2 + 4 * loss))  # eq. 13
PAPER, LOG2 = {'weighting__dynamics_regularizer': 'paper'}, np.log(2)
FIXED = dict(weighting__rule='fixed', weighting__w_o=0.0, weighting__w_r=100.0, weighting__w_d=3.0)
WEIGHTINGS = {
  'harmony': (dict(), {}, 3 * LOG2 - LOG2 / 6),
  'paper_bracket': (PAPER, {}, 3 * LOG2),
  'unrectified': (dict(weighting__rule='harmony_unrectified'), {}, 0.0),
  'none': (dict(weighting__rule='none'), {'dynamics': 0.6}, 0.0),
  'fixed': (FIXED, {'reward': 100.0, 'observation': 0.0, 'dynamics': 3.0}, 0.0),
  'fixed_reward': (
    {**FIXED, 'weighting__tasks': ('reward',)},
    {'reward': 100, 'dynamics': 0.6},
    0.0,
  ),
  'continue_too': (
    dict(weighting__tasks=('observation', 'reward', 'dynamics', 'continue')),
    {},
    4 * LOG2 - LOG2 / 6,
  ),
  'no_dynamics': (dict(weighting__tasks=('observation', 'reward')), {'dynamics': 0.6}, 2 * LOG2),
  'dynamics_only': (dict(weighting__tasks=('dynamics',)), {}, 5 / 6 * LOG2),
  'nothing': (dict(weighting__tasks=()), {'dynamics': 0.6}, 0.0),
  'pro': (small.PRO, {}, 4 * LOG2),
  'pro_fixed': (
    {**small.PRO, **FIXED},
    {'reward': 100.0, 'swav': 0.0, 'temporal': 0.0, 'dynamics': 3.0},
    0.0,
  ),
  'equilibrium': (
    dict(weighting__rule='equilibrium'),
    {'observation': W(50), 'reward': W(2), 'dynamics': W(50)},
    0.0,
  ),
  'harmony_tied': (
    dict(weighting__rule='harmony_tied', weighting__start=4.0),
    {'observation': 0.25, 'reward': 0.25, 'dynamics': 0.25},
    2 * np.log(5),
  ),
  'uncertainty': (dict(weighting__rule='uncertainty'), {}, 0.0),
  'dwa': (dict(weighting__rule='dwa'), {}, 0.0),
  'no_tasks': (dict(weighting__rule='nash_mtl', weighting__tasks=()), {'dynamics': 0.6}, 0.0),
  'pro_tied': (
    {**small.PRO, 'weighting__rule': 'equilibrium'},
    {'swav': W(40), 'temporal': W(10), 'reward': W(2), 'dynamics': W(10)},
    0.0,
  ),
  'pro_elbo': (
    {**small.PRO, 'weighting__rule': 'running_elbo_unrectified'},
    {**dict.fromkeys(('swav', 'temporal', 'dynamics'), 1 / 53), 'reward': 1 / 2},
    0.0,
  ),
  'pro_observation': ({**small.PRO, 'weighting__tasks': ('observation',)}, {}, 2 * LOG2),
}


@pytest.mark.parametrize('name', WEIGHTINGS)
def test_weighting_rules_of_the_settings(name):
  """The total that each makes of the same losses, at σ = 1; the continue and norm losses have
  weight 1 then, and where they are no tasks.
  """
  changes, weights, constant = WEIGHTINGS[name]
  agent = small.agent(**changes)
  params, state = agent.rule.init(agent.tasks)
  observing = dict(swav=40.0, temporal=10.0, norm=0.3) if 'pro' in name else {'observation': 50.0}
  losses = {**observing, 'reward': 2.0, 'dynamics': 3.0, 'continue': 0.5}
  total, _, _ = agent.rule.weigh({k: jnp.float32(v) for k, v in losses.items()}, params, state)
  wanted = sum(weights.get(k, 1.0) * v for k, v in losses.items()) + constant
  np.testing.assert_allclose(total, wanted, rtol=1e-6)


def test_no_rule_under_another_one_s_name():
  """Vectors alone have no task: nothing weighs by the observation, or weighs it."""
  vectors = {'shapes': small.VECTOR}
  tied = [rule for rule in harmony.RULES if harmony.observes(rule)]
  asked: list[dict] = [
    {'rule': 'fixed', 'w_o': 0.0},
    {'rule': 'harmony', 'tasks': ('observation',)},
  ]
  asked += [{'rule': rule} for rule in tied]
  for each in asked:
    changes: dict = {f'weighting__{name}': value for name, value in each.items()}
    small.agent(**changes)
    small.agent(**vectors, **changes, weighting__harmonize_vector=True)
    with pytest.raises(ValueError, match='harmonize_vector=True'):
      small.agent(**vectors, **changes)
  with pytest.raises(ValueError, match='continue is among weighting.tasks, and continue_head'):
    small.agent(weighting__tasks=('continue',), continue_head__enabled=False)
  with pytest.raises(ValueError, match='both must be weighting.tasks'):
    small.agent(weighting__rule='equilibrium', weighting__tasks=('reward', 'dynamics'))
  with pytest.raises(ValueError, match='losses.dyn and losses.rep are both 0'):
    small.agent(losses__dyn=0.0, losses__rep=0.0)
  with pytest.raises(ValueError, match="regularizers of .'dynamics'. must be above 0"):
    small.agent(losses__dyn=0.0)
  small.agent(losses__dyn=0.0, weighting__dynamics_regularizer='paper')


def test_an_imagination_from_which_nothing_is_learned_is_refused():
  """Of DreamerV2 the last action has no state after it that could judge it."""
  for name in ('dreamerv3', 'dreamerpro'):
    small.agent(name=name, behavior__horizon=1)
  with pytest.raises(ValueError, match='behavior.horizon is 1: here it must be at least 2'):
    small.agent(name='dreamerv2', behavior__horizon=1)


def test_settings_reach_their_rules():
  """The memory of means, the window of averages, GradNorm's exponent, the numbers of an image."""

  def weight(**changes):
    """Return the observation's, after its loss has fallen to a quarter."""
    agent = small.agent(**{f'weighting__{k}': v for k, v in changes.items()})
    params, state = agent.rule.init(agent.tasks)
    for loss in (8.0, 2.0):
      losses = {k: jnp.float32(v) for k, v in dict(observation=loss, reward=1, dynamics=1).items()}
      if agent.rule.balance:
        norms = dict.fromkeys(losses, jnp.ones(1)) | {'observation': jnp.ones(1) / 2}
        state = agent.rule.balance(losses, norms, state)
      _, state, _ = agent.rule.weigh(losses, params, state)
    return state['next' if agent.rule.balance else 'weights']['observation']

  np.testing.assert_allclose(weight(rule='running', decay=0.5), W(4.0), rtol=1e-5)
  least = weight(rule='equilibrium', decay=0.5, least=0.5)
  np.testing.assert_allclose(
    least, 0.5 * W(1.0), rtol=1e-5
  )  # of the reward's, where 0.33 is its own
  share = np.exp([0.25 / 2, 0.5, 0.5])
  wanted = 3 * share[0] / share.sum()
  np.testing.assert_allclose(weight(rule='dwa_epochs', window=1), wanted, rtol=1e-5)
  assert weight(rule='dwa_epochs') == 1
  assert weight(rule='gradnorm', alpha=0.0) > weight(rule='gradnorm', alpha=5.0)
  start = small.agent(weighting__rule='uncertainty').rule.start(jnp.float32(768 * 5), 'observation')
  np.testing.assert_allclose(np.exp(start), 5, rtol=1e-5)


def test_gradients_by_task():
  """One backward pass per loss gives the gradient of the weighed sum; what is shared is clipped."""
  vectors = dict(shapes=small.VECTOR, weighting__harmonize_vector=True, losses__free_nats=0.0)
  agent = small.agent(deterministic=True, weighting__rule='nash_mtl', **vectors)
  state, batch = small.state_of(agent), small.batch(agent.shapes)
  draws = agent.draws(state.rng, 3, 5)
  losses = lambda model: agent.losses(model, state, batch, state.carry, draws)
  weighting = agent.rule.init(agent.tasks)[1]

  @small.jit
  def run(model):
    differentiate = weighed(agent.rule, agent.weigh, weighting, agent.shared)
    (total, (_, kept, metrics)), found = differentiate(losses, model)
    sure = lambda model: agent.weigh(losses(model), {}, kept['weighting'])[0]
    return found, total, metrics, jax.value_and_grad(sure)(model)

  found, total, metrics, (value, wanted) = jax.device_get(run(state.params['world_model']))
  np.testing.assert_allclose(total, value, rtol=1e-5)
  shared = {k: wanted[k] for k in agent.shared}
  size = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(shared)))
  assert size > 1
  wanted |= jax.tree.map(lambda x: x / size, shared)
  small.close(found, wanted, 1e-4)
  assert all(metrics[f'harmony/{task}/weight'] > 0 for task in agent.tasks)


@pytest.mark.parametrize('rule', ['none', 'fixed', 'reciprocal'])
def test_a_rate_for_harmonizers_that_are_not_there(rule):
  """The presets for CPUs give the harmonizers a rate of their own, whatever rule is chosen."""
  rates = dict(weighting__rate=3.0, weighting__beta2=0.99)
  agent = small.agent(small.VECTOR, weighting__rule=rule, **rates)
  state = jax.eval_shape(agent.init, jax.random.key(0))
  assert state.params['world_model']['harmony'] == {}
  model, optimizer = state.params['world_model'], agent.optimizers['world_model']
  updates, after = jax.eval_shape(optimizer.update, model, state.opt_state['world_model'], model)
  chex.assert_trees_all_equal_shapes_and_dtypes(updates, model)
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state.opt_state['world_model'])


def test_harmonizers_start_from_losses():
  agent = small.agent(weighting__calibrate=3)
  assert agent.calibration.batches == 3
  losses = {'observation': 130.0, 'reward': 0.2, 'dynamics': 2.0, 'continue': 0.7}
  state = agent.calibration.apply(small.state_of(agent), losses)
  for task, s in state.params['world_model']['harmony'].items():
    loss = losses[task] * (6 / 5 if task == 'dynamics' else 1)  # its regulariser's weight is 5/6
    np.testing.assert_allclose(np.exp(s), (loss + np.sqrt(loss**2 + 4 * loss)) / 2, rtol=1e-4)


# ----------------------------------------------------------------------------------------------
# Acting and looking


@pytest.mark.parametrize('latent', ['categorical', 'gaussian'])
def test_acting_filters_as_training_does(latent):
  """One step of `RSSM.filter` is one of `observe`: draws, a first step, a large action included."""
  agent = small.agent(discrete=False, rssm__latent=latent)
  params, rng = small.params_of(agent)['world_model']['rssm'], np.random.default_rng(0)
  normal = lambda *shape: jnp.float32(rng.normal(size=shape))
  state = State(normal(4, 16), normal(4, *agent.rssm.latents.shape), jnp.zeros(()))
  embed, action = normal(4, agent.encoder.size), 3 * normal(4, 3)
  noise = jnp.float32(rng.uniform(size=(4, 4)))
  first = jnp.array([True, False, False, True])
  inputs = embed, action, first, noise
  one, (many, _) = small.jit(
    lambda: (
      agent.rssm.filter(params, state, *inputs),
      agent.rssm.observe(params, state, *(x[:, None] for x in inputs)),
    )
  )()
  chex.assert_trees_all_close(one, jax.tree.map(lambda x: x[:, 0], many), atol=1e-5)


def test_shapes_of_a_report():
  agent, batch, _, states, _ = small.trained('discrete')
  report = lambda s, b, key: agent.capabilities['report'](agent.variables(s), b, 2, key)
  found = jax.eval_shape(report, states[1], batch, jax.random.key(0))
  chex.assert_shape(found['observation']['image'], (3, 5, 16, 16, 3))
  chex.assert_shape((found['reward'], found['continue']), (3, 5))
