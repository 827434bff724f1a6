"""Layers, convolutions and the recurrent cell against dm-haiku, an independent implementation."""

import re

import chex
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import convolution
from harmony_jax.encoders import Decoder, Encoder, ImageSettings
from harmony_jax.networks import (
  ACTIVATIONS,
  EPSILON,
  Dense,
  Head,
  HeadSettings,
  Style,
  from_patches,
  initializer,
  normalized,
  to_patches,
)
from harmony_jax.rssm import RSSM, RSSMSettings, State
from tests import small

FORMS = ('conv', 'gradient', 'matmul')


def normal(*shape, seed=0):
  return jnp.float32(np.random.default_rng(seed).normal(size=shape))


def shaken(init, *args):
  """Parameters of an initialiser's shapes, drawn."""
  shapes = jax.eval_shape(init, jax.random.key(0), *args)
  return jax.tree.map(lambda x: 0.4 * normal(*x.shape, seed=x.size), shapes)


def haiku_apply(function, weights, *inputs):
  """Runs a haiku function with weights given by module and name; every weight must be used."""
  network = hk.without_apply_rng(hk.transform(function))
  wanted = jax.eval_shape(network.init, jax.random.key(0), *inputs)
  assert jax.tree.map(jnp.shape, weights) == jax.tree.map(jnp.shape, wanted)
  return small.jit(network.apply)(weights, *inputs)


def haiku_weights(params, names):
  """Of layers with a norm or a bias, by the names of their twins."""
  weights = {}
  for name in names:
    layer = params[name]
    weights[name] = {'w': layer['kernel'], **({'b': layer['bias']} if 'bias' in layer else {})}
    if 'norm' in layer:
      norm = layer['norm']
      weights[f'{name}_norm'] = {'scale': norm['scale'], 'offset': norm['bias']}
  return weights


def haiku_dense(x, name, units, act=jax.nn.silu):
  x = hk.Linear(units, with_bias=False, name=name)(x)
  return act(hk.LayerNorm(-1, True, True, eps=1e-3, name=f'{name}_norm')(x))


# Direction, padding, input [B, H, W, C], kernel size, channels out.
CONVOLUTIONS = [
  ('down', 'same', (3, 8, 12, 5), 4, 7),
  ('down', 'same', (1, 2, 2, 1), 4, 1),
  ('down', 'valid', (2, 6, 6, 3), 4, 5),
  ('down', 'valid', (2, 31, 31, 3), 4, 5),
  ('up', 'same', (3, 8, 12, 5), 4, 7),
  ('up', 'same', (1, 1, 1, 1), 4, 1),
  ('up', 'valid', (2, 1, 1, 6), 5, 4),
  ('up', 'valid', (2, 5, 5, 6), 5, 4),
  ('up', 'valid', (2, 13, 13, 6), 6, 4),
  ('up', 'valid', (2, 3, 3, 6), 4, 4),
]


@pytest.mark.parametrize('direction, padding, shape, size, depth', CONVOLUTIONS)
def test_convolutions_are_haikus(direction, padding, shape, size, depth):
  x, down = normal(*shape), direction == 'down'
  ends = (shape[-1], depth) if down else (depth, shape[-1])
  kernel = normal(size, size, *ends, seed=1)
  theirs = hk.Conv2D if down else hk.Conv2DTranspose
  name = 'conv2_d' if down else 'conv2_d_transpose'
  layer = lambda x: theirs(depth, size, 2, padding=padding.upper(), with_bias=False)(x)
  wanted = haiku_apply(layer, {name: {'w': kernel}}, x)
  move = convolution.downsample if down else convolution.upsample
  for form in FORMS:
    found = small.jit(move, static_argnums=(2, 3))(x, kernel, padding, form)
    chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize('direction, padding, shape, size, depth', CONVOLUTIONS)
