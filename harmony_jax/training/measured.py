"""How fast runs of a kind are on this machine, and what memory they take: measured by earlier ones.

A run measures itself for some seconds after its first updates, and leaves that in the user's cache;
the next run and sweep of the same settings know it before they start, of any task of a suite whose
tasks cost the same (`Suite.alike`).
"""

import hashlib
import json
import os
import pathlib
import platform
import time
from typing import TYPE_CHECKING, Any

import jax

from harmony_jax import disk, envs, host
from harmony_jax.config import Config
from harmony_jax.training.progress import format_seconds
from harmony_jax.training.run_folder import atomic_write

if TYPE_CHECKING:
  from harmony_jax.training.loop import Trainer

SECONDS, UPDATES = 10.0, 3  # at least, of a measurement
# Settings that change neither the time of a step of training nor memory.
_IDLE = 'task seed steps score log_every checkpoint_every video_every keep_replay skip_nonfinite'
_IDLE += ' eval_every eval_episodes final_eval_episodes eval_share eval_at_start eval_policy'


def place(config: Config, backend: str) -> pathlib.Path:
  """Return the file of the measurement of a run's kind on this machine."""
  idle = {*_IDLE.split()} - (set() if envs.suite(config.run.suite).alike else {'task'})
  same = {key: value for key, value in config.to_json().items() if key not in idle}
  text = json.dumps([platform.node(), backend, same], sort_keys=True, default=str)
  root = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  name = hashlib.sha256(text.encode()).hexdigest()[:24]
  return pathlib.Path(os.path.expanduser(root), 'harmony_jax', 'measured', f'{name}.json')


def load(config: Config, backend: str) -> dict[str, Any] | None:
  """Return {'steps_per_second', 'memory' in bytes, 'cores', 'date'}; None where there is none."""
  try:
    found = json.loads(place(config, backend).read_text(encoding='utf-8'))
    return found if found['steps_per_second'] > 0 and found['memory'] > 0 else None
  except (OSError, ValueError, KeyError, TypeError):
    return None


def text(found: dict[str, Any], steps: int) -> str:
  """Return 'about 0:15:04 without evaluations, 1.9 GB of memory (measured here …)'."""
  cores, took = found['cores'], format_seconds(steps / found['steps_per_second'])
  return (
    f'about {took} without evaluations, {disk.text(found["memory"])} of memory (measured here on '
    f'{found["date"]}: {found["steps_per_second"]:.3g} steps/s with {cores} '
    f'core{"s" * (cores != 1)})'
  )


class Measurement:
  """Measures a run once, after its first updates have been compiled; a hook of every step."""

  def __init__(self):
    self.every = 1
    self._begun: tuple[float, int, int] | None = None

  def __call__(self, trainer: 'Trainer') -> None:
    """Say how long the rest takes, as soon as that is known; then do no more."""
    state, run = trainer.state, trainer.config.run
    others = (run.eval_every, run.checkpoint_every, run.video_every)
    if not trainer.updates.done or state.step >= run.steps:
      return
    now = time.monotonic()
    if self._begun is None:
      self._begun = now, state.step, state.update
    then, step, update = self._begun
    if now - then >= SECONDS and state.update - update >= UPDATES:
      self.every = 0
      # Updates may only have been begun; at an episode's end there may be many.
      jax.block_until_ready(trainer.updates.state)
      self._tell(trainer, (state.step - step) / (time.monotonic() - then))
    elif any(trainer.schedule.crossed(state.step, every) for every in others):
      self._begun = None  # what comes now is no training

  def _tell(self, trainer, speed):
    state, run, replay = trainer.state, trainer.config.run, trainer.replay
    used = host.peak_memory()
    # Pages of the replay are taken as steps come.
    later = max(0, min(run.steps, run.replay_capacity) - state.step) / run.replay_capacity
    most = used + int(later * getattr(replay, 'nbytes', 0))
    on_device = (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use')
    there = f', {disk.text(on_device)} of the device’s' if on_device else ''
    left = format_seconds((run.steps - state.step) / speed)
    trainer.progress.line(
      f'measured: {speed:.3g} steps/s, {left} left without evaluations; memory {disk.text(used)}, '
      f'{disk.text(most)} with a full replay{there}'
    )
    if trainer.group.count == 1 and not trainer.name:
      facts = {'steps_per_second': speed, 'memory': most, 'cores': len(host.cores())}
      path = place(trainer.config, jax.default_backend())
      try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
          file.write(json.dumps(facts | {'date': time.strftime('%F')}))
      except OSError:  # the run goes on without
        pass
