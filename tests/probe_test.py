"""What a model without reconstruction shows: a probing decoder, and assignments to prototypes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import viewing
from harmony_jax.prototypes import shift, sinkhorn, unit
from harmony_jax.training import assignments, panels, recording, video
from tests import small


def test_nothing_learns_from_the_probe():
  """With other parameters of the probe all else comes out the same, to the bit; without a probe
  all else is there.
  """
  agent, batch, step, states, _ = small.trained('pro')
  rest = lambda state: state.replace(
    rng=None, **{k: {**getattr(state, k), 'probe': ()} for k in ('params', 'opt_state')}
  )
  shaken = jax.tree.map(lambda x: x + 0.5, states[0].params['probe'])
  other, metrics = step(states[0].replace(params={**states[0].params, 'probe': shaken}), batch)
  chex.assert_trees_all_equal(rest(other), rest(states[1]))
  assert metrics['loss/probe'] > small.trained('pro').metrics[0]['loss/probe'] + 1
  plain = jax.eval_shape(small.agent(**small.PRO).init, jax.random.key(0))
  chex.assert_trees_all_equal_shapes(
    {k: v for k, v in states[0].params.items() if k != 'probe'}, plain.params
  )
  assert set(agent.optimizers) == {'world_model', 'actor', 'critic', 'probe'}


def test_the_probe_learns_by_its_own_optimiser():
  """Adam's first step is the probe's own learning rate, 3e-3; its pictures become better."""
  _, batch, step, states, metrics = small.trained('pro')
  before, after = (jax.device_get(state.params['probe']) for state in states[:2])
  move = jax.tree.map(lambda a, b: abs(a - b).max(), after, before)
  largest = max(jax.tree.leaves(move))
  np.testing.assert_allclose(largest, 3e-3, rtol=1e-2)
  state, bright = states[2], {**batch, 'image': batch['image'] // 4 + 192}
  losses = []
  for _ in range(10):
    state, found = step(state, bright)
    losses.append(float(found['loss/probe']))
  assert max(losses[-3:]) < 0.9 * losses[0]


def test_its_loss_is_that_of_the_first_view():
  """Half the squared error of the shifted picture that the first view's states have seen, summed
  over pixels.
  """
  agent, batch, _, states, metrics = small.trained('pro')
  state = states[0]
  draws = small.jit(agent.draws, static_argnums=(1, 2))(jax.random.fold_in(state.rng, 0), 3, 5)

  @small.jit
  def run(params):
    # The states are of the updated model's forward pass: the one before its update.
    model = agent.objective.project(params['world_model'])
    post = agent.losses(model, state, batch, state.carry, draws)[1]
    return agent.probe.decode(params['probe'], None, post.feature()[:3])['image']

  made, image = np.asarray(run(state.params)), np.float32(batch['image']) / 255
  seen = np.asarray(shift(jnp.asarray(image), draws.view[:3]))
  error = lambda target: 0.5 * np.square(made - target).sum() / 15
  np.testing.assert_allclose(metrics[0]['loss/probe'], error(seen), rtol=1e-4)
  assert abs(error(seen) - error(image)) > 1e-3 * error(seen)


def test_what_a_probe_shows():
  """Vectors, too; and dreams have its pictures."""
  agent = small.agent(small.IMAGE | small.VECTOR, **small.PRO, decoder__probe=True)
  state = jax.eval_shape(agent.init, jax.random.key(0))
  feature = jnp.zeros((2, agent.rssm.feature_size))
  found = jax.eval_shape(agent.predict, state.params, feature)
  assert set(found['observation']) == {'image', 'joints', 'speed'}
  _, metrics = jax.eval_shape(agent.train_step, state, small.batch(agent.shapes, discrete=False))
  assert {'loss/probe', 'grad_norm/probe'} <= set(metrics)
  dream = lambda variables, key: agent.capabilities['dream'](variables, key, 2, 3)
  found = jax.eval_shape(dream, state.params, jax.random.key(1))
  assert found['observation']['image'].shape == (2, 3, 16, 16, 3)
  assert found['prototype'].shape == (2, 3, 12)
  with pytest.raises(ValueError, match="decoder.kind must be 'plain', not 'residual'"):
    small.agent(**small.PRO, decoder__probe=True, decoder__kind='residual')


def test_assignments_and_their_predictions():
  """By hand: of a sequence's embeddings by Sinkhorn, of states by a softmax, with prototypes of
  length 1.
  """
  agent, batch, _, states, _ = small.trained('pro')
  variables = states[2].params
  head = variables['world_model']['prototypes']
  linear = lambda name, x: unit(x @ head[name]['kernel'] + head[name]['bias'])
  vectors = unit(head['vectors'])
  embed, found = small.jit(
    lambda: (agent.encode(variables, batch), viewing.assign(agent, variables, batch))
  )()
  by_hand = jnp.stack([sinkhorn(linear('embed', one) @ vectors.T, 0.0125, 3) for one in embed])
  chex.assert_trees_all_close(found, by_hand, atol=1e-4)
  feature = jnp.float32(np.random.default_rng(0).normal(size=(2, agent.rssm.feature_size)))
  by_hand = jax.nn.softmax(linear('feature', feature) @ vectors.T / 0.1)
  chex.assert_trees_all_close(agent.predict(variables, feature)['prototype'], by_hand, atol=1e-5)


# ----------------------------------------------------------------------------------------------
# Pictures of assignments


def example(length=8, kinds=5):
  """(pictures, assigned): step t is prototype t mod `kinds` for certain; its picture is of
  brightness 10 t.
  """
  ramp = np.arange(length, dtype=np.uint8)[:, None, None, None] * 10
  pictures = np.broadcast_to(ramp, (length, 16, 16, 3)).copy()
  return pictures, np.eye(kinds)[np.arange(length) % kinds]


def test_surprise():
  _, assigned = example()
  np.testing.assert_allclose(assignments.surprise(assigned, assigned), 0, atol=1e-9)
  np.testing.assert_allclose(assignments.surprise(assigned, np.full((8, 5), 0.2)), np.log(5))
  wrong = np.roll(assigned, 1, 1)
  wrong[:3] = assigned[:3]
  told = 'cross entropy {} (knowing nothing: 1.61), the most likely one is right in {}'
  assert assignments.describe(assigned, wrong, np.arange(8) < 3) == [
    'prototypes of steps seen: ' + told.format('0.00', '3 of 3'),
    'prototypes of steps imagined: ' + told.format('27.63', '0 of 5'),
  ]
  assert len(assignments.describe(assigned, assigned, np.ones(8, bool))) == 1


def test_picture():
  """Certain assignments are lit at their steps and nowhere else, in the order of these."""
  pictures, assigned = example()
  seen = np.arange(8) < 3
  image = assignments.picture(pictures, assigned, assigned, seen, 'title', rows=4)
  assert image.dtype == np.uint8 and image.shape[0] % 2 == image.shape[1] % 2 == 0
  step = lambda t: assignments.LEFT + int((t + 0.5) * assignments.WIDTH / 8)
  top, block_height = 2 * assignments.LINE + assignments.ROW + 8, 4 * assignments.ROW
  row = lambda index, block: (
    top + block * (block_height + assignments.LINE) + assignments.ROW * index + 15
  )
  pixel = lambda index, block, t: tuple(image[row(index, block), step(t)])
  # Of 5 prototypes the last (step 4 only) and one of equal share are not all shown; 0, 1, 2 have
  # two steps each.
  for block in (0, 1):
    lit = [[pixel(k, block, t) != panels.BACKGROUND for t in range(8)] for k in range(4)]
    # The mean steps of prototypes 0 … 3 are 2.5, 3.5, 4.5, 3: they come in the order 0, 3, 1, 2.
    np.testing.assert_array_equal(lit, assigned[:, [0, 3, 1, 2]].T > 0)
    for index, t in ((0, 0), (0, 5), (1, 3)):
      told = panels.GIVEN if t < 3 else video.IMAGINED
      assert pixel(index, block, t) == (told if block else (255,) * 3)
  # Before a row stands the step that is most its own: the first where several are.
  assert [image[row(index, 0), panels.GAP + 15, 0] for index in range(4)] == [0, 30, 10, 20]


def test_frames():
  pictures, assigned = example()
  episode = recording.Episode(
    pictures, {'image': pictures}, np.ones(8), np.zeros((8, 2)), None, True
  )
  prediction = {'prototype': assigned, 'reward': np.ones(8), 'seen': np.arange(8) < 3}
  frames = list(assignments.frames(episode, assigned, prediction, 'title'))
  assert len(frames) == 8 and len({frame.shape for frame in frames}) == 1
  assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
  assert [frame[assignments.LINE + 50, 50, 0] for frame in frames] == list(range(0, 80, 10))