def test_all_forms_have_the_same_gradients(direction, padding, shape, size, depth):
  down = direction == 'down'
  move = convolution.downsample if down else convolution.upsample
  ends = (shape[-1], depth) if down else (depth, shape[-1])
  x, kernel = normal(*shape), normal(size, size, *ends, seed=1)
  value = lambda x, k, form: jnp.sin(move(x, k, padding, form)).sum()
  gradients = small.jit(lambda *xs: [jax.grad(value, (0, 1))(*xs, form) for form in FORMS])
  first, *others = gradients(x, kernel)
  for each in others:
    chex.assert_trees_all_close(each, first, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('form', ['conv', 'gradient'])
@pytest.mark.parametrize('mapped', [(0, 0), (0, None), (None, 0)])
def test_over_kernels_convolutions_are_done_in_turn(form, mapped):
  """Not as grouped ones, with the values and gradients of each alone."""
  pictures, down, up = normal(2, 3, 8, 8, 4), normal(2, 4, 4, 4, 5, seed=1), normal(2, 5, 5, 3, 5)
  first = lambda x, axis: x if axis == 0 else x[0]
  inputs = first(pictures, mapped[0]), *(first(kernel, mapped[1]) for kernel in (down, up))

  def value(x, down, up):
    y = convolution.downsample(x, down, 'same', form)
    return jnp.sin(convolution.upsample(y, up, 'valid', form)).sum()

  one = jax.value_and_grad(value, (0, 1, 2))
  together = jax.jit(jax.vmap(one, (*mapped, mapped[1])))
  found = together(*inputs)
  for i in range(2):
    pick = lambda x, axis: x[i] if axis == 0 else x
    alone = small.jit(one)(*map(pick, inputs, (*mapped, mapped[1])))
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[i], found), alone, rtol=1e-4, atol=1e-4)
  groups = re.findall(r'(?:feature|batch)_group_count = (\d+)', together.lower(*inputs).as_text())
  assert groups and (set(groups) == {'1'} or None in mapped)


@pytest.mark.parametrize('activation', sorted(ACTIVATIONS))
@pytest.mark.parametrize('shape, dtype', [((3, 5, 37), 'float32'), ((2, 7), 'bfloat16')])
def test_a_norm_and_its_gradient_are_those_of_flax(shape, dtype, activation):
  x, of_out = (normal(*shape, seed=seed).astype(dtype) for seed in (1, 2))
  scale, bias = normal(shape[-1], seed=3), normal(shape[-1], seed=4)

  def plain(x, scale, bias):
    norm = nn.LayerNorm(epsilon=EPSILON, dtype=jnp.float32)
    x = norm.apply({'params': {'scale': scale, 'bias': bias}}, x)
    return ACTIVATIONS[activation](x.astype(dtype))

  expected, back = jax.vjp(plain, x, scale, bias)
  found, back_here = jax.vjp(lambda *args: normalized(*args, activation), x, scale, bias)
  chex.assert_trees_all_equal(found, expected)
  tolerance = {'float32': 1e-5, 'bfloat16': 2e-2}[dtype]
  for a, b in zip(back_here(of_out), back(of_out), strict=True):
    assert a.dtype == b.dtype
    a, b = (np.float32(y) for y in (a, b))
    np.testing.assert_allclose(a, b, tolerance, tolerance * np.abs(b).max())


def test_a_norm_keeps_one_array():
  x, one = normal(64, 8), jnp.ones(8)
  kept = jax.vjp(lambda *args: normalized(*args, 'silu'), x, one, one)[1]
  assert sum(leaf.size for leaf in jax.tree.leaves(kept)) == 64 * 8 + 2 * 64 + 2 * 8


def test_dense_is_haikus_linear_and_norm():
  layer, x = Dense(9), normal(4, 6)
  params = shaken(layer.init, x)['params']
  theirs = haiku_apply(
    lambda x: haiku_dense(x, 'layer', 9), haiku_weights({'layer': params}, ['layer']), x
  )
  chex.assert_trees_all_close(layer.apply({'params': params}, x), theirs, atol=1e-5)
  parts = x[:, :4] @ params['kernel'][:4] + x[:, 4:] @ params['kernel'][4:]
  chex.assert_trees_all_close(layer.apply({'params': params}, parts, None), theirs, atol=1e-5)


def test_head_is_haikus_mlp():
  head, x = Head(5, HeadSettings(2, 8), (3, 2)), normal(4, 5)
  params = shaken(head.init, x)['params']

  def theirs(x):
    for i in range(2):
      x = haiku_dense(x, f'h_{i}', 8)
    return hk.Linear(3, name='out_0')(x), hk.Linear(2, name='out_1')(x)

  wanted = haiku_apply(theirs, haiku_weights(params, params), x)
  chex.assert_trees_all_close(head.apply({'params': params}, x), wanted, atol=1e-5)


# ----------------------------------------------------------------------------------------------
# The recurrent model


def rssm_of(**changes):
  config = RSSMSettings(**{**dict(deter=12, units=10, stoch=4, classes=5), **changes})
  model = RSSM(config=config, actions=3, embed=7)
  return model, shaken(model.init)


def state_of(model, seed=0):
  deter = normal(2, 12, seed=seed)
  stoch = jnp.eye(5)[np.random.default_rng(seed).integers(0, 5, (2, 4))]
  return State(deter, stoch, stoch)


