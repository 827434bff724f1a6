"""Frames taken a few at a time give the values and gradients of all at once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import chunks, world_model
from tests import small

SIZES = (0, 1, 3, 4, 5, 12, 100)  # 12 frames: all at once, whole chunks, and chunks with a rest


def data(seed=0):
  keys = jax.random.split(jax.random.key(seed), 3)
  return (
    {'w': jax.random.normal(keys[0], (6, 5)), 'unused': jnp.ones(3)},
    jax.random.normal(keys[1], (12, 6)),
    {'target': jax.random.randint(keys[2], (12, 5), 0, 9, jnp.uint8)},
  )


@pytest.mark.parametrize('size', SIZES)
def test_apply(size):
  params, x, _ = data()
  function = lambda params, x: jnp.tanh(x['x'] @ params['w'])
  value = lambda params, x, size: (
    chunks.apply_in_chunks(function, params, {'x': x}, size) ** 3
  ).sum()
  ours = jax.jit(jax.value_and_grad(value, (0, 1)), static_argnums=2)(params, x, size)
  chex.assert_trees_all_close(
    ours, jax.value_and_grad(value, (0, 1))(params, x, 0), rtol=1e-5, atol=1e-5
  )
  np.testing.assert_allclose(
    chunks.apply_in_chunks(function, params, {'x': x}, size), jnp.tanh(x @ params['w']), rtol=1e-5
  )


@pytest.mark.parametrize('size', SIZES)
def test_mean(size):
  """Value and gradients, scaled by what comes after, and of a parameter that is not used."""
  params, x, constants = data()
  function = lambda params, x, constants: jnp.square(
    jnp.tanh(x @ params['w']) - constants['target']
  ).sum(-1)

  def value(params, x, scale, size):
    return scale * chunks.mean_in_chunks(function, params, x, constants, size) ** 2

  ours = jax.jit(jax.value_and_grad(value, (0, 1, 2)), static_argnums=3)(params, x, 0.3, size)
  plain = lambda params, x, scale: scale * function(params, x, constants).mean() ** 2
  chex.assert_trees_all_close(
    ours, jax.value_and_grad(plain, (0, 1, 2))(params, x, 0.3), rtol=1e-5, atol=1e-5
  )
  np.testing.assert_allclose(
    chunks.mean_in_chunks(function, params, x, constants, size),
    function(params, x, constants).mean(),
    rtol=1e-5,
  )


def test_the_world_models_losses_and_gradients(monkeypatch):
  """Of a model that sees a picture and vectors."""
  shapes = small.IMAGE | small.VECTOR
  agent, batch = small.agent(shapes), small.batch(shapes)
  state = jax.jit(agent.init)(jax.random.key(0))
  results = []
  for size in (0, 4):
    monkeypatch.setattr(world_model, 'frames_at_once', lambda _: size)
    loss = lambda params: agent.world_model.loss(
      params, (), state.carry.latent, batch, batch['action'], None
    )
    (_, (_, _, metrics)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
      state.params['world_model']
    )
    results.append((metrics, gradient))
  for a, b in zip(*map(jax.tree.leaves, results)):
    assert np.abs(a - b).max() <= 1e-5 * max(np.abs(a).max(), 1e-6)


def test_only_cpus_take_frames_in_turns(monkeypatch):
  assert chunks.frames_at_once(2**17) == 16 and chunks.frames_at_once(2**30) == 1
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert chunks.frames_at_once(2**17) == 0
