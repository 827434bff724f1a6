"""The forms of a scan against each other: values and gradients, of random sizes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import fused, recurrence, resident
from harmony_jax.benchmarking import stablehlo
from harmony_jax.errors import UserError
from harmony_jax.networks import Style
from harmony_jax.rssm import RSSM, RSSMSettings
from tests import small


def step(params, carry, x, product):
  """Products before and after what is not linear, a state of two parts, and what comes out."""
  slow, fast = carry
  hidden = jnp.tanh(product(jnp.concatenate([slow, fast], -1), params['in']) + x['seen'])
  slow = 0.9 * x['keep'][:, None] * slow + product(hidden, params['slow'])
  return (slow, jnp.sin(hidden) * params['scale']), hidden.sum(-1) * x['keep']


def compared(rows, steps, units, seed):
  """Values and gradients of both forms, and of the second as kernels for a TPU."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / 2, jnp.float32)
  params = {'in': draw(2 * units, units), 'slow': draw(units, units), 'scale': draw(units)}
  carry = draw(rows, units), draw(rows, units)
  x = {'seen': draw(steps, rows, units), 'keep': draw(steps, rows)}
  weights = draw(steps, rows, units), draw(steps, rows, units), draw(steps, rows)

  def value(form, *arguments):
    loops = resident.loops(step) if form == 'resident' else None
    (slow, fast), out = recurrence.scan(step, *arguments, form=form, loops=loops)
    found = jax.tree.map(lambda w, y: (w * y).sum(), weights, (slow, fast, out))
    return sum(found), (slow, fast, out)

  both = lambda *arguments: [
    jax.value_and_grad(lambda *x, form=form: value(form, *x), (0, 1, 2), has_aux=True)(*arguments)
    for form in (*recurrence.FORMS, 'resident')
  ]
  return small.jit(both)(params, carry, x)


@pytest.mark.parametrize('rows, steps, units', [(1, 1, 1), (3, 3, 2), (2, 8, 4), (4, 7, 3)])
def test_all_forms_are_one(rows, steps, units):
  stepwise, batched, resident = compared(rows, steps, units, seed=steps)
  small.close(batched, stepwise, 2e-5)
  small.close(resident, batched, 2e-5)


def test_steps_that_are_compiled_as_one(monkeypatch):
  """Divisors of the length, on the platforms that they are for."""
  lengths = (64, 50, 15, 14, 13, 1)
  counts = [recurrence.steps_at_once(length, 'batched') for length in lengths]
  assert counts == [4, 5, 5, 2, 1, 1]
  for backend, chosen in (('gpu', counts), ('tpu', counts), ('cpu', [1] * 6)):
    monkeypatch.setattr(jax, 'default_backend', lambda backend=backend: backend)
    assert [recurrence.steps_at_once(length) for length in lengths] == chosen


V3 = Style()
V2 = dict(style=Style('none', 'elu', 'uniform'), gru_bias=True, unimix=0.0, learned_initial=False)


def filtered(forms, rows=2, steps=7, style=V3, drawn=True, dtype=jnp.float32, **sizes):
  """Values and gradients of a filter in some forms, with episodes that begin inside."""
  rng = np.random.default_rng(rows)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / 2, jnp.float32)
  more: dict[str, Any] = dict(actions=3, embed=7, style=style, dtype=dtype)
  of = lambda form: RSSM(config=RSSMSettings(**sizes, recurrence=form), **more)
  params = jax.tree.map(
    lambda x: draw(*x.shape), jax.eval_shape(of('auto').init, jax.random.key(0))
  )
  first = jnp.asarray(np.arange(rows * steps).reshape(rows, steps) % 3 == 1)
  noise = jnp.asarray(rng.uniform(size=(rows, steps, sizes['stoch'])), jnp.float32)
  embed, action = draw(rows, steps, 7), jnp.tanh(draw(rows, steps, 3))
  state = jax.tree.map(lambda x: x + draw(*x.shape), of('auto').initial(params, rows))

  def value(form, params, state, embed, action):
    seen = embed, action, first, noise if drawn else None
    posterior, prior = of(form).observe(params, state, *seen)
    return jnp.sin(posterior.feature()).sum() + (prior * posterior.stats).sum(), posterior

  run = lambda form: jax.value_and_grad(functools.partial(value, form), (0, 1, 2, 3), has_aux=True)
  return [small.jit(run(form))(params, state, embed, action) for form in forms]


@pytest.mark.parametrize('latent, learned', [('categorical', True), ('gaussian', False)])
def test_a_filter_of_observations(latent, learned):
  """Both kinds of states, an initial one that is learned, episodes that begin inside."""
  sizes: dict[str, Any] = dict(deter=12, units=10, stoch=4, classes=5, latent=latent)
  sizes['learned_initial'] = learned
  found = filtered([*recurrence.FORMS, 'resident'], **sizes)
  small.close(found[1], found[0], 2e-5)
  small.close(found[2], found[0], 2e-5)
  assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(found[0][1][0]))


