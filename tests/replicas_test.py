"""Collectives: nothing where nothing is mapped; over replicas, what the whole batch would give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax import replicas
from harmony_jax.distributions import Percentiles
from harmony_jax.prototypes import sinkhorn
from tests import small

X = jnp.float32(np.random.default_rng(0).normal(size=(8, 3)))


def over(count, function):
  """`function` of X, split over replicas: [count, …]; on one device, whose axis has a name as
  `jax.pmap`'s has.
  """

  def mapped(x):
    with replicas.mapped('i'):
      assert replicas.axis() == 'i'
      return function(x)

  found = small.jit(jax.vmap(mapped, axis_name='i'))(X.reshape(count, -1, 3))
  assert replicas.axis() is None
  return found


def test_nothing_where_nothing_is_mapped():
  assert replicas.axis() is None
  assert replicas.mean(X) is X and replicas.everywhere(X) is X
  wanted = jax.nn.logsumexp(X, 0)
  np.testing.assert_allclose(replicas.logsumexp(X), wanted, rtol=1e-6)


@pytest.mark.parametrize('count', (1, 2, 4))
def test_shares_of_a_batch_give_what_the_whole_batch_does(count):
  draw = lambda key: jax.random.normal(key, (3,))
  key = jax.random.key(2)
  update = lambda x: Percentiles.zeros().update(x, 0.5, 10.0, 80.0)

  def function(x, rows=8):
    return {
      'draws': replicas.draw_rows(key, rows, draw),
      'mean': replicas.mean(jnp.square(x).mean()),
      'everywhere': replicas.everywhere(x).reshape(8, 3),
      'logsumexp': replicas.logsumexp(x),
      'sinkhorn': sinkhorn(x, 0.3, 3),
      'percentiles': jnp.stack(jax.tree.leaves(update(x))),
    }

  whole = small.jit(function)(X)
  found = over(count, lambda x: function(x, 8 // count))
  for name in ('draws', 'sinkhorn'):  # each replica has its rows
    np.testing.assert_allclose(found.pop(name).reshape(8, 3), whole.pop(name), rtol=1e-5)
  for name, each in found.items():  # every replica has all
    for one in each:
      np.testing.assert_allclose(one, whole[name], rtol=1e-5, err_msg=name)


def test_one_device_of_pmap_is_no_other():
  one = over(1, lambda x: sinkhorn(replicas.everywhere(x)[0], 0.3, 2))[0]

  def mapped(x):
    with replicas.mapped('i'):
      return sinkhorn(replicas.everywhere(x)[0], 0.3, 2)

  found = jax.pmap(mapped, axis_name='i', devices=jax.devices()[:1])(X[None])
  np.testing.assert_allclose(found[0], one, rtol=1e-5)


def test_rows_of_a_batch_differ():
  drawn = replicas.draw_rows(jax.random.key(0), 5, lambda key: jax.random.uniform(key))
  assert len(np.unique(drawn)) == 5
  again = replicas.draw_rows(jax.random.key(0), 3, lambda key: jax.random.uniform(key))
  np.testing.assert_array_equal(again, drawn[:3])
