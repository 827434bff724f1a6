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
from typing import Any, NamedTuple

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
  most = 1 if _chosen(form) == 'stepwise' else MOST_AT_ONCE
  return max(count for count in range(1, most + 1) if length % count == 0)


def _chosen(form):
  return default_form() if form == 'auto' else form


class Loops(NamedTuple):
  """The two loops of the batched form.

  forward: (params, carry, inputs) -> (what `scan` returns, what is saved for the way back).
  backward: (params, the carry before every step, inputs, saved, gradients of what `scan` returned)
    -> (gradient of the first carry, of the carry after every step, whatever it came from).
  """

  forward: Callable[[Any, Any, Any], tuple[Any, Any]]
  backward: Callable[[Any, Any, Any, Any, Any], tuple[Any, Any]]


def scan(
  step: Callable,
  params: Any,
  carry: Any,
  inputs: Any,
  form: str = 'auto',
  loops: Loops | None = None,
) -> Any:
  """Return (the carry after every step, the outputs), leaves [T, B, ...].

  Args:
    step: `step(params, carry, inputs, product) -> (carry, outputs)`, of one step's inputs. A row's
      results must depend on that row alone; nothing that has a gradient may come in but by
      arguments; `product(x, matrix)` is x @ matrix, for all products of what depends on the carry.
    params: a tree. carry: before the first step, leaves [B, ...]. inputs: leaves [T, B, ...].
    form: 'stepwise', 'batched' (or any other), or 'auto' for the platform's.
    loops: of the batched form, in place of those that are made here; see fused.py, resident.py.
  """
  if _chosen(form) == 'stepwise':
    return _stepwise(step, params, carry, inputs)
  return _batched(step, loops or _loops(step), params, carry, inputs)


def _stepwise(step, params, carry, inputs, unroll=1):
  def body(carry, inputs):
    carry, outputs = step(params, carry, inputs, product)
    return carry, (carry, outputs)

  return jax.lax.scan(body, carry, inputs, unroll=unroll)[1]


def _loops(step):
  def forward(params, carry, inputs):
    return _stepwise(step, params, carry, inputs, _unroll(inputs)), None

  def backward(params, before, inputs, saved, gradients):
    of_one = lambda carry, inputs: jax.vjp(lambda c: step(params, c, inputs, _passed), carry)[1]
    pulls = jax.vmap(of_one)(before, inputs)

    def back(of_carry, now):
      pull, (of_carries, of_outputs) = now
      of_carry = jax.tree.map(jnp.add, of_carry, of_carries)
      return pull((of_carry, of_outputs))[0], of_carry

    nothing = jax.tree.map(lambda x: jnp.zeros_like(x[0]), before)
    ways = {'reverse': True, 'unroll': _unroll(inputs)}
    return jax.lax.scan(back, nothing, (pulls, gradients), **ways)

  return Loops(forward, backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _batched(step, loops, params, carry, inputs):
  return loops.forward(params, carry, inputs)[0]


def _forward(step, loops, params, carry, inputs):
  found, saved = loops.forward(params, carry, inputs)
  return found, (params, carry, inputs, found[0], saved)


def _backward(step, loops, kept, gradients):
  params, first, inputs, carries, saved = kept
  before = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[:-1]]), first, carries)
  of_first, of_carries = loops.backward(params, before, inputs, saved, gradients)
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