def _haiku_cell(deter, stoch, action, embed, unimix):
  """The recurrent step, prior and posterior, written anew with haiku's layers."""
  x = haiku_dense(jnp.concatenate([stoch.reshape(len(stoch), -1), action], -1), 'img_in', 10)
  gates = haiku_dense(jnp.concatenate([deter, x], -1), 'gru', 36, lambda x: x)
  reset, candidate, update = jnp.split(gates, 3, -1)
  candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
  update = jax.nn.sigmoid(update - 1.0)
  deter = update * candidate + (1 - update) * deter
  logits = []
  for name, inputs in (('img', deter), ('obs', jnp.concatenate([deter, embed], -1))):
    out = hk.Linear(20, name=f'{name}_stats')(haiku_dense(inputs, f'{name}_out', 10))
    probs = jax.nn.softmax(out.reshape(len(stoch), 4, 5))
    logits.append(jnp.log((1 - unimix) * probs + unimix / 5))
  return deter, *logits


@pytest.mark.parametrize('unimix', (0.01, 0.0))
def test_recurrent_step_is_haikus(unimix):
  model, params = rssm_of(unimix=unimix, learned_initial=False)
  state, action, embed = state_of(model), jnp.tanh(normal(2, 3)), normal(2, 7)
  cell = lambda *inputs: _haiku_cell(*inputs, unimix)
  weights = haiku_weights(params, params)
  theirs = haiku_apply(cell, weights, state.deter, state.stoch, action, embed)
  (posterior, prior), imagined = small.jit(
    lambda: (
      model.observe(params, state, embed[:, None], action[:, None], jnp.zeros((2, 1), bool), None),
      model.imagine(params, state, action, None),
    )
  )()
  ours = posterior.deter[:, 0], prior[:, 0], posterior.stats[:, 0]
  chex.assert_trees_all_close(ours, theirs, atol=1e-5)
  chex.assert_trees_all_close((imagined.deter, imagined.stats), theirs[:2], atol=1e-5)


LARGE = (40.0, -0.5, 0.2)


@pytest.mark.parametrize(
  'clip, like', [(1.0, (1.0, -0.5, 0.2)), (0.4, (0.4, -0.4, 0.2)), (0.0, LARGE)]
)
def test_large_actions_are_scaled(clip, like):
  """Every dimension down to the limit; where that is 0, actions are taken as they are."""
  model, params = rssm_of(action_clip=clip)
  state = state_of(model)
  step = small.jit(lambda action: model.imagine(params, state, jnp.tile(action, (2, 1)), None))
  large = step(jnp.array(LARGE))
  chex.assert_trees_all_close(large, step(jnp.array(like)), atol=1e-6)
  other = step(jnp.array([20.0, -0.5, 0.2]))
  assert (float(jnp.abs(large.deter - other.deter).max()) > 1e-4) == (clip == 0)


@pytest.mark.parametrize('learned', (True, False))
def test_is_first_forgets(learned):
  """There neither the state nor the action before it matters: the initial state takes its place,
  tanh of a parameter with the prior's mode, or zeros.
  """
  model, params = rssm_of(learned_initial=learned)
  assert ('initial' in params) == learned
  embed, first = normal(2, 4, 7), jnp.array([[False, False, True, False]] * 2)
  run = small.jit(
    lambda action, state, first: model.observe(params, state, embed, action, first, None)[0]
  )
  action = jnp.ones((2, 4, 3))
  one = run(action, state_of(model), first)
  other = run(action.at[:, 2].set(-0.3), state_of(model, 1), first)
  assert float(jnp.abs(one.deter[:, 1] - other.deter[:, 1]).max()) > 1e-4
  chex.assert_trees_all_equal(one.deter[:, 2:], other.deter[:, 2:])
  initial = model.initial(params, 2)
  if learned:
    deter = jnp.tile(jnp.tanh(params['initial']), (2, 1))
    stoch = model.latents.mode(model.prior(params, deter))
    chex.assert_trees_all_close(initial, State(deter, stoch, jnp.zeros((2, 4, 5))), atol=1e-6)
  else:
    assert not any(leaf.any() for leaf in initial)
  begun = run(action.at[:, 0].set(0), initial, jnp.zeros((2, 4), bool))
  anew = run(action, state_of(model), jnp.zeros((2, 4), bool).at[:, 0].set(True))
  chex.assert_trees_all_close(begun, anew, atol=1e-5)


# ----------------------------------------------------------------------------------------------
# Networks of observations

LAYERS = {'style': Style(), 'dtype': jnp.float32}
SHAPES = {'image': (64, 64, 3), 'joints': (5,), 'speed': ()}


