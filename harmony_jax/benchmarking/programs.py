"""The programs of a run, with the shapes of what they are called with: nothing runs here."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax import device_replay, envs, parallel, tiles
from harmony_jax.benchmarking.subject import Subject
from harmony_jax.config import Config
from harmony_jax.ondevice import study, waves
from harmony_jax.replay import Replay

SEEDS = 5  # as the paper has
AGENTS = (1, 10, 100)  # of a study, side by side
_REPORT = (6, 5)  # sequences, and steps known of them: training/hooks.py


class Program(NamedTuple):
  """A function under `jit` or `pmap`, and the shapes of its arguments."""

  function: Any
  arguments: tuple
  static: dict[str, Any]

  def lower(self, *platforms: str) -> Any:
    """Return it lowered for the device that it is placed on, or for platforms by name."""
    if not platforms:
      return self.function.lower(*self.arguments, **self.static)
    traced = self.function.trace(*self.arguments, **self.static)
    return traced.lower(lowering_platforms=platforms)


def programs(subject: Subject, devices: list[Any], memory: float) -> dict[str, Callable]:
  """Return {name: what makes its `Program`}.

  train_step, act_1, act_100, report; replay_write (one step of all environments), replay_load (as
  many as travel at once) and replay_read (a batch); seeds_5: the update of several seeds in one
  program; devices_N: of several devices; where the environment is JAX, agents_1, agents_10 and
  agents_100: an iteration of so many whole runs (`ondevice`). Call it, and what it returns, while
  `jax.default_backend` is that of the devices.

  Args:
    devices: to compile for, all but `devices_N` for the first; empty: for none.
    memory: of one, in bytes. Where the replay does not fit there, batches come from the host.
  """
  config, method, compiled = subject.config, subject.method, subject.compiled
  place = functools.partial(_placed, devices[:1])
  state = jax.eval_shape(method.init, jax.random.key(0))
  variables = jax.eval_shape(method.variables, state)
  key = jax.eval_shape(jax.random.key, 0)
  host = subject.replay(config.run.replay_capacity)
  fits = device_replay.device_nbytes(host) <= device_replay.MEMORY_SHARE * memory
  read = _reading(host, method.lead)
  tiled = jax.eval_shape(*read)
  plain = jax.eval_shape(tiles.apart, tiled)  # as the host has it
  batch = tiled if fits else plain

  def make(function, *arguments, **static):
    return lambda: Program(function, place(arguments), static)

  def acting(count, mode):
    carry = jax.eval_shape(lambda x: method.initial_carry(x, count), variables)
    seen = {
      name: jax.ShapeDtypeStruct((count, *x.shape), x.dtype)
      for name, x in subject.spec.observation.items()
    }
    first, call = jax.ShapeDtypeStruct((count,), bool), jax.ShapeDtypeStruct((), jnp.uint32)
    return make(compiled.act, variables, carry, seen, first, call, key, mode=mode)

  found = {'train_step': make(compiled.train_step, state, batch), 'act_1': acting(1, False)}
  found['act_100'] = acting(100, config.agent.eval_policy == 'mode')
  if 'report' in method.capabilities:
    rows, context = _REPORT
    few = jax.eval_shape(lambda batch: jax.tree.map(lambda x: x[:rows], batch), plain)
    how = {'context': min(context, host.length - 1), 'key': place(key)}
    found['report'] = make(compiled.look('report'), variables, few, **how)
  if fits:
    for name, steps in (('replay_write', 1), ('replay_load', device_replay._chunk_steps(host))):
      write = lambda *arguments: device_replay.write_rows(*arguments)  # traced anew
      chunk = jax.eval_shape(lambda steps=steps: device_replay._chunk(host, 0, steps))
      found[name] = make(jax.jit(write, donate_argnums=0), read[1], *chunk)
    found['replay_read'] = make(jax.jit(read[0]), *read[1:])
  together = parallel.train_together(method)
  found[f'seeds_{SEEDS}'] = make(together, (state,) * SEEDS, (batch,) * SEEDS)
  if len(devices) > 1:
    found[f'devices_{len(devices)}'] = lambda: _shared(method, devices, state, batch)
  if envs.is_pure(config.run.suite) and method.replay is Replay:
    for width in AGENTS:
      found[f'agents_{width}'] = lambda width=width: _agents(config, width, place)
  return found


def _reading(host, lead):
  """(the function that reads a batch of a replay on a device, the shapes of its arguments)."""
  rings = jax.eval_shape(lambda: device_replay._zeros(host, None))
  shapes = tuple((name, shape) for name, (shape, _) in host.specs.items())
  rows = jax.ShapeDtypeStruct((host.batch_size, lead + host.length), jnp.int32)
  before = jax.ShapeDtypeStruct(rows.shape[:1], jnp.int32) if host.first_action else None
  read = lambda rings, rows, before: device_replay.read_rows(rings, rows, before, shapes)
  return read, rings, rows, before


def _shared(method, devices, state, batch):
  """The project's own update on several devices, told that these are this process's."""
  with mock.patch.object(jax, 'local_devices', lambda *_, **__: devices):
    shared = parallel.Replicas(method, len(devices))
  count = len(devices)
  split = lambda x: jax.ShapeDtypeStruct((count, x.shape[0] // count, *x.shape[1:]), x.dtype)
  carry, rows = jax.tree.map(split, (state.carry, batch))
  copied = state.replace(carry=(), rng=jax.eval_shape(jax.random.key_data, state.rng))
  return Program(shared._step, (copied, carry, rows), {})


def _agents(config: Config, width: int, place: Callable) -> Program:
  """Whole runs side by side: as loops end when they are told to, one iteration with one update."""
  (structure,) = study.structures({'': config})
  program = study.make_program(structure, [0])
  table = program.timetable
  lead = lambda x: jax.ShapeDtypeStruct((1, width, *x.shape), x.dtype)
  own = {**jax.tree.map(lead, dict(table.own[0])), 'numbers': {}}
  agents = jax.eval_shape(waves.over_agents(program, 'begin', 1, width), own)
  span = np.int32(0), np.int32(0)
  learn = waves.over_agents(program, 'learn', 1, width)
  return Program(learn, place((agents, own, dict(table.shared), *span)), {})


def _placed(devices, tree):
  where = jax.sharding.SingleDeviceSharding(*devices) if devices else None
  keys = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  dtype = lambda x: x.dtype if keys(x) else jax.dtypes.canonicalize_dtype(x.dtype)
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype(x), sharding=where), tree)
