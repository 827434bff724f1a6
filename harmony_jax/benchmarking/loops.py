"""The whole training loop against its training step: what environment, replay, policy and logging
add to it.
"""

import contextlib
import io
import tempfile
import time

import jax

from harmony_jax.benchmarking import timing
from harmony_jax.training import run_folder
from harmony_jax.training.loop import Trainer

UPDATES = 500
WARM_UP = 20
NEVER = 10**9


def measure(config, repeats=0) -> dict:
  """Runs the training loop at one update per environment step, without evaluation, video and
  saving.

  Args:
    repeats: updates timed; 0 for 500. Rounded up to a multiple of the environments, which step
      together.

  Returns: `loop_ms_per_step`, per environment step, everything included; `step_ms`, of training
  steps dispatched one after the other on a batch that is on the device, and `step_blocked_ms` (the
  median of steps that are waited for); `ratio` is that of the first two, `ratio_blocked` that to
  the third.
  """
  repeats = -(-(repeats or UPDATES) // config.num_envs) * config.num_envs
  config = one_update_per_step(config)
  with tempfile.TemporaryDirectory() as folder:
    with (
      run_folder.prepare(folder, config, {}) as opened,
      contextlib.redirect_stdout(io.StringIO()),
    ):
      watch = Watch(Trainer(config, opened), repeats)
      watch.run()
  alone = watch.step_alone(repeats)
  per_step = watch.seconds / watch.steps
  return {
    'loop_ms_per_step': 1e3 * per_step,
    'step_ms': 1e3 * alone['mean'],
    'step_blocked_ms': 1e3 * alone['median'],
    'ratio': per_step / alone['mean'],
    'ratio_blocked': per_step / alone['median'],
    'steps': watch.steps,
    'updates': watch.updates,
    'loop_seconds': watch.seconds,
    'loop_cpu_ms_per_step': 1e3 * watch.cpu / watch.steps,
  }


def one_update_per_step(config):
  """The configuration of a run that trains as soon as it can, once per environment step, and does
  nothing else.
  """
  config = config.copy_and_resolve_references()
  config.update(
    dict(
      train_ratio=float(config.batch_size * config.batch_length),
      steps=NEVER,
      prefill=0,
      pretrain=1,
      eval_every=NEVER,
      checkpoint_every=NEVER,
      video_every=NEVER,
      eval_at_start=False,
    )
  )
  return config


class _Enough(Exception):
  """Ends a run."""


class Watch:
  """Stands in for a trainer's training step, and times the run between two of its calls.

  Before both calls it waits for the updates dispatched so far, so that the stretch holds exactly
  `updates` of them.
  """

  def __init__(self, trainer, updates):
    self.updates, self.steps, self.seconds, self.cpu = updates, 0, 0.0, 0.0
    self._trainer, self._step, self._calls = trainer, trainer.compiled['train_step'], 0
    trainer.compiled['train_step'] = self

  def __getattr__(self, name):
    return getattr(self._step, name)  # whatever else the loop asks of a compiled function

  def __call__(self, state, batch):
    if self._calls == WARM_UP:
      self._mark(state, -1)
    if self._calls == WARM_UP + self.updates:
      self._mark(state, 1)
      self._last = state, batch
      raise _Enough
    self._calls += 1
    return self._step(state, batch)

  def _mark(self, state, sign):
    jax.block_until_ready(state)
    self.seconds += sign * time.perf_counter()
    self.cpu += sign * timing.cpu_seconds()
    self.steps += sign * self._trainer.step

  def run(self):
    """Runs the trainer up to the last call."""
    with contextlib.suppress(_Enough):
      self._trainer.run()

  def step_alone(self, repeats) -> dict:
    """{'mean', 'median'}: seconds of the same training step without a loop, not waited for and
    waited for each time.
    """
    state, batch = self._last
    batch, kept = jax.block_until_ready(jax.device_put(batch)), [state]

    def step():
      kept[0] = self._step(kept[0], batch)[0]

    def together():
      for _ in range(repeats):
        step()
      jax.block_until_ready(kept[0])

    def apart():
      step()
      jax.block_until_ready(kept[0])

    apart()
    mean = timing.repeat(together, 1)[0] / repeats
    return {'mean': mean, 'median': timing.spread(timing.repeat(apart, repeats))['seconds_median']}
