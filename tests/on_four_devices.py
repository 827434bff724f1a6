"""Training on several devices; `parallel_test.py` runs these in a process that JAX gives four."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import parallel, prototypes, replicas, residual
from harmony_jax.errors import UserError
from harmony_jax.training.checkpoint import Checkpoints
from tests import small
from tests.loop_test import config_of, lines, run
from tests.seeds_test import close, shaken

ROWS = 4  # of a batch
AGENTS = {
  'DreamerV3': {},
  'DreamerV2': dict(method='dreamerv2', discrete=False),  # with harmony
  'prototypes': dict(
    method='dreamerpro',
    discrete=False,
    prototypes__count=12,
    prototypes__size=8,
    prototypes__freeze=2,
    actor__samples=5,
    decoder__probe=True,
  ),
  'a rule that is not linear in the losses': dict(
    weighting__rule='reciprocal', shapes=small.VECTOR
  ),
}
CASES = [
  ('DreamerV3', 4),
  ('a rule that is not linear in the losses', 2),
  *(
    pytest.param(*case, marks=pytest.mark.slow)
    for case in (('DreamerV3', 2), ('DreamerV2', 2), ('DreamerV2', 4), ('prototypes', 2))
  ),
]


def make(discrete=True, shapes=small.IMAGE, **changes):
  """An agent, and a function that makes the batch of an update."""
  agent = small.agent(shapes, 3, discrete, batch_size=ROWS, **changes)

  def batch_of(update):
    batch = small.batch(shapes, 3, discrete, ROWS, seed=update)
    if agent.world_model.prototypes:  # as its replay has them
      batch |= {
        'is_first': batch['is_first'].at[:, 0].set(False),
        'before': batch['action'][::-1, 0] / 2,
      }
    return jax.device_get(batch)

  return agent, batch_of


def train(functions, batch_of, updates):
  """(state on one device, metrics of the last update, names of what the replicas do not agree
  about).
  """
  state = functions['spread'](shaken(functions['gather'](functions['init'](jax.random.key(1))), 1))
  for update in range(updates):
    state, metrics = functions['train_step'](state, functions['put'](batch_of(update)))
    # one at a time: fake devices share two cores, and wait for each other
    jax.block_until_ready(metrics)
  return functions['gather'](state), jax.device_get(metrics), functions['differing'](state)


@pytest.mark.parametrize('name, count', CASES)
def test_the_number_of_devices_does_not_change_the_result(name, count):
  agent, batch_of = make(**AGENTS[name])
  whole, metrics, _ = train(parallel.compile_agent(agent), batch_of, 5)
  shared, shared_metrics, differing = train(parallel.compile_agent(agent, count), batch_of, 5)
  close(shared, whole, 1e-5)
  for metric, value in metrics.items():
    np.testing.assert_allclose(shared_metrics[metric], value, rtol=1e-4, atol=1e-6, err_msg=metric)
  assert shared.step == 5 and differing == []


def test_free_nats_are_of_the_whole_batch():
  """DreamerV2 clamps the batch's mean: that of one half is below the limit here, and that of the
  whole above it.
  """

  def kl(outputs):
    post, prior = outputs.posterior.stats, outputs.prior_stats
    return (jnp.exp(post) * (post - prior)).sum((-1, -2)).mean(1)  # [B]

  agent, batch_of = make(method='dreamerv2', shapes=small.VECTOR, losses__free_nats=0.0)
  state = shaken(jax.jit(agent.init)(jax.random.key(1)), 1)
  inputs = lambda rows: jax.tree.map(
    lambda x: x[rows], (state.carry.latent, batch_of(0), batch_of(0)['action'])
  )
  losses = lambda agent, *inputs: agent.world_model.losses(
    state.params['world_model'], *inputs, None
  )
  by_row = kl(jax.jit(functools.partial(losses, agent))(*inputs(slice(None)))[1])
  low, high = sorted([by_row[:2].mean(), by_row[2:].mean()])
  assert high > 1.02 * low
  agent, batch_of = make(
    method='dreamerv2', shapes=small.VECTOR, losses__free_nats=float(low + 3 * (high - low) / 8)
  )
  dynamics = lambda rows: jax.jit(functools.partial(losses, agent))(*inputs(rows))[0]['dynamics']
  replica = jax.pmap(
    lambda *inputs: losses(agent.across('r'), *inputs)[0], 'r', devices=jax.local_devices()[:2]
  )
  halves = jax.tree.map(lambda x: x.reshape(2, 2, *x.shape[1:]), inputs(slice(None)))
  np.testing.assert_allclose(replica(*halves)['dynamics'], dynamics(slice(None)), rtol=1e-6)
  # what each would clamp alone
  assert (dynamics(slice(2)) + dynamics(slice(2, 4))) / 2 > 1.001 * dynamics(slice(None))


def test_assignments_are_balanced_over_the_whole_batch():
  """Half of the samples by themselves would be shared out otherwise."""
  scores = jax.random.normal(jax.random.key(0), (8, 5)) + jnp.arange(8)[:, None] / 8 * jnp.arange(5)
  share = functools.partial(prototypes.sinkhorn, epsilon=0.5, iterations=3)
  halves = jax.pmap(lambda x: share(x, axis_name='r'), 'r', devices=jax.local_devices()[:2])(
    scores.reshape(2, 4, 5)
  )
  np.testing.assert_allclose(halves.reshape(8, 5), share(scores), atol=1e-6)
  assert np.abs(share(scores[:4]) - share(scores)[:4]).max() > 0.05


def test_batch_norms_see_the_whole_batch():
  """Outputs, running statistics and the gradient of a loss over a network with some."""
  make = lambda axis: residual.Down(depth=2, blocks=1, stages=1, axis_name=axis)
  images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
  variables = make(None).init(jax.random.key(1), images, False)

  def loss(params, images, axis=None):
    out, changed = make(axis).apply(
      {**variables, 'params': params}, images, True, mutable=['batch_stats']
    )
    return (out**3).mean(), (out, changed)

  gradient, (out, changed) = jax.jit(jax.grad(loss, has_aux=True))(variables['params'], images)

  def replica(images):
    found, (out, changed) = jax.grad(functools.partial(loss, axis='r'), has_aux=True)(
      variables['params'], images
    )
    return replicas.mean(found, 'r'), changed, out

  mapped = jax.pmap(replica, 'r', out_axes=(None, None, 0), devices=jax.local_devices()[:2])
  close(
    mapped(images.reshape(2, 2, 8, 8, 3)),
    (gradient, changed, out.reshape(2, 2, *out.shape[1:])),
    1e-5,
  )


def test_the_halves_of_a_batch_draw_what_the_whole_draws():
  agent, _ = make(discrete=False)
  key = jax.random.key(3)
  whole = agent._train_noise(key, ROWS, 5)
  draw = jax.pmap(
    lambda _: agent.across(parallel.AXIS)._train_noise(key, ROWS // 2, 5),
    parallel.AXIS,
    devices=jax.local_devices()[:2],
  )
  halves = jax.device_get(draw(np.zeros(2)))
  posterior = halves['posterior']['latent']
  np.testing.assert_array_equal(np.concatenate(posterior), whole['posterior']['latent'])
  assert not np.array_equal(*posterior)
  # [2, H, rows · T, …]
  for half, undivided in zip(halves['imagination'][:2], whole['imagination'][:2], strict=True):
    np.testing.assert_array_equal(np.concatenate(half, 1), undivided)
    assert not np.array_equal(*half)


def test_a_replica_that_differs_is_found():
  agent, _ = make()
  functions = parallel.compile_agent(agent, 2)
  state = functions['init'](jax.random.key(0))
  assert functions['differing'](state) == []
  kernel = state.params['actor']['h_0']['kernel']
  first, second = (np.array(shard.data) for shard in kernel.addressable_shards)
  second[0, 0] = np.nextafter(second[0, 0], 1)
  state.params['actor']['h_0']['kernel'] = jax.make_array_from_single_device_arrays(
    kernel.shape,
    kernel.sharding,
    [jax.device_put(part, d) for part, d in zip((first, second), jax.local_devices())],
  )
  assert functions['differing'](state) == ['params/actor/h_0/kernel']


def test_spread_and_gather_are_inverse():
  agent, _ = make()
  state = jax.jit(agent.init)(jax.random.key(0))
  state = state.replace(
    carry=jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape), state.carry)
  )
  functions = parallel.compile_agent(agent, 4)
  close(functions['gather'](functions['spread'](state)), state, 0)


def test_means_are_differentiated_as_if_over_the_whole_batch():
  """The gradient of a function that is not linear in the batch's mean."""
  x = np.arange(8.0, dtype=np.float32)
  loss = lambda w, x, axis=None: replicas.mean((w * x).mean(), axis) ** 2
  share = jax.pmap(
    lambda w, x: replicas.mean(jax.grad(loss)(w, x, 'r'), 'r'),
    'r',
    in_axes=(None, 0),
    out_axes=None,
    devices=jax.local_devices()[:2],
  )
  np.testing.assert_allclose(share(3.0, x.reshape(2, 4)), jax.grad(loss)(3.0, x))


def test_choosing_devices():
  assert [parallel.choose_devices(0, rows) for rows in (16, 6, 5)] == [4, 3, 1]
  assert parallel.choose_devices(2, 16) == 2
  with pytest.raises(UserError, match='there are 4'):
    parallel.choose_devices(5, 10)
  with pytest.raises(UserError, match='take --devices=2 or another'):
    parallel.choose_devices(3, 4)


def test_a_run_goes_on_with_other_devices(tmp_path):
  """Trained on two, then on one: the same scores as on one from the start, the parameters equal up
  to rounding.
  """
  alone = run(tmp_path / 'alone', config_of(devices=1))
  died = run(tmp_path / 'shared', config_of(devices=2), until=120)
  assert died.compiled['act']._cache_size() <= 2  # for training, and for evaluation
  with Checkpoints(tmp_path / 'shared/checkpoints', read_only=True) as checkpoints:
    assert checkpoints.latest() == 80
  shared = run(tmp_path / 'shared', config_of(devices=1))
  close(shared.state.params, alone.state.params, 1e-3)
  assert lines(tmp_path / 'shared', 'scores.jsonl') == lines(tmp_path / 'alone', 'scores.jsonl')
