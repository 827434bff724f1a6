"""The batched form of a scan against the stepwise one: values and gradients, of random sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import recurrence
from harmony_jax.rssm import RSSM, RSSMSettings
from tests import small


def step(params, carry, x, product):
  """Products before and after what is not linear, a state of two parts, and what comes out."""
  slow, fast = carry
  hidden = jnp.tanh(product(jnp.concatenate([slow, fast], -1), params['in']) + x['seen'])
  slow = 0.9 * x['keep'][:, None] * slow + product(hidden, params['slow'])
  return (slow, jnp.sin(hidden) * params['scale']), hidden.sum(-1) * x['keep']


def compared(rows, steps, units, seed):
  """Values and gradients of both forms."""
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / 2, jnp.float32)
  params = {'in': draw(2 * units, units), 'slow': draw(units, units), 'scale': draw(units)}
  carry = draw(rows, units), draw(rows, units)
  x = {'seen': draw(steps, rows, units), 'keep': draw(steps, rows)}
  weights = draw(steps, rows, units), draw(steps, rows, units), draw(steps, rows)

  def value(form, *arguments):
    (slow, fast), out = recurrence.scan(step, *arguments, form)
    found = jax.tree.map(lambda w, y: (w * y).sum(), weights, (slow, fast, out))
    return sum(found), (slow, fast, out)

  both = lambda *arguments: [
    jax.value_and_grad(lambda *x, form=form: value(form, *x), (0, 1, 2), has_aux=True)(*arguments)
    for form in recurrence.FORMS
  ]
  return small.jit(both)(params, carry, x)


@pytest.mark.parametrize('rows, steps, units', [(1, 1, 1), (3, 3, 2), (2, 8, 4), (4, 7, 3)])
def test_both_forms_are_one(rows, steps, units):
  stepwise, batched = compared(rows, steps, units, seed=steps)
  small.close(batched, stepwise, 2e-5)


def test_steps_that_are_compiled_as_one(monkeypatch):
  """Divisors of the length, on the platforms that they are for."""
  lengths = (64, 50, 15, 14, 13, 1)
  counts = [recurrence.steps_at_once(length, 'batched') for length in lengths]
  assert counts == [4, 5, 5, 2, 1, 1]
  for backend, chosen in (('gpu', counts), ('tpu', counts), ('cpu', [1] * 6)):
    monkeypatch.setattr(jax, 'default_backend', lambda backend=backend: backend)
    assert [recurrence.steps_at_once(length) for length in lengths] == chosen


@pytest.mark.parametrize('latent, learned', [('categorical', True), ('gaussian', False)])
def test_a_filter_of_observations(latent, learned):
  """Both kinds of states, an initial one that is learned, episodes that begin inside."""
  rng, found = np.random.default_rng(0), []
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape) / 2, jnp.float32)
  sizes = dict(deter=12, units=10, stoch=4, classes=5, latent=latent, learned_initial=learned)
  of = lambda form: RSSM(config=RSSMSettings(**sizes, recurrence=form), actions=3, embed=7)
  params = jax.tree.map(
    lambda x: draw(*x.shape), jax.eval_shape(of('auto').init, jax.random.key(0))
  )
  first = jnp.array([[False, True, False]] * 2)
  noise = jnp.asarray(rng.uniform(size=(2, 3, 4)), jnp.float32)
  seen = draw(2, 3, 7), jnp.tanh(draw(2, 3, 3)), first, noise
  state = jax.tree.map(lambda x: x + draw(*x.shape), of('auto').initial(params, 2))
  for form in recurrence.FORMS:

    def value(params, state, embed, form=form):
      posterior, prior = of(form).observe(params, state, embed, *seen[1:])
      return jnp.sin(posterior.feature()).sum() + (prior * posterior.stats).sum(), posterior

    run = jax.value_and_grad(value, (0, 1, 2), has_aux=True)
    found.append(small.jit(run)(params, state, seen[0]))
  small.close(found[1], found[0], 2e-5)
  assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(found[0][1][0]))
