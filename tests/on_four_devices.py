"""Training on several devices; `parallel_test.py` runs these in a process that JAX gives four."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import parallel, prototypes, replicas, residual
from harmony_jax.errors import UserError
from harmony_jax.training.checkpoint import Checkpoints
from tests import denoised_mdp_test, small, tdmpc_test
from tests.runs import From, Killed, config_of, die, lines
from tests.runs import train as train_run
from tests.small import close, shaken

ROWS = 4  # of a batch
HALVES = (slice(2), slice(2, 4))
AGENTS = {
  'DreamerV3': dict(shapes=small.VECTOR, weighting__rule='reciprocal'),  # not linear in the losses
  'DreamerV2': dict(name='dreamerv2', discrete=False),
  'prototypes': dict(
    name='dreamerpro',
    discrete=False,
    prototypes__count=12,
    prototypes__size=8,
    prototypes__freeze=2,
    actor__samples=5,
    decoder__probe=True,
  ),
  'DreamerV3 with harmony': dict(),
  'a rule that looks at gradients': dict(
    weighting__rule='gradnorm',
    weighting__harmonize_vector=True,
    shapes=small.VECTOR,
    losses__free_nats=0.0,
  ),
}
SLOW = [(name, 2) for name in (*AGENTS, 'TD-MPC', 'Denoised MDP')] + [('DreamerV2', 4)]
CASES = [('DreamerV3', 4), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]


def planning_agent():
  """TD-MPC, and a function that makes the batch of an update."""
  agent = tdmpc_test.make(weighting__rule='reciprocal', batch_size=ROWS)

  def batch_of(update):
    weight = jnp.arange(1.0, ROWS + 1) / ROWS
    return jax.device_get({**tdmpc_test.batch_of(agent, tdmpc_test.VECTOR), 'weight': weight})

  return agent, batch_of


def agent_of_parts():
  """Denoised MDP, and the same."""
  sizes = {**denoised_mdp_test.SMALLER, **denoised_mdp_test.Z}
  agent = denoised_mdp_test.make(sizes=sizes, weighting__rule='reciprocal', batch_size=ROWS)
  return agent, lambda update: jax.device_get(denoised_mdp_test.batch_of(agent))


OTHERS = {'TD-MPC': planning_agent, 'Denoised MDP': agent_of_parts}


def make(discrete=True, shapes=small.IMAGE, **changes):
  """An agent, and a function that makes the batch of an update."""
  agent = small.agent(shapes, 3, discrete, batch_size=ROWS, **changes)

  def batch_of(update):
    batch = small.batch(shapes, 3, discrete, ROWS, seed=update)
    if agent.settings.replay.first_action:
      batch |= {
        'is_first': batch['is_first'].at[:, 0].set(False),
        'before': batch['action'][::-1, 0] / 2,
      }
    return jax.device_get(batch)

  return agent, batch_of


def train(compiled, batch_of, updates):
  """Return (state on one device, last metrics, names of what the replicas do not agree about)."""
  state = compiled.spread(shaken(compiled.gather(compiled.init(jax.random.key(1))), 1))
  for update in range(updates):
    state, metrics = compiled.train_step(state, compiled.put(batch_of(update)))
    # one at a time: fake devices share two cores, and wait for each other
    jax.block_until_ready(metrics)
  return compiled.gather(state), jax.device_get(metrics), compiled.differing(state)


def on_two(function, *args):
  """Return what two replicas make of the halves of arguments, [2, ...]."""

  def replica(*args):
    with replicas.mapped('r'):
      return function(*args)

  halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), args)
  return jax.pmap(replica, 'r', devices=jax.local_devices()[:2])(*halves)


@pytest.mark.parametrize('name, count', CASES)
def test_the_number_of_devices_does_not_change_the_result(name, count):
  agent, batch_of = make(**AGENTS[name]) if name in AGENTS else OTHERS[name]()
  whole, metrics, _ = train(parallel.compile_method(agent), batch_of, 5)
  shared, shared_metrics, differing = train(parallel.compile_method(agent, count), batch_of, 5)
  close(shared, whole, 1e-5)
  for metric, value in metrics.items():
    np.testing.assert_allclose(shared_metrics[metric], value, rtol=1e-4, atol=1e-6, err_msg=metric)
  assert shared.step == 5 and differing == []


def test_weights_of_sequences_are_over_the_largest_of_all():
  """Those of TD-MPC, of which a process knows but its share."""
  agent, batch_of = planning_agent()
  state, batch = jax.jit(agent.init)(jax.random.key(1)), batch_of(0)
  loss = lambda batch: agent.losses(
    state.params['world_model'], state, batch, agent.draws(state, batch)
  )[0]
  found = on_two(loss, {**batch, 'weight': 5 * batch['weight']})
  close(found, jax.tree.map(lambda x: jnp.stack([x] * 2), jax.jit(loss)(batch)), 1e-6)


def test_free_nats_are_of_the_whole_batch():
  """DreamerV2 clamps the batch's mean: one half's is below the limit here, the whole's above it."""

  def dynamics(free_nats):
    agent, batch_of = make(name='dreamerv2', shapes=small.VECTOR, losses__free_nats=free_nats)
    state = shaken(jax.jit(agent.init)(jax.random.key(1)), 1)

    def loss(carry, batch):
      draws = agent.draws(jax.random.fold_in(state.rng, 0), *batch['reward'].shape)
      losses, *_ = agent.losses(state.params['world_model'], state, batch, carry, draws)
      return losses['dynamics']

    return loss, (state.carry, batch_of(0))

  loss, whole = dynamics(0.0)
  half = lambda tree, rows: jax.tree.map(lambda x: x[rows], tree)
  low, high = sorted(float(jax.jit(loss)(*half(whole, rows))) for rows in HALVES)
  assert high > 1.02 * low
  loss, whole = dynamics(low + 3 * (high - low) / 8)
  together = jax.jit(loss)(*whole)
  np.testing.assert_allclose(on_two(loss, *whole), [together] * 2, rtol=1e-6)
  # what each would clamp alone
  alone = sum(float(jax.jit(loss)(*half(whole, rows))) for rows in HALVES) / 2
  assert alone > 1.001 * together


