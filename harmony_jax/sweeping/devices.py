"""The accelerators and cores of this machine, and how jobs share them."""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Mapping
from typing import NamedTuple

from harmony_jax import host
from harmony_jax.errors import UserError

SHARED = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}  # a process takes a GPU's memory as it needs it
ONE_CHIP = {'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1', 'TPU_PROCESS_BOUNDS': '1,1,1'}


class Place(NamedTuple):
  """Room for one job: variables that show it its device, cores that it may use (none: all)."""

  environment: Mapping[str, str] = {}
  cores: tuple[int, ...] = ()


def count() -> tuple[str, int]:
  """Return JAX's backend and number of devices, such as ('gpu', 8); this process takes none."""
  if os.environ.get('JAX_PLATFORMS') == 'cpu':  # starting JAX takes seconds
    return 'cpu', 1
  with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
    return pool.submit(_count).result()


def _count():
  os.environ.update(SHARED)
  import jax

  return jax.default_backend(), jax.local_device_count()


def share(backend: str, devices: int, workers: int = 0) -> list[Place]:
  """Return a place for each of so many workers; 0 is one per accelerator, or one on a CPU.

  Raises:
    UserError: there are fewer cores than workers, on a CPU.
  """
  if backend == 'cpu':
    cores, workers = host.cores(), workers or 1
    if not (each := len(cores) // workers):
      raise UserError(f'--workers={workers}: there are {len(cores)} cores, and a worker needs one')
    return [Place(cores=tuple(cores[index * each :][:each])) for index in range(workers)]
  indices = [str(worker % devices) for worker in range(workers or devices)]
  if backend == 'tpu':
    return [Place({'TPU_VISIBLE_CHIPS': index, **ONE_CHIP}) for index in indices]
  visible = os.environ.get('CUDA_VISIBLE_DEVICES')  # AMD's runtime knows the name, too
  names = visible.split(',') if visible else indices
  shared = SHARED if workers > devices else {}
  return [Place({'CUDA_VISIBLE_DEVICES': names[int(index)], **shared}) for index in indices]
