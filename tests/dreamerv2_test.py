"""DreamerV2's initial weights, vectors, and residual networks; its losses are in behavior_test.py
and dreamer_test.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import small


def test_initialisation():
  """Glorot uniform kernels and zero biases; the GRU's layer has PyTorch's default, ±1/√inputs for
  both. DreamerPro's GRU is initialised as all its layers are.
  """
  for name, of_gru in (('dreamerv2', 1 / np.sqrt(112)), ('dreamerpro', np.sqrt(6 / (112 + 192)))):
    agent = small.agent(name=name, discrete=False, rssm__deter=64, rssm__units=48)
    params = small.jit(agent.rssm.init)(jax.random.key(0))
    gru, out = params['gru'], params['img_out']
    assert 0.9 * of_gru < jnp.abs(gru['kernel']).max() <= of_gru
    assert 0.9 * of_gru < jnp.abs(gru['bias']).max() or name == 'dreamerpro'
    assert jnp.abs(gru['bias']).max() <= (of_gru if name == 'dreamerv2' else 0)
    limit = np.sqrt(6 / (64 + 48))
    assert 0.9 * limit < jnp.abs(out['kernel']).max() <= limit and not out['bias'].any()
    assert 'initial' not in params and 'norm' not in out
    assert 'continue' not in jax.eval_shape(agent.init, jax.random.key(0)).params['world_model']


def test_vectors_are_seen_as_they_are():
  """Under likelihood 'gaussian' there is no symlog in the encoder."""
  agent = small.agent(small.VECTOR, name='dreamerv2', encoder__mlp_layers=1)
  params, batch = small.params_of(agent), small.batch(small.VECTOR)
  seen = {k: 10 * batch[k][0, :2] for k in small.VECTOR}
  x = jnp.concatenate([seen['joints'], seen['speed'][:, None]], -1)
  layer = params['world_model']['encoder']['h_0']
  wanted = jax.nn.elu(x @ layer['kernel'] + layer['bias'])
  np.testing.assert_allclose(agent.encode(params, seen), wanted, rtol=1e-4, atol=1e-5)


def test_layers_of_residual_networks():
  """Depths of the authors' networks; the last layer by a loop."""
  shapes, kind = {'image': (32, 32, 3)}, 'residual'
  agent = small.agent(shapes, encoder__kind=kind, decoder__kind=kind)
  params = jax.eval_shape(agent.init, jax.random.key(0)).params['world_model']
  down = [params['encoder'][f'Block_{i}'] for i in range(6)]
  up = [params['decoder'][f'stacks_{i}_{j}'] for i in range(3) for j in range(2)]
  depths = lambda blocks: [block['Conv_0']['kernel'].shape[2:] for block in blocks]
  assert depths(down) == [(4, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]
  assert depths(up) == [(16, 16), (16, 8), (8, 8), (8, 4), (4, 4), (4, 2)]
  for block in down + up:
    (inputs, units), skip = block['Conv_0']['kernel'].shape[2:], block.get('Conv_2')
    assert all('bias' not in layer for name, layer in block.items() if 'Conv' in name)
    assert bool(skip) == ('BatchNorm_2' in block) == (inputs != units)
  net, rng = agent.objective.decoder.up, np.random.default_rng(0)
  assert params['decoder']['last']['kernel'].shape == (3, 3, 2, 3)
  kernel, x = rng.normal(size=(3, 3, 2, 3)), rng.normal(size=(4, 4, 2))
  wanted = np.zeros((9, 9, 3))  # from pixel -1 on
  for i, j, a, b in np.ndindex(4, 4, 3, 3):
    wanted[2 * i + a, 2 * j + b] += x[i, j] @ kernel[2 - a, 2 - b]
  last = {'kernel': jnp.float32(kernel), 'bias': jnp.zeros(3)}
  found = net.bind({'params': {'last': last}}).last(jnp.float32(x[None]))
  np.testing.assert_allclose(found[0], wanted[1:, 1:], atol=1e-5)


@pytest.mark.slow
def test_a_step_of_residual_networks():
  """Shapes fit, everything moves, running statistics follow the batches; acting takes these: what
  one environment sees does not change what another does.
  """
  shapes, kind = {'image': (32, 32, 3)}, 'residual'
  agent = small.agent(shapes, encoder__kind=kind, decoder__kind=kind)
  batch, state = small.batch(shapes), small.state_of(agent)
  after, metrics = small.jit(agent.train_step)(state, batch)
  assert all(np.isfinite(float(v)) for v in metrics.values())
  differs = lambda a, b: bool((a != b).any())
  model = lambda state: {k: state.params['world_model'][k] for k in ('encoder', 'decoder')}
  assert all(jax.tree.leaves(jax.tree.map(differs, model(after), model(state))))
  changed = jax.tree.leaves(jax.tree.map(differs, after.statistics, state.statistics))
  assert changed and all(changed)
  observation = {'image': batch['image'][:2, 0]}
  carry, first = agent.initial_carry(after.params, 2), jnp.ones(2, bool)
  act = lambda seen: agent.act(agent.variables(after), carry, seen, first, jax.random.key(3))[1]
  other = {'image': observation['image'].at[1].set(0)}
  one, changed = (small.jit(act)(seen).latent.stats for seen in (observation, other))
  np.testing.assert_array_equal(one[0], changed[0])
  assert (one[1] != changed[1]).any()
