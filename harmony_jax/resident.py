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
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike

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


def matrices(params: Any, dtype: DTypeLike) -> Any:
  """Return layers' parameters with their matrices in the type that is multiplied in."""
  is_one = lambda path: getattr(path[-1], 'key', '') == 'kernel'
  cast = lambda path, x: x.astype(dtype) if is_one(path) else x
  return jax.tree_util.tree_map_with_path(cast, params)


def _scan(body, params, carry, inputs, flops, reverse=False):
  """The outputs of a `lax.scan` of `body(params, carry, inputs)`, whose leaves are [B, ...].

  A kernel sees two axes of them: more would be padded in the large memory. flops: of a step.
  """
  length, now = jax.tree.leaves(inputs)[0].shape[0], _first(inputs)
  made = jax.eval_shape(lambda *x: body(*x)[1], params, carry, now)
  at = lambda t: (length - 1 - t if reverse else t, 0, 0)
  row = lambda x: pl.BlockSpec((None, *_flat(x)), at)
  whole = lambda x: pl.BlockSpec(x.shape, lambda t: (0,) * x.ndim)
  known = [x.reshape(1, -1) if x.ndim < 2 else x for x in jax.tree.leaves(params)]
  starts = [x.reshape(_flat(x)) for x in jax.tree.leaves(carry)]
  stacks = [x.reshape(length, *_flat(x[0])) for x in jax.tree.leaves(inputs)]
  state = [pltpu.VMEM(x.shape, x.dtype) for x in starts]
  counts = [len(x) for x in (known, starts, stacks, jax.tree.leaves(made), state)]

  def kernel(*refs):
    refs = iter(refs)
    of_params, of_first, seen, results, carried = ([next(refs) for _ in range(n)] for n in counts)

    @pl.when(pl.program_id(0) == 0)
    def _():
      for ref, x in zip(carried, of_first, strict=True):
        ref[...] = x[...]

    found = body(*map(_read, (params, carry, now), (of_params, carried, seen)))
    for ref, x in zip((*carried, *results), jax.tree.leaves(found), strict=True):
      ref[...] = x.reshape(ref.shape)

  work = {'kind': 'f32', 'flops': length * flops}
  work['spent'] = work['flops'] * max(1, _LEAST // len(starts[0]))  # for benchmarking/hlo.py
  leaves, tree = jax.tree.flatten(made)
  results = pl.pallas_call(
    kernel,
    out_shape=[jax.ShapeDtypeStruct((length, *_flat(x)), x.dtype) for x in leaves],
    grid=(length,),
    in_specs=[*map(whole, (*known, *starts)), *map(row, jax.tree.leaves(now))],
    out_specs=[*map(row, leaves)],
    scratch_shapes=state,
    interpret=jax.default_backend() != 'tpu',
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=('arbitrary',), vmem_limit_bytes=_FAST
    ),
    metadata={name: str(value) for name, value in work.items()},
  )(*known, *starts, *stacks)
  return tree.unflatten(y.reshape(length, *x.shape) for x, y in zip(leaves, results, strict=True))


def _products(step, params, carry, inputs):
  """FLOP of a step's products, of all rows."""
  found = []

  def counted(x, matrix):
    found.append(2 * x.shape[0] * matrix.size)
    return product(x, matrix)

  jax.eval_shape(lambda *x: step(*x, counted), params, carry, _first(inputs))
  return sum(found)


def _first(tree):
  return jax.tree.map(lambda x: x[0], tree)


def _flat(x):
  return x.shape[0], math.prod(x.shape[1:])


def _read(tree, refs):
  leaves, tree = jax.tree.flatten(tree)
  return tree.unflatten([ref[...].reshape(x.shape) for x, ref in zip(leaves, refs, strict=True)])


@jax.custom_vjp
def product(x: jax.Array, matrix: jax.Array) -> jax.Array:
  """x @ matrix as a TPU kernel has it, with a gradient of x alone."""
  return _product(x, matrix, 0)


def _product(x, matrix, axis):
  config: Any = jax.config
  wanted = config.jax_default_matmul_precision if x.dtype == jnp.float32 else 'default'
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
