"""Several seeds of one configuration in one program: a thread each, which share the compiled code.

    with run_folder.prepare(...) as first, run_folder.prepare(...) as second:
      train([(config_of_seed_0, first), (config_of_seed_1, second)])

Each seed writes what its single run would write. On an accelerator the updates of all seeds are one
program (`parallel.train_together`), for which their threads meet in `Together`; on a CPU each seed
runs the ordinary one.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

from harmony_jax import parallel
from harmony_jax.config import Config
from harmony_jax.errors import UserError
from harmony_jax.method import Method
from harmony_jax.training.hooks import Hook
from harmony_jax.training.interruption import Interrupted, Interruption
from harmony_jax.training.loop import Trainer
from harmony_jax.training.run_folder import RunFolder
from harmony_jax.training.trackers import DEFAULT


def train(
  runs: Sequence[tuple[Config, RunFolder]],
  interruption: Interruption | None = None,
  together: bool | None = None,
  more: Sequence[Hook] = (),
  trackers: Sequence[str] = DEFAULT,
) -> dict[int, float]:
  """Train one run per seed to its end; return {seed: last score}.

  When one of them fails, the others end at their next step and close everything, too.

  Args:
    runs: that differ in their seed only; none is complete.
    interruption: by which all can be asked to save and to end.
    together: whether updates are one program; by default on accelerators, which one seed's small
      products leave half idle. A CPU runs products with a matrix of parameters per seed more slowly
      than one seed after the other.
    more: hooks, for each run.
    trackers: names of those that show each run.

  Raises:
    Interrupted: they were asked to end, and have been saved.
    Exception: the first one that a run raised; a `UserError`'s text begins with the seed, another
    names it in a note.
  """
  programs, scores = Programs(), {}
  together = parallel.has_accelerator() if together is None else together
  joint = programs.train_together if together else None
  meeting = Together([config.run.seed for config, _ in runs], programs.train_step, joint)
  interruption = interruption or Interruption()
  with concurrent.futures.ThreadPoolExecutor(len(runs), 'seed') as pool:
    shared = interruption, trackers, programs, meeting, scores, more
    ends = [pool.submit(_run, *run, *shared) for run in runs]
    try:
      # Ctrl-C comes to this thread, and Python looks when it wakes. (A `join` that it interrupts
      # takes the thread for ended.)
      while concurrent.futures.wait(ends, timeout=1).not_done:
        pass
    finally:
      meeting.stop()  # changes nothing after the usual end
  if meeting.failure:
    seed, error = meeting.failure
    if isinstance(error, UserError):
      error.args = (f'seed {seed}: {error}',)  # what else it says, as of an environment, stays
    else:
      error.add_note(f'In the run of seed {seed}.')
    raise error
  if meeting.interrupted:
    told = [f'seed {seed}: {text}' for seed, text in sorted(meeting.interrupted.items())]
    raise Interrupted('; '.join(told))
  return scores


def _run(config, folder, interruption, trackers, programs, meeting, scores, more):
  """The life of a seed's thread. The trainer is made here, as OpenGL draws only in the thread that
  made its context.
  """
  seed = config.run.seed

  def compiler(method):
    """Updates are made together, and acting, as in evaluations, can stop."""
    compiled = programs.of(method)

    def act(*args, **kwargs):
      meeting.check()
      return compiled.act(*args, **kwargs)

    step = functools.partial(meeting.train_step, seed)
    return dataclasses.replace(compiled, act=act, train_step=step)

  try:
    trainer = Trainer(
      config,
      folder,
      trackers,
      interruption,
      compiler=compiler,
      name=f'seed {seed}',
      sharing=meeting.count,
      more=[meeting, *more],
    )
    scores[seed] = trainer.run()
  except Interrupted as interrupted:
    meeting.interrupted[seed] = str(interrupted)
  except Stopped:
    pass
  except BaseException as error:
    meeting.leave(seed, error)
  finally:
    meeting.leave(seed)


class Programs:
  """The functions of the method that is made first, for all seeds: JAX would compile them again.

  While one thread compiles, JAX lets the others wait.
  """

  def __init__(self):
    self._lock = threading.Lock()
    self._made: Any = None  # (compiled, joint program)

  def of(self, method: Method) -> parallel.Compiled:
    """Return the functions of the first method asked for."""
    with self._lock:
      if self._made is None:
        self._made = parallel.compile_method(method), parallel.train_together(method)
      return self._made[0]

  def train_step(self, state: Any, batch: Any) -> Any:
    """Do one seed's update."""
    return self._made[0].train_step(state, batch)

  def train_together(self, states: tuple, batches: tuple) -> tuple:
    """Do the update of all seeds."""
    return self._made[1](states, batches)


class Stopped(Exception):
  """Ends a run because another one failed, or because the user stopped all."""


class Together:
  """Where the threads of several seeds meet for their updates; a hook by which they are stopped.

  As long as all seeds are there, an update waits for all of them, be it that one still fills its
  replay or evaluates. Every seed comes to its next update or else leaves, so that nobody waits for
  ever. The updates that meet need not have the same number. When the first seed has left, the
  others go on one by one: for each number of seeds that are left, another program would have to be
  compiled.

  Args:
    seeds: their numbers.
    single: function of (state, batch), one seed's update.
    joint: function of tuples (states, batches), the update of all; None to have no meetings.

  Attributes:
    count: how many seeds there were.
    failure: (seed, exception) of the first that failed, or None.
    interrupted: {seed: text} of those that were asked to end.
  """

  every = 1

  def __init__(self, seeds: Sequence[int], single: Callable, joint: Callable | None = None):
    self.count = len(seeds)
    self.failure: tuple[int, BaseException] | None = None
    self.interrupted: dict[int, str] = {}
    self._single: Callable = single
    self._joint: Any = joint
    self._stopped = False
    self._barrier = threading.Barrier(self.count, self._update_all)
    self._handed_in: dict[int, tuple] = {}  # (state, batch) by seed
    self._results: dict[int, Any] = {}  # what the update of a seed returned
    if joint is None or self.count == 1:
      self._barrier.abort()

  def train_step(self, seed: int, state: Any, batch: Any) -> Any:
    """Do the update of one seed, in its thread.

    Raises:
      Stopped: another one has failed.
    """
    self.check()
    if not self._barrier.broken:
      self._handed_in[seed] = state, batch
      with contextlib.suppress(threading.BrokenBarrierError):
        self._barrier.wait()
      if seed in self._results:  # another may have left since
        return self._results.pop(seed)
      self.check()
    return self._single(state, batch)

  def check(self) -> None:
    """Raise `Stopped` if this run shall end."""
    if self._stopped:
      raise Stopped

  def __call__(self, trainer: Trainer) -> None:
    """Raise `Stopped` if this run shall end."""
    self.check()

  def leave(self, seed: int, error: BaseException | None = None) -> None:
    """Leave, once, at a seed's end; the exception that it failed with stops the others."""
    if error is not None:
      self.failure = self.failure or (seed, error)
      self._stopped = True
    self._barrier.abort()

  def stop(self) -> None:
    """End all runs at their next step."""
    self._stopped = True
    self._barrier.abort()

  def _update_all(self):
    """Run the joint program, in the thread that came last."""
    seeds = sorted(self._handed_in)
    states, batches = zip(*(self._handed_in[seed] for seed in seeds), strict=True)
    self._handed_in.clear()
    try:
      done = self._joint(states, batches)
    except BaseException:
      self._stopped = True  # before the others wake, whose states may be gone
      raise
    self._results.update(zip(seeds, zip(*done, strict=True), strict=True))
