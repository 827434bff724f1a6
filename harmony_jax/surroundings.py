"""What JAX takes from the variables of the process, and what of it a run does not take; what its
backend makes of products.
"""

import jax

# With other values a run would have other numbers, or end though all is well.
SET = {
  'jax_enable_x64': (False, 'a run computes in float32'),
  'jax_numpy_dtype_promotion': ('standard', 'the programs are written for it'),
  'jax_numpy_rank_promotion': ('allow', 'the programs are written for it'),
  'jax_default_prng_impl': ('threefry2x32', "a run's draws are those of its seed"),
  'jax_threefry_partitionable': (True, "a run's draws are those of its seed"),
  'jax_random_seed_offset': (0, "a run's draws are those of its seed"),
  'jax_high_dynamic_range_gumbel': (False, "a run's draws are those of its seed"),
  'jax_debug_nans': (False, 'a run looks itself for what is not finite: experiments.reproduce'),
  'jax_debug_infs': (False, 'a run looks itself for what is not finite: experiments.reproduce'),
  'jax_transfer_guard': (None, 'a run guards its own copies'),
}
LEFT = {
  'jax_default_matmul_precision': (None, 'products are rounded otherwise than without it'),
  'jax_disable_jit': (False, 'nothing is compiled: a hundred times slower, and rounded otherwise'),
}


def settle() -> list[str]:
  """Set what JAX's variables may not change; return a line for each that says what it does.

  Before anything is computed.
  """
  lines = []
  for name, (value, reason) in {**SET, **LEFT}.items():
    found = getattr(jax.config, name, value)
    if found == value:
      continue
    if name in SET:
      jax.config.update(name, value)
      lines.append(f'{name.upper()}={found} is not taken: {reason}')
    else:
      lines.append(f'{name.upper()}={found} is taken: {reason}')
  return lines


PRECISIONS = ('default', 'high', 'highest')  # of `config.matmul_precision`, and of JAX
# What accelerators make of the factors of a product of float32 at these, as JAX documents it.
FACTORS = {
  'gpu': (
    'TensorFloat-32, where the GPU has it',
    'TensorFloat-32, where the GPU has it',
    'float32',
  ),
  'tpu': ('bfloat16', 'sums of three bfloat16', 'sums of six bfloat16'),
}


def products(precision: str) -> str:
  """Return the factors that products of float32 are made of; '' on a CPU that was told nothing.

  Args:
    precision: of the settings.
  """
  backend, told = jax.default_backend(), precision
  if precision == 'default':
    told = getattr(jax.config, 'jax_default_matmul_precision', None) or precision
  if backend == 'cpu':
    return '' if told == 'default' else 'float32, as always on a CPU'
  if backend in FACTORS and told in PRECISIONS:
    return FACTORS[backend][PRECISIONS.index(told)]
  return f"what {backend} makes of JAX's {told}"
