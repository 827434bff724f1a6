"""A method's programs, compiled for an accelerator that is not there, and what came of it.

Where its compiler is not installed they are lowered only, for all platforms; that tells what JAX
would ask of it. `worse` holds figures against those of before.
"""

import contextlib
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import pandas

from harmony_jax.benchmarking import hlo, machine, patience, stablehlo
from harmony_jax.benchmarking.chips import CHIPS, Chip, devices, missing
from harmony_jax.benchmarking.programs import Program, programs
from harmony_jax.benchmarking.subject import Subject
from harmony_jax.config import Config
from harmony_jax.errors import UserError

HELD = ('kernels', 'bytes', 'temp_bytes')  # that may not grow
GROWTH, SMALL = 1.05, 2**16  # by more than that; temporaries below so many bytes do not count
# Without a GPU nothing is tuned, and Triton's first choice of tiles does not fit all products, such
# as those of DreamerPro's 71,400 imagined states: then they are cuBLAS's.
UNTUNED = {'xla_gpu_enable_triton_gemm': False}
SHOWN = 'compiles kernels flops bytes floor_ms temp_bytes peak_bytes seconds options collectives'
SHOWN = [*SHOWN.split(), 'operations', 'loops', 'calls', 'error']  # of a program, where it has them
_COMPILERS = ('jax', 'jaxlib', 'libtpu', 'jax-cuda13-plugin', 'jax-cuda12-plugin')
_QUICK = ('act_', 'replay_')  # programs that are waited for to the end
_PLATFORMS = ('cuda', 'tpu', 'rocm')


def measure(
  config: Config, target: str, count: int = 1, names: Sequence[str] = ()
) -> dict[str, Any]:
  """Return the record of a configuration's programs, in a process that has done nothing else.

  Args:
    target: a name in `CHIPS`. count: devices, for the program of several. names: of programs; all
      by default.

  Raises:
    UserError: an unknown program.
  """
  chip, lacks, found = CHIPS[target], missing(target), {}
  with as_if_on(chip):
    there = _programs(config, target, 0 if lacks else count)
    if unknown := set(names) - there.keys():
      raise UserError(f'no program {min(unknown)!r}: there are {", ".join(there)}')
    for name in names or there:
      if lacks:
        found[name] = lowered(there[name]())
      elif chip.backend == 'tpu' and not name.startswith(_QUICK):
        found[name] = _patiently(config, target, count, name)
      else:
        found[name] = compiled(there[name](), chip)
      print(f'{name}: {found[name].get("error", "done")}', file=sys.stderr, flush=True)
  run = {name: getattr(config.run, name) for name in ('suite', 'task', 'method', 'preset')}
  record = {'target': target, 'devices': count, **run}
  record['versions'] = machine.versions(_COMPILERS)
  how = {'not_compiled': lacks} if lacks else {'assumptions': chip.assumptions()}
  return {**record, **how, 'programs': found}


def _programs(config, target, count):
  """A configuration's programs for so many chips, or for none; the chip's platform is JAX's."""
  jax.config.update('jax_platforms', 'cpu')
  if count:
    jax.config.update('jax_enable_compilation_cache', False)
  return programs(Subject(config), devices(target, count) if count else [], CHIPS[target].memory)


def _patiently(config, target, count, name):
  """What becomes of a TPU's program, as far as there is time to wait for it."""
  chip, made = CHIPS[target], patience.outcome(_alone, config, target, count, name)
  if not isinstance(made, patience.Plan):
    return made or {'compiles': False, 'error': 'the compiler died'}
  how = {'compiles': None, 'seconds': patience.PATIENCE, 'options': {}}
  of_memory = {'temp_bytes': made.temp_bytes, 'peak_bytes': made.peak_bytes}
  share = {'peak_share': round(made.peak_bytes / chip.memory, 5)}
  return {**how, **figures(made.text, chip), **of_memory, **share}


def _alone(config, target, count, name):
  with as_if_on(CHIPS[target]):
    return compiled(_programs(config, target, count)[name](), CHIPS[target])


def as_if_on(chip: Chip) -> contextlib.AbstractContextManager:
  """Return a context in which the project traces for a chip, which JAX has not."""
  return mock.patch.object(jax, 'default_backend', lambda: chip.backend)


# --------------------------------------------------------------------------------------------------
# One program


