"""Layers, convolutions and the recurrent cell against dm-haiku, an independent implementation."""

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import convolution
from harmony_jax.networks import (
  Decoder,
  Dense,
  Encoder,
  Head,
  from_patches,
  initializer,
  predictions,
  reconstruction_losses,
  to_patches,
)
from harmony_jax.rssm import RSSM, State

FORMS = ('conv', 'matmul')


def haiku_apply(function, weights, *inputs):
  """Runs a haiku function with weights given by module and name; every weight must be used."""
  network = hk.without_apply_rng(hk.transform(function))
  wanted = jax.tree.map(jnp.shape, network.init(jax.random.key(0), *inputs))
  assert jax.tree.map(jnp.shape, weights) == wanted, wanted
  return network.apply(weights, *inputs)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize(
  'shape,depth', [((3, 8, 12, 5), 7), ((1, 2, 2, 1), 1), ((2, 64, 64, 3), 4)]
)
def test_downsample_is_haikus_convolution(form, shape, depth):
  x = jax.random.normal(jax.random.key(0), shape)
  kernel = jax.random.normal(jax.random.key(1), (4, 4, shape[-1], depth))
  theirs = haiku_apply(
    lambda x: hk.Conv2D(depth, 4, 2, padding='SAME', with_bias=False)(x),
    {'conv2_d': {'w': kernel}},
    x,
  )
  chex.assert_trees_all_close(
    convolution.downsample(x, kernel, form=form), theirs, rtol=1e-5, atol=2e-5
  )


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('shape,depth', [((3, 8, 12, 5), 7), ((1, 1, 1, 1), 1), ((2, 4, 4, 16), 3)])
def test_upsample_is_haikus_transposed_convolution(form, shape, depth):
  x = jax.random.normal(jax.random.key(0), shape)
  kernel = jax.random.normal(jax.random.key(1), (4, 4, depth, shape[-1]))
  theirs = haiku_apply(
    lambda x: hk.Conv2DTranspose(depth, 4, 2, padding='SAME', with_bias=False)(x),
    {'conv2_d_transpose': {'w': kernel}},
    x,
  )
  chex.assert_trees_all_close(
    convolution.upsample(x, kernel, form=form), theirs, rtol=1e-5, atol=2e-5
  )


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('side', (6, 31, 64))
def test_valid_downsample_is_haikus_convolution(form, side):
  x = jax.random.normal(jax.random.key(0), (2, side, side, 3))
  kernel = jax.random.normal(jax.random.key(1), (4, 4, 3, 5))
  theirs = haiku_apply(
    lambda x: hk.Conv2D(5, 4, 2, padding='VALID', with_bias=False)(x), {'conv2_d': {'w': kernel}}, x
  )
  chex.assert_trees_all_close(
    convolution.downsample(x, kernel, 'valid', form), theirs, rtol=1e-5, atol=2e-5
  )


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('side,size', [(1, 5), (5, 5), (13, 6), (3, 4)])
def test_valid_upsample_is_haikus_transposed_convolution(form, side, size):
  x = jax.random.normal(jax.random.key(0), (2, side, side, 6))
  kernel = jax.random.normal(jax.random.key(1), (size, size, 4, 6))
  theirs = haiku_apply(
    lambda x: hk.Conv2DTranspose(4, size, 2, padding='VALID', with_bias=False)(x),
    {'conv2_d_transpose': {'w': kernel}},
    x,
  )
  ours = convolution.upsample(x, kernel, 'valid', form)
  assert ours.shape[1] == 2 * (side - 1) + size
  chex.assert_trees_all_close(ours, theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
  'move,kernel_shape',
  [(convolution.downsample, (4, 4, 5, 7)), (convolution.upsample, (4, 4, 7, 5))],
)
def test_both_forms_have_the_same_gradients(move, kernel_shape):
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 5))
  kernel = jax.random.normal(jax.random.key(1), kernel_shape)
  one, other = (
    jax.grad(lambda x, k: jnp.sin(move(x, k, form=form)).sum(), argnums=(0, 1))(x, kernel)
    for form in FORMS
  )
  chex.assert_trees_all_close(one, other, rtol=1e-4, atol=1e-4)


def test_dense_is_haikus_linear_and_norm():
  layer = Dense(6, 9)
  x = jax.random.normal(jax.random.key(0), (4, 6))
  params = layer.init(jax.random.key(1), x)['params']
  params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(2), p.shape), params)

  def theirs(x):
    x = hk.Linear(9, with_bias=False)(x)
    return jax.nn.silu(hk.LayerNorm(-1, True, True, eps=1e-3)(x))

  weights = {
    'linear': {'w': params['kernel']},
    'layer_norm': {'scale': params['norm']['scale'], 'offset': params['norm']['bias']},
  }
  chex.assert_trees_all_close(
    layer.apply({'params': params}, x), haiku_apply(theirs, weights, x), atol=1e-5
  )


