"""DreamerPro's parts by hand-made arrays, and properties of agents that the recorded runs do not
cover.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import dreamerpro
from harmony_jax.agent import Agent, optimizer, parameter_count, scale_by_tensorflow_adam
from harmony_jax.prototypes import Prototypes, shift, sinkhorn, unit
from tests import small

RNG = np.random.default_rng(0)
SIZES = {
  'method': 'dreamerpro',
  'prototypes__count': 12,
  'prototypes__size': 8,
  'actor__samples': 5,
  'losses__free_nats': 0.0,
}  # so that the prior has a gradient


# Sizes
# --------------------------------------------------------------------------------------------------


def test_parameter_counts():
  """The exact counts of the authors' model for DMC; no decoder among them."""
  agent = Agent.from_config(dreamerpro.get_config(), {'image': (64, 64, 3)}, 6, False)
  params = jax.eval_shape(agent.init, jax.random.key(0)).params
  model = {k: parameter_count(v) for k, v in params['world_model'].items()}
  prototypes = {k: parameter_count(v) for k, v in params['world_model']['prototypes'].items()}
  assert (
    set(model) == {'encoder', 'rssm', 'prototypes', 'reward', 'harmony'}
    and agent.world_model.decoder is None
  )
  projections = prototypes['embed'] + prototypes['feature']
  assert (
    model['encoder'],
    model['rssm'] + projections,
    prototypes['vectors'],
    model['reward'],
    model['harmony'],
  ) == (1_551_312, 719_568, 80_000, 574_801, 4)
  assert {k: parameter_count(v) for k, v in params.items()} == {
    'world_model': 2_925_681 + 4,
    'actor': 579_212,
    'critic': 574_801,
  }


def test_published_settings():
  """Those of the authors' `defaults dmc norm_off`; where no head predicts ends, imagination starts
  from every state.
  """
  config = dreamerpro.get_config()
  found = config.to_dict()
  wanted = {
    'batch_size': 50,
    'batch_length': 51,
    'prefill': 2500,
    'pretrain': 100,
    'eval_policy': 'mode',
    'rssm': dict(
      deter=200, units=200, stoch=32, latent='gaussian', min_std=0.1, learned_initial=False
    ),
    'encoder': dict(depth=48, padding='valid'),
    'prototypes': dict(
      count=2500,
      size=32,
      temperature=0.1,
      sinkhorn_epsilon=0.0125,
      sinkhorn_iterations=3,
      warm_up=1,
      norm=0.0,
      freeze=10_000,
      slow_fraction=0.05,
      slow_every=1,
      max_shift=3.0,
    ),
    'continue_head': dict(enabled=False),
    'losses': dict(free_nats=1.0, free_average=True, dyn=0.8, rep=0.2),
    'actor': dict(layers=4, units=400, distribution='tanh_normal', samples=100, min_std=0.1),
    'critic': dict(layers=4, units=400, slow_every=100, slow_fraction=1.0),
    'behavior': dict(
      discount=0.99, lam=0.95, entropy=1e-4, value='slow', baseline=False, normalize=False
    ),
    **{
      name: dict(kind='tensorflow', lr=lr, eps=1e-5, clip=100.0, weight_decay=1e-6)
      for name, lr in (('model_opt', 3e-4), ('actor_opt', 8e-5), ('critic_opt', 8e-5))
    },
  }
  for name, value in wanted.items():
    if isinstance(value, dict):
      assert {k: found[name][k] for k in value} == value, name
    else:
      assert found[name] == value, name
  # an update every five steps
  assert config.train_ratio * 5 == config.batch_size * config.batch_length
  agent = Agent.from_config(config, {'image': (64, 64, 3)}, 6, False)
  posterior = jnp.zeros((100, 51, 2))
  batch = {'is_terminal': jnp.zeros((50, 51), bool)}
  start, alive = jax.eval_shape(agent._starts, posterior, batch)
  assert start.shape == (5100, 2) and alive.shape == (5100,)


