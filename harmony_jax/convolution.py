"""Convolutions with stride 2, down (kernel 4) and transposed up, each in equal forms.

`conv` is as it is written. `gradient` writes what goes up as the gradient of what goes down, which
cuDNN has: it would fill pictures with zeros and convolve those, with four times the work; a TPU's
compiler would turn them around for the gradient of a kernel. Under `vmap` over kernels (several
seeds in one program) both are done for one kernel after the other, as grouped convolutions are slow
and work more. `matmul` writes the same sums as one matrix product over gathered patches: XLA's CPU
backend runs its convolutions (and, worse, their gradients) far below the matrix-product rate, and
loses its fast convolution altogether inside loops. The form is chosen by the platform and never
changes the parameters.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Params = TypeVar('Params')
Frames = TypeVar('Frames')  # a tree of leaves [N, ...]
Constants = TypeVar('Constants')  # likewise
Results = TypeVar('Results')  # likewise


_chosen = contextvars.ContextVar('form', default='')


@contextlib.contextmanager
def in_form(form: str) -> Iterator[None]:
  """Have what is traced here be in one form: over many kernels under `vmap` all but `matmul` are as
  many convolutions one after the other.
  """
  token = _chosen.set(form)
  try:
    yield
  finally:
    _chosen.reset(token)


def default_form() -> str:
  """'matmul' on a CPU, 'gradient' elsewhere; or that of `in_form`."""
  return _chosen.get() or ('matmul' if jax.default_backend() == 'cpu' else 'gradient')


def downsample(
  x: Float[Array, 'B H W C'], kernel: Float[Array, '4 4 C D'], padding: str = 'same', form: str = ''
) -> Float[Array, 'B H_out W_out D']:
  """Cross-correlation y[i, j] = Σ x[2i-p+a, 2j-p+b] kernel[a, b], p = 1 with zeros around x
  ('same') or 0 ('valid').

  Args:
    x: H and W even for 'same'.
    padding: 'same' halves the resolution, 'valid' gives (H - 4) // 2 + 1.
    form: 'conv' (or 'gradient', the same here), 'matmul' or '' for the platform's.
  """
  if (form or default_form()) != 'matmul':
    return _down(x, kernel, padding)
  if padding == 'same':
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  batch, height, width, channels = x.shape
  rows, columns = height // 2, width // 2
  # Space to depth: a 4×4 patch with stride 2 is a 2×2 patch of 2×2 blocks. An odd last line is seen
  # by no patch.
  x = x[:, : 2 * rows, : 2 * columns].reshape(batch, rows, 2, columns, 2, channels).swapaxes(2, 3)
  x = x.reshape(batch, rows, columns, 4 * channels)
  # Each block with its right, lower and lower right neighbour.
  patches = jnp.concatenate([x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]], -1)
  # [B, H', W', 16 C] as (block row, block column, row, column, channel)
  kernel = kernel.reshape(2, 2, 2, 2, channels, -1).swapaxes(1, 2).reshape(16 * channels, -1)
  return product(patches, kernel)


def upsample(
  x: Float[Array, 'B H W C'], kernel: Float[Array, 'K K D C'], padding: str = 'same', form: str = ''
) -> Float[Array, 'B H_out W_out D']:
  """Transposed convolution, kernel not flipped: y = Σ dilated(x)[i+a-p, j+b-p] kernel[a, b].

  Args:
    kernel: output channels before input channels, as the reference implementation stores it.
    padding: 'same' (K = 4, p = 2) doubles the resolution, 'valid' (any K, p = K - 1) gives 2 (H -
      1) + K.
    form: 'conv', 'gradient', 'matmul' or '' for the platform's.
  """
  form = form or default_form()
  if form == 'conv':
    return _in_turn(_transposed, padding)(x, kernel)
  if form == 'gradient':
    return _up(x, kernel, padding)
  batch, height, width, channels = x.shape
  size, depth = kernel.shape[0], kernel.shape[2]
  # Every input adds its value times the flipped kernel to the K×K outputs from (2i, 2j) on. With K
  # padded to an even number that is, for each of (K/2)² offsets, one block of 2×2 outputs per
  # input: one product, then a sum of shifts.
  taps = (size + 1) // 2
  kernel = jnp.pad(kernel[::-1, ::-1], ((0, 2 * taps - size),) * 2 + ((0, 0),) * 2)
  # row tap, row phase, column tap, column phase, D, C
  kernel = kernel.reshape(taps, 2, taps, 2, depth, channels)
  blocks = product(x, kernel.transpose(5, 0, 2, 1, 3, 4).reshape(channels, -1))
  rows, columns = height + taps - 1, width + taps - 1
  # A split's gradient is one concatenation; that of as many slices would be as many sums over all
  # of `blocks`.
  blocks = jax.lax.split(blocks, (4 * depth,) * taps**2, axis=3)
  offsets = [(i, j) for i in range(taps) for j in range(taps)]
  y: jax.Array = sum(  # pyright: ignore[reportAssignmentType]
    jnp.pad(block, ((0, 0), (i, taps - 1 - i), (j, taps - 1 - j), (0, 0)))
    for block, (i, j) in zip(blocks, offsets)
  )
  y = (
    y.reshape(batch, rows, columns, 2, 2, depth)
    .swapaxes(2, 3)
    .reshape(batch, 2 * rows, 2 * columns, depth)
  )
  y = y[:, : 2 * (height - 1) + size, : 2 * (width - 1) + size]
  return y if padding == 'valid' else y[:, 1:-1, 1:-1]


def _strided(padding, x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (2, 2), padding.upper(), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _transposed(padding, x, kernel):
  return jax.lax.conv_transpose(
    x, kernel, (2, 2), padding.upper(), dimension_numbers=('NHWC', 'HWOI', 'NHWC')
  )


def _one_by_one(function):
  """Have a function of two arrays be done for one pair after the other where both are mapped."""
  mapped = jax.custom_batching.custom_vmap(function)

  @mapped.def_vmap
  def _(size, batched, *inputs):
    if not all(batched):
      return jax.vmap(function, [0 if each else None for each in batched])(*inputs), True
    return jnp.stack([mapped(*(x[i] for x in inputs)) for i in range(size)]), True

  return mapped


def _in_turn(convolve, padding):
  """`convolve(padding, x, kernel)`, linear in both, with its gradients each `_one_by_one`."""

  @jax.custom_vjp
  def both(x, kernel):
    return _one_by_one(functools.partial(convolve, padding))(x, kernel)

  def backward(saved, gradient):
    x, kernel = saved
    of_x = lambda g, kernel: jax.linear_transpose(lambda x: convolve(padding, x, kernel), x)(g)[0]
    of_kernel = lambda g, x: jax.linear_transpose(lambda k: convolve(padding, x, k), kernel)(g)[0]
    return _one_by_one(of_x)(gradient, kernel), _one_by_one(of_kernel)(gradient, x)

  both.defvjp(lambda x, kernel: (both(x, kernel), (x, kernel)), backward)
  return both


def _down(x, kernel, padding):
  return _in_turn(_strided, padding)(x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _up(x, kernel, padding):
  def up(x, kernel):
    size = len(kernel)
    sides = (2 * side if padding == 'same' else 2 * (side - 1) + size for side in x.shape[1:3])
    y = jax.ShapeDtypeStruct((len(x), *sides, kernel.shape[2]), x.dtype)
    return jax.linear_transpose(lambda y: _strided(padding, y, _flipped(kernel)), y)(x)[0]

  return _one_by_one(up)(x, kernel)


def _up_forward(x, kernel, padding):
  return _up(x, kernel, padding), (x, kernel)


def _up_backward(padding, saved, gradient):
  x, kernel = saved

  def of_kernel(gradient, x):
    return jax.linear_transpose(lambda k: _strided(padding, gradient, k), kernel)(x)[0]

  return _down(gradient, _flipped(kernel), padding), _one_by_one(of_kernel)(gradient, x)[::-1, ::-1]


_up.defvjp(_up_forward, _up_backward)


def _flipped(kernel):
  """With a barrier: else the gradient's own flip goes with this one, and XLA sees no gradient."""
  return jax.lax.optimization_barrier(kernel[::-1, ::-1])