def test_assignments_are_balanced_over_the_whole_batch():
  """Half of the samples by themselves would be shared out otherwise."""
  scores = jax.random.normal(jax.random.key(0), (8, 5)) + jnp.arange(8)[:, None] / 8 * jnp.arange(5)
  share = functools.partial(prototypes.sinkhorn, epsilon=0.5, iterations=3)
  np.testing.assert_allclose(on_two(share, scores).reshape(8, 5), share(scores), atol=1e-6)
  assert np.abs(share(scores[:4]) - share(scores)[:4]).max() > 0.05


def test_batch_norms_see_the_whole_batch():
  """Outputs, running statistics and the gradient of a loss over a network with some."""
  network = residual.Block(depth=2)
  images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
  variables = network.init(jax.random.key(1), images, False)

  def gradient(images):
    def loss(params):
      both = {**variables, 'params': params}
      out, changed = network.apply(both, images, True, mutable=['batch_stats'])
      return (out**3).mean(), (out, changed)

    found, (out, changed) = jax.grad(loss, has_aux=True)(variables['params'])
    return replicas.mean(found), changed, out

  found, changed, out = jax.jit(gradient)(images)
  shared = on_two(gradient, images)
  close(jax.tree.map(lambda x: x[0], shared[:2]), (found, changed), 1e-5)
  close(shared[2].reshape(out.shape), out, 1e-5)


def test_the_halves_of_a_batch_draw_what_the_whole_draws():
  normal = lambda key: jax.random.normal(key, (5,))
  draw = lambda rows: replicas.draw_rows(jax.random.key(3), len(rows), normal)
  whole = draw(np.zeros(ROWS))
  halves = on_two(draw, np.zeros(ROWS))
  np.testing.assert_array_equal(np.concatenate(halves), whole)
  assert not np.array_equal(*halves)


