"""What a run does beside learning, every so many steps."""

from typing import TYPE_CHECKING, Protocol

import jax
import numpy as np

from harmony_jax.training import assignments, video

if TYPE_CHECKING:
  from harmony_jax.training.loop import Trainer


_SHOWN = ('loss/world_model', 'return/train')


class Hook(Protocol):
  """Something that is called after each step that passes a multiple of `every`, and the last one.

  With `every` 0 it is never called.
  """

  every: int

  def __call__(self, trainer: 'Trainer') -> None:
    """Do it."""
    ...


class Learned:
  """Refuses to end a run that has learned nothing, before it is evaluated and saved."""

  def __init__(self, every: int):
    self.every = every

  def __call__(self, trainer: 'Trainer') -> None:
    """Raise UserError if there was no update."""
    trainer.require_learning()


class Metrics:
  """A line of metrics. It is prepared here, and written when its update is done."""

  def __init__(self, every: int):
    self.every = every
    self._unwritten: tuple | None = None  # step, update, metrics still on the device

  def __call__(self, trainer: 'Trainer') -> None:
    """Prepare a line."""
    state, metrics = trainer.state, dict(trainer.updates.metrics)
    counts = [trainer.replay.windows, getattr(trainer.env, 'failures', 0), state.recent]
    windows, failures, recent = zip(*trainer.group.exchange(counts), strict=True)
    metrics |= {
      'speed/env_steps_per_second': trainer.progress.speed() or 0.0,
      'time/hours': state.hours,
      'replay/windows': sum(windows),
    }
    if any(failures):  # of environments' processes, since this start of the run
      metrics['env/failures'] = sum(failures)
    if scores := sum(recent, []):
      metrics['return/train'] = float(np.mean(scores))
    self._unwritten = (state.step, state.update, metrics)

  def flush(self, trainer: 'Trainer') -> None:
    """Write what was prepared; waits for its update."""
    if self._unwritten is None:
      return
    (step, update, metrics), self._unwritten = self._unwritten, None
    metrics = {k: float(v) for k, v in jax.device_get(metrics).items()}
    frame = step * trainer.env.spec.action_repeat
    trainer.order.do(trainer.writer.write, step, frame, update, metrics)
    shown = {
      name: value
      for name, value in metrics.items()
      if name in _SHOWN or name.rpartition('/')[2] in ('sigma', 'weight')
    }
    trainer.progress.update(trainer.state.step, shown)


class Video:
  """Sequences of the replay beside their open-loop prediction, where the method can report."""

  sequences, context = 6, 5  # of these steps the method knows, if there are more

  def __init__(self, every: int):
    self.every = every

  def __call__(self, trainer: 'Trainer') -> None:
    """Write videos of pictures, and a picture of assignments to prototypes."""
    step, updates = trainer.state.step, trainer.updates
    if not (
      trainer.state.update and trainer.group.leads and 'report' in trainer.method.capabilities
    ):
      return
    state = updates.compiled.local(updates.state)
    key = jax.random.fold_in(state.rng, state.step)
    batch = jax.device_get(trainer.replay.sample(2**32 + trainer.state.update))
    batch = {name: rows[: self.sequences] for name, rows in batch.items()}
    report = updates.compiled.look('report')
    context = min(self.context, len(batch['is_first'][0]) - 1)
    looked = report(updates.variables, jax.device_put(batch), context=context, key=key)
    found = jax.device_get(looked)
    folder = trainer.folder / 'videos'
    for name, images in found['observation'].items():
      if images.ndim == 5:
        parts = found.get('parts', {}).get(name, {})
        grid = video.open_loop_grid(batch[name], images, context, [*parts.values()])
        path = video.save_video(folder / f'open_loop_{name}_{step:08d}', grid)
        trainer.order.do(trainer.trackers.video, step, f'open_loop/{name}', path, grid)
    pictures = [k for k, array in trainer.method.spec.observation.items() if len(array.shape) == 3]
    if 'assigned' in found and pictures:
      run = trainer.config.run
      drawn = assignments.picture(
        batch[pictures[0]][0],
        found['assigned'][0],
        found['prototype'][0],
        np.arange(len(batch['is_first'][0])) < context,
        f'{run.suite} {run.task}, step {step:,}: a sequence of the replay',
      )
      path = video.save_image(folder / f'prototypes_{step:08d}.png', drawn)
      trainer.order.do(trainer.trackers.image, step, 'prototypes', path)


class Scores:
  """Writes down an evaluation that is played in the background, once it is done."""

  def __init__(self, in_background: bool):
    self.every = int(in_background)

  def __call__(self, trainer: 'Trainer') -> None:
    """Look whether it is."""
    trainer.evaluation.look(trainer)


class Signals:
  """Ends the run where one of its processes was asked to; several agree on it when they log."""

  def __init__(self, trainer: 'Trainer'):
    self.every = trainer.config.run.log_every if trainer.group.count > 1 else 1

  def __call__(self, trainer: 'Trainer') -> None:
    """Save and raise `Interrupted`, where that was asked for."""
    asked = next(filter(None, trainer.group.exchange(trainer.interruption.requested)), '')
    if asked and trainer.state.step < trainer.config.run.steps:
      trainer.saver.leave(trainer, asked)