@jax.custom_vjp
def product(x: Float[Array, '*batch C'], matrix: Float[Array, 'C D']) -> Float[Array, '*batch D']:
  """x @ matrix with the leading axes of x flattened.

  The same sums, but the gradient of `matrix` is then one plain matrix product; over several leading
  axes XLA's CPU backend runs it in a slow loop (measured: 8.8 against 2.0 ms for [128, 8, 8, 32] ×
  [32, 192]).
  """
  rows = x.reshape(-1, x.shape[-1])
  return (rows @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def _product_backward(saved, gradient):
  x, matrix = saved
  rows, of_rows = (each.reshape(-1, each.shape[-1]) for each in (x, gradient))
  over_rows = (((0,), (0,)), ((), ()))
  if matrix.shape[0] > matrix.shape[1]:
    # On a CPU the product is up to three times as fast with the narrow factor first
    # (benchmarks/NOTES.md); the barrier keeps the compiler from turning it around again.
    of_matrix = jax.lax.optimization_barrier(jax.lax.dot_general(of_rows, rows, over_rows)).T
  else:
    of_matrix = jax.lax.dot_general(rows, of_rows, over_rows)
  return (of_rows @ matrix.T).reshape(x.shape), of_matrix


product.defvjp(lambda x, matrix: (product(x, matrix), (x, matrix)), _product_backward)


# ------------------------------------------------------------------------------------------------
# A few frames at a time

CACHE_BYTES = 2**21  # of one layer's output; measured in benchmarks/NOTES.md


def frames_at_once(bytes_per_frame: int) -> int:
  """How many frames to take at a time, given the largest layer's output; 0 is all of them
  (accelerators).
  """
  return 0 if jax.default_backend() != 'cpu' else max(1, CACHE_BYTES // bytes_per_frame)


def apply_in_chunks(
  function: Callable[[Params, Frames], Results], params: Params, x: Frames, size: int
) -> Results:
  """`function(params, x)` for x [N, ...] (a tree), computed `size` frames at a time and once more
  for the gradient.

  A frame's result must depend on that frame alone. 0, or at least N: all at once, with what the
  gradient needs kept.
  """
  whole, rest = _split(x, size)
  if not whole:
    return function(params, x)
  again = jax.checkpoint(function, prevent_cse=False)
  _, y = jax.lax.scan(lambda _, x: (None, again(params, x)), None, whole)
  y = jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), y)
  if rest is None:
    return y
  return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), y, again(params, rest))


