"""Networks over many frames, a few frames at a time, so that a CPU's caches hold what lies between
two layers.

XLA's CPU backend writes every layer's patches of a whole batch to memory and keeps them for the
backward pass: gigabytes that cost more time than the arithmetic. Over a few frames at a time
nothing leaves the cache. The sums are the same; only the order in which frames are added changes.
Accelerators take all frames at once.
"""

import jax
import jax.numpy as jnp

CACHE_BYTES = 2**21  # of one layer's output; measured in benchmarks/NOTES.md


def frames_at_once(bytes_per_frame: int) -> int:
  """How many frames to take at a time, given the largest layer's output; 0 is all of them
  (accelerators).
  """
  return 0 if jax.default_backend() != 'cpu' else max(1, CACHE_BYTES // bytes_per_frame)


def apply_in_chunks(function, params, x, size: int):
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


def mean_in_chunks(function, params, x, constants, size: int):
  """The mean over N frames of `function(params, x, constants)` [N], with trees of leaves [N, ...],
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
