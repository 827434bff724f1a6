"""What a measurement depends on beside the code: the machine, its limits; and how time is taken."""

import concurrent.futures
import functools
import importlib.metadata
import multiprocessing
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax import host, parallel
from harmony_jax.errors import UserError
from harmony_jax.training.run_folder import git_commit

PACKAGES = 'ale-py dm_control flax gymnasium jax jaxlib metaworld mujoco numpy optax'.split()


def describe_machine() -> dict[str, Any]:
  """Return processor, cores, load, devices, XLA's flags, versions and commit."""
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  lines = cpuinfo.read_text(encoding='utf-8').splitlines() if cpuinfo.exists() else []
  models = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
  return {
    'processor': models[0] if models else platform.processor(),
    'cores': len(host.cores()),
    'load': os.getloadavg()[0],
    'device_kind': jax.devices()[0].device_kind,
    'platform': jax.default_backend(),
    'devices': jax.device_count(),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'python': platform.python_version(),
    'commit': git_commit(),
    'versions': versions(PACKAGES),
    'opengl': os.environ.get('MUJOCO_GL', ''),
  }


def versions(names: Iterable[str]) -> dict[str, str]:
  """Return {package: version} of those that are installed."""
  installed = {each.metadata['Name']: each.version for each in importlib.metadata.distributions()}
  return {name: installed[name] for name in names if name in installed}


def ceilings(size: int, precision: str) -> dict[str, float]:
  """Return what the default device can do at most, by its best call of ten.

  `matmul_gflops` of float32 products [size, size] × [size, size] at this precision, by which
  an update's are multiplied, too (on accelerators also of bfloat16); `memory_gbytes_per_second`,
  read and written.
  """
  found = {'matmul_gflops': _product_rate(size, jnp.float32, precision)}
  if parallel.has_accelerator():
    found['matmul_gflops_bfloat16'] = _product_rate(size, jnp.bfloat16, precision)
  # Donated: a new result would be mapped page by page, which costs a CPU more than the addition.
  add, kept = jax.jit(lambda x: x + 1, donate_argnums=0), [jnp.zeros(2**26, jnp.float32)]
  seconds = min(repeat(lambda: kept.append(add(kept.pop())) or kept[0], 10))
  return found | {'memory_gbytes_per_second': 2e-9 * 2**28 / seconds}


def _product_rate(size, dtype, precision):
  # An accelerator multiplies faster than it is asked to: there a call is a chain of products,
  # scaled so that it neither grows nor vanishes.
  chain = 16 if parallel.has_accelerator() else 1
  x = (jax.random.normal(jax.random.key(0), (size, size)) * size**-0.5).astype(dtype)
  multiplied = lambda x: functools.reduce(jnp.matmul, [x] * (chain + 1))
  multiply = jax.jit(parallel.at_precision(multiplied, precision))
  return 2e-9 * chain * size**3 / min(repeat(lambda: multiply(x), 10))


def peak_memory() -> dict[str, Any]:
  """Return the most bytes in use since this process began, of the device or of the process."""
  if parallel.has_accelerator() and (stats := jax.devices()[0].memory_stats()):
    return {'peak_memory_bytes': stats['peak_bytes_in_use'], 'peak_memory_by': 'device'}
  return {'peak_memory_bytes': host.peak_memory(), 'peak_memory_by': 'ru_maxrss'}


def planned_memory(memory: Any) -> dict[str, int]:
  """Return bytes by kind of a program's `memory_analysis()`; {} where its compiler gives none."""
  names = {'arguments': 'argument', 'output': 'output', 'alias': 'alias', 'temp': 'temp'}
  sizes = {f'{k}_bytes': f'{v}_size_in_bytes' for k, v in names.items()}
  return {k: getattr(memory, v) for k, v in sizes.items()} if memory else {}


def in_fresh_process(function: Callable, *arguments: Any) -> Any:
  """Return `function(*arguments)` of a new process, whose memory and programs are its own.

  Raises:
    UserError: the process died. What the function raises comes through.
  """
  with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
    try:
      return pool.submit(function, *arguments).result()
    except concurrent.futures.BrokenExecutor:
      raise UserError('the measuring process died (out of memory?)') from None


def repeat(call: Callable[[], Any], repeats: int = 0, warm_up: int = 2) -> list[float]:
  """Return seconds of each call, until what it returns is there, after some that do not count.

  Args:
    repeats: how many; 0 takes 10 seconds' worth, but 5 at least and 200 at most.
  """
  for _ in range(warm_up):
    jax.block_until_ready(call())
  times: list[float] = []
  while len(times) < (repeats or 5) or not (repeats or len(times) == 200 or sum(times) > 10):
    start = time.perf_counter()
    jax.block_until_ready(call())
    times.append(time.perf_counter() - start)
  return times


def spread(seconds: list[float], unit: str = 'seconds', scale: float = 1.0) -> dict[str, Any]:
  """Return {'<unit>_min', '<unit>_median', '<unit>_max', 'repeats'} of seconds times `scale`."""
  marks = zip(('min', 'median', 'max'), np.quantile(seconds, (0, 0.5, 1)).tolist(), strict=True)
  return {f'{unit}_{name}': scale * value for name, value in marks} | {'repeats': len(seconds)}