# Sinkhorn
# --------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize('samples,prototypes', [(20, 6), (6, 20), (9, 9)])
def test_sinkhorn_in_float64(samples, prototypes):
  scores = RNG.uniform(-1, 1, (samples, prototypes))
  for epsilon, iterations in ((0.0125, 3), (0.05, 3), (0.3, 1)):
    found = sinkhorn(jnp.float32(scores), epsilon, iterations)
    np.testing.assert_allclose(
      found, assigned(np.float32(scores), epsilon, iterations), rtol=2e-4, atol=2e-5
    )
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)


def test_sinkhorn_by_hand():
  """exp(scores / ε) = [[4, 1], [1, 1]]: columns [.8 .2] and [.5 .5], then rows."""
  found = sinkhorn(0.05 * jnp.log(jnp.array([[4.0, 1.0], [1.0, 1.0]])), 0.05, 1)
  np.testing.assert_allclose(found, [[8 / 13, 5 / 13], [2 / 7, 5 / 7]], rtol=1e-5)


def test_sinkhorn_comes_to_equal_shares():
  """Shares of the prototypes are N/K in the end, and nearer to it with every iteration; ties stay
  ties.
  """
  scores = jnp.float32(RNG.uniform(-1, 1, (30, 5)) + np.array([0.8, 0, 0, 0, 0]))
  off = [float(jnp.abs(sinkhorn(scores, 0.1, n).sum(0) - 6).max()) for n in (1, 3, 10, 300)]
  assert off == sorted(off, reverse=True) and off[0] > 0.3 and off[-1] < 1e-3
  np.testing.assert_allclose(sinkhorn(jnp.ones((4, 8)), 0.0125, 3), 1 / 8, rtol=1e-5)


# Shifts
# --------------------------------------------------------------------------------------------------


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


def test_shift_in_float64():
  images, by = RNG.uniform(size=(4, 2, 7, 9, 3)), RNG.uniform(-3, 3, (4, 2))
  found = shift(jnp.float32(images), jnp.float32(by))
  wanted = [
    [moved(image, *each) for image in sequence] for sequence, each in zip(images, by, strict=True)
  ]
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_whole_pixels_are_a_roll_with_the_edge_continued():
  images = RNG.uniform(size=(3, 1, 6, 5, 2)).astype(np.float32)
  found = np.asarray(shift(images, jnp.array([[2.0, 0.0], [0.0, -1.0], [0.0, 0.0]])))
  right = np.roll(images[0], 2, 2)  # dx > 0 moves to the right
  right[:, :, :2] = images[0, :, :, :1]
  up = np.roll(images[1], -1, 1)  # dy < 0 moves up
  up[:, -1:] = images[1, :, -1:]
  np.testing.assert_allclose(found, [right, up, images[2]], atol=1e-6)


def test_half_a_pixel_is_the_mean_of_neighbours():
  images = RNG.uniform(size=(2, 1, 6, 5, 2)).astype(np.float32)
  right, down = np.asarray(shift(images, jnp.array([[0.5, 0.0], [0.0, 0.5]])))
  np.testing.assert_allclose(
    right[0, :, 1:], (images[0, 0, :, 1:] + images[0, 0, :, :-1]) / 2, atol=1e-6
  )
  np.testing.assert_allclose(right[0, :, 0], images[0, 0, :, 0], atol=1e-6)
  np.testing.assert_allclose(down[0, 1:], (images[1, 0, 1:] + images[1, 0, :-1]) / 2, atol=1e-6)
  np.testing.assert_allclose(down[0, 0], images[1, 0, 0], atol=1e-6)


# The head
# --------------------------------------------------------------------------------------------------