def test_a_replica_that_differs_is_found():
  agent, _ = make(shapes=small.VECTOR)
  compiled = parallel.compile_method(agent, 2)
  state = compiled.init(jax.random.key(0))
  assert compiled.differing(state) == []
  kernel = state.params['actor']['h_0']['kernel']
  first, second = (np.array(shard.data) for shard in kernel.addressable_shards)
  second[0, 0] = np.nextafter(second[0, 0], 1)
  state.params['actor']['h_0']['kernel'] = jax.make_array_from_single_device_arrays(
    kernel.shape,
    kernel.sharding,
    [jax.device_put(part, d) for part, d in zip((first, second), jax.local_devices())],
  )
  assert compiled.differing(state) == ['params/actor/h_0/kernel']


def test_spread_and_gather_are_inverse():
  agent, _ = make(shapes=small.VECTOR)
  state, rng = small.state_of(agent), np.random.default_rng(1)
  draw = lambda x: rng.normal(size=x.shape).astype(np.float32)
  state = state.replace(carry=jax.tree.map(draw, state.carry))
  compiled = parallel.compile_method(agent, 4)
  close(compiled.gather(compiled.spread(state)), state, 0)


def test_means_are_differentiated_as_if_over_the_whole_batch():
  """The gradient of a function that is not linear in the batch's mean."""
  x = np.arange(8.0, dtype=np.float32)
  loss = lambda w, x: replicas.mean((w * x).mean()) ** 2
  share = on_two(lambda x: replicas.mean(jax.grad(loss)(3.0, x)), x)
  np.testing.assert_allclose(share, [jax.grad(loss)(3.0, x)] * 2)


class Telling:
  """A method that tells the replay what its carry holds of each row."""

  def __init__(self, method):
    self.method = method

  def __getattr__(self, name):
    return getattr(self.method, name)

  def feedback(self, state):
    first = jax.tree.leaves(state.carry)[0]
    return first.reshape(len(first), -1)[:, 0]


def test_feedback_is_in_the_order_of_rows():
  agent, _ = make(shapes=small.VECTOR)
  compiled = parallel.compile_method(Telling(agent), 4)
  state = compiled.gather(compiled.init(jax.random.key(0)))
  number = lambda x: np.zeros_like(x) + np.arange(ROWS).reshape(-1, *[1] * (x.ndim - 1))
  state = compiled.spread(state.replace(carry=jax.tree.map(number, state.carry)))
  np.testing.assert_array_equal(compiled.feedback(state), np.arange(ROWS))


def test_choosing_devices():
  assert [parallel.choose_devices(0, rows) for rows in (16, 6, 5)] == [4, 3, 1]
  assert parallel.choose_devices(2, 16) == 2
  with pytest.raises(UserError, match='there are 4'):
    parallel.choose_devices(5, 10)
  with pytest.raises(UserError, match='take --devices=2 or another'):
    parallel.choose_devices(3, 4)


def test_a_run_goes_on_with_other_devices(tmp_path):
  """Trained on two, then on one: the same scores as on one, the parameters equal up to rounding."""
  one, two = tmp_path / 'alone', tmp_path / 'shared'
  alone = train_run(one, config_of(devices=1))
  acts = []
  note = lambda trainer: acts.append(trainer.updates.compiled.act._cache_size())
  with pytest.raises(Killed):
    train_run(two, config_of(devices=2), From(120, note), From(120, die))
  assert acts[0] <= 2  # for training, and for evaluation
  with Checkpoints(two / 'checkpoints', read_only=True) as checkpoints:
    assert checkpoints.latest() == 80
  shared = train_run(two, config_of(devices=1))
  close(shared.updates.state.params, alone.updates.state.params, 1e-3)
  assert lines(two, 'scores.jsonl') == lines(one, 'scores.jsonl')