@pytest.mark.parametrize(
  'keys', [('image',), ('joints', 'speed'), ('image', 'joints', 'speed')], ids='-'.join
)
@pytest.mark.parametrize('changes', [dict(patch=1), dict(patch=8), dict(padding='valid')])
def test_shapes_of_encoder_and_decoder(keys, changes):
  shapes = {k: SHAPES[k] for k in keys}
  config = ImageSettings(depth=4, mlp_units=16, **changes)
  encoder = Encoder.make(config, shapes, True, **LAYERS)
  decoder = Decoder.make(config, shapes, 10, 'symlog', **LAYERS)
  seen = {
    k: jnp.ones((2, 3, *shape), jnp.uint8 if k == 'image' else jnp.float32)
    for k, shape in shapes.items()
  }

  def run(key):
    embed, _ = encoder(encoder.init(key)['params'], None, seen)
    params, feature = decoder.init(key)['params'], jnp.ones((2, 3, 10))
    losses, _ = decoder.losses(params, None, feature, seen)
    return embed, decoder.predict(params, None, feature), losses

  embed, out, losses = jax.eval_shape(run, jax.random.key(0))
  chex.assert_shape(embed, (2, 3, encoder.size))
  assert {k: v.shape for k, v in out.items()} == {k: (2, 3, *v) for k, v in shapes.items()}
  assert set(losses) == {'image' if k == 'image' else 'vector' for k in keys}


@pytest.mark.parametrize('likelihood, half', [('symlog', 1.0), ('gaussian', 0.5)])
def test_errors_are_summed_over_an_observation(likelihood, half):
  """Of pictures over pixels, of vectors in symlog space where likelihood is that."""
  decoder = Decoder.make(ImageSettings(), {'image': (8, 8, 3), 'x': (2,)}, 4, likelihood, **LAYERS)
  target = {'image': jnp.full((1, 8, 8, 3), 255, jnp.uint8), 'x': jnp.array([[0.0, np.e - 1]])}
  outputs = {'image': jnp.full((1, 8, 8, 3), 0.5), 'x': jnp.array([[1.0, 0.0]])}
  x = 1 + (1 if likelihood == 'symlog' else (np.e - 1) ** 2)
  found = decoder.error(outputs, target)
  np.testing.assert_allclose(found, [half * (8 * 8 * 3 * 0.25 + x)], rtol=1e-5)
  right = {'image': jnp.ones((1, 8, 8, 3)), 'x': jnp.array([[9e-5, 1 if half == 1 else np.e - 1]])}
  # Of vectors in symlog space that is no error, nor has it a gradient.
  slope = jax.grad(lambda x: decoder.error({**right, 'x': x}, target).sum())(right['x'])
  assert bool(slope[0, 0]) == bool(decoder.error(right, target)) == (likelihood == 'gaussian')
  params = shaken(decoder.init)['params']
  raw, back = (f(params, None, normal(3, 4))['x'] for f in (decoder.decode, decoder.predict))
  wanted = np.sign(raw) * np.expm1(np.abs(raw)) if likelihood == 'symlog' else raw
  np.testing.assert_allclose(back, wanted, rtol=1e-5)


def test_patches_are_inverse():
  x = normal(2, 16, 24, 3)
  chex.assert_trees_all_equal(from_patches(to_patches(x, 8), 8), x)
  chex.assert_trees_all_equal(to_patches(x, 8)[0, 0, 0], x[0, :8, :8].reshape(-1))


def test_bad_shapes_are_named():
  for side, text in (((60, 60), 'power of two'), ((64, 32), 'square')):
    with pytest.raises(ValueError, match=text):
      Encoder.make(ImageSettings(), {'image': (*side, 3)}, True)
  with pytest.raises(ValueError, match='images .H, W, C., vectors or scalars'):
    Encoder.make(ImageSettings(), {'flat': (3, 4)}, True)


def test_initialisers():
  """Truncated normal of variance scale / average fan; Glorot uniform; zeros for scale 0."""
  draw = lambda kind, *shape: initializer(kind)(jax.random.key(0), shape)
  values = draw('normal', 300, 500)
  np.testing.assert_allclose(values.std(), np.sqrt(1 / 400), rtol=0.02)
  assert np.abs(values).max() <= 2 * np.sqrt(1 / 400) / 0.87962566 + 1e-6
  uniform = draw('uniform', 4, 4, 20, 30)
  np.testing.assert_allclose(np.abs(uniform).max(), np.sqrt(3 / (16 * 25)), rtol=0.01)
  np.testing.assert_allclose(np.abs(draw('fan_in', 400, 20)).max(), 1 / 20, rtol=0.01)
  assert not initializer('uniform', 0.0)(jax.random.key(0), (3, 3)).any()
