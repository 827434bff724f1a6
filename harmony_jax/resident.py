"""A scan over time as one TPU kernel and its way back as another, in Pallas.

The steps are a kernel's grid: what one needs is fetched while the one before is worked on, and the
parameters and the state stay in the fast memory. A step is the function that the other forms take,
traced into the kernel. On the way back it is found again from the carry before it, to pull the
gradient of the state through; recurrence.py takes those of parameters and inputs, of all steps at
once.

On a CPU kernels are interpreted, which is for tests.

Shapes: T time, B batch.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from harmony_jax.errors import UserError
from harmony_jax.recurrence import Loops

_FAST = 100 * 2**20  # bytes that a kernel may have of a TPU's fast memory; a v5e has 128 MiB
_LEAST = 128  # rows that a TPU multiplies by a matrix in the time of one


def check() -> None:
  """Raise UserError where there is no such kernel for the platform."""
  if (platform := jax.default_backend()) not in ('cpu', 'tpu'):
    raise UserError(f'rssm.recurrence=resident is for TPUs, not for a {platform}: take batched')


def loops(step: Callable, ready: Callable = lambda params: params) -> Loops:
  """Return both loops of `recurrence.scan` for a step of operations that a TPU kernel can have.

  Args:
    step: as for `recurrence.scan`; it may hold no array. ready: of `params` what lies in the fast
      memory, such as its matrices in the type that is multiplied in.
  """

  def forward(params, carry, inputs):
    def body(params, carry, inputs):
      carry, outputs = step(params, carry, inputs, product)
      return carry, (carry, outputs)

    known = ready(params)
    return _scan(body, known, carry, inputs, _products(step, known, carry, inputs)), None

  def backward(params, before, inputs, saved, gradients):
    def body(params, of_carry, now):
      carry, inputs, (of_carries, of_outputs) = now
      of_carry = jax.tree.map(jnp.add, of_carry, of_carries)
      pull = jax.vjp(lambda carry: step(params, carry, inputs, product), carry)[1]
      (of_before,) = pull((of_carry, of_outputs))
      return of_before, (of_before, of_carry)

    known, first = ready(params), _first(before)
    work = 2 * _products(step, known, first, inputs)
    stacks, nothing = (before, inputs, gradients), jax.tree.map(jnp.zeros_like, first)
    of_befores, of_carries = _scan(body, known, nothing, stacks, work, reverse=True)
    return _first(of_befores), of_carries

  return Loops(forward, backward)


def _scan(body, params, carry, inputs, flops, reverse=False):
  """The outputs of a `lax.scan` of `body(params, carry, inputs)`, whose leaves are [B, ...].

  A kernel sees two axes of them: more would be padded in the large memory. flops: of a step.
  """
  length, now = jax.tree.leaves(inputs)[0].shape[0], _first(inputs)
  made = jax.eval_shape(lambda *x: body(*x)[1], params, carry, now)
  at = lambda t: (length - 1 - t if reverse else t, 0, 0)
  row = lambda x: pl.BlockSpec((None, *_rows(x)), at)
  whole = lambda x: pl.BlockSpec(x.shape, lambda t: (0,) * x.ndim)
  known = [x.reshape(1, -1) if x.ndim < 2 else x for x in jax.tree.leaves(params)]
  known += [x.reshape(_rows(x)) for x in jax.tree.leaves(carry)]
  stacks = [x.reshape(length, *_rows(x[0])) for x in jax.tree.leaves(inputs)]
  state = [pltpu.VMEM(_rows(x), x.dtype) for x in jax.tree.leaves(carry)]

  def kernel(*refs):
    ends = (len(known), len(known) + len(stacks), len(refs) - len(state))
    constants, seen, results, carried = (
      refs[a:b] for a, b in zip((0, *ends), (*ends, len(refs)), strict=True)
    )
    of_params = constants[: -len(state)]

    @pl.when(pl.program_id(0) == 0)
    def _():
      for ref, first in zip(carried, constants[-len(state) :], strict=True):
        ref[...] = first[...]

    found = body(*map(_read, (params, carry, now), (of_params, carried, seen)))
    for ref, x in zip((*carried, *results), jax.tree.leaves(found), strict=True):
      ref[...] = x.reshape(ref.shape)

  work = {'kind': 'f32', 'flops': length * flops}
  work['spent'] = work['flops'] * max(1, _LEAST // state[0].shape[0])  # for benchmarking/hlo.py
  results = pl.pallas_call(
    kernel,
    out_shape=[jax.ShapeDtypeStruct((length, *_rows(x)), x.dtype) for x in jax.tree.leaves(made)],
    grid=(length,),
    in_specs=[*map(whole, known), *map(row, jax.tree.leaves(now))],
    out_specs=[*map(row, jax.tree.leaves(made))],
    scratch_shapes=state,
    interpret=jax.default_backend() != 'tpu',
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('arbitrary',), vmem_limit_bytes=_FAST
    ),
    metadata={name: str(value) for name, value in work.items()},
  )(*known, *stacks)
  leaves, tree = jax.tree.flatten(made)
  return tree.unflatten([y.reshape(length, *x.shape) for x, y in zip(leaves, results, strict=True)])


def _products(step, params, carry, inputs):
  """FLOP of a step's products."""
  found = []

  def counted(x, matrix):
    found.append(2 * x.shape[0] * matrix.size)
    return product(x, matrix)

  jax.eval_shape(lambda *x: step(*x, counted), params, carry, _first(inputs))
  return sum(found)


def _first(tree):
  return jax.tree.map(lambda x: x[0], tree)


def _rows(x):
  return x.shape[0], math.prod(x.shape[1:])


def _read(tree, refs):
  leaves, tree = jax.tree.flatten(tree)
  return tree.unflatten([ref[...].reshape(x.shape) for x, ref in zip(leaves, refs, strict=True)])


@jax.custom_vjp
def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
  """x @ matrix as a TPU kernel has it, with a gradient of x alone."""
  return _product(x, matrix, 0)


def _product(x, matrix, axis):
  wanted = jax.config.jax_default_matmul_precision if x.dtype == jnp.float32 else 'default'
  sums = jax.lax.dot_general(
    x,
    matrix,
    (((1,), (axis,)), ((), ())),
    precision={'high': 'highest'}.get(wanted, wanted),  # there is nothing between
    preferred_element_type=jnp.float32,
  )
  return sums.astype(x.dtype)


product.defvjp(
  lambda x, matrix: (product(x, matrix), matrix),
  lambda matrix, of_y: (_product(of_y, matrix, 1), jnp.zeros_like(matrix)),  # not asked for
)