def test_unit_vectors():
  found = unit(jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]]))
  np.testing.assert_allclose(found, [[0.6, 0.8], [0.0, 0.0], [1e-3, 0.0]], rtol=1e-5)
  assert np.isfinite(jax.jacobian(unit)(jnp.zeros(2))).all()
  head = Prototypes(4, 3, 7, 5)
  params = head.init(jax.random.key(0))
  prepared = head.prepared(params)
  np.testing.assert_allclose(np.linalg.norm(prepared['vectors'], axis=-1), 1, rtol=1e-5)
  assert np.abs(np.linalg.norm(params['vectors'], axis=-1) - 1).max() > 0.1
  assert prepared['embed'] is params['embed'] and prepared['feature'] is params['feature']


def test_prototypes_are_frozen_at_first():
  head = Prototypes(4, 3, 7, 5, freeze=2)
  gradient = jax.tree.map(jnp.ones_like, head.init(jax.random.key(0)))
  for step, frozen in ((0, True), (1, True), (2, False), (3, False)):
    left = head.frozen(gradient, jnp.int32(step))
    assert left['vectors'].any() != frozen and all(
      jnp.all(leaf == 1) for leaf in jax.tree.leaves(left['embed'])
    )


def test_the_slow_copy_follows():
  head, slow, fast = (
    Prototypes(4, 3, slow_every=2, slow_fraction=0.25),
    {'w': jnp.zeros(2)},
    {'w': jnp.ones(2)},
  )
  values = [float(head.slow_update(slow, fast, jnp.int32(step))['w'][0]) for step in range(5)]
  assert values == [1.0, 0.0, 0.25, 0.0, 0.25]


def example(rows=6, length=5, **fields):
  """A head, prepared parameters, a slow projection, and embeddings, slow ones and features of two
  views.
  """
  head = Prototypes(6, 4, 9, 5, **fields)
  params = head.prepared(head.init(jax.random.key(0)))
  slow = {'embed': head.init(jax.random.key(1))['embed']}
  draw = lambda size: jnp.float32(RNG.normal(size=(rows, length, size)))
  return head, params, slow, draw(6), draw(6), draw(4)


def test_losses_by_hand():
  """Loops in float64 NumPy: the other view's assignments from embeddings, the own from features,
  without warm-up.
  """
  head, params, slow, embed, slow_embed, feature = example(
    norm=0.5, sinkhorn_epsilon=0.1, warm_up=2
  )
  losses = jax.jit(head.losses)(params, slow, embed, slow_embed, feature)
  wide = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
  own, slow, embed, slow_embed, feature = map(wide, (params, slow, embed, slow_embed, feature))
  project = lambda layer, x: x @ layer['kernel'] + layer['bias']
  scores = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True) @ own['vectors'].T
  by_slow = scores(project(slow['embed'], slow_embed))
  by_embed, by_feature = project(own['embed'], embed), project(own['feature'], feature)
  views = [
    assigned(by_slow[rows, 2:].reshape(-1, 9), 0.1, 3).reshape(3, 3, 9)
    for rows in (slice(3), slice(3, 6))
  ]
  swav = temporal = 0
  for row in range(6):
    for t in range(2, 5):
      view, index = divmod(row, 3)
      for x, view, name in ((by_embed, 1 - view, 'swav'), (by_feature, view, 'temporal')):
        logits = scores(x[row, t]) / 0.1
        loss = -(views[view][index, t - 2] * (logits - np.log(np.exp(logits).sum()))).sum() / 18
        swav, temporal = (swav + loss, temporal) if name == 'swav' else (swav, temporal + loss)
  norm = sum(((np.linalg.norm(x, axis=-1) - 1) ** 2).mean() for x in (by_embed, by_feature))
  assert set(losses) == {'swav', 'temporal', 'norm'}
  np.testing.assert_allclose(
    [losses['swav'], losses['temporal'], losses['norm']], [swav, temporal, 0.5 * norm], rtol=1e-4
  )