def compiled(program: Program, chip: Chip) -> dict[str, Any]:
  """Return what the compiler makes of a program, or why it does not."""
  began, options = time.perf_counter(), {}
  try:
    ready = program.lower()
    try:
      made = ready.compile()
    except jax.errors.JaxRuntimeError as error:
      if chip.backend != 'gpu' or 'tile sizes' not in str(error):
        raise
      made, options = ready.compile(UNTUNED), UNTUNED
  except Exception as error:  # whatever it says is the finding
    return {'compiles': False, 'error': ' '.join(str(error).split())[:500]}
  seconds = round(time.perf_counter() - began, 1)
  memory = made.memory_analysis()
  sizes = machine.planned_memory(memory)
  # Not every compiler says it.
  peak = getattr(memory, 'peak_memory_in_bytes', 0) or (
    sizes['arguments_bytes'] + sizes['output_bytes'] - sizes['alias_bytes'] + sizes['temp_bytes']
  )
  of_memory = {**sizes, 'peak_bytes': peak, 'peak_share': round(peak / chip.memory, 5)}
  how = {'compiles': True, 'seconds': seconds, 'options': options}
  return {**how, **figures(made.as_text(), chip), **of_memory}


def figures(text: str, chip: Chip) -> dict[str, Any]:
  """Return what a compiled program does, in all and by part: kernels, FLOP, bytes, floor."""
  parts: dict[str, dict] = {}
  collectives: dict[str, int] = {}
  for kernel in hlo.Program(text).kernels():
    nothing = {'runs': kernel.runs, 'kernels': 0, 'flops': 0, 'bytes': 0, 'floor_ms': 0.0}
    part = parts.setdefault(kernel.part, nothing)
    part['bytes'] += kernel.runs * kernel.bytes
    if kernel.prefetch:
      continue
    part['kernels'] += kernel.runs
    part['flops'] += kernel.runs * sum(kernel.flops.values())
    part['floor_ms'] += 1e3 * kernel.runs * chip.seconds(kernel.spent or kernel.flops, kernel.bytes)
    kind = kernel.it.opcode.removesuffix('-start')
    if kind in hlo.COLLECTIVES:
      collectives[kind] = collectives.get(kind, 0) + kernel.runs
  for part in parts.values():  # what is fetched beside the kernels comes through the same memory
    part['floor_ms'] = max(part['floor_ms'], 1e3 * part['bytes'] / chip.bandwidth)
  whole = {
    name: sum(part[name] for part in parts.values())
    for name in ('kernels', 'flops', 'bytes', 'floor_ms')
  }
  for each in (whole, *parts.values()):
    each['floor_ms'] = round(each['floor_ms'], 4)
  wide = bool(re.search(r'\bf64\[', text))
  return {**whole, 'collectives': collectives, 'f64': wide, 'parts': parts}


def lowered(program: Program) -> dict[str, Any]:
  """Return what JAX asks of each platform's compiler, which is not asked."""
  found: dict[str, Any] = {'compiles': None, 'platforms': {}}
  for platform in _PLATFORMS:
    try:
      module = program.lower(platform).compiler_ir('stablehlo')
    except Exception as error:  # likewise
      found['platforms'][platform] = {'error': ' '.join(str(error).split())[:500]}
    else:
      found['platforms'][platform] = stablehlo.summary(module)
  return found


# --------------------------------------------------------------------------------------------------
# Telling


def lines(record: dict[str, Any]) -> Iterator[str]:
  """Yield what there is to say about a record: a table of its programs and of their parts."""
  rows = []
  for name, found in record['programs'].items():
    parts = {**found.get('parts', {}), **found.get('platforms', {})}
    rows += [{'program': name, **found}]
    rows += [{'program': f'  {part}', **each} for part, each in parts.items()]
  table = pandas.DataFrame(rows).set_index('program').reindex(columns=SHOWN)
  large = table.filter(regex='flops|bytes')
  table[large.columns] = large / 1e9
  table = table.dropna(axis=1, how='all')
  yield table.to_string(na_rep='', float_format='{:,.4g}'.format, max_colwidth=60)
  yield 'flops and bytes in 10⁹; "compiles" is empty where the compiler was not waited for or asked'
  how = {'not_compiled': 'only lowered, as JAX hands it to a compiler', 'assumptions': 'floor'}
  yield from (f'{told}: {record[key]}' for key, told in how.items() if key in record)


def worse(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
  """Return what has grown by more than 5 %, or no longer compiles, between two records."""
  found = []
  for name, old in before['programs'].items():
    new = after['programs'].get(name, {'compiles': False, 'error': 'it is not there'})
    if 'kernels' not in old:
      continue
    if 'kernels' not in new:
      why = new.get('error', after.get('not_compiled'))
      found.append(f'{name} does not compile any more: {why}')
      continue
    for key in HELD:
      least = SMALL if key == 'temp_bytes' else 0
      if new[key] > max(GROWTH * old[key], least):
        found.append(f'{name}: {key} {old[key]:,} before, {new[key]:,} now')
  return found
