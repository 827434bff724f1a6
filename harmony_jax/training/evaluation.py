"""Playing with a policy: actions for training, complete episodes for evaluation."""

import collections
import dataclasses
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from harmony_jax import envs
from harmony_jax.config import Config, RunSettings, nearest
from harmony_jax.envs import Environment, EpisodeResult, TimeStep, episode_seed, play
from harmony_jax.envs.base import Spec, random_vectors, to_environment
from harmony_jax.errors import EnvironmentFault, UserError
from harmony_jax.method import Method, Variables
from harmony_jax.parallel import Compiled
from harmony_jax.processes import ALONE, ProcessGroup
from harmony_jax.training import setup

if TYPE_CHECKING:
  from harmony_jax.training.loop import Trainer


TOLD_EVERY = 30  # seconds in a long evaluation


class Player:
  """Chooses actions for N environments; `carry` is what a method carries between calls.

  Args:
    method, compiled: a method, and its compiled functions.
    key: randomness; call number t draws from fold_in(key, t).
    mode: take the policy's mode instead of a sample.
  """

  def __init__(
    self,
    method: Method,
    compiled: Compiled,
    variables: Variables,
    num_envs: int,
    key: jax.Array,
    mode: bool = False,
  ):
    self._spec, self._act = method.spec, compiled.act
    self._key, self._mode = key, mode
    # Bound to a device as what `act` returns may be: it would be compiled again for a carry that is
    # not.
    initial = compiled.initial_carry(variables, num_envs)
    self.carry = jax.device_put(initial, jax.local_devices()[0])

  def act(
    self, variables: Variables, timestep: TimeStep, call: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Return actions for the environments, and as vectors [N, A]; `call` numbers the draws."""
    return self.finish(self.begin(variables, timestep, call))

  def begin(self, variables: Variables, timestep: TimeStep, call: int) -> jax.Array:
    """Have the device choose; `finish` waits for what this returns."""
    seen = timestep.observation, timestep.is_first, np.uint32(call)
    with jax.transfer_guard_host_to_device('allow'):  # a third of what `device_put` takes
      action, self.carry = self._act(variables, self.carry, *seen, self._key, mode=self._mode)
    return action

  def finish(self, action: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return what `act` returns, for an action that was begun."""
    vector = jax.device_get(action)
    return to_environment(vector, self._spec), vector


def random_actions(spec: Spec, num_envs: int, seed: int, step: int) -> np.ndarray:
  """Return uniform action vectors [N, A] for a step of a run with this seed."""
  rng = np.random.Generator(np.random.Philox(key=[seed, step]))
  return random_vectors(spec, num_envs, rng)


def group_sizes(num_envs: int) -> list[int]:
  """Return sizes of an evaluation's groups: halves, one of which steps while the device chooses.

  They are equal, for one compiled program, where the number is even.
  """
  return [num_envs] if num_envs < 2 else [num_envs - num_envs // 2, num_envs // 2]


def at_a_time(config: Config) -> int:
  """Return how many environments play side by side in all evaluations of a run.

  At most as many as the first evaluation of the whole run has episodes; with `eval_share`, which
  says that later, as any may have. The draws of an action depend on how environments are grouped,
  so that a run that goes on, and an agent that is evaluated again, must have as many.
  """
  run = config.run
  if run.eval_share:
    return min(run.eval_envs, max(run.eval_episodes, run.final_eval_episodes))
  steps = -(-run.eval_every // run.num_envs) * run.num_envs  # before the second evaluation at most
  early = run.eval_episodes if steps < run.steps or config.agent.eval_at_start else 0
  return min(run.eval_envs, early or run.final_eval_episodes)


def longest(run: RunSettings, step: int, ended: int) -> int:
  """Return after how many steps an evaluation cuts an episode, where nobody knows that it ends.

  Args:
    step: of the run. ended: episodes of training that had ended by then.
  """
  return int(max(run.eval_every, 10 * max(1, step) / max(1, ended)))


def evaluate(
  method: Method,
  compiled: Compiled,
  variables: Variables,
  groups: Sequence[Any],
  run_seed: int,
  step: int,
  episodes: int,
  mode: bool = False,
  group: ProcessGroup = ALONE,
  limit: int = 0,
) -> list[EpisodeResult]:
  """Play exactly `episodes` complete episodes, whose seeds belong to (run seed, step).

  Actions are sampled, or the policy's `mode`; a latent state is sampled either way.

  Args:
    groups: environments in one or more groups: while one group steps, the device chooses for the
      next.
    group: the processes that share the episodes: each plays every count-th.
    limit: steps after which an episode is cut; 0: none is.

  Returns: one result per episode that this process played.
  """
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run_seed), 1), step)
  seeds = _seeds(method, run_seed, step, episodes)
  seeds = seeds[group.index :: group.count]
  results: list[Any] = [None] * len(seeds)
  waiting = collections.deque()

  def go_on(index, game, player, calls, actions):
    """Step a group and begin its next choice; at the end of its last episode take its results."""
    try:
      timestep = game.send(actions)
    except StopIteration as end:
      results[index :: len(groups)] = end.value
    else:
      waiting.append((index, game, player, calls + 1, player.begin(variables, timestep, calls)))

  for index, env in enumerate(groups):
    draws = jax.random.fold_in(key, group.index * len(groups) + index)
    player = Player(method, compiled, variables, env.num_envs, draws, mode)
    game = play(env, seeds[index :: len(groups)], limit, method.eval_ends)
    go_on(index, game, player, 0, None)
  while waiting:
    index, game, player, calls, action = waiting.popleft()
    go_on(index, game, player, calls, player.finish(action)[0])
  return results


