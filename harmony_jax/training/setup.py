"""What a run is made of, by its configuration, and how it introduces itself."""

import dataclasses
import math
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from harmony_jax import device_replay, disk, envs, method, surroundings
from harmony_jax.config import Config
from harmony_jax.envs import check
from harmony_jax.envs.base import ArraySpec, Spec
from harmony_jax.errors import UserError
from harmony_jax.optimizers import parameter_count
from harmony_jax.processes import ProcessGroup
from harmony_jax.training.checkpoint import KEEP
from harmony_jax.training.progress import Progress, format_seconds

if TYPE_CHECKING:
  from harmony_jax.training.loop import Trainer

# For trainers in threads: processes of environments are started with changed variables of this one.
_one_at_a_time = threading.Lock()


def make_env(config: Config, num_envs: int, **options: Any) -> Any:
  """Return so many of a run's environments, with other options where given.

  Raises:
    UserError: a bad option, or a simulator that is not there.
  """
  run = config.run
  try:
    with _one_at_a_time:
      chosen = {**config.env, **options}
      return envs.make(run.suite, run.task, num_envs, run.env_processes, **chosen)
  except UserError:
    raise
  except (ValueError, RuntimeError) as error:  # the text says which
    raise UserError(str(error)) from None


def make_method(config: Config, spec: Spec) -> method.Method:
  """Return a run's method.

  Raises:
    UserError: its settings do not fit the environment.
  """
  try:
    return method.entry(config.run.method).make(config.agent, spec)
  except ValueError as error:
    raise UserError(str(error)) from None


def stored(config: Config, spec: Spec, adds: Sequence[str] = ()) -> dict[str, tuple]:
  """Return what a replay stores of a step: {name: (shape, dtype)}.

  Args:
    adds: names of what a draw brings along.

  Raises:
    UserError: an observation is called like something else.
  """
  specs: dict[str, tuple] = {k: (array.shape, array.dtype) for k, array in spec.observation.items()}
  added = {'before'} if config.agent.replay.first_action else set()
  if taken := specs.keys() & {*check.RESERVED, *added, *adds}:
    raise UserError(
      f'the observation {min(taken)!r} has the name of something else in a batch, which would '
      'stand in its place: call it otherwise (of Gymnasium by a wrapper, or config.env.ignore)'
    )
  specs |= {'action': ((spec.num_actions,), np.float32), 'reward': ((), np.float32)}
  return specs | dict.fromkeys(('is_first', 'is_last', 'is_terminal'), ((), bool))


def make_replay(config: Config, of: method.Method, group: ProcessGroup, sharing: int) -> Any:
  """Return this process's part of a run's replay.

  Args:
    sharing: how many runs put theirs on the device.

  Raises:
    UserError: a size that does not fit.
  """
  specs = stored(config, of.spec, getattr(of.replay, 'adds', ()))
  sizes = {
    'num_envs': config.run.num_envs,
    'replay_capacity': config.run.replay_capacity,
    'batch_size': config.agent.batch_size,
  }
  shares = [group.share(size, f'config.{name}') for name, size in sizes.items()]
  try:
    replay = of.replay(
      specs,
      *(share.stop - share.start for share in shares),
      config.agent.batch_length,
      config.run.seed,
      part=(group.index, group.count),
      **dataclasses.asdict(config.agent.replay),
    )
    return device_replay.choose(_place(config, replay, sharing), replay)
  except ValueError as error:
    raise UserError(str(error)) from None


def _place(config, replay, sharing):
  """The configuration's; 'auto' is the host where several runs' do not fit on it together."""
  memory = (jax.local_devices()[0].memory_stats() or {}).get('bytes_limit', 0)
  room = device_replay.MEMORY_SHARE * memory
  crowded = sharing > 1 and sharing * device_replay.device_nbytes(replay) > room
  return 'host' if crowded and config.run.replay_on == 'auto' else config.run.replay_on


def describe_disk(trainer: 'Trainer') -> str:
  """Return what the run takes on disk, all of its processes together, and what is free.

  A third checkpoint is written before the oldest goes.
  """
  config, spec = trainer.config, trainer.env.spec
  arrays = [*spec.observation.values(), ArraySpec((spec.num_actions + 1,), np.float32)]
  step = 3 + sum(math.prod(each.shape) * np.dtype(each.dtype).itemsize for each in arrays)
  replay = disk.replay(config.run, step)
  checkpoint = sum(leaf.nbytes for leaf in jax.tree.leaves(trainer.updates.state))
  most, kept = replay + (KEEP + 1) * checkpoint, KEEP * checkpoint
  kept += replay if config.run.keep_replay else 0
  told = (
    f'disk: up to {disk.text(most)} for replay and checkpoints, {disk.text(kept)} after the end'
  )
  return told + disk.room(most - disk.size(trainer.folder.path), trainer.folder.path)


def introduce(trainer: 'Trainer') -> Progress:
  """Return where a run shows how far it is, having said there what it is."""
  config, state, devices = trainer.config, trainer.state, trainer.devices
  run, rule = config.run, config.flat().get('weighting.rule')
  kind, idle = jax.local_devices()[0].device_kind, jax.local_device_count() - devices
  several = trainer.group.count > 1
  machine = (
    (f'{devices} × {kind}' if devices > 1 else kind)
    + (f' ({idle} more are idle)' if idle else '')
    + (f' in each of {trainer.group.count} processes' if several else '')
  )
  parameters = parameter_count(trainer.updates.state.params)
  how: dict[str, Any] = {'live': False, 'prefix': f'{trainer.name}: '} if trainer.name else {}
  if not trainer.group.leads:
    how = {'live': False, 'file': open(os.devnull, 'w', encoding='utf-8')}
  progress = trainer.screen(run.steps, state.step, **how)
  progress.line(
    f'{run.suite} {run.task}, {run.method}, {f"weighting {rule}, " if rule else ""}'
    f'seed {run.seed}: {run.steps:,} steps, {trainer.schedule.updates:,} updates, '
    f'{parameters:,} parameters, {config.agent.compute_dtype} on {machine}'
  )
  factors = surroundings.products(config.agent.matmul_precision)
  if factors:
    precision = config.agent.matmul_precision
    progress.line(f'float32 products: factors are {factors} (config.matmul_precision={precision})')
  for reading in trainer.env.spec.readings:
    progress.line(reading)
  apart = isinstance(trainer.env, envs.Processes)
  if apart or run.num_envs > 1:
    place = 'each in a process of its own' if apart else 'in one process'
    progress.line(f'environments: {trainer.env.num_envs}, {place} (config.env_processes)')
  progress.line(trainer.replay.describe() + (' in each of them' if several else ''))
  progress.line(describe_disk(trainer))
  if run.eval_share:
    progress.line(
      f'evaluation: every {run.eval_every:,} steps up to {run.eval_episodes} episodes, as many as '
      f'fit into {run.eval_share:.0%} of the steps of training'
    )
  if trainer.starts:
    progress.line(trainer.starts)
  if state.step:
    so_far = format_seconds(state.hours * 3600)
    progress.line(f'continues from step {state.step:,} (update {state.update:,}, {so_far} so far)')
  progress.prepare('starting')
  return progress