def test_views_are_exchangeable():
  """Exchanging the views changes no loss; where they are the same, so are their assignments and
  both halves of swav.
  """
  head, params, slow, *arrays = example()
  losses_of = jax.jit(head.losses)
  losses = losses_of(params, slow, *arrays)
  exchanged = losses_of(params, slow, *(jnp.roll(x, 3, 0) for x in arrays))
  for name, loss in losses.items():
    np.testing.assert_allclose(loss, exchanged[name], rtol=1e-5)
  slow_embed, feature = (jnp.concatenate([x[:3], x[:3]]) for x in arrays[1:])
  targets = head.assignments(params, slow, slow_embed)
  np.testing.assert_array_equal(targets[:3], targets[3:])
  # With the features' projection in the place of the embeddings' the two losses ask the same.
  both = dataclasses.replace(head, embed=4)
  same = both.losses({**params, 'embed': params['feature']}, slow, feature, slow_embed, feature)
  np.testing.assert_allclose(same['swav'], same['temporal'], rtol=1e-6)


def test_a_perfect_prediction_costs_the_entropy():
  """Two prototypes ±e: the angle θ predicts sigmoid(2 cos θ / temperature), which is made the
  assignment.
  """
  head = Prototypes(2, 2, 2, 2, temperature=1.0, sinkhorn_epsilon=2.0, warm_up=0)
  identity = {'kernel': jnp.eye(2), 'bias': jnp.zeros(2)}
  params = {'vectors': jnp.array([[1.0, 0.0], [-1.0, 0.0]]), 'embed': identity, 'feature': identity}
  slow_embed = jnp.float32(RNG.normal(size=(6, 5, 2)))
  targets = np.asarray(head.assignments(params, {'embed': identity}, slow_embed), np.float64)
  cosine = np.log(targets[..., 0] / targets[..., 1]) / 2
  assert np.abs(cosine).max() < 1 and np.abs(cosine).max() > 0.2
  looks = jnp.float32(np.stack([cosine, np.sqrt(1 - cosine**2)], -1)) * 3  # lengths do not matter
  losses = head.losses(params, {'embed': identity}, jnp.roll(looks, 3, 0), slow_embed, looks)
  entropy = -(targets * np.log(targets)).sum(-1).mean()
  np.testing.assert_allclose([losses['swav'], losses['temporal']], entropy, rtol=1e-5)
  worse = head.losses(params, {'embed': identity}, looks, slow_embed, jnp.roll(looks, 3, 0))
  assert worse['swav'] > entropy + 1e-4 and worse['temporal'] > entropy + 1e-4


def test_where_gradients_go():
  """To prototypes from both losses, to a projection from its own; targets send none."""
  head, params, slow, *arrays = example()
  losses = lambda params, slow, slow_embed: head.losses(
    params, slow, arrays[0], slow_embed, arrays[2]
  )
  each = jax.jit(jax.jacobian(losses, argnums=(0, 1, 2)))(params, slow, arrays[1])
  for name, routes in (('swav', {'vectors', 'embed'}), ('temporal', {'vectors', 'feature'})):
    of_params, of_slow, of_slow_embed = each[name]
    assert {
      k for k, v in of_params.items() if any(leaf.any() for leaf in jax.tree.leaves(v))
    } == routes
    assert not any(leaf.any() for leaf in jax.tree.leaves((of_slow, of_slow_embed)))


# The optimiser
# --------------------------------------------------------------------------------------------------