@pytest.mark.parametrize(
  'how',
  [
    # Several blocks of rows and columns, and two steps compiled as one; what a GPU takes, see
    # benchmarks/on_a_gpu.sh.
    dict(rows=32, steps=14, deter=32, units=64, stoch=4, classes=32),
    # Sizes that no block divides.
    dict(rows=2, steps=7, deter=8, units=6, stoch=2, classes=3, drawn=False, **V2),
  ],
)
def test_a_step_in_kernels(how):
  """For a GPU, and all steps in one for a TPU: interpreted on a CPU, neither has run them."""
  batched, *kernels = filtered(['batched', 'fused', 'resident'], **how)
  for found in kernels:
    small.close(found, batched, 2e-5)


def test_a_step_in_kernels_that_multiply_bfloat16():
  """They round where the other form does, but for sums."""
  how: dict[str, Any] = dict(
    rows=16, steps=1, deter=32, units=32, stoch=2, classes=16, dtype=jnp.bfloat16
  )
  wanted, *found = (
    (value, gradient)
    for (value, _), (gradient, *_) in filtered(['batched', 'fused', 'resident'], **how)
  )
  for each in found:
    small.close(each, wanted, 0.03)


def test_a_step_in_kernels_of_several_seeds():
  """Parameters of their own, under `vmap`, as in `train_together`."""
  steps = 7  # none compiled as one with another, which is what takes long here
  seen = jnp.ones((2, steps, 7)), jnp.ones((2, steps, 3)), jnp.zeros((2, steps), bool), None

  def gradients(form):
    config = RSSMSettings(deter=8, units=6, stoch=2, classes=3, recurrence=form)
    rssm = RSSM(config=config, actions=3, embed=7)
    loss = lambda params: rssm.observe(params, rssm.initial(params, 2), *seen)[0].deter.sum()
    params = jax.vmap(rssm.init)(jax.random.split(jax.random.key(0), 3))
    return small.jit(jax.vmap(jax.grad(loss)))(params)

  wanted = gradients('batched')
  small.close(gradients('fused'), wanted, 2e-5)
  small.close(gradients('resident'), wanted, 2e-5)


def lowered_gradient(form, platform):
  """Of a filter of 16 sequences of 7 steps."""
  sizes: dict[str, Any] = dict(deter=32, units=64, stoch=2, classes=32)
  rssm = RSSM(config=RSSMSettings(**sizes, recurrence=form), actions=3, embed=7)
  params = jax.eval_shape(rssm.init, jax.random.key(0))
  of = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct((16, 7, *shape), dtype)

  def loss(params, embed, action, is_first, noise):
    state = rssm.initial(params, 16)
    return rssm.observe(params, state, embed, action, is_first, noise)[0].feature().sum()

  traced = jax.jit(jax.grad(loss)).trace(params, of(7), of(3), of(dtype=bool), of(2))
  lowered = traced.lower(lowering_platforms=(platform,))
  return lowered.as_text(), stablehlo.summary(lowered.compiler_ir('stablehlo'))


@pytest.mark.skipif(
  not jax.__version__.startswith('0.10.'),
  reason='JAX 0.11 lowers Triton kernels only where a GPU is',
)
def test_kernels_of_a_gradient_for_a_gpu(monkeypatch):
  """Four a step, there and back, and nothing else that has to be launched between them."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  text, found = lowered_gradient('fused', 'cuda')
  assert found['calls'] == ['__gpu$xla.gpu.triton'] and len(found['loops']) == 2
  assert text.count('@__gpu$xla.gpu.triton') == 2 * 4 * recurrence.steps_at_once(7, 'batched')


def test_kernels_of_a_gradient_for_a_tpu(monkeypatch):
  """One there and one back, and no loop."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  text, found = lowered_gradient('resident', 'tpu')
  assert found['calls'] == ['tpu_custom_call'] and not found['loops']
  assert text.count('@tpu_custom_call') == 2


@pytest.mark.parametrize(
  'backend, form, sizes, told',
  [
    ('gpu', 'fused', dict(latent='gaussian'), 'rssm.latent=gaussian: take batched'),
    ('gpu', 'fused', dict(deter=600), 'deter is 600; take batched'),
    ('gpu', 'fused', dict(units=16, stoch=3), 'units is 16, stoch is 3; take batched'),
    ('tpu', 'fused', dict(), 'not for a tpu: take resident'),
    ('gpu', 'resident', dict(), 'not for a gpu: take batched'),
  ],
)
def test_kernels_that_are_not_there(monkeypatch, backend, form, sizes, told):
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  rssm = RSSM(config=RSSMSettings(**sizes, recurrence=form), actions=3, embed=7)
  with pytest.raises(UserError, match=f'rssm.recurrence={form} .*{told}'):
    rssm.init(jax.random.key(0))


def test_batches_that_kernels_take(monkeypatch):
  assert fused.fits(3)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert fused.fits(32) and not fused.fits(6)  # the sequences of a report
