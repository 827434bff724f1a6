"""The updates of a run: begun, waited for, looked at.

An update is only begun, not waited for: the device works on it while the environments step and the
next batch is put together. What is to be done with its result waits for `settle`, which is called
when the next action has waited for it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from harmony_jax import parallel, tiles
from harmony_jax.errors import UserError
from harmony_jax.method import TrainState
from harmony_jax.prefetch import Prefetcher
from harmony_jax.processes import ProcessGroup
from harmony_jax.replay import Draw
from harmony_jax.training import faults
from harmony_jax.training.checkpoint import Checkpoints


class Updates:
  """What a run learns with.

  Attributes:
    method, compiled: the method, and its compiled functions. replay: where batches come from.
    prefetcher: of batches that were chosen. state: as `train_step` has it, perhaps still running.
    metrics: of the last update, likewise; none before the first. left_out: updates so far that were
      not finite. done: whether an update of this process has been waited for.
  """

  def __init__(
    self, method: Any, compiled: parallel.Compiled, replay: Any, group: ProcessGroup, seed: int
  ):
    self.method, self.compiled, self.replay, self._group = method, compiled, replay, group
    self.prefetcher = Prefetcher(replay, compiled.put)
    self.state: TrainState = compiled.init(jax.random.fold_in(jax.random.key(seed), 0))
    self._earlier = 0  # updates in the state's count that are of the run that this one began from
    self.metrics: Mapping[str, Any] = {}
    # draws of updates not yet settled, their feedback, and how many were left out by then
    self._begun: list[tuple[Draw, Any, Any]] = []
    self._launched: tuple[Draw, Any, Any] | None = None  # the next of them
    self._told = 0  # of these, whose feedback the replay has
    self._left_out = 0  # up to these
    self.done = False  # one of this process
    self.left_out = 0  # updates that were not finite
    self._feedback = getattr(replay, 'feedback', None)

  @property
  def variables(self) -> Any:
    """What acting and looking take."""
    return self.compiled.variables(self.state)

  def take_up(
    self, state: TrainState, draws: list[Draw], metrics: Mapping[str, float], update: int
  ) -> None:
    """Go on from a state on one device, with the batches that were chosen and the last metrics.

    Args:
      update: how many this run had done.
    """
    self.state, self.left_out = self.compiled.spread(state), int(state.nonfinite)
    self._earlier = int(state.step) - update
    self.metrics, self._left_out = metrics, self.left_out
    for draw in draws:
      self.prefetcher.take_up(draw)

  def start_from(self, learned: Mapping[str, Any]) -> None:
    """Take fields of the state, on one device, that another run has learned."""
    self.state = self.compiled.spread(self.compiled.gather(self.state).replace(**learned))
    self._earlier = int(learned['step'])

  def launch(self, due: int) -> None:
    """Begin the first of `due` updates, where its batch waits, before the present step is stored.

    Its batch, chosen before, cannot hold that step. `begin` does what is left to do for it.
    """
    if due and len(self.prefetcher):
      self._launched = self._train()

  def begin(self, number: int, count: int, ahead: bool) -> None:
    """Begin `count` updates, the first of which has this number, and may have been launched.

    The next batch is chosen and copied while the device works on the present one. A replay with
    priorities knows by then what came of the updates before that one.

    Args:
      ahead: whether the batch of the update after the last may be chosen, too.
    """
    if number == 0 and count and self.method.calibration and not self._earlier:
      self._calibrate()
    for update in range(number, number + count):
      if not self._launched and not len(self.prefetcher):
        self.prefetcher.request(update)
      launched, self._launched = self._launched or self._train(), None
      if update < number + count - 1 or ahead:
        self._tell()
        self.prefetcher.request(update + 1)
      self._begun.append(launched)

  def _train(self):
    """Begin the update of the batch that waits; return (draw, feedback, left out by then)."""
    draw, batch = self.prefetcher.draws[0], self.prefetcher.get()
    with parallel.no_transfer():
      self.state, self.metrics = self.compiled.train_step(self.state, batch)
      # before the next update takes the state
      rows = self.compiled.feedback(self.state) if self._feedback else None
    return draw, rows, self.metrics.get('nonfinite_updates', 0)

  def _calibrate(self):
    """Start from what the method measures on the first batches of all processes."""
    calibration, state = self.method.calibration, self.compiled.local(self.state)
    batches = (self.replay.sample(2**31 + index) for index in range(calibration.batches))
    measure = parallel.jit(calibration.measure, self.method.settings.matmul_precision)
    found = calibration.means(measure, state, batches)
    means = self._group.exchange(found)
    means = {k: np.mean([x[k] for x in means]) for k in means[0]}
    self.state = self.compiled.spread(calibration.apply(self.compiled.gather(self.state), means))

  def settle(self, folder: Any, checkpoints: Checkpoints, step: int, left_out: Any = None) -> int:
    """Look at the updates since the last call; give the replay what they say of their windows.

    Args:
      folder: of the run, where an update that was not finite is written down. step: of the run.
      left_out: of all updates those that were not finite, where that has come from the device.

    Returns: how many of them were left out.

    Raises:
      UserError: more were not finite than may be left out.
    """
    if not self._begun:
      return 0
    found = int(jax.device_get(self.state.nonfinite) if left_out is None else left_out)
    if found > self.method.settings.skip_nonfinite:
      self._stop(folder, checkpoints, step)
    self._tell()
    more, self.left_out, self.done = found - self.left_out, found, True
    self._begun, self._told = [], 0
    return more

  def _tell(self):
    """Give the replay what the updates so far say of their windows; wait for it."""
    for draw, rows, left_out in self._begun[self._told :]:
      if self._feedback and rows is not None:
        rows, left_out = jax.device_get((rows, left_out))
        # What was left out has nothing to say: the state still has the rows of the update before.
        if left_out == self._left_out:
          self._feedback(draw, rows)
        self._left_out = int(left_out)
    self._told = len(self._begun)

  def _stop(self, folder, checkpoints, step):
    """The state has stayed as it was before the update that went wrong, whose draw is among those
    begun.
    """
    update = int(self.state.step) - self._earlier
    draw = next(draw for draw, *_ in self._begun if draw.update == update)
    batch = {**self.replay.gather(draw), **draw.more}
    batch = self._group.concatenate(tiles.apart(jax.device_get(batch)))
    state = self.compiled.gather(self.state)
    if not self._group.leads:
      self._group.exchange()  # the end of one is the end of all: not before process 0 is done
      raise UserError(f'update {update:,} is not finite: process 0 says more')
    names, path = faults.dump(self.method, state, batch, folder, step, update)
    checkpoints.wait()
    self._group.exchange()
    last = checkpoints.latest()
    raise UserError(
      f'update {update:,} at step {step:,} is not finite, first in '
      f'{names[0] if names else "a sum"}; the last checkpoint is '
      f'{"none" if last is None else f"of step {last:,}"}, state and batch of the update are in '
      f'{path}: python -m experiments.reproduce --logdir={folder}'
    )

  def close(self) -> None:
    """End the thread that prepares batches."""
    self.prefetcher.close()