def test_tensorflows_adam():
  """a = lr √(1-β₂ᵗ) / (1-β₁ᵗ), Δ = -a m / (√v + ε) after the decay (1 - share): float64, gradients
  from 1e-6 to 1.
  """
  settings = small.config('dreamerpro', model_opt__weight_decay=1e-3, model_opt__lr=0.01).model_opt
  settings.clip = 1e9
  transform, x = optimizer(settings), RNG.normal(size=12)
  params = {'x': jnp.float32(x)}
  state, m, v = transform.init(params), 0.0, 0.0
  plain = scale_by_tensorflow_adam(0.999, 1e-5)
  ours = theirs = plain.init(params)
  for t in range(1, 7):
    gradient = RNG.normal(size=12) * np.logspace(-6, 0, 12)
    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    step = 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    move = -step * m / (np.sqrt(v) + 1e-5)
    updates, state = transform.update({'x': jnp.float32(gradient)}, state, params)
    np.testing.assert_allclose(updates['x'], move - 1e-3 * x, rtol=2e-3, atol=1e-7)
    x = (1 - 1e-3) * x + move
    params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params['x'], x, rtol=1e-5, atol=1e-6)
    # optax's is the same with an ε of its own for every step.
    ours_move, ours = plain.update({'x': jnp.float32(gradient)}, ours)
    same = optax.scale_by_adam(eps=1e-5 / np.sqrt(1 - 0.999**t))
    theirs_move, theirs = same.update({'x': jnp.float32(gradient)}, theirs)
    np.testing.assert_allclose(ours_move['x'], theirs_move['x'], rtol=1e-3)
    textbook = optax.scale_by_adam(eps=1e-5)
    textbook, _ = textbook.update({'x': jnp.float32(gradient)}, textbook.init(params))
    assert t > 1 or float(jnp.abs(textbook['x'] / ours_move['x'] - 1).max()) > 10


@pytest.mark.parametrize('rate', (1e-3, 1.0))
def test_the_decay_is_a_share_whatever_the_learning_rate(rate):
  settings = small.config('dreamerpro', model_opt__weight_decay=0.1, model_opt__lr=rate).model_opt
  transform, params = optimizer(settings), {'a': jnp.array([2.0, -1.0]), 'bias': jnp.array([4.0])}
  state = transform.init(params)
  for _ in range(2):
    updates, state = transform.update(jax.tree.map(jnp.zeros_like, params), state, params)
    params = optax.apply_updates(params, updates)
  chex.assert_trees_all_close(
    params, {'a': jnp.array([1.62, -0.81]), 'bias': jnp.array([3.24])}, rtol=1e-5
  )


# Agents
# --------------------------------------------------------------------------------------------------

CASES = {
  'harmony': dict(discrete=False, prototypes__freeze=1),
  # discrete
  'none': dict(weighting__rule='none', continue_head__enabled=True, prototypes__norm=1.0),
  'fixed': dict(
    weighting__rule='fixed', weighting__w_r=1000.0, rssm__latent='categorical', discrete=False
  ),
}


def trained(name):
  """(agent, batch, states, metrics, gradients) of two updates. Kept, as compiling takes long."""
  if name not in _trained:
    case = CASES[name]
    agent = small.agent(**SIZES, **case)
    batch = small.batch(discrete=agent.discrete)
    states, metrics, gradients = [jax.jit(agent.init)(jax.random.key(0))], [], []
    step = jax.jit(agent._update)
    for _ in range(2):
      state, *found = step(states[-1], batch)
      states.append(state)
      metrics.append({k: float(v) for k, v in found[0].items()})
      gradients.append(found[1])
    _trained[name] = agent, batch, states, metrics, gradients
  return _trained[name]


_trained = {}


@pytest.mark.parametrize(
  'name', [pytest.param(name, marks=[pytest.mark.slow] * (name == 'fixed')) for name in CASES]
)
def test_two_updates(name):
  agent, _, states, metrics, _ = trained(name)
  assert all(np.isfinite(v) for each in metrics for v in each.values())
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), states[-1].params, states[0].params)
  still = [k for k, v in jax.tree.leaves_with_path(moved) if not v]
  assert not still, [jax.tree_util.keystr(k) for k in still]
  losses = {'swav', 'temporal', 'reward', 'dynamics', 'world_model', 'actor', 'critic'}
  more = {'continue', 'norm'} if name == 'none' else set()
  assert {k.removeprefix('loss/') for k in metrics[0] if k.startswith('loss/')} == losses | more
  harmonizers = states[0].params['world_model']['harmony']
  assert set(harmonizers) == (
    {'swav', 'temporal', 'reward', 'dynamics'} if name == 'harmony' else set()
  )
  assert ('continue' in states[0].params['world_model']) == (name == 'none')


