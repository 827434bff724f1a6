"""What the machine can do at most: the rate of large matrix products, and of memory."""

import functools

import jax
import jax.numpy as jnp

from harmony_jax.benchmarking import timing

CALLS = 10
BYTES = 2**28  # 268 MB, far more than any cache
# An accelerator multiplies faster than it is asked to: there one call is a chain of so many
# products.
CHAIN = 16


def measure(size: int = 4096) -> dict:
  """Ceilings of the default device, by its best call: {'matmul_gflops', 'memory_gbytes_per_second',
  …}.

  `matmul_gflops` is of float32 products [size, size] × [size, size] at the highest precision (10⁹
  multiplications and additions per second); accelerators add `matmul_gflops_bfloat16`. Memory: a
  large array is added to in place, bytes read plus bytes written.
  """
  accelerator = jax.default_backend() != 'cpu'
  chain = CHAIN if accelerator else 1
  result = {'matmul_gflops': matmul_gflops(size, jnp.float32, chain)}
  if accelerator:
    result['matmul_gflops_bfloat16'] = matmul_gflops(size, jnp.bfloat16, chain)
  return result | {'memory_gbytes_per_second': memory_rate()}


def matmul_gflops(size, dtype, chain=1) -> float:
  """The best of `CALLS` calls of `chain` products each, in GFLOP/s."""
  keys = jax.random.split(jax.random.key(0))
  # Scaled so that a chain of products neither grows nor vanishes.
  x, y = (jax.random.normal(key, (size, size)).astype(dtype) * size**-0.5 for key in keys)

  @jax.jit
  def multiply(x, y):
    for _ in range(chain):
      x = jnp.matmul(x, y, precision='highest')
    return x

  best = _best(lambda: jax.block_until_ready(multiply(x, y)))
  return 2e-9 * chain * size**3 / best


def memory_rate() -> float:
  """GB/s (10⁹ bytes, read and written) of adding a number to `BYTES` of float32 in place."""
  # Donated: a new result would be mapped page by page, which costs a CPU more than the addition.
  add = functools.partial(jax.jit, donate_argnums=0)(lambda x: x + 1)
  array = [jnp.zeros(BYTES // 4, jnp.float32)]

  def step():
    array[0] = jax.block_until_ready(add(array[0]))

  return 2e-9 * BYTES / _best(step)


def _best(call) -> float:
  call()
  return min(timing.repeat(call, CALLS))


def larger(before: dict, after: dict) -> dict:
  """The larger of two measurements of each ceiling, and both under `<name>_before` and
  `<name>_after`.
  """
  both = {
    f'{name}_{when}': value
    for when, found in (('before', before), ('after', after))
    for name, value in found.items()
  }
  return {name: max(value, after[name]) for name, value in before.items()} | both