def test_dense_in_parts():
  layer = Dense(10, 4)
  a, b = jax.random.normal(jax.random.key(0), (3, 6)), jax.random.normal(jax.random.key(1), (3, 4))
  params = layer.init(jax.random.key(2), jnp.zeros((1, 10)))
  parts = layer.apply(params, a, 0, method='part') + layer.apply(params, b, 6, method='part')
  chex.assert_trees_all_close(
    layer.apply(params, parts, method='finish'),
    layer.apply(params, jnp.concatenate([a, b], -1)),
    atol=1e-5,
  )


def test_head_is_haikus_mlp():
  head = Head(5, 2, 8, (3, 2))
  x = jax.random.normal(jax.random.key(0), (4, 5))
  params = head.init(jax.random.key(1), x)['params']

  def theirs(x):
    for i in range(2):
      x = hk.Linear(8, with_bias=False, name=f'h_{i}')(x)
      x = jax.nn.silu(hk.LayerNorm(-1, True, True, eps=1e-3, name=f'n_{i}')(x))
    return hk.Linear(3, name='out_0')(x), hk.Linear(2, name='out_1')(x)

  weights = {}
  for i in range(2):
    weights[f'h_{i}'] = {'w': params[f'h_{i}']['kernel']}
    norm = params[f'h_{i}']['norm']
    weights[f'n_{i}'] = {'scale': norm['scale'], 'offset': norm['bias']}
    weights[f'out_{i}'] = {'w': params[f'out_{i}']['kernel'], 'b': params[f'out_{i}']['bias']}
  chex.assert_trees_all_close(
    head.apply({'params': params}, x), haiku_apply(theirs, weights, x), atol=1e-5
  )


def _haiku_cell(model, deter, stoch, action, embed):
  """The recurrent step and the posterior, written anew with haiku's layers."""

  def dense(x, name, act=jax.nn.silu):
    width = {'gru': 3 * model.deter}.get(name, model.units)
    return act(
      hk.LayerNorm(-1, True, True, eps=1e-3, name=f'{name}_norm')(
        hk.Linear(width, with_bias=False, name=name)(x)
      )
    )

  x = dense(jnp.concatenate([stoch.reshape(len(stoch), -1), action], -1), 'img_in')
  gates = dense(jnp.concatenate([deter, x], -1), 'gru', lambda x: x)
  reset, candidate, update = jnp.split(gates, 3, -1)
  candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
  update = jax.nn.sigmoid(update - 1.0)
  deter = update * candidate + (1 - update) * deter
  logits = {}
  for name, inputs in (('img', deter), ('obs', jnp.concatenate([deter, embed], -1))):
    out = hk.Linear(model.stoch * model.classes, name=f'{name}_stats')(dense(inputs, f'{name}_out'))
    probs = jax.nn.softmax(out.reshape(len(stoch), model.stoch, model.classes))
    logits[name] = jnp.log(0.99 * probs + 0.01 / model.classes)
  return deter, logits['img'], logits['obs']


def test_recurrent_step_is_haikus():
  model = RSSM(actions=3, embed=7, deter=12, units=10, stoch=4, classes=5)
  params = jax.tree.map(
    lambda p: p + 0.1 * jax.random.normal(jax.random.key(5), p.shape), model.init(jax.random.key(0))
  )
  keys = jax.random.split(jax.random.key(1), 4)
  deter = jax.random.normal(keys[0], (2, 12))
  stoch = jax.nn.one_hot(jax.random.randint(keys[1], (2, 4), 0, 5), 5)
  action, embed = jax.random.uniform(keys[2], (2, 3), minval=-1), jax.random.normal(keys[3], (2, 7))
  posterior, prior = model.observe(
    params,
    State(deter, stoch, stoch),
    embed[:, None],
    action[:, None],
    jnp.zeros((2, 1), bool),
    None,
  )
  weights = {}
  for name in ('img_in', 'gru', 'img_out', 'obs_out'):
    weights[name] = {'w': params[name]['kernel']}
    norm = params[name]['norm']
    weights[f'{name}_norm'] = {'scale': norm['scale'], 'offset': norm['bias']}
  for name in ('img_stats', 'obs_stats'):
    weights[name] = {'w': params[name]['kernel'], 'b': params[name]['bias']}
  theirs = haiku_apply(lambda *a: _haiku_cell(model, *a), weights, deter, stoch, action, embed)
  ours = posterior.deter[:, 0], prior[:, 0], posterior.stats[:, 0]
  chex.assert_trees_all_close(ours, theirs, atol=1e-5)
  imagined = model.imagine(params, State(deter, stoch, stoch), action, None)
  chex.assert_trees_all_close((imagined.deter, imagined.stats), theirs[:2], atol=1e-5)


