"""The multiplications and additions that a function cannot do without, counted from its jaxpr.

Only products and convolutions count (2 per pair of numbers); norms, activations, losses and
optimisers are far below a hundredth of an update's work.
"""

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

from harmony_jax import replicas

_EXCHANGES = ('psum', 'psum_invariant', 'pmax', 'pmin', 'all_gather', 'all_gather_invariant')
_UNKNOWN = ('while', 'pallas_call')  # how often their bodies run is not in the jaxpr


class Uncountable(ValueError):
  """A function whose work depends on its data."""


def count(function: Callable, *arguments: Any) -> int:
  """Return the FLOPs of a call; arrays may be `jax.ShapeDtypeStruct`s.

  It is counted as an accelerator runs it: on a CPU convolutions are written otherwise, in chunks
  that are in part computed twice (convolution.py).

  Raises:
    Uncountable: there are products in a loop of unknown length.
  """
  with mock.patch.object(jax, 'default_backend', lambda: 'accelerator'):
    # A function of its own: JAX would remember what it has traced for this backend.
    traced = jax.make_jaxpr(lambda *inputs: function(*inputs))(*arguments)
  # Without what nobody uses, such as gradients of parameters that another optimiser has.
  used, _ = dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
  return total(used, _products)


def exchanged_bytes(function: Callable, *arguments: Any) -> int:
  """Return the bytes that each replica gives to sums and gatherings over all of them in a call."""
  given = lambda equation: sum(x.aval.size * x.aval.dtype.itemsize for x in equation.invars)
  cost = lambda equation: given(equation) if equation.primitive.name in _EXCHANGES else 0
  with replicas.mapped('replicas'):
    traced = jax.make_jaxpr(lambda *inputs: function(*inputs), axis_env=[('replicas', 2)])
    return total(traced(*arguments).jaxpr, cost)


def total(jaxpr: Jaxpr, cost: Callable[[JaxprEqn], int]) -> int:
  """Return the sum of `cost(equation)` over all that runs: of branches the most expensive one."""
  found = 0
  for equation in jaxpr.eqns:
    name = equation.primitive.name
    inner = [
      total(getattr(each, 'jaxpr', each), cost) for each in jaxprs_in_params(equation.params)
    ]
    if name in _UNKNOWN and any(inner):
      raise Uncountable(f'there are products in a {name!r}, which runs nobody knows how often')
    if name == 'scan':
      found += equation.params['length'] * sum(inner)
    elif name == 'cond':
      found += max(inner)
    else:
      found += cost(equation) + sum(inner)
  return found


def _products(equation):
  if equation.primitive.name == 'dot_general':
    (contracted, _), _ = equation.params['dimension_numbers']
    left = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
  if equation.primitive.name == 'conv_general_dilated':
    return _convolution(equation)
  return 0


def _convolution(equation):
  """Pairs of a picture's and a kernel's numbers; 2 for each.

  Along an axis a place of the output meets each tap, but for the holes of a dilated picture; a
  place of the picture meets each tap, but for those that a stride leaves out; and a place of the
  output meets one of the picture by one tap at most. The least of the three counts padding as
  usual, where a kernel is laid over it, and a gradient like the convolution that it belongs to.
  """
  p, (x, kernel), y = equation.params, equation.invars, equation.outvars[0].aval.shape
  of_x, of_kernel, of_y = p['dimension_numbers']
  pairs = y[of_y[0]] * y[of_y[1]] * kernel.aval.shape[of_kernel[1]]
  for axis, stride in enumerate(p['window_strides']):
    taps, seen = kernel.aval.shape[of_kernel[2 + axis]], x.aval.shape[of_x[2 + axis]]
    made, holes, apart = y[of_y[2 + axis]], p['lhs_dilation'][axis], p['rhs_dilation'][axis]
    pairs *= min(made * taps // holes, seen * taps // stride, made * seen // apart)
  return 2 * pairs