def evaluate_random(
  method: Method, env: Environment, run_seed: int, step: int, episodes: int, limit: int = 0
) -> list[EpisodeResult]:
  """Play the same episodes by actions at random: same seeds and limit, counted as the method's."""
  seeds, policy = _seeds(method, run_seed, step, episodes), envs.random_policy(env.spec, run_seed)
  return envs.run_episodes(env, seeds, policy, ends=method.eval_ends, limit=limit)


def _seeds(method, run_seed, step, episodes):
  fixed = method.eval_seed
  return [
    episode_seed(run_seed, 'eval', step, episode) if fixed is None else fixed
    for episode in range(episodes)
  ]


def together(parts: Sequence[list]) -> list[EpisodeResult]:
  """Return the results of all processes in the order of episodes."""
  results: list[Any] = [None] * sum(map(len, parts))
  for index, played in enumerate(parts):
    results[index :: len(parts)] = [EpisodeResult(*row) for row in played]
  return results


def summary(results: Sequence[EpisodeResult], suite: str = '') -> dict[str, Any]:
  """Return {'mean', 'std', 'scores', 'lengths'}, 'cut' if any were, and each measure's mean."""
  scores = [result.score for result in results]
  return {
    'mean': float(np.mean(scores)),
    'std': float(np.std(scores)),
    'scores': scores,
    'lengths': [result.length for result in results],
    **({'cut': cut} if (cut := sum(result.cut for result in results)) else {}),
    **measures(results, suite),
  }


def measures(results: Sequence[EpisodeResult], suite: str = '') -> dict[str, float]:
  """Return the mean of each measure, and what a suite makes of the means."""
  names = results[0].measures
  found = {name: float(np.mean([one.measures[name] for one in results])) for name in names}
  return found | (envs.suite(suite).summary(found) if suite else {})


def lines(
  counts: Mapping[str, int],
  results: Mapping[str, Any],
  extra: Mapping[str, float],
  recent: Sequence[float],
  hours: float,
  seconds: float,
) -> tuple[dict[str, Any], dict[str, float]]:
  """Return what is recorded of an evaluation: (line of scores, metrics).

  Args:
    counts: step, frame and update. results, extra: of `summary` and `measures`.
    recent: scores of training episodes since the evaluation before.
    hours: of the run. seconds: of the evaluation. Of several runs in one program: its share.
  """
  score = {
    **counts,
    **{f'eval_{name}': value for name, value in results.items()},
    'train_mean': float(np.mean(recent)) if recent else None,
    'train_scores': recent,
    'time/hours': hours,
    'time/eval_seconds': seconds,
  }
  metrics = {
    'return/eval': results['mean'],
    'return/eval_std': results['std'],
    'time/eval_seconds': seconds,
    **{f'eval/{name}': value for name, value in extra.items()},
  }
  return score, metrics


