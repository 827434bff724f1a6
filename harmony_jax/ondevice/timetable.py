"""What the ordinary loop does when, and with which draws, written down before a run begins.

Neither depends on what is learned: updates follow the count of steps, and the host's replay draws
by (seed, update, steps stored). So the program on the device takes the same batches, seeds of
episodes and random actions as tables.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from harmony_jax.config import Config
from harmony_jax.envs import episode_seed
from harmony_jax.envs.base import Spec
from harmony_jax.errors import UserError
from harmony_jax.replay import Draw, Replay
from harmony_jax.training.evaluation import random_actions
from harmony_jax.training.run_state import RunState, Schedule

Tables = Mapping[str, np.ndarray]


class Stop(NamedTuple):
  """An iteration after which the program ends, for the host to write something down.

  Attributes:
    end: iterations done by then. step, update: counts by then.
    log: whether metrics are due. episodes: to play in an evaluation; 0: none.
  """

  end: int
  step: int
  update: int
  log: bool
  episodes: int


@dataclasses.dataclass(frozen=True)
class Timetable:
  """The schedule of a configuration, which all seeds share.

  Attributes:
    begins: the iteration in which the policy begins to act. stops: see `Stop`.
    rows: steps of each environment that the ring holds.
    shared: tables [iterations] of what is due. own: by seed, tables of its draws.
  """

  begins: int
  stops: tuple[Stop, ...]
  rows: int
  shared: Tables
  own: Mapping[int, Tables]

  @property
  def longest(self) -> int:
    """Return the most iterations between two stops."""
    ends = [0, *(stop.end for stop in self.stops)]
    return max(b - a for a, b in zip(ends, ends[1:]))


def check(config: Config, length: int) -> None:
  """Refuse what a device does not do, in one line.

  Args:
    length: time steps of every episode; 0 where they differ.

  Raises:
    UserError: names the setting.
  """
  run, agent = config.run, config.agent
  if run.eval_share:
    raise UserError('config.eval_share: on the device evaluations have a fixed number of episodes')
  if run.eval_in_background:
    raise UserError('config.eval_in_background: on the device evaluations are in the program')
  if run.score != 'return':
    raise UserError(f"config.score is {run.score!r}: on the device it must be 'return'")
  if not length and (agent.replay.sampling != 'windows' or agent.update_at != 'steps'):
    raise UserError(
      'config.replay.sampling and config.update_at: where episodes differ in length, on the device '
      'they must be windows and steps'
    )
  config.check()


def make(config: Config, spec: Spec, length: int, seeds: Sequence[int]) -> Timetable:
  """Go through the ordinary loop without learning anything; see `Timetable`.

  Args:
    spec: of the environment. length: time steps of every episode; 0 where they differ.
  """
  run, agent, schedule = config.run, config.agent, Schedule(config)
  width, state = run.num_envs, RunState(np.zeros(run.num_envs))
  replay = _replay(config)
  ahead = schedule.runs_ahead(replay.margin)
  draws: list[dict[int, Draw]] = []  # of each update, by seed
  first, due, begins = [], [], -1
  stops = [Stop(0, 0, 0, False, run.eval_episodes)] if agent.eval_at_start else []
  while state.step < run.steps:
    iteration = len(due)
    looks = state.trained_at is None and schedule.crossed(state.step, run.prefill_chunk)
    if looks and replay.filled(agent.prefill):
      state.trained_at, begins = float(state.step), iteration
      if iteration and (not stops or stops[-1].end < iteration):  # another program goes on
        stops.append(Stop(iteration, state.step, 0, False, 0))
    at = iteration % length if length else -1
    last = np.full(width, at == length - 1)
    replay.append({'is_first': np.full(width, at == 0), 'is_last': last})
    state.step += width
    first.append(state.update)
    learns = begins >= 0 and (agent.update_at == 'steps' or last.any())
    due.append(schedule.due(state, state.step) if learns else 0)
    state.update += due[-1]
    # as `Updates.begin`: the next batch is chosen while the device works on the present one
    while len(draws) < state.update + (ahead and due[-1] > 0):
      draws.append(_draw(replay, len(draws), seeds))
    ends, evaluates = state.step >= run.steps, schedule.crossed(state.step, run.eval_every)
    episodes = run.eval_episodes if evaluates else 0
    episodes, log = (
      (run.final_eval_episodes if ends else episodes),
      schedule.crossed(state.step, run.log_every),
    )
    if log or episodes or ends:
      stops.append(Stop(iteration + 1, state.step, state.update, log, episodes))
  if not state.update:
    raise UserError(f'no update in {state.step:,} steps: take more config.steps')
  rows = min(replay.kept + replay.margin, len(due))
  shared = {'first': np.array(first, np.int32), 'due': np.array(due, np.int32)}
  most = len(due) // (length or 2) + 2  # episodes of each environment
  own = {}
  for seed in seeds:
    chosen = [each[seed] for each in draws[: state.update]]
    vectors = [random_actions(spec, width, seed, at * width) for at in range(begins)]
    begun = [[episode_seed(seed, 'train', env, at) for at in range(most)] for env in range(width)]
    own[seed] = {
      'seed': np.int32(seed),
      'envs': np.array([each.envs for each in chosen], np.int32),
      'starts': np.array([each.starts % rows for each in chosen], np.int32),
      'stored': np.array([each.starts > max(0, each.steps - replay.kept) for each in chosen]),
      'random': np.array(vectors, np.float32).reshape(begins, width, spec.num_actions),
      'episodes': np.array(begun, np.int32),
    }
  return Timetable(begins, tuple(stops), rows, shared, own)


def _replay(config):
  """A replay of nothing but where episodes begin and end, by which windows are chosen."""
  run, agent = config.run, config.agent
  flags: Any = dict.fromkeys(('is_first', 'is_last'), ((), bool))
  sizes = run.num_envs, run.replay_capacity, agent.batch_size, agent.batch_length
  rule = {'sampling': agent.replay.sampling, 'prioritize_ends': agent.replay.prioritize_ends}
  return Replay(flags, *sizes, seed=0, **rule)


def _draw(replay, update, seeds):
  found = {}
  for seed in seeds:
    replay.seed = seed
    found[seed] = replay.draw(update)
  return found


def evaluation_seeds(seed: int, stop: Stop) -> np.ndarray:
  """Return the seeds of an evaluation's episodes."""
  found = [episode_seed(seed, 'eval', stop.step, each) for each in range(stop.episodes)]
  return np.array(found, np.int32)