def test_large_actions_are_scaled():
  model = RSSM(actions=2, embed=3, deter=8, units=6, stoch=2, classes=3)
  params, state = model.init(jax.random.key(0)), None
  state = model.initial(params, 1)
  one = model.imagine(params, state, jnp.array([[1.0, -0.5]]), None)
  other = model.imagine(params, state, jnp.array([[40.0, -0.5]]), None)
  chex.assert_trees_all_close(one, other, atol=1e-6)


def test_is_first_forgets():
  """At is_first neither the state nor the action before it matters."""
  model = RSSM(actions=2, embed=3, deter=8, units=6, stoch=2, classes=3)
  params = jax.tree.map(lambda p: p + 0.3, model.init(jax.random.key(0)))
  embed = jax.random.normal(jax.random.key(1), (1, 4, 3))
  first = jnp.array([[False, False, True, False]])

  def run(action, deter):
    state = State(jnp.full((1, 8), deter), jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3)))
    return model.observe(params, state, embed, action, first, None)[0]

  action = jnp.ones((1, 4, 2))
  one, other = run(action, 0.1), run(action.at[:, 2].set(-0.3), 0.9)
  assert float(jnp.abs(one.deter[:, 1] - other.deter[:, 1]).max()) > 1e-4
  chex.assert_trees_all_equal(one.deter[:, 2:], other.deter[:, 2:])


SHAPES = {'image': (64, 64, 3), 'joints': (5,), 'speed': ()}


@pytest.mark.parametrize(
  'keys', [('image',), ('joints', 'speed'), ('image', 'joints', 'speed')], ids='-'.join
)
@pytest.mark.parametrize('patch', [1, 8])
def test_encoder_and_decoder_of_images_and_vectors(keys, patch):
  shapes = {k: SHAPES[k] for k in keys}
  encoder = Encoder(shapes, depth=4, patch=patch, mlp_layers=2, mlp_units=16)
  decoder = Decoder(10, shapes, depth=4, patch=patch, mlp_layers=2, mlp_units=16)
  observation = {
    k: jnp.ones((2, *shape), jnp.uint8 if k == 'image' else jnp.float32)
    for k, shape in shapes.items()
  }
  embed, params = encoder.init_with_output(jax.random.key(0), observation)
  chex.assert_shape(embed, (2, encoder.size()))
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) > 0
  out, _ = decoder.init_with_output(jax.random.key(1), jnp.ones((2, 10)))
  chex.assert_trees_all_equal_shapes(
    out, {k: jnp.zeros((2, *shape)) for k, shape in shapes.items()}
  )
  losses = reconstruction_losses(out, observation)
  assert set(losses) == set(keys)
  chex.assert_shape(list(losses.values()), (2,))


def test_vector_loss_is_squared_symlog_error():
  losses = reconstruction_losses(
    {'x': jnp.array([[1.0, 0.0]])}, {'x': jnp.array([[0.0, np.e - 1]], jnp.float32)}
  )
  np.testing.assert_allclose(losses['x'], [2.0], rtol=1e-5)
  np.testing.assert_allclose(predictions({'x': jnp.array([[1.0]])})['x'], [[np.e - 1]], rtol=1e-5)


def test_image_loss_is_summed_over_pixels():
  image = np.full((1, 4, 4, 3), 255, np.uint8)
  losses = reconstruction_losses(
    {'image': jnp.full((1, 4, 4, 3), 0.5)}, {'image': jnp.asarray(image)}
  )
  np.testing.assert_allclose(losses['image'], [48 * 0.25])


def test_patches_are_inverse():
  x = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
  chex.assert_trees_all_equal(from_patches(to_patches(x, 8), 8), x)
  chex.assert_trees_all_equal(to_patches(x, 8)[0, 0, 0], x[0, :8, :8].reshape(-1))


def test_bad_shapes_are_named():
  with pytest.raises(ValueError, match='power of two'):
    Encoder({'image': (60, 60, 3)}).init(jax.random.key(0), {'image': jnp.zeros((1, 60, 60, 3))})
  with pytest.raises(ValueError, match='square'):
    Encoder({'image': (64, 32, 3)}).init(jax.random.key(0), {'image': jnp.zeros((1, 64, 32, 3))})


def test_initialisers():
  """Truncated normal of variance scale / average fan; Glorot uniform; zeros for scale 0."""
  normal = initializer('normal')(jax.random.key(0), (300, 500))
  np.testing.assert_allclose(normal.std(), np.sqrt(1 / 400), rtol=0.02)
  assert np.abs(normal).max() <= 2 * np.sqrt(1 / 400) / 0.87962566 + 1e-6
  uniform = initializer('uniform')(jax.random.key(0), (4, 4, 20, 30))
  np.testing.assert_allclose(np.abs(uniform).max(), np.sqrt(3 / (16 * 25)), rtol=0.01)
  assert not initializer('uniform', 0.0)(jax.random.key(0), (3, 3)).any()
