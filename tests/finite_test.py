"""Updates that are not finite are left out, counted and named; what is only looked at never is."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import optimizers
from tests import small


def same_but(before, after, step, count):
  """Nothing changed but these two counters."""
  plain = lambda state: state.replace(rng=None, step=0, nonfinite=0)
  chex.assert_trees_all_equal(plain(before), plain(after))
  assert (int(after.step), int(after.nonfinite)) == (step, count)


def test_looking_does_not_touch():
  """The agent has a metric that is NaN in every update: none is left out."""
  _, _, _, states, metrics = small.trained('pro')
  for count, (state, found) in enumerate(zip(states[1:], metrics, strict=True), 1):
    assert np.isnan(found['looked/nan']) and found['nonfinite_updates'] == 0
    assert int(state.step) == count and int(state.nonfinite) == 0
    chex.assert_tree_all_finite(state.replace(rng=None))


@pytest.mark.parametrize('value', [np.inf, -np.inf, np.nan])
def test_a_batch_that_is_not_finite(value):
  """Left out and counted; one more than may be (1), and nothing changes any more, not even by good
  batches.
  """
  _, batch, step, states, _ = small.trained('pro')
  bad = {**batch, 'reward': batch['reward'].at[1, 2].set(value)}
  one, metrics = step(states[1], bad)
  assert metrics['nonfinite_updates'] == 1
  same_but(states[1], one, 2, 1)
  good, _ = step(one, batch)
  assert int(good.step) == 3 and int(good.nonfinite) == 1
  two, _ = step(good, bad)
  same_but(good, two, 3, 2)
  frozen, _ = step(two, batch)
  same_but(two, frozen, 3, 2)


def test_a_gradient_that_is_not_finite():
  """σ = exp(-85): the losses are finite, the norm of their gradient is not."""
  _, batch, step, states, _ = small.trained('pro')
  model = states[1].params['world_model']
  model = {**model, 'harmony': {**model['harmony'], 'swav': jnp.float32(-85)}}
  state = states[1].replace(params={**states[1].params, 'world_model': model})
  after, metrics = step(state, batch)
  assert np.isfinite(metrics['loss/world_model'])
  assert not np.isfinite(metrics['grad_norm/world_model'])
  same_but(state, after, 2, 1)


def test_the_first_stage_that_is_not_finite_is_named():
  agent, batch = small.agent(small.VECTOR), small.batch(small.VECTOR)
  state, stages = small.state_of(agent), []

  @small.jit
  def look(state, batch):
    found = optimizers.finite_by_name(agent.examine(state, batch))
    stages.extend(found)
    losses = {k: found['loss'][f'loss/{k}'] for k in ('reward', 'world_model')}
    return {**{k: found[k] for k in ('batch', 'params', 'targets')}, 'loss': losses}

  found = look(state, {**batch, 'reward': batch['reward'].at[0, 0].set(jnp.nan)})
  models = ('world_model', 'actor', 'critic')
  gradients = [f'gradient of {k}' for k in models]
  assert stages == ['batch', 'params', 'targets', 'optimizer', 'loss', *gradients, 'new params']
  wrong = {stage: [k for k, ok in each.items() if not ok] for stage, each in found.items()}
  assert wrong['batch'] == ['reward'] and not wrong['params'] and not wrong['targets']
  assert wrong['loss'] == ['reward', 'world_model']
  broken = jax.tree.map(lambda x: x, state.params)
  broken['actor']['h_0']['kernel'] = broken['actor']['h_0']['kernel'].at[0, 0].set(jnp.inf)
  found = look(state.replace(params=broken), batch)
  assert all(found['batch'].values())
  assert [k for k, ok in found['params'].items() if not ok] == ['actor/h_0/kernel']
