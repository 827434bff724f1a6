"""What a model without reconstruction shows: a probing decoder, and assignments to prototypes over
time.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import catch
from harmony_jax import viewing
from harmony_jax.agent import weights
from harmony_jax.benchmarking import flops
from harmony_jax.prototypes import shift, sinkhorn, unit
from harmony_jax.training import assignments, panels, recording, video
from tests import small
from tests.launcher_test import command
from tests.loop_test import TINY, assert_same, run

SIZES = dict(
  method='dreamerpro', discrete=False, prototypes__count=12, prototypes__size=8, actor__samples=5
)


def bright():
  batch = small.batch(discrete=False)
  return batch | {'image': batch['image'] // 4 + 192}


@functools.cache
def trained(probe, updates=10, rate=3e-3):
  """(agent, states before and after each update on one batch of bright pictures, metrics)."""
  agent = small.agent(**SIZES, decoder__probe=probe, probe_opt__lr=rate)
  states, found, step = [agent.init(jax.random.key(0))], [], jax.jit(agent.train_step)
  for _ in range(updates):
    state, metrics = step(states[-1], bright())
    states.append(state)
    found.append(metrics)
  return agent, states, found


# The probe
# --------------------------------------------------------------------------------------------------


def test_nothing_learns_from_the_probe():
  """All that trains without it comes out the same with it."""
  (_, with_probe, metrics), (_, without, plain) = trained(True), trained(False)
  for one, other in zip(with_probe, without):
    assert (
      set(one.params) - set(other.params) == set(one.opt_state) - set(other.opt_state) == {'probe'}
    )
    rest = lambda tree: {k: v for k, v in tree.items() if k != 'probe'}
    chex.assert_trees_all_close(rest(one.params), other.params, rtol=1e-6, atol=1e-7)
    chex.assert_trees_all_close(one.targets, other.targets, rtol=1e-6, atol=1e-7)
    assert 'decoder' in one.weights['world_model'] and 'decoder' not in one.params['world_model']
  assert set(metrics[-1]) - set(plain[-1]) == {'loss/probe', 'grad_norm/probe'}
  np.testing.assert_allclose(
    metrics[-1]['loss/world_model'], plain[-1]['loss/world_model'], rtol=1e-5
  )


def test_the_probe_learns_and_changes_by_its_own_optimiser():
  _, states, metrics = trained(True)
  losses = [float(each['loss/probe']) for each in metrics]
  assert max(losses[-3:]) < 0.9 * losses[0]
  _, fixed, _ = trained(True, 1, rate=0.0)
  chex.assert_trees_all_equal(fixed[0].params['probe'], fixed[1].params['probe'])
  chex.assert_trees_all_close(
    states[1].params['world_model'], fixed[1].params['world_model'], rtol=1e-6, atol=1e-7
  )


def test_the_loss_is_that_of_the_first_view():
  """Half the squared error of the shifted picture that the first view's states have seen, summed
  over pixels.
  """
  agent, states, metrics = trained(True)
  model, state, batch = agent.world_model, states[0], bright()
  params = model.prepared(state.params['world_model'])
  noise = agent._train_noise(jax.random.fold_in(state.rng, 0), 3, 5)['posterior']
  before = jnp.concatenate([jnp.zeros((3, 1, 3)), batch['action'][:, :-1]], 1)
  # The states of the updated model's forward pass: it is the one before its update.
  latent, seen, action = model.views_of(state.carry.latent, batch, before, noise)
  outputs = model.forward(params, latent, seen, action, noise)
  feature = outputs.posterior.feature()[:3].reshape(15, -1)
  image = np.asarray(batch['image'], np.float32) / 255
  moved = np.asarray(shift(jnp.asarray(image), noise['shift'][:3])).reshape(15, -1)
  made = np.asarray(
    model.decoder.apply({'params': state.params['probe']}, feature)['image']
  ).reshape(15, -1)
  wanted = 0.5 * np.square(made - moved).sum(-1).mean()
  np.testing.assert_allclose(metrics[0]['loss/probe'], wanted, rtol=1e-5)
  assert abs(wanted - 0.5 * np.square(made - image.reshape(15, -1)).sum(-1).mean()) > 1e-3 * wanted


def test_vectors_are_probed_too():
  shapes = small.IMAGE | small.VECTOR
  agent = small.agent(shapes, **SIZES, decoder__probe=True)
  state, metrics = jax.jit(agent.train_step)(
    agent.init(jax.random.key(0)), small.batch(shapes, discrete=False)
  )
  found = agent.world_model.predict(
    state.weights['world_model'], jnp.zeros((2, agent.world_model.rssm.feature_size))
  )
  assert set(found['observation']) == set(shapes) and np.isfinite(metrics['loss/probe'])


def test_dreams_have_the_probes_pictures():
  agent, states, _ = trained(True)
  found = jax.jit(functools.partial(viewing.dream, agent, count=2, length=3))(
    states[-1].weights, jax.random.key(1)
  )
  assert found['observation']['image'].shape == (2, 3, 16, 16, 3) and found['prototype'].shape == (
    2,
    3,
    12,
  )


@pytest.mark.parametrize(
  'changes, text',
  (
    ({'method': 'dreamerv2'}, 'decoder.probe is for models without a decoder'),
    ({'method': 'dreamerv3'}, 'decoder.probe is for models without a decoder'),
    (SIZES | {'decoder__kind': 'residual'}, "decoder.kind must be 'plain', not 'residual'"),
  ),
)
def test_a_probe_is_for_models_without_decoder(changes, text):
  with pytest.raises(ValueError, match=text):
    small.agent(**{'discrete': False, **changes}, decoder__probe=True)


def test_its_work_is_counted():
  """Forward and backward of the decoder over the first view, beside what is done without it."""
  (one, parts), (other, plain) = (
    flops.train_step(small.agent(**SIZES, decoder__probe=probe), 3, 5) for probe in (True, False)
  )
  decoder = flops.forward(small.agent(method='dreamerv2', discrete=False, rssm__latent='gaussian'))[
    'decoder'
  ]
  assert parts.pop('probe') == one - other == 3 * 3 * 5 * decoder and parts == plain


def test_weights():
  """A probe stands where the decoder would; statistics of the networks stay with the world model."""
  found = weights({'world_model': {'encoder': 1}, 'actor': 2, 'probe': 3}, {'encoder': 4})
  assert found == {
    'world_model': {'encoder': 1, 'decoder': 3, 'statistics': {'encoder': 4}},
    'actor': 2,
    'probe': 3,
  }
  assert weights({'world_model': {'encoder': 1}}, {}) == {'world_model': {'encoder': 1}}


# Assignments
# --------------------------------------------------------------------------------------------------


def test_assignments_and_their_predictions():
  """By hand: of a sequence's embeddings by Sinkhorn, of states by a softmax, with prototypes of
  length 1.
  """
  agent, states, _ = trained(False)
  model, params = agent.world_model, states[-1].params['world_model']
  head, found = params['prototypes'], small.batch(discrete=False)
  linear = lambda name, x: unit(x @ head[name]['kernel'] + head[name]['bias'])
  vectors = unit(head['vectors'])
  embed = model.encode(params, found)
  by_hand = jnp.stack([sinkhorn(linear('embed', one) @ vectors.T, 0.0125, 3) for one in embed])
  chex.assert_trees_all_close(model.assign(params, found), by_hand, atol=1e-4)
  feature = jax.random.normal(jax.random.key(0), (2, model.rssm.feature_size))
  by_hand = jax.nn.softmax(linear('feature', feature) @ vectors.T / 0.1)
  chex.assert_trees_all_close(model.predict(params, feature)['prototype'], by_hand, atol=1e-5)


def example(length=8, kinds=5):
  """(pictures, assigned): step t is prototype t mod `kinds` for certain; its picture is of
  brightness 10 t.
  """
  pictures = np.broadcast_to(
    np.arange(length, dtype=np.uint8)[:, None, None, None] * 10, (length, 16, 16, 3)
  ).copy()
  return pictures, np.eye(kinds)[np.arange(length) % kinds]


def test_surprise():
  _, assigned = example()
  np.testing.assert_allclose(assignments.surprise(assigned, assigned), 0, atol=1e-9)
  np.testing.assert_allclose(assignments.surprise(assigned, np.full((8, 5), 0.2)), np.log(5))
  wrong = np.roll(assigned, 1, 1)
  wrong[:3] = assigned[:3]
  assert assignments.describe(assigned, wrong, np.arange(8) < 3) == [
    'prototypes of steps seen: cross entropy 0.00 (knowing nothing: 1.61), the most likely one is right in 3 of 3',
    'prototypes of steps imagined: cross entropy 27.63 (knowing nothing: 1.61), the most likely one is right in 0 of 5',
  ]
  assert len(assignments.describe(assigned, assigned, np.ones(8, bool))) == 1


def test_picture():
  """Certain assignments are lit at their steps and nowhere else, in the order in which they come."""
  pictures, assigned = example()
  seen = np.arange(8) < 3
  image = assignments.picture(pictures, assigned, assigned, seen, 'title', rows=4)
  assert image.dtype == np.uint8 and image.shape[0] % 2 == image.shape[1] % 2 == 0
  step = lambda t: assignments.LEFT + int((t + 0.5) * assignments.WIDTH / 8)
  top = 2 * assignments.LINE + assignments.ROW + 8
  row = lambda index, block: (
    top + block * (4 * assignments.ROW + assignments.LINE) + assignments.ROW * index + 15
  )
  # Of 5 prototypes the last (steps 4 only) and one of equal share are not all shown; 0, 1, 2 have
  # two steps each.
  for block, ink in (
    (0, lambda t: (255,) * 3),
    (1, lambda t: panels.GIVEN if t < 3 else video.IMAGINED),
  ):
    lit = [
      [tuple(image[row(index, block), step(t)]) != panels.BACKGROUND for t in range(8)]
      for index in range(4)
    ]
    # The mean steps of prototypes 0 … 3 are 2.5, 3.5, 4.5, 3: they come in the order 0, 3, 1, 2.
    np.testing.assert_array_equal(lit, assigned[:, [0, 3, 1, 2]].T > 0)
    assert [tuple(image[row(index, block), step(t)]) for index, t in ((0, 0), (0, 5), (1, 3))] == [
      ink(0),
      ink(5),
      ink(3),
    ]
  # Before a row stands the step that is most its own: the first where several are.
  assert [image[row(index, 0), panels.GAP + 15, 0] for index in range(4)] == [0, 30, 10, 20]


def test_frames():
  pictures, assigned = example()
  latent = None
  episode = recording.Episode(
    pictures, {'image': pictures}, np.ones(8), np.zeros((8, 2)), latent, True
  )
  prediction = {'prototype': assigned, 'reward': np.ones(8), 'seen': np.arange(8) < 3}
  frames = list(assignments.frames(episode, assigned, prediction, 'title'))
  assert len(frames) == 8 and len({frame.shape for frame in frames}) == 1
  assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
  assert [frame[assignments.LINE + 50, 50, 0] for frame in frames] == list(range(0, 80, 10))


# Runs
# --------------------------------------------------------------------------------------------------


def config_of(probe=True, **changes):
  config = catch.get_config('dreamerpro', 'tiny')
  config.task = 'catch'
  config.update_from_flattened_dict(
    {**TINY, 'batch_length': 6, 'video_every': 80, 'decoder.probe': probe, **changes}
  )
  return config


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  return folder, run(folder, config_of())


def test_a_killed_run_ends_as_the_undisturbed_one(whole, tmp_path):
  """With prototypes, a slow encoder, a probe, and actions before the sequences: everything is the
  same.
  """
  undisturbed, one = whole
  run(tmp_path, config_of(), until=120)
  assert_same(undisturbed, one, tmp_path, run(tmp_path, config_of()))
  batch = one.replay.sample(7)
  assert batch['before'].any() and not batch['is_first'][:, 0].all()


def test_what_a_run_with_a_probe_shows(whole):
  folder, _ = whole
  there = lambda: {path.name for path in (folder / 'videos').iterdir()}
  drawn = {
    f'{name}_{step:08d}.{kind}'
    for step in (80, 160)
    for name, kind in (('open_loop_image', 'mp4'), ('prototypes', 'png'))
  }
  assert there() == drawn
  done = command('play', f'--logdir={folder}')
  assert done.returncode == 0, done.stderr
  assert 'prototypes of steps seen: cross entropy' in done.stdout
  assert there() == drawn | {
    'play_00000160.mp4',
    'play_00000160.png',
    'play_00000160-prototypes.png',
  }


def test_what_a_run_without_one_shows(tmp_path):
  """Prototypes alone; a dream has nothing to see."""
  run(tmp_path, config_of(False, steps=80))
  done = command('play', f'--logdir={tmp_path}')
  assert done.returncode == 0, done.stderr
  assert {path.name for path in (tmp_path / 'videos').iterdir()} == {
    'prototypes_00000080.png',
    'play_00000080.mp4',
    'play_00000080-prototypes.png',
  }
  done = command('play', f'--logdir={tmp_path}', '--dream')
  assert done.returncode == 2 and 'dreamerpro dreams without pictures' in done.stderr


def test_first_actions_need_an_initial_state_that_is_not_learned():
  with pytest.raises(ValueError, match='rssm.learned_initial must be False'):
    small.agent(**SIZES, rssm__learned_initial=True)
