"""Products are traced at the precision of the settings, wherever a method is compiled."""

import jax
import jax.numpy as jnp
import pytest
from jax.lax import Precision

from harmony_jax import parallel
from harmony_jax.benchmarking import flops, machine
from tests import small

HIGH, HIGHEST = (Precision.HIGH,) * 2, (Precision.HIGHEST,) * 2


def precisions(function, *arguments):
  """The precisions of a program's products."""
  found = set()

  def look(equation):
    if equation.primitive.name in ('dot_general', 'conv_general_dilated'):
      found.add(equation.params['precision'])
    return 0

  flops.total(jax.make_jaxpr(function)(*arguments).jaxpr, look)
  return found


@pytest.mark.parametrize('name, others', [('default', None), ('high', HIGH), ('highest', HIGHEST)])
def test_of_updates_and_actions(name, others):
  """Of gradients, too; draws are exact whatever it is."""
  of = small.agent(small.VECTOR, matmul_precision=name)
  state, data = jax.eval_shape(of.init, jax.random.key(0)), small.batch(small.VECTOR)
  compiled = parallel.compile_method(of)
  assert precisions(compiled.train_step, state, data) == {others, HIGHEST}
  carry = jax.eval_shape(lambda: of.initial_carry(small.params_of(of), 3))
  seen = {name: data[name][:, 0] for name in (*small.VECTOR, 'is_first')}
  first, call = seen.pop('is_first'), jax.numpy.uint32(0)
  act = state.params, carry, seen, first, call, jax.random.key(0)
  assert precisions(compiled.act, *act) == {others, HIGHEST}


def test_of_several_devices_and_seeds():
  """With scans as accelerators have them."""
  of = small.agent(small.VECTOR, matmul_precision='high', rssm__recurrence='batched')
  state, data = small.state_of(of), small.batch(small.VECTOR)
  shared = parallel.Replicas(of, 1)
  assert precisions(shared.train_step, shared.spread(state), shared.put(data)) == {HIGH, HIGHEST}
  together = parallel.train_together(of)
  assert precisions(together, (state,) * 2, (data,) * 2) == {HIGH, HIGHEST}


@pytest.mark.parametrize('name, others', [('default', None), ('high', HIGH), ('highest', HIGHEST)])
def test_of_what_an_update_is_held_against(name, others, monkeypatch):
  """A floor by products of float32 is none for products that a GPU rounds, and does faster."""
  found = []
  monkeypatch.setattr(machine, 'repeat', lambda call, _: found.append(precisions(call)) or [1.0])
  machine._product_rate(8, jnp.float32, name)
  assert found == [{others}]