def test_totals_of_the_weightings():
  """`none`: the sum; `fixed`: with the reward's weight; harmony at σ = 1: the sum and four terms of
  log 2.
  """
  cases = (('none', {}, 0.0), ('fixed', {'reward': 1000.0}, 0.0), ('harmony', {}, 4 * np.log(2)))
  for name, weights, constant in cases:
    metrics = trained(name)[3][0]
    tasks = [
      'swav',
      'temporal',
      'reward',
      'dynamics',
      *(('continue', 'norm') if name == 'none' else ()),
    ]
    total = sum(weights.get(task, 1.0) * metrics[f'loss/{task}'] for task in tasks)
    np.testing.assert_allclose(metrics['loss/world_model'], total + constant, rtol=1e-5)


def test_harmonizers_move_towards_their_losses():
  agent, _, states, metrics, _ = trained('harmony')
  rate = small.config('dreamerpro').model_opt.lr
  for task, s in states[1].params['world_model']['harmony'].items():
    slope = metrics[0][f'loss/{task}'] - 0.5
    np.testing.assert_allclose(s, np.sign(slope) * rate, rtol=2e-2, err_msg=task)


def test_prototypes_learn_when_they_are_let():
  """No gradient in update 0, one in update 1; what stands for them then are unit vectors."""
  _, _, states, _, gradients = trained('harmony')
  vectors = [state.params['world_model']['prototypes']['vectors'] for state in states]
  of_vectors = [gradient['world_model']['prototypes']['vectors'] for gradient in gradients]
  assert not of_vectors[0].any() and of_vectors[1].any()
  np.testing.assert_allclose(vectors[1], unit(vectors[0]), rtol=3e-6, atol=1e-7)
  assert float(jnp.abs(vectors[2] - vectors[1]).max()) > 1e-4


def test_slow_copies_of_the_encoder():
  """A copy after the first update, 0.05 of the way after the second; they are in no optimiser's
  hands.
  """
  _, _, states, _, _ = trained('harmony')
  copies = [state.targets['world_model'] for state in states]
  fast = [
    {
      'encoder': state.params['world_model']['encoder'],
      'embed': state.params['world_model']['prototypes']['embed'],
    }
    for state in states
  ]
  chex.assert_trees_all_close(copies[1], fast[1], rtol=1e-6)
  chex.assert_trees_all_close(
    copies[2],
    jax.tree.map(lambda a, b: 0.95 * a + 0.05 * b, fast[1], fast[2]),
    rtol=1e-5,
    atol=1e-7,
  )
  assert all(
    (a != b).any()
    for a, b in zip(jax.tree.leaves(copies[2]), jax.tree.leaves(fast[2]), strict=True)
  )


def test_the_first_update_has_the_losses_of_a_look_without_one():
  """`task_losses`, from which harmonizers may start, are those that the first update finds."""
  agent, batch, states, metrics, _ = trained('harmony')
  found = jax.jit(agent.task_losses)(states[0], batch)
  np.testing.assert_allclose(
    [found[k] for k in found], [metrics[0][f'loss/{k}'] for k in found], rtol=1e-4
  )


