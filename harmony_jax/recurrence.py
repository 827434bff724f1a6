"""Scans over time, in two forms of equal values and gradients.

`stepwise` is JAX's scan: on its way forwards it stores what the way back needs, and its backward
pass adds up the gradients of the parameters step by step. `batched` has short steps, for devices
that wait longer for each of a step's kernels than they work on it. Forwards it stores nothing but
results. With these the steps do not depend on each other any more: what the way back needs of them
is found in one batch of all steps, step by step only the gradient of the state is carried back, and
in the end another batch gives those of parameters and inputs. Some steps are compiled as one.

Shapes: T time, B batch.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from harmony_jax.convolution import product

FORMS = ('stepwise', 'batched')
MOST_AT_ONCE = 5  # steps compiled as one; see benchmarks/NOTES.md


def default_form() -> str:
  """'batched' on GPUs and TPUs, 'stepwise' elsewhere."""
  return 'batched' if jax.default_backend() in ('gpu', 'tpu') else 'stepwise'


def steps_at_once(length: int, form: str = 'auto') -> int:
  """Return how many steps of a scan are compiled as one: a divisor of its length; stepwise 1."""
  most = MOST_AT_ONCE if _chosen(form) == 'batched' else 1
  return max(count for count in range(1, most + 1) if length % count == 0)


def _chosen(form):
  return default_form() if form == 'auto' else form


def scan(step: Callable, params: Any, carry: Any, inputs: Any, form: str = 'auto') -> Any:
  """Return (the carry after every step, the outputs), leaves [T, B, ...].

  Args:
    step: `step(params, carry, inputs, product) -> (carry, outputs)`, of one step's inputs. A row's
      results must depend on that row alone; nothing that has a gradient may come in but by
      arguments; `product(x, matrix)` is x @ matrix, for all products of what depends on the carry.
    params: a tree. carry: before the first step, leaves [B, ...]. inputs: leaves [T, B, ...].
    form: 'stepwise', 'batched', or 'auto' for the platform's.
  """
  return (_batched if _chosen(form) == 'batched' else _stepwise)(step, params, carry, inputs)


def _stepwise(step, params, carry, inputs, unroll=1):
  def body(carry, inputs):
    carry, outputs = step(params, carry, inputs, product)
    return carry, (carry, outputs)

  return jax.lax.scan(body, carry, inputs, unroll=unroll)[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _batched(step, params, carry, inputs):
  return _stepwise(step, params, carry, inputs, _unroll(inputs))


def _forward(step, params, carry, inputs):
  found: Any = _batched(step, params, carry, inputs)
  return found, (params, carry, inputs, found[0])


def _backward(step, saved, gradients):
  params, first, inputs, carries = saved
  before = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[:-1]]), first, carries)
  of_one = lambda carry, inputs: jax.vjp(lambda c: step(params, c, inputs, _passed), carry)[1]
  pulls = jax.vmap(of_one)(before, inputs)

  def back(of_carry, now):
    pull, (of_carries, of_outputs) = now
    of_carry = jax.tree.map(jnp.add, of_carry, of_carries)
    return pull((of_carry, of_outputs))[0], of_carry

  nothing = jax.tree.map(jnp.zeros_like, first)
  ways = {'reverse': True, 'unroll': _unroll(inputs)}
  of_first, of_carries = jax.lax.scan(back, nothing, (pulls, gradients), **ways)
  rows = lambda tree: jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)  # [T B, ...]
  all_steps = lambda params, inputs: step(params, rows(before), rows(inputs), product)
  of_params, of_inputs = jax.vjp(all_steps, params, inputs)[1](rows((of_carries, gradients[1])))
  return of_params, of_first, of_inputs


_batched.defvjp(_forward, _backward)


def _unroll(inputs):
  return steps_at_once(jax.tree.leaves(inputs)[0].shape[0], 'batched')


def _passed(x, matrix):
  """x @ matrix, with a gradient of x alone, and nothing kept for it: the matrix is at hand."""
  run = jax.custom_vjp(lambda x: product(x, matrix))
  run.defvjp(lambda x: (product(x, matrix), None), lambda _, gradient: (gradient @ matrix.T,))
  return run(x)