def mean_in_chunks(
  function: Callable[[Params, Frames, Constants], Float[Array, ' N']],
  params: Params,
  x: Frames,
  constants: Constants,
  size: int,
) -> Float[Array, '']:
  """The mean over N frames of `function(params, x, constants)`, with trees of leaves [N, ...],
  `size` at a time.

  Where its gradient is wanted, each chunk's is computed beside its value, so that nothing is kept
  or computed twice: the mean is linear in the frames, and whatever scales it (a harmonizer) scales
  the finished gradient. `constants` have none.
  """
  whole, rest = _split((x, constants), size)
  if not whole:
    return function(params, x, constants).mean()
  count = jax.tree.leaves(x)[0].shape[0]
  total = lambda params, rows: function(params, *rows).sum() / count

  @jax.custom_vjp
  def mean(params, whole, rest):
    value, _ = jax.lax.scan(lambda value, rows: (value + total(params, rows), None), 0.0, whole)
    return value if rest is None else value + total(params, rest)

  def forward(params, whole, rest):
    def gradients(params, rows):
      # Integer constants have no gradient: only the rows of x are differentiated.
      value, gradient = jax.value_and_grad(lambda params, x: total(params, (x, rows[1])), (0, 1))(
        params, rows[0]
      )
      return value, *gradient

    def step(so_far, rows):
      value, of_params, of_x = gradients(params, rows)
      return jax.tree.map(jnp.add, so_far, (value, of_params)), of_x

    start = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    (value, of_params), of_whole = jax.lax.scan(step, start, whole)
    of_rest = None
    if rest is not None:
      more, of_more, of_rest = gradients(params, rest)
      value, of_params = value + more, jax.tree.map(jnp.add, of_params, of_more)
    return value, (of_params, of_whole, of_rest)

  def backward(gradients, scale):
    of_params, of_whole, of_rest = jax.tree.map(lambda g: (scale * g).astype(g.dtype), gradients)
    return of_params, (of_whole, None), None if of_rest is None else (of_rest, None)

  mean.defvjp(forward, backward)
  return mean(params, whole, rest)


def _split(tree, size):
  """(leaves [chunks, size, ...], the rest [less than size, ...] or None); (None, None) where all
  fits in one chunk.
  """
  count = jax.tree.leaves(tree)[0].shape[0]
  if not size or size >= count:
    return None, None
  chunks = count // size
  whole = jax.tree.map(lambda x: x[: chunks * size].reshape(chunks, size, *x.shape[1:]), tree)
  return whole, jax.tree.map(lambda x: x[chunks * size :], tree) if count % size else None
