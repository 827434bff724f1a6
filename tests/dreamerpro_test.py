"""DreamerPro: Sinkhorn, shifts and prototypes by hand-made arrays, and two updates of it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harmony_jax import method, settings
from harmony_jax.optimizers import OptimizerSettings, make_optimizer
from harmony_jax.prototypes import shift, sinkhorn, unit
from tests import small

RNG = np.random.default_rng(0)


def test_published_settings():
  """Those of the authors' `defaults dmc norm_off`; where no head predicts ends, imagination starts
  from every state.
  """
  entry = method.entry('dreamerpro')
  found = settings.flatten(entry.settings)
  optimizer = dict(kind='tensorflow', eps=1e-5, clip=100.0, weight_decay=1e-6)
  wanted = {
    '': dict(batch_size=50, batch_length=51, prefill=2500, pretrain=100, eval_policy='mode'),
    'rssm': dict(
      deter=200, units=200, stoch=32, latent='gaussian', min_std=0.1, learned_initial=False
    ),
    'encoder': dict(depth=48, padding='valid'),
    'prototypes': dict(count=2500, size=32, temperature=0.1, warm_up=1, norm=0.0, freeze=10_000),
    'prototypes.': dict(slow_fraction=0.05, slow_every=1, max_shift=3.0),
    'prototypes..': dict(sinkhorn_epsilon=0.0125, sinkhorn_iterations=3),
    'continue_head': dict(enabled=False),
    'losses': dict(free_nats=1.0, free_average=True, dyn=0.8, rep=0.2),
    'actor': dict(layers=4, units=400, distribution='tanh_normal', samples=100, min_std=0.1),
    'critic': dict(layers=4, units=400, slow_every=100, slow_fraction=1.0),
    'behavior': dict(discount=0.99, lam=0.95, entropy=1e-4, horizon=14),
    'model_opt': dict(lr=3e-4, **optimizer),
    'actor_opt': dict(lr=8e-5, **optimizer),
    'critic_opt': dict(lr=8e-5, **optimizer),
  }
  for group, values in wanted.items():
    prefix = group.rstrip('.') + '.' if group else ''
    assert {k: found[prefix + k] for k in values} == values, group
  assert found['train_ratio'] * 5 == 50 * 51  # an update every five steps
  spec = small.spec({'image': (64, 64, 3)}, 6, discrete=False)
  batch = dict.fromkeys(('is_first', 'is_terminal'), jnp.zeros((50, 51), bool))
  start, alive = jax.eval_shape(
    entry.make(entry.settings, spec).starts, jnp.zeros((100, 51, 2)), batch
  )
  assert start.shape == (5100, 2) and alive.shape == (5100,)
  ending = small.agent(**small.PRO, continue_head__enabled=True)
  start, alive = jax.eval_shape(ending.starts, jnp.zeros((100, 51, 2)), batch)
  assert start.shape == (5000, 2) and alive.shape == (5000,)


# ----------------------------------------------------------------------------------------------
# Sinkhorn, shifts, unit vectors


def assigned(scores, epsilon, iterations):
  """The authors' way, in float64: a distribution over all entries, rows and columns in turns.
  scores [N, K].
  """
  samples, prototypes = scores.shape
  q = np.exp(scores.T.astype(np.float64) / epsilon - (scores / epsilon).max())
  q /= q.sum()
  for _ in range(iterations):
    q /= q.sum(1, keepdims=True) * prototypes
    q /= q.sum(0, keepdims=True) * samples
  return (q * samples).T


@pytest.mark.parametrize('samples, prototypes', [(20, 6), (6, 20)])
def test_sinkhorn_in_float64(samples, prototypes):
  scores = RNG.uniform(-1, 1, (samples, prototypes))
  for epsilon, iterations in ((0.0125, 3), (0.05, 3), (0.3, 1)):
    found = sinkhorn(jnp.float32(scores), epsilon, iterations)
    wanted = assigned(np.float32(scores), epsilon, iterations)
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


def test_sinkhorn_by_hand():
  """exp(scores / ε) = [[4, 1], [1, 1]]: columns [.8 .2] and [.5 .5], then rows."""
  found = sinkhorn(0.05 * jnp.log(jnp.array([[4.0, 1.0], [1.0, 1.0]])), 0.05, 1)
  np.testing.assert_allclose(found, [[8 / 13, 5 / 13], [2 / 7, 5 / 7]], rtol=1e-5)


def test_sinkhorn_comes_to_equal_shares():
  """N/K of each prototype in the end, and nearer with every iteration; ties stay ties."""
  scores = jnp.float32(RNG.uniform(-1, 1, (30, 5)) + np.array([0.8, 0, 0, 0, 0]))
  off = [float(jnp.abs(sinkhorn(scores, 0.1, n).sum(0) - 6).max()) for n in (1, 3, 10, 300)]
  assert off == sorted(off, reverse=True) and off[0] > 0.3 and off[-1] < 1e-3
  np.testing.assert_allclose(sinkhorn(jnp.ones((4, 8)), 0.0125, 3), 1 / 8, rtol=1e-5)


def moved(image, dx, dy):
  """A float64 loop over the pixels of [H, W, C]: bilinear, the coordinates kept inside."""
  height, width, _ = image.shape
  out = np.zeros_like(image, np.float64)
  for y in range(height):
    for x in range(width):
      sy, sx = np.clip(y - dy, 0, height - 1), np.clip(x - dx, 0, width - 1)
      top, left = int(np.floor(sy)), int(np.floor(sx))
      for row, by_row in ((top, 1 - (sy - top)), (min(top + 1, height - 1), sy - top)):
        for column, by_column in ((left, 1 - (sx - left)), (min(left + 1, width - 1), sx - left)):
          out[y, x] += by_row * by_column * image[row, column]
  return out


def test_shift():
  """In float64; whole pixels are a roll with the edge continued, half a pixel is a mean."""
  images = RNG.uniform(size=(4, 2, 7, 9, 3))
  by = np.array([[2.0, 0.0], [0.0, -1.0], [0.5, 0.0], [-2.7, 1.3]])
  found = np.asarray(shift(jnp.float32(images), jnp.float32(by)))
  wanted = [[moved(image, *each) for image in one] for one, each in zip(images, by, strict=True)]
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  right = images[0, :, :, [0, 0, *range(7)]].transpose(1, 2, 0, 3)  # dx > 0 moves to the right
  up = images[1][:, [*range(1, 7), 6]]  # dy < 0 moves up
  half = (images[2, :, :, 1:] + images[2, :, :, :-1]) / 2
  np.testing.assert_allclose(found[:2], [right, up], atol=1e-6)
  np.testing.assert_allclose(found[2, :, :, 1:], half, atol=1e-6)
  np.testing.assert_allclose(found[2, :, :, 0], images[2, :, :, 0], atol=1e-6)


def test_unit_vectors():
  found = unit(jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]]))
  np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0], [1e-3, 0.0]], rtol=1e-5)
  assert np.isfinite(jax.jacobian(unit)(jnp.zeros(2))).all()


# ----------------------------------------------------------------------------------------------
# The objective


def example(**changes):
  """An objective with parameters as an update begins with them, slow copies, and for 6 rows (two
  views of 3) of 5 steps pictures, embeddings and features.
  """
  agent = small.agent(**{**small.PRO, **changes})
  params = small.params_of(agent)['world_model']
  slow = small.state_of(agent, 1).targets['world_model']
  draw = lambda size: jnp.float32(RNG.normal(size=(6, 5, size)))
  batch = {'image': jnp.float32(RNG.uniform(size=(6, 5, 16, 16, 3)))}
  one = agent.objective
  embed, feature = draw(agent.encoder.size), draw(agent.rssm.feature_size)
  return one, one.project(params), slow, batch, embed, feature


def losses_of(one):
  return small.jit(lambda params, slow, *arrays: one.losses(params, slow, {}, *arrays)[0])


def test_losses_by_hand():
  """Loops in float64 NumPy: the other view's assignments from embeddings, the own from features,
  without warm-up. Exchanging the views changes nothing.
  """
  changes = dict(norm=0.5, sinkhorn_epsilon=0.1, warm_up=2, temperature=0.2)
  changes = {f'prototypes__{k}': v for k, v in changes.items()}
  one, params, slow, batch, embed, feature = example(**changes)
  losses = losses_of(one)
  found = losses(params, slow, batch, embed, feature)
  exchanged = losses(
    params, slow, *jax.tree.map(lambda x: jnp.roll(x, 3, 0), (batch, embed, feature))
  )
  chex.assert_trees_all_close(found, exchanged, rtol=1e-5)
  own, copy = jax.tree.map(np.float64, (params['prototypes'], slow['embed']))
  project = lambda layer, x: np.float64(x) @ layer['kernel'] + layer['bias']
  scores = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True) @ own['vectors'].T
  by_slow = scores(project(copy, one.encoder(slow['encoder'], None, batch)[0]))
  by_embed, by_feature = project(own['embed'], embed), project(own['feature'], feature)
  views = [
    assigned(by_slow[k : k + 3, 2:].reshape(9, 12), 0.1, 3).reshape(3, 3, 12) for k in (0, 3)
  ]
  sums = dict(swav=0.0, temporal=0.0)
  for row in range(6):
    for t in range(2, 5):
      view, index = divmod(row, 3)
      for x, which, name in ((by_embed, 1 - view, 'swav'), (by_feature, view, 'temporal')):
        logits = scores(x[row, t]) / 0.2
        log_p = logits - np.log(np.exp(logits).sum())
        sums[name] -= (views[which][index, t - 2] * log_p).sum() / 18
  norm = sum(((np.linalg.norm(x, axis=-1) - 1) ** 2).mean() for x in (by_embed, by_feature))
  for name, wanted in {**sums, 'norm': 0.5 * norm}.items():
    np.testing.assert_allclose(found[name], wanted, rtol=1e-3, err_msg=name)
  assert set(found) == {'swav', 'temporal', 'norm'}


def test_a_perfect_prediction_costs_the_entropy():
  """Two prototypes ±e: the angle θ predicts sigmoid(2 cos θ / temperature), which is made the
  assignment.
  """
  changes = dict(count=2, size=2, temperature=1.0, sinkhorn_epsilon=2.0, warm_up=0)
  one, params, slow, batch, embed, _ = example(
    **{f'prototypes__{k}': v for k, v in changes.items()}
  )
  vectors = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
  pick = lambda size: {'kernel': jnp.eye(size, 2), 'bias': jnp.zeros(2)}
  size = embed.shape[-1]
  params['prototypes'] = {'vectors': vectors, 'embed': pick(size), 'feature': pick(20)}
  targets = small.jit(
    lambda: one.assignments(params, slow, one.encoder(slow['encoder'], None, batch)[0])
  )()
  targets = np.float64(targets)
  cosine = np.log(targets[..., 0] / targets[..., 1]) / 2
  assert 1e-3 < np.abs(cosine).max() < 1
  looks = 3 * np.stack([cosine, np.sqrt(1 - cosine**2)], -1)  # lengths do not matter
  wide = lambda size, x: jnp.float32(np.pad(x, ((0, 0), (0, 0), (0, size - 2))))
  other = np.roll(looks, 3, 0)
  losses = losses_of(one)
  found = losses(params, slow, batch, wide(size, other), wide(20, looks))
  entropy = -(targets * np.log(targets)).sum(-1).mean()
  np.testing.assert_allclose([found['swav'], found['temporal']], entropy, rtol=1e-5)
  worse = losses(params, slow, batch, wide(size, -other), wide(20, -looks))
  assert worse['swav'] > entropy + 1e-6 and worse['temporal'] > entropy + 1e-6


def test_where_gradients_go():
  """To prototypes from both losses, to a projection from its own; targets send none."""
  one, params, slow, *arrays = example()
  losses = lambda params, slow: one.losses(params, slow, {}, *arrays)[0]
  each = small.jit(jax.jacrev(losses, argnums=(0, 1)))(params, slow)
  for name, routes in (('swav', {'vectors', 'embed'}), ('temporal', {'vectors', 'feature'})):
    of_params, of_slow = each[name]
    found = of_params['prototypes'].items()
    assert {k for k, v in found if any(leaf.any() for leaf in jax.tree.leaves(v))} == routes
    assert not any(leaf.any() for leaf in jax.tree.leaves(of_slow))


# ----------------------------------------------------------------------------------------------
# The optimiser


@pytest.mark.parametrize('beta2', [0.999, 0.9])
def test_tensorflows_adam(beta2):
  """a = lr √(1-β₂ᵗ) / (1-β₁ᵗ), Δ = -a m / (√v + ε) after the decay (1 - share): float64, gradients
  from 1e-6 to 1. optax's is the same with an ε of its own for every step.
  """
  shared = dict(kind='tensorflow', lr=0.01, eps=1e-5, clip=1e9, beta2=beta2)
  transform = make_optimizer(OptimizerSettings(**shared, weight_decay=1e-3))
  x = RNG.normal(size=12)
  params = {'x': jnp.float32(x)}
  state, m, v = transform.init(params), 0.0, 0.0
  update = small.jit(transform.update)
  for t in range(1, 6):
    gradient = RNG.normal(size=12) * np.logspace(-6, 0, 12)
    m, v = 0.9 * m + 0.1 * gradient, beta2 * v + (1 - beta2) * gradient**2
    rate = 0.01 * np.sqrt(1 - beta2**t) / (1 - 0.9**t)
    move = -rate * m / (np.sqrt(v) + 1e-5)
    updates, state = update({'x': jnp.float32(gradient)}, state, params)
    np.testing.assert_allclose(updates['x'], move - 1e-3 * x, rtol=2e-3, atol=1e-7)
    textbook = -0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - beta2**t)) + 1e-5)
    assert t > 1 or np.abs(textbook / move - 1).max() > (10 if beta2 == 0.999 else 1)
    x = (1 - 1e-3) * x + move
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params['x'], x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('kind, rate', [('tensorflow', 1e-3), ('tensorflow', 1.0), ('adam', 1e-3)])
def test_weight_decay(kind, rate):
  """TensorFlow's is a share of every parameter, whatever the learning rate; L2 joins the gradient
  before Adam: with a gradient of zero every parameter moves by the rate.
  """
  transform = make_optimizer(OptimizerSettings(kind, rate, 1e-8, 100.0, 0.1))
  params = {'a': jnp.array([2.0, -1.0]), 'bias': jnp.array([4.0]), 'harmony': {'s': jnp.ones(())}}
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = transform.update(zero, transform.init(params), params)
  move = (lambda x: -0.1 * x) if kind == 'tensorflow' else (lambda x: -rate * jnp.sign(x))
  chex.assert_trees_all_close(updates, jax.tree.map(move, params), rtol=1e-4)


# ----------------------------------------------------------------------------------------------
# Two updates


def test_two_updates():
  """Everything moves, by finite numbers; prototypes from the second update on, from unit vectors;
  harmonizers towards their losses; the slow encoder copies, then goes 0.05 of the way.
  """
  _, _, _, states, metrics = small.trained('pro')
  for each in metrics:
    assert all(np.isfinite(v) for k, v in each.items() if k != 'looked/nan')
  still = jax.tree.map(
    lambda a, b: bool((a == b).all()), *jax.device_get((states[2].params, states[0].params))
  )
  still = [jax.tree_util.keystr(k) for k, v in jax.tree.leaves_with_path(still) if v]
  assert not still
  tasks = ('swav', 'temporal', 'reward', 'dynamics')
  losses = {k.removeprefix('loss/') for k in metrics[0] if k.startswith('loss/')}
  assert losses == {*tasks, 'world_model', 'actor', 'critic', 'probe'}
  total = sum(metrics[0][f'loss/{task}'] for task in tasks) + 4 * np.log(2)
  np.testing.assert_allclose(metrics[0]['loss/world_model'], total, rtol=1e-5)
  model = [state.params['world_model'] for state in states]
  for task in tasks:
    slope = metrics[0][f'loss/{task}'] - 0.5
    np.testing.assert_allclose(model[1]['harmony'][task], np.sign(slope) * 1e-3, rtol=2e-2)
  vectors = [each['prototypes']['vectors'] for each in model]
  np.testing.assert_allclose(vectors[1], unit(vectors[0]), rtol=3e-6, atol=1e-7)
  assert float(jnp.abs(vectors[2] - vectors[1]).max()) > 1e-4
  fast = [{'encoder': m['encoder'], 'embed': m['prototypes']['embed']} for m in model]
  copies = [state.targets['world_model'] for state in states]
  chex.assert_trees_all_close(copies[1], fast[1], rtol=1e-6)
  wanted = jax.tree.map(lambda a, b: 0.95 * a + 0.05 * b, *jax.device_get(fast[1:3]))
  chex.assert_trees_all_close(copies[2], wanted, rtol=1e-5, atol=1e-7)


def test_the_action_before_a_sequence():
  """Sequences with `before` begin with no memory and that action, whatever the last batch ended
  with; a look at the losses without an update is the same.
  """
  agent, batch, step, states, metrics = small.trained('pro')
  state = states[2]
  before = jnp.float32(RNG.uniform(-1, 1, (3, 3)))
  inside = batch | {'is_first': batch['is_first'].at[:, 0].set(False)}
  fresh = agent.initial_carry(state.params, 3)
  assert jnp.abs(state.carry.latent.deter).max() > 0
  found, looked = small.jit(
    lambda s, b: (agent.update(s, b)[1]['loss/dynamics'], agent.task_losses(s, b))
  )(state, inside | {'before': before})
  _, wanted = step(state.replace(carry=fresh._replace(action=before)), inside)
  _, without = step(state.replace(carry=fresh), inside)
  np.testing.assert_allclose([found, looked['dynamics']], wanted['loss/dynamics'], rtol=1e-5)
  for name, loss in looked.items():
    np.testing.assert_allclose(loss, wanted[f'loss/{name}'], rtol=1e-4, err_msg=name)
  assert abs(without['loss/dynamics'] - found) > 1e-6
  with pytest.raises(ValueError, match='rssm.learned_initial must be False'):
    small.agent(**small.PRO, rssm__learned_initial=True)


@pytest.mark.parametrize('discrete', (True, False))
def test_draws_belong_to_rows(discrete):
  """The noise of a batch's first rows does not depend on how many follow; rows, steps and views
  differ; shifts are whole-valued by chance only.
  """
  agent = small.agent(**{**small.PRO, 'discrete': discrete})
  draw = small.jit(agent.draws, static_argnums=(1, 2))
  whole, part = (draw(jax.random.key(3), rows, 5) for rows in (4, 2))
  for name, lead in (('posterior', 0), ('view', 0), ('latent', 1), ('action', 1), ('entropy', 2)):
    one, other = getattr(whole, name), getattr(part, name)
    if one is None:
      assert name == 'entropy' and discrete and other is None
      continue
    split = lambda x, rows, lead=lead: x.reshape(*x.shape[:lead], 2, rows, -1)
    one, other = split(one, 4), split(other, 2)
    np.testing.assert_array_equal(one[..., :2, :], other)
    rows = np.moveaxis(np.asarray(one), (lead, lead + 1), (0, 1)).reshape(8, -1)
    assert len(np.unique(rows, axis=0)) == 8
  shifts = np.asarray(jax.vmap(agent.objective.noise)(jax.random.split(jax.random.key(0), 300)))
  assert shifts.shape == (300, 2, 2) and 2.9 < np.abs(shifts).max() < 3
  assert abs(shifts.mean()) < 0.2 and (shifts != np.round(shifts)).all()


@pytest.mark.parametrize('discrete', (True, False))
def test_report_and_acting(discrete):
  """A report has rewards and prototypes, no pictures; acting draws by environment, or by mode."""
  agent = small.agent(**{**small.PRO, 'discrete': discrete})
  state, batch = small.state_of(agent), small.batch(discrete=discrete)
  report = lambda s, b, key: agent.capabilities['report'](agent.variables(s), b, 2, key)
  found = jax.eval_shape(report, state, batch, jax.random.key(0))
  assert found['observation'] == {} and found['reward'].shape == (3, 5)
  assert found['prototype'].shape == found['assigned'].shape == (3, 5, 12)
  assert 'dream' not in agent.capabilities
  carry, first = agent.initial_carry(state.params, 2), jnp.ones(2, bool)
  images = {'image': batch['image'][:2, 0]}

  @small.jit
  def act(images, key):
    acts = [agent.act(state.params, carry, images, first, key, mode) for mode in (False, True)]
    return [action for action, _ in acts]

  actions = np.asarray(act(images, jax.random.key(0)))
  assert actions.shape == (2, 2, 3) and np.isfinite(actions).all() and np.abs(actions).max() <= 1
  changed = act({'image': images['image'].at[1].set(0)}, jax.random.key(0))
  np.testing.assert_allclose(actions[:, 0], [each[0] for each in changed], atol=1e-6)
  other = np.asarray(act(images, jax.random.key(1)))
  assert discrete or (np.abs(other - actions) > 1e-4).any((1, 2)).all()