def require_score(config: Config, env: Any) -> None:
  """Raise UserError where a run is to be judged by a measure that nothing here measures."""
  names = getattr(env, 'measures', {})
  if taken := {*names} & {'return', 'mean', 'std', 'scores', 'lengths', 'cut'}:
    raise UserError(f'the measure {min(taken)!r} has the name of what every evaluation has')
  known = ['return', *names, *envs.suite(config.run.suite).summary(dict.fromkeys(names, 0.0))]
  if config.run.score not in known:
    raise UserError(
      f'config.score is {config.run.score!r}, which this environment does not measure: did you '
      f'mean {nearest(config.run.score, known)!r}? (known: {", ".join(known)})'
    )


class Evaluation:
  """A run's evaluations, whose environments are made for the first one.

  In the background they are played in a thread, with a copy of the parameters, while training goes
  on; lines of later steps wait for theirs, so do the next evaluation, a checkpoint and the end.
  """

  def __init__(self, config: Config):
    self.every, self.in_background = config.run.eval_every, config.run.eval_in_background
    self._envs: list[Any] = []  # in groups
    self._thread = futures.ThreadPoolExecutor(1, 'evaluation') if self.in_background else _AtOnce()
    self._pending: tuple | None = None  # counts, scores of training episodes, what is played
    self._closed = False

  def begin(self, trainer: 'Trainer') -> None:
    """Evaluate before the first step, where that is wanted, or again where it was interrupted.

    Raises:
      UserError: in the background, of several processes; environments that the agent does not fit.
    """
    state = trainer.state
    if self.in_background and trainer.group.count > 1:
      raise UserError('config.eval_in_background is for one process: several evaluate together')
    if trainer.config.eval_env:  # what does not fit is told before the training, not after it
      self._thread.submit(self._make, trainer).result()
    if state.step:
      crossed = trainer.schedule.crossed(state.step, self.every)
      wanted = crossed and state.evaluated != state.step
    else:
      wanted = trainer.config.agent.eval_at_start
    if wanted:
      self(trainer)

  def __call__(self, trainer: 'Trainer') -> None:
    """Play the episodes of this step, and write down how they went, then or when it is known."""
    self.finish(trainer)
    trainer.settle()
    state, updates = trainer.state, trainer.updates
    episodes, limit = self._extent(trainer)
    if not episodes:
      return
    variables = updates.variables
    if self.in_background:  # the next update takes them
      variables = jax.device_put(variables, may_alias=False)
    try:
      played = self._thread.submit(self._play, trainer, variables, state.step, episodes, limit)
    except EnvironmentFault:  # once that is mended, the run goes on with this evaluation
      if trainer.group.count == 1:  # others would not come
        trainer.saver(trainer)
      raise
    frame = state.step * trainer.env.spec.action_repeat
    counts = {'step': state.step, 'frame': frame, 'update': state.update}
    self._pending, state.recent = (counts, state.recent, played), []
    trainer.order.hold()
    if not self.in_background or state.step >= trainer.config.run.steps:
      self.finish(trainer)

  def look(self, trainer: 'Trainer') -> None:
    """Write down how the evaluation went, if one has come to its end."""
    if self._pending and self._pending[-1].done():
      self.finish(trainer)

  def finish(self, trainer: 'Trainer') -> None:
    """Wait for the evaluation that is played, if any, and write down how it went."""
    if not self._pending:
      return
    (counts, recent, playing), self._pending = self._pending, None
    played, seconds = playing.result()
    played = together(trainer.group.exchange(played))
    with trainer.order.first():
      self._tell(trainer, counts, sum(trainer.group.exchange(recent), []), played, seconds)

  def close(self) -> None:
    """End an evaluation that is played, and its environments, where they were made."""
    self._closed = True
    self._thread.submit(lambda: [env.close() for env in self._envs]).result()
    self._thread.shutdown()

  def _extent(self, trainer):
    """Episodes to play, and after how many steps one is cut.

    Within `eval_share` of the steps of training, by how long its episodes have been; `_play` cuts
    only where nobody knows that they end.
    """
    run, step = trainer.config.run, trainer.state.step
    last = step >= run.steps
    wanted = run.final_eval_episodes if last else run.eval_episodes
    if not run.eval_share:
      return wanted, 0
    ended = sum(trainer.group.exchange(trainer.episodes.ended))
    typical = max(1, step) / max(1, ended)
    budget = run.eval_share * (run.steps if last else run.eval_every)
    return min(wanted, max(1, round(budget / typical))), longest(run, step, ended)

  def _make(self, trainer):
    config = trainer.config
    for size in group_sizes(max(1, at_a_time(config) // trainer.group.count)):
      self._envs.append(setup.make_env(config, size, **config.eval_env))
    require_score(config, self._envs[0])
    learned, here = trainer.env.spec.spaces, self._envs[0].spec.spaces
    if learned != here:
      raise UserError(
        'config.eval_env makes environments that the agent does not fit: it learns with '
        f'{learned}, there are {here}'
      )

  def _play(self, trainer, variables, step, episodes, limit):
    """(The results of this process, the seconds that they took)."""
    config, began, calls = trainer.config, time.monotonic(), 0
    told = began
    if not self._envs:
      self._make(trainer)
    limit = 0 if self._envs[0].spec.episode_limit else limit

    def act(*args, **kwargs):
      nonlocal calls, told
      calls += 1
      if self._closed:
        raise futures.CancelledError
      if time.monotonic() - told > TOLD_EVERY:
        told = time.monotonic()
        trainer.progress.line(
          f'still evaluating {episodes} episodes, {calls:,} calls of the policy'
        )
      # One process leaves at once: the run that goes on begins this evaluation anew. Several do
      # after it, for all must agree, and so does a run that evaluates in the background.
      asked = trainer.interruption.requested
      if asked and trainer.group.count == 1 and not self.in_background:
        trainer.saver.leave(trainer, asked)
      return trainer.updates.compiled.act(*args, **kwargs)

    results = evaluate(
      trainer.method,
      dataclasses.replace(trainer.updates.compiled, act=act),
      variables,
      self._envs,
      config.run.seed,
      step,
      episodes,
      config.agent.eval_policy == 'mode',
      trainer.group,
      limit,
    )
    return results, time.monotonic() - began

  def _tell(self, trainer, counts, recent, played, seconds):
    state = trainer.state
    results, extra = (each(played, trainer.config.run.suite) for each in (summary, measures))
    step, frame, mean, std = counts['step'], counts['frame'], results['mean'], results['std']
    score, metrics = lines(counts, results, extra, recent, state.hours, seconds / state.sharing)
    train_mean = score['train_mean']
    trainer.writer.write_score(score)
    trainer.writer.write(*counts.values(), metrics)
    state.evaluated = step
    state.last_score = {'return': mean, **extra}[trainer.config.run.score]
    trainer.progress.update(state.step, {'return/eval': mean})
    trainer.progress.line(
      f'step {step:,} (frame {frame:,}): evaluation {mean:.2f} ± {std:.2f} over '
      f'{len(played)} episodes in {seconds:.0f} s; '
      + (f'{results["cut"]} of them did not end and were cut; ' if 'cut' in results else '')
      + ''.join(f'{name} {value:.2f}; ' for name, value in extra.items())
      + f'training episodes {"none finished" if train_mean is None else f"{train_mean:.2f}"}'
    )


class _AtOnce:
  """Stands where a thread stands, and does what it is given before anything else is done."""

  def submit(self, function, *args):
    done = futures.Future()
    done.set_result(function(*args))
    return done

  def shutdown(self):
    pass
