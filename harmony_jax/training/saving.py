"""Saving a run, and going on where it was."""

import threading
from typing import TYPE_CHECKING, Any

import jax

from harmony_jax.errors import UserError
from harmony_jax.training.interruption import Interrupted
from harmony_jax.training.run_state import RunState

if TYPE_CHECKING:
  from harmony_jax.training.loop import Trainer

# For trainers in threads: orbax numbers its saves in this process.
_one_at_a_time = threading.Lock()


class Saver:
  """Checkpoints: the replay first, then the state that refers to it.

  A checkpoint is of all environments, whichever process has them, so that other numbers of
  processes can take it up.
  """

  def __init__(self, every: int):
    self.every = every

  def __call__(self, trainer: 'Trainer') -> None:
    """Save the run once it has learned something: until then another one may take its folder."""
    if trainer.state.update:
      self.save(trainer)

  def save(self, trainer: 'Trainer') -> None:
    """Save the run, unless this step was saved."""
    state, updates = trainer.state, trainer.updates
    if state.saved == state.step:
      return
    trainer.evaluation.finish(trainer)  # one that began at a step before
    trainer.settle()
    differing = updates.compiled.differing(updates.state)
    if differing:
      raise UserError(
        f'at step {state.step:,} the devices do not agree about {differing[0]}: one of them is '
        'faulty, or the program is; nothing was saved'
      )
    lines = trainer.writer.flush()
    trainer.replay.save(trainer.folder / 'replay')
    arrays = {
      'train': updates.compiled.gather(updates.state),
      'player': trainer.group.concatenate(trainer.player.carry),
    }
    # Comes after the replay of all has been saved.
    meta = state.to_json(trainer.group, trainer.episodes.state(), updates.prefetcher.draws)
    # A line of metrics may come before the next update.
    metrics = {k: float(v) for k, v in jax.device_get(updates.metrics).items()}
    meta |= {'lines': lines, 'spec': trainer.env.spec.to_json(), 'metrics': metrics}
    state.saved = state.step
    if trainer.group.leads:
      with _one_at_a_time:
        trainer.checkpoints.save(state.step, arrays, meta | {'replay_steps': trainer.replay.steps})

  def leave(self, trainer: 'Trainer', requested: str) -> None:
    """Save, where that was not just done, and raise `Interrupted`."""
    step, where = trainer.state.step, 'nothing to save yet in'
    if step:
      self.save(trainer)
      where = f'saved at step {step:,} of {trainer.config.run.steps:,} in'
    trainer.checkpoints.wait()
    raise Interrupted(f'{requested}: {where} {trainer.folder.path}')


def resume(trainer: 'Trainer') -> None:
  """Take everything up from the newest checkpoint.

  Where there is none, lines of a run that saved none are dropped.
  """
  found = trainer.group.exchange(trainer.checkpoints.latest())
  if None in found:
    if any(step is not None for step in found):
      raise UserError(
        f'process {found.index(None)} sees no checkpoint in {trainer.folder.path}, where others '
        'see some: all processes need one folder that they share'
      )
    trainer.writer.truncate_after(-1)
    return
  saved, meta = _restore(trainer)
  trainer.state, episodes, draws = RunState.from_json(
    meta, trainer.group, trainer.envs, trainer.state.sharing
  )
  trainer.updates.take_up(saved['train'], draws, meta.get('metrics', {}), trainer.state.update)
  trainer.player.carry = jax.device_put(
    jax.tree.map(lambda leaf: leaf[trainer.envs], saved['player']), jax.local_devices()[0]
  )
  if meta.get('processes', 1) != trainer.group.count and not trainer.filled():
    trainer.state.trained_at = None  # a part of the replay may be too little
  known = {*trainer.env.spec.observation, 'reward'}
  before = {name: rows for name, rows in trainer.replay.newest().items() if name in known}
  trainer.timestep = trainer.episodes.restore(episodes, before=before)
  trainer.writer.truncate_after(trainer.state.step, meta['lines'])


def _restore(trainer: 'Trainer') -> tuple[dict, dict[str, Any]]:
  """(state, meta) of the newest checkpoint that is intact with every process's part of the
  replay.
  """
  method = trainer.method
  train = jax.eval_shape(method.init, jax.random.key(0))
  player = jax.eval_shape(
    lambda state: method.initial_carry(method.variables(state), trainer.config.run.num_envs), train
  )
  load = lambda meta: trainer.replay.load(
    trainer.folder / 'replay', meta['replay_steps'], meta.get('processes', 1)
  )
  step = None
  while True:
    saved, meta = trainer.checkpoints.restore({'train': train, 'player': player}, step, load)
    steps = trainer.group.exchange(meta['step'])
    step = min(steps)
    if len(set(steps)) == 1:
      return saved, meta
    trainer.checkpoints.go_back(step)


def complete(trainer: 'Trainer') -> float | None:
  """Mark a run as complete and say so; return its last score."""
  state, score = trainer.state, trainer.state.last_score
  dropped, share = '', f' (of {state.sharing} runs, its share)' if state.sharing > 1 else ''
  if trainer.group.leads:
    done = {'step': state.step, 'update': state.update, 'hours': state.hours, 'score': score}
    trainer.folder.mark_complete(done)
    dropped = trainer.folder.drop_replay(trainer.config)
  trainer.progress.line(
    f'complete: {state.step:,} steps, {state.update:,} updates, {state.hours:.2f} h{share}, '
    f'final score {score:.2f}; results in {trainer.folder.path}{dropped}'
  )
  return score
