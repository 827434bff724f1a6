"""The training loop: act, store, update, step; with evaluation and saving on the way.

An update is only begun, not waited for: the device works on it while the environments step, the
next batch is put together and lines are written. The next action waits for it, so that the policy
is never an update late. As soon as that action is asked for, the update after it is begun, whose
batch was chosen before: the device goes from one to the other without waiting for the host.

Of several processes that train together, each runs this loop with its share of the environments and
of each batch. All do the same number of updates between the same steps, for an update waits for
all.

Counting: a step is one time step of one environment, the one that begins an episode included (as
in the authors' DreamerV3; their DreamerV2 leaves it out, 1 step of 501 on Meta-World); a frame is
`step × action_repeat`; an update is one call of `train_step`.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from harmony_jax import envs, parallel, processes
from harmony_jax.config import Config
from harmony_jax.envs.base import to_environment
from harmony_jax.errors import UserError
from harmony_jax.method import Method
from harmony_jax.training import hooks, measured, origin, saving, setup
from harmony_jax.training.checkpoint import Checkpoints
from harmony_jax.training.evaluation import Evaluation, Player, random_actions, require_score
from harmony_jax.training.interruption import Interruption
from harmony_jax.training.logger import MetricsWriter, NoWriter, Order
from harmony_jax.training.progress import Progress
from harmony_jax.training.run_folder import RunFolder
from harmony_jax.training.run_state import RunState, Schedule
from harmony_jax.training.trackers import DEFAULT, Start, Trackers
from harmony_jax.training.updates import Updates


class Trainer:
  """One run in one folder. `run()` continues from the newest checkpoint and trains to the end.

  Attributes:
    state: where it is. updates: what it learns with. timestep: the present one.
    starts: the line that says from what other run, if from any.
    hooks: what is called after each step, in this order.
  """

  def __init__(
    self,
    config: Config,
    folder: RunFolder,
    trackers: Sequence[str] = DEFAULT,
    interruption: Interruption | None = None,
    *,
    compiler: Callable[[Method], parallel.Compiled] | None = None,
    name: str = '',
    sharing: int = 1,
    more: Sequence[hooks.Hook] = (),
    screen: Callable[..., Progress] = Progress,
  ):
    """Make the run's parts; `compiler` to `more` are for one run among several.

    Args:
      trackers: names of those that show it; `trackers.TRACKERS` has them.
      interruption: by which the run can be asked to save and to end.
      compiler: `parallel.compile_method`, or what returns the same.
      name: stands before its lines; a run without one may show a panel.
      sharing: how many runs one program has: their replays share the device, and they its hours.
      more: hooks, after those that every run has.
      screen: makes what shows how far it is.
    """
    self.screen = screen
    self.config, self.folder, self.name = config, folder, name
    self.interruption = interruption or Interruption()
    self.group, self.schedule = processes.here(), Schedule(config)
    self.envs = self.group.share(config.run.num_envs, 'config.num_envs')  # this process's
    num_envs = self.envs.stop - self.envs.start
    self.devices = 1  # of each process, as many as the one with the fewest has
    if not compiler:
      wanted = parallel.choose_devices(config.run.devices, config.agent.batch_size)
      self.devices = min(self.group.exchange(wanted))
      compiler = functools.partial(parallel.compile_method, devices=self.devices)
    self.env = setup.make_env(config, num_envs)
    if not config.eval_env:  # which may measure what training does not
      require_score(config, self.env)
    self.method = setup.make_method(config, self.env.spec)
    compiled, seed = compiler(self.method), config.run.seed
    self.replay = setup.make_replay(config, self.method, self.group, sharing)
    self.updates = Updates(self.method, compiled, self.replay, self.group, seed)
    self.starts = origin.begin(self)  # refuses a source before anything is written
    key = jax.random.fold_in(jax.random.key(seed), 2 + self.group.index)
    self.player = Player(self.method, compiled, self.updates.variables, num_envs, key)
    self.episodes = envs.Episodes(self.env, seed, 'train', self.envs.start)
    self.timestep: Any = None  # an `envs.TimeStep`, from `run` on
    self.state = RunState(np.zeros(num_envs), sharing=sharing)
    self._warned: set[str] = set()  # what was said once
    self._open_files(trackers)
    self._make_hooks(more)

  def _open_files(self, trackers):
    path, lead = self.folder.path, self.group.leads
    self.trackers, self.order = Trackers(trackers if lead else ()), Order()
    self.writer = MetricsWriter(path, self.trackers.scalars) if lead else NoWriter()
    if lead:
      (path / 'checkpoints').mkdir(exist_ok=True)
    self.group.exchange()  # the others only look into it
    self.checkpoints = Checkpoints(path / 'checkpoints', read_only=not lead)
    self.progress: Any = None  # a `Progress`, from `run` on

  def _make_hooks(self, more):
    config = self.config.run
    self.metrics, self.evaluation = hooks.Metrics(config.log_every), Evaluation(self.config)
    self.saver = saving.Saver(config.checkpoint_every)
    # Several processes do not leave an evaluation early, and may be ended in it; one in the
    # background begins after its step was saved.
    late = self.group.count > 1 or self.evaluation.in_background
    ends = [self.evaluation, self.saver][:: -1 if late else 1]
    self.hooks: list[hooks.Hook] = [hooks.Learned(config.steps), self.metrics]
    self.hooks += [measured.Measurement(), hooks.Video(config.video_every)]
    self.hooks += [hooks.Scores(self.evaluation.in_background), *ends]
    self.hooks += [hooks.Signals(self), *more]

  # ------------------------------------------------------------------------------------------------

  def run(self) -> float | None:
    """Train to the last step; return the last score.

    Raises:
      Interrupted: it was asked to end before.
    """
    try:
      saving.resume(self)
      self.trackers.begin(Start(self.config, self.folder.path, self.state.step))
      self.progress = setup.introduce(self)
      self.interruption.arm()
      self.evaluation.begin(self)
      if self.timestep is None:
        self.timestep = self.episodes.step(None)
      while self.state.step < self.config.run.steps:
        self._iterate()
      self.settle()
      self.checkpoints.wait()
      self.require_learning()  # of a run that another version had saved at its end
      return saving.complete(self)
    finally:
      self._close()

  def _iterate(self):
    """Act, store, update, step."""
    learning = self._learning()
    first, due = self.state.update, self._due() if learning else 0
    with parallel.no_transfer():  # a copy that nobody asked for would wait for the device
      vector, left_out = self._choose(learning, due)
    self.settle(left_out)  # the action waited for the updates before it
    if self.updates.done:
      self.progress.prepare('')
    self._store(vector)
    self.updates.begin(first, due, self.schedule.runs_ahead(self.replay.margin))
    self.state.update += due
    if self.state.trained_at is None:
      done, wanted = self.state.step, self.config.begins
      more = f'{done:,} of at least {wanted:,} steps' if done < wanted else self.replay.lacks(0)
      self.progress.prepare(f'collects experience: {more}')
    self.timestep = self.episodes.step(to_environment(vector, self.env.spec))
    for hook in self.hooks:
      if self.schedule.crossed(self.state.step, hook.every):
        hook(self)
    self.progress.update(self.state.step)

  def _choose(self, learning, due):
    """(Actions for the present time step, vectors [N, A]; the updates left out, where known).

    They come from the device together: to wait for each would be two round trips.
    """
    step, run = self.state.step, self.config.run
    if learning:
      action = self.player.begin(self.updates.variables, self.timestep, step)
      left_out = self.updates.metrics.get('nonfinite_updates')
      self.updates.launch(due)
      return jax.device_get((action, left_out))
    return random_actions(self.env.spec, run.num_envs, run.seed, step)[self.envs], None

  def _store(self, vector):
    now, state = self.timestep, self.state
    self.replay.append(_row(now, vector))
    if (largest := np.abs(now.reward).max()) > self.method.largest_reward:
      self._warn(
        f'a reward of {largest:.3g} at step {state.step:,} is learned as '
        f"{self.method.largest_reward:.3g}, the method's largest: scale the rewards down",
        'reward',
      )
    if now.is_terminal.any() and not self.method.learns_ends:
      self._warn(
        f'step {state.step:,} is terminal, and {self.config.run.method} as it is set learns no '
        'ends: its values go on as if there were rewards to come',
        'end',
      )
    state.returns = np.where(now.is_first, 0, state.returns) + now.reward
    complete = (
      now.is_last & ~self.episodes.failed
    )  # what a failure cut off says nothing of a policy
    state.recent += state.returns[complete].tolist()
    if (
      complete.any() and (least := 1 + self.episodes.lengths[complete].min()) < self.replay.shortest
    ):
      self._warn(
        f'an episode of {least} steps ended at step {state.step:,}: none of fewer than '
        f'{self.replay.shortest} is ever learned from, by config.batch_length and config.replay',
        'short',
      )
    for index in np.flatnonzero(complete):  # each environment has a step of its own
      ended = {'return': state.returns[index], 'length': self.episodes.lengths[index]}
      values = {f'episode/{name}': float(value) for name, value in ended.items()}
      ended_at = state.step + self.envs.start + int(index) + 1
      self.order.do(self.trackers.scalars, ended_at, values)
    state.step += self.config.run.num_envs

  def _warn(self, text, of):
    """Say it once."""
    if of not in self._warned:
      self._warned.add(of)
      self.progress.line(f'warning: {text}')

  def _due(self):
    """How many updates the present time step pays for."""
    if self.config.agent.update_at == 'episodes' and not self._episode_ends():
      return 0
    step = self.state.step + self.config.run.num_envs
    due = self.schedule.due(self.state, step)
    if due and 'update' not in self._warned:
      self._warned.add('update')
      what = 'goes on updating' if self.state.update else 'first update'
      self.progress.line(f'{what} after {step:,} steps: compiling')
      self.progress.prepare('compiling')
    return due

  def _episode_ends(self):
    """Whether one ends in any process with the present step."""
    return any(self.group.exchange(bool(self.timestep.is_last.any())))

  def _learning(self):
    """Whether there is enough to learn from, as the authors look at it: at times."""
    state, chunk = self.state, self.config.run.prefill_chunk
    looks = state.trained_at is None and self.schedule.crossed(state.step, chunk)
    if looks and self.filled():
      state.trained_at = float(state.step)
    elif looks and self.replay.full and state.step >= self.config.begins:
      self.require_learning()
    return state.trained_at is not None

  def require_learning(self) -> None:
    """Raise UserError, saying why, if there was no update yet."""
    state = self.state
    if state.update == 0:
      lacks = self.replay.lacks(self.config.agent.prefill // self.group.count)
      wanted = lacks or 'a look after the last of config.prefill_chunk steps: take fewer'
      if state.trained_at is not None:
        wanted = "an episode's end (config.update_at=episodes): take more config.steps"
      raise UserError(f'no update in {state.step:,} steps: training waits for {wanted}')

  def filled(self) -> bool:
    """Return whether every process's replay has enough: episodes end at other times elsewhere."""
    enough = self.replay.filled(self.config.agent.prefill // self.group.count)
    return all(self.group.exchange(enough))

  def settle(self, left_out: Any = None) -> None:
    """Wait for the updates so far; write and look at what they gave.

    Args:
      left_out: of them those that were not finite, where that has come from the device.

    Raises:
      UserError: more of them were not finite than may be left out.
    """
    self.metrics.flush(self)
    step = self.state.step
    more = self.updates.settle(self.folder.path, self.checkpoints, step, left_out)
    if more:
      self.progress.line(
        f'{more} of the updates up to {self.state.update:,} left out: not finite '
        f'({self.updates.left_out} of {self.config.agent.skip_nonfinite} so far)'
      )

  # ------------------------------------------------------------------------------------------------

  def _close(self):
    parts = [self.updates, self.checkpoints, self.env, self.evaluation, self.order, self.trackers]
    with contextlib.ExitStack() as stack:  # all of them, whatever one raises
      for part in reversed([self.progress, *parts] if self.progress else parts):
        stack.callback(part.close)


def _row(now, vector):
  """What the replay stores of a time step with the actions [N, A] that were chosen for it."""
  return {
    **now.observation,
    'action': np.where(now.is_last[:, None], 0, vector).astype(np.float32),
    'reward': now.reward,
    'is_first': now.is_first,
    'is_last': now.is_last,
    'is_terminal': now.is_terminal,
  }