@pytest.mark.parametrize('name', ('harmony', 'none'))
def test_draws_belong_to_rows(name):
  """The noise of a batch's first rows does not depend on how many rows follow; rows, steps and
  views differ.
  """
  agent = trained(name)[0]
  key = jax.random.key(3)
  draw = jax.jit(agent._train_noise, static_argnums=(1, 2))
  noise = [draw(key, rows, 5) for rows in (4, 2)]
  for k in ('latent', 'shift'):
    whole, part = (
      each['posterior'][k].reshape(2, -1, *each['posterior'][k].shape[1:]) for each in noise
    )
    chex.assert_trees_all_equal(whole[:, :2], part)
    flat = np.asarray(whole).reshape(8, -1)
    assert len(np.unique(flat, axis=0)) == 8
  shifts = np.asarray(draw(key, 300, 5)['posterior']['shift'])
  assert shifts.shape == (600, 2) and np.abs(shifts).max() < 3 and np.abs(shifts).max() > 2.9
  assert abs(shifts.mean()) < 0.2 and (shifts != np.round(shifts)).all()
  imagined = [each['imagination'] for each in noise]
  for before, draws in ((1, 'latent'), (1, 'action'), (2, 'entropy')):
    whole, part = (getattr(each, draws) for each in imagined)
    if whole is None:
      assert draws == 'entropy' and agent.discrete and part is None
      continue
    split = lambda x, rows: np.asarray(x).reshape(
      *x.shape[:before], 2, rows, -1, *x.shape[before + 1 :]
    )
    views = (slice(None),) * (before + 1)
    np.testing.assert_array_equal(split(whole, 4)[*views, :2], split(part, 2))


def test_the_action_before_a_sequence():
  """Sequences with `before` begin with no memory and that action, whatever the last batch ended
  with.
  """
  agent, batch, states, _, _ = trained('harmony')
  state, step = states[-1], jax.jit(agent.train_step)
  before = jnp.asarray(RNG.uniform(-1, 1, batch['action'][:, 0].shape), jnp.float32)
  inside = batch | {'is_first': batch['is_first'].at[:, 0].set(False)}
  fresh = agent.initial_carry(state.params, len(before))
  assert jnp.abs(state.carry.latent.deter).max() > 0
  found, metrics = step(state, inside | {'before': before})
  wanted, same = step(state.replace(carry=fresh._replace(action=before)), inside)
  chex.assert_trees_all_close((found.params, metrics), (wanted.params, same), rtol=1e-5, atol=1e-7)
  _, without = step(state.replace(carry=fresh), inside)
  assert abs(without['loss/dynamics'] - metrics['loss/dynamics']) > 1e-6
  losses = agent.task_losses(state, inside | {'before': before})
  np.testing.assert_allclose(losses['dynamics'], metrics['loss/dynamics'], rtol=1e-5)


@pytest.mark.parametrize('name', ('harmony', 'none'))
def test_report_and_policy(name):
  """An open-loop prediction has rewards and prototypes, and no pictures; acting draws by
  environment, and has a mode.
  """
  agent, batch, states, _, _ = trained(name)
  found = jax.jit(lambda state, batch: agent.report(state, batch, 2))(states[-1], batch)
  assert found['observation'] == {} and found['reward'].shape == batch['reward'].shape
  assert np.isfinite(found['reward']).all()
  for each in ('prototype', 'assigned'):
    assert found[each].shape == (*batch['reward'].shape, 12)
    np.testing.assert_allclose(found[each].sum(-1), 1, atol=1e-5)
  carry, first = agent.initial_carry(states[-1].params, 2), jnp.ones(2, bool)
  images = {'image': batch['image'][:2, 0]}
  act = jax.jit(
    lambda images, key, mode: agent.policy(states[-1].weights, carry, images, first, key, mode),
    static_argnames='mode',
  )
  for mode in (False, True):
    action, after = act(images, jax.random.key(0), mode=mode)
    assert action.shape == (2, 3) and np.isfinite(action).all() and np.abs(action).max() <= 1
    changed, _ = act({'image': images['image'].at[1].set(0)}, jax.random.key(0), mode=mode)
    np.testing.assert_allclose(action[0], changed[0], atol=1e-6)
    other, _ = act(images, jax.random.key(1), mode=mode)
    assert agent.discrete or np.abs(other - action).max() > 1e-4
    assert after.latent.stoch.shape == carry.latent.stoch.shape
