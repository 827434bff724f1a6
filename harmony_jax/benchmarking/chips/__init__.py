"""Accelerators that programs are compiled for where there are none, and what they can do at most.

A GPU is described to XLA by a text beside this file, a TPU by its name to libtpu.
"""

import dataclasses
import importlib.util
import os
import pathlib
from typing import Any

from jax.experimental import topologies


@dataclasses.dataclass(frozen=True)
class Chip:
  """A chip: peak rates of its data sheet, and what a kernel costs at least, which is assumed.

  Attributes:
    backend: what `jax.default_backend()` calls it.
    memory: bytes. bandwidth: bytes per second. rates: FLOP per second by what is multiplied:
      'bf16', 'f32' at the default precision (TF32 on a GPU, bfloat16 on a TPU), and at the highest.
    latency: seconds from one kernel to the next.
  """

  backend: str
  memory: float
  bandwidth: float
  rates: dict[str, float]
  latency: float

  def seconds(self, flops: dict[str, float], size: int) -> float:
    """Return how long a kernel takes at least: by latency, memory or products."""
    return max(
      self.latency, size / self.bandwidth, sum(n / self.rates[k] for k, n in flops.items())
    )

  def assumptions(self) -> str:
    """Return in words what a floor assumes."""
    rates = ', '.join(f'{k} {rate / 1e12:g}' for k, rate in self.rates.items())
    return (
      f'kernels one after the other, each the longest of {1e6 * self.latency:g} µs (assumed), its '
      f'bytes at {self.bandwidth / 1e12:g} TB/s with nothing kept in a cache, and its products at '
      f'{rates} TFLOP/s (data sheet)'
    )


def _gpu(memory, bandwidth, **rates):
  return Chip('gpu', memory, bandwidth, rates, 2e-6)


def _tpu(memory, bandwidth, rate):
  # At the highest precision a product is six passes of bfloat16.
  rates = {'f32': rate, 'bf16': rate, 'highest': rate / 6}
  return Chip('tpu', memory, bandwidth, rates, 1e-6)


CHIPS = {
  'h100': _gpu(80e9, 3.35e12, f32=495e12, bf16=989e12, highest=67e12),
  'h200': _gpu(141e9, 4.8e12, f32=495e12, bf16=989e12, highest=67e12),
  'a100': _gpu(80e9, 2.039e12, f32=156e12, bf16=312e12, highest=19.5e12),
  'v5e': _tpu(16e9, 0.819e12, 197e12),
  'v6e': _tpu(32e9, 1.64e12, 918e12),
}

_LIBTPU = {  # it asks for no machine's name, and several may compile side by side
  'TPU_SKIP_MDS_QUERY': '1',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
}


def missing(name: str) -> str:
  """Return what has to be installed before XLA can compile for a chip, or ''."""
  if CHIPS[name].backend == 'tpu':
    return '' if importlib.util.find_spec('libtpu') else "pip install 'harmony-jax[aot-tpu]'"
  found = importlib.util.find_spec('jax_plugins')
  places = found.submodule_search_locations if found else ()
  there = any(list(pathlib.Path(place).glob('xla_cuda*')) for place in places or ())
  return '' if there else "pip install 'harmony-jax[aot-gpu]'"


def devices(name: str, count: int) -> list[Any]:
  """Return so many chips of one host, to compile for; none of them is asked."""
  if CHIPS[name].backend == 'tpu':
    os.environ.update({k: os.environ.get(k, v) for k, v in _LIBTPU.items()})
    # Its smallest host has four.
    shape = f'{name}:{"2x2" if count <= 4 else "2x4"}'
    return list(topologies.get_topology_desc(platform='tpu', topology_name=shape).devices)[:count]
  text = pathlib.Path(__file__).with_name(f'{name}.txtpb').read_text(encoding='utf-8')
  where = {'target_config': text, 'topology': f'1x1x{count}'}
  return list(topologies.get_topology_desc(platform='cuda', **where).devices)
