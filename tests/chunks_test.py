"""Frames taken a few at a time give the values and gradients of all at once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import convolution
from tests import small
from tests.small import close

SIZES = (0, 1, 4, 5, 12)  # of 12 frames: all at once, whole chunks, and chunks with a rest


def data():
  rng = np.random.default_rng(0)
  params = {'w': jnp.float32(rng.normal(size=(6, 5))), 'unused': jnp.ones(3)}
  target = {'target': jnp.asarray(rng.integers(0, 9, (12, 5), np.uint8))}
  return params, jnp.float32(rng.normal(size=(12, 6))), target


@pytest.mark.parametrize('size', SIZES)
def test_apply(size):
  params, x, _ = data()
  function = lambda params, x: jnp.tanh(x['x'] @ params['w'])

  def value(params, x, chunked):
    run = lambda: convolution.apply_in_chunks(function, params, {'x': x}, size)
    y = run() if chunked else function(params, {'x': x})
    return (y**3).sum(), y

  both = small.jit(
    lambda *args: [
      jax.value_and_grad(value, (0, 1), has_aux=True)(*args, chunked) for chunked in (True, False)
    ]
  )
  chex.assert_trees_all_close(*both(params, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('size', SIZES)
def test_mean(size):
  """Value and gradients, scaled by what comes after, and of a parameter that is not used."""
  params, x, constants = data()

  def function(params, x, constants):
    return jnp.square(jnp.tanh(x @ params['w']) - constants['target']).sum(-1)

  def value(params, x, scale, chunked):
    run = lambda: convolution.mean_in_chunks(function, params, x, constants, size)
    mean = run() if chunked else function(params, x, constants).mean()
    return scale * mean**2, mean

  both = small.jit(
    lambda *args: [
      jax.value_and_grad(value, (0, 1, 2), has_aux=True)(*args, chunked)
      for chunked in (True, False)
    ]
  )
  # Of each array's largest value: an element near 0 is a difference of large ones.
  close(*both(params, x, 0.3), share=1e-6)


def test_the_networks_of_pictures(monkeypatch):
  """Embeddings, losses and gradients of encoder and decoder for 15 frames, 4 at a time."""
  agent, batch = small.agent(), small.batch()
  params = small.params_of(agent)['world_model']
  feature = jnp.float32(np.random.default_rng(0).normal(size=(3, 5, agent.rssm.feature_size)))
  results = []
  for size in (0, 4):
    monkeypatch.setattr(convolution, 'frames_at_once', lambda _, size=size: size)

    def run(params, feature):
      embed, _ = agent.encoder(params['encoder'], None, batch)
      loss = agent.objective.decoder.losses(params['decoder'], None, feature, batch)[0]['image']
      return 0.3 * loss + jnp.sin(embed).sum(), loss

    parts = {k: params[k] for k in ('encoder', 'decoder')}
    results.append(small.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(parts, feature))
  for a, b in zip(*map(jax.tree.leaves, results), strict=True):
    assert np.abs(a - b).max() <= 1e-5 * max(np.abs(a).max(), 1e-6)


def test_only_cpus_take_frames_in_turns(monkeypatch):
  assert convolution.frames_at_once(2**17) == 16 and convolution.frames_at_once(2**30) == 1
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert convolution.frames_at_once(2**17) == 0
