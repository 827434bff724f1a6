"""Several seeds of one configuration in one program: a thread each, with everything of its own but
the compiled code.

    with run_folder.prepare(...) as first, run_folder.prepare(...) as second:
      train([(config_of_seed_0, first), (config_of_seed_1, second)])

Each seed writes what its single run would write. On an accelerator the updates of all seeds are one
program (`parallel.train_together`), for which their threads meet in `Together`; on a CPU each seed
runs the ordinary one.
"""

import functools
import threading

from harmony_jax import parallel
from harmony_jax.errors import UserError
from harmony_jax.training.interruption import Interrupted, Interruption
from harmony_jax.training.loop import Trainer


def train(runs, interruption=None):
  """Trains one run per seed to their ends.

  When one of them fails, the others end at their next step and close everything, too.

  Args:
    runs: pairs (configuration, its open `RunFolder`) that differ in their seed only; none is
      complete.
    interruption: an `Interruption`, by which all can be asked to save and to end.

  Returns:
    `{seed: last score}`.

  Raises:
    Interrupted: they were asked to end, and have been saved.
    Exception: the first one that a run raised; a `UserError`'s text begins with the seed, another
    names it in a note.
  """
  compiled, scores = Compiled(), {}
  together = Together(
    [config.seed for config, _ in runs],
    compiled.train_step,
    compiled.train_together if parallel.seeds_together() else None,
  )
  interruption = interruption or Interruption()
  threads = [
    threading.Thread(target=_run, args=(*run, interruption, compiled, together, scores))
    for run in runs
  ]
  try:
    for thread in threads:
      thread.start()
    together.wait()
  finally:
    together.stop()  # changes nothing after the usual end
    for thread in threads:
      if thread.ident:
        thread.join()
  if together.failure:
    seed, error = together.failure
    if isinstance(error, UserError):
      raise UserError(f'seed {seed}: {error}') from None
    error.add_note(f'In the run of seed {seed}.')
    raise error
  if together.interrupted:
    raise Interrupted(
      '; '.join(f'seed {seed}: {text}' for seed, text in sorted(together.interrupted.items()))
    )
  return scores


def _run(config, folder, interruption, compiled, together, scores):
  """The life of a seed's thread. The trainer is made here, as OpenGL draws only in the thread that
  made its context.
  """
  seed = config.seed
  try:
    functions = functools.partial(_functions, compiled, together, seed)
    trainer = Trainer(
      config,
      folder,
      interruption=interruption,
      compiler=functions,
      name=f'seed {seed}',
      sharing=together.count,
      check=together.check,
    )
    scores[seed] = trainer.run()
  except Interrupted as interrupted:
    together.interrupted[seed] = str(interrupted)
    together.leave(seed)
  except Stopped:
    together.leave(seed)
  except BaseException as error:
    together.leave(seed, error)
  else:
    together.leave(seed)


def _functions(compiled, together, seed, agent):
  """What `compile_agent` returns, for one seed: updates are made together, and acting, as in
  evaluations, can stop.
  """
  functions = compiled.of(agent)

  def act(*args, **kwargs):
    together.check()
    return functions['act'](*args, **kwargs)

  return {**functions, 'act': act, 'train_step': functools.partial(together.train_step, seed)}


class Compiled:
  """The functions of the agent that is made first, for all seeds: JAX would compile equal agents'
  functions again.

  While one thread compiles, JAX lets the others wait.
  """

  def __init__(self):
    self._lock = threading.Lock()
    self._functions = self._together = None

  def of(self, agent):
    """What `compile_agent` returns, for the first agent asked for."""
    with self._lock:
      if self._functions is None:
        self._functions, self._together = (
          parallel.compile_agent(agent),
          parallel.train_together(agent),
        )
      return self._functions

  def train_step(self, state, batch):
    """One seed's update."""
    return self._functions['train_step'](state, batch)

  def train_together(self, states, batches):
    """The update of all seeds."""
    return self._together(states, batches)


class Stopped(Exception):
  """Ends a run because another one failed, or because the user stopped all."""


class Together:
  """Where the threads of several seeds meet for their updates.

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

  def __init__(self, seeds, single, joint=None):
    self.count = len(seeds)
    self.failure = None
    self.interrupted = {}
    self._single, self._joint = single, joint
    self._changed = threading.Condition()  # guards what follows
    self._active = set(seeds)
    self._handed_in = {}  # seed: (state, batch)
    self._results = {}  # seed: what its update returned
    self._stopped = False

  def train_step(self, seed, state, batch):
    """The update of one seed, called in its thread. Raises `Stopped` where another one has failed."""
    with self._changed:
      self.check()
      if self._meeting():
        self._handed_in[seed] = state, batch
        if len(self._handed_in) == self.count:
          self._update_all()
        self._changed.wait_for(
          lambda: seed in self._results or self._stopped or not self._meeting()
        )
        if seed in self._results:
          return self._results.pop(seed)
        self._handed_in.pop(seed, None)
        self.check()
    return self._single(state, batch)  # outside the lock: the others need not wait for it

  def check(self):
    """Raises `Stopped` if this run shall end."""
    if self._stopped:
      raise Stopped

  def leave(self, seed, error=None):
    """To be called once by each seed at its end, with the exception that it failed with. A failure
    stops the others.
    """
    with self._changed:
      if error is not None:
        self.failure = self.failure or (seed, error)
        self._stopped = True
      self._active.discard(seed)
      self._changed.notify_all()

  def stop(self):
    """Ends all runs at their next step."""
    with self._changed:
      self._stopped = True
      self._changed.notify_all()

  def wait(self):
    """Waits until all seeds have left. Called in the main thread, which Ctrl-C interrupts."""
    with self._changed:
      while self._active:
        # the system may hand a signal to any thread, and Python looks when this one wakes
        self._changed.wait(1)

  def _meeting(self):
    return self._joint is not None and self.count > 1 and len(self._active) == self.count

  def _update_all(self):
    """Runs the joint program in the thread that came last. The lock is held, but nobody else has
    anything to do.
    """
    seeds = sorted(self._handed_in)
    states, batches = zip(*(self._handed_in[seed] for seed in seeds))
    self._handed_in.clear()
    self._results.update(zip(seeds, zip(*self._joint(states, batches))))
    self._changed.notify_all()
