"""Episodes and their seeds: every episode of a run has its own seed, known before it begins.

So a training run resumes exactly, although few simulators can save their
state: the running episodes are played again from their seeds. And an
evaluation plays the same starts whatever the number of environments.
"""

import logging
import types
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from harmony_jax.envs import base
from harmony_jax.envs.base import zero_actions
from harmony_jax.errors import EnvironmentFault

STREAMS = ('train', 'eval')
_logger = logging.getLogger(__name__)


def episode_seed(run_seed: int, stream: str, environment: int, episode: int) -> int:
  """The seed of one episode: a hash of its place in the run, in [0, 2^31).

  The last bit tells the stream, so training and evaluation share no seed.

  Args:
    run_seed: of the run, >= 0.
    stream: 'train' or 'eval'.
    environment: its index among the N.
    episode: its number in that environment, from 0.
  """
  if stream not in STREAMS:
    raise ValueError(f'unknown stream {stream!r}: one of {STREAMS}')
  bit = STREAMS.index(stream)
  word = np.random.SeedSequence((run_seed, bit, environment, episode)).generate_state(1)[0]
  return int(word >> 2) << 1 | bit


class Episodes:
  """Steps N environments through endless episodes, each with its own seed.

  Args:
    env: as in `base`.
    run_seed: >= 0.
    stream: 'train' or 'eval'.
    first: index of the first of these environments among all of the run, where several processes
      share them.
  """

  def __init__(self, env: base.Environment, run_seed: int, stream: str, first: int = 0):
    self.env = env
    self.first = first
    self.run_seed = run_seed
    self.stream = stream
    self._episode = np.full(env.num_envs, -1)  # [N] number of the current episode
    self._restart = np.ones(env.num_envs, bool)
    self._actions = [[] for _ in range(env.num_envs)]  # of the current episode
    # where a failure of the environment has just truncated it
    self._failed = np.zeros(env.num_envs, bool)

  def step(self, actions: np.ndarray | None) -> base.TimeStep:
    """Takes actions [N] or [N, A] (None on the first call, which begins all episodes).

    Where the last time step was `is_last`, the action is ignored and the next
    episode begins.
    """
    if actions is None:
      if not self._restart.all():
        raise ValueError('actions are None, but some episodes are running')
      actions = zero_actions(self.env.spec, self.env.num_envs)
    actions = np.asarray(actions)
    restart = self._restart
    self._episode = self._episode + restart
    for index in range(self.env.num_envs):
      if restart[index]:
        self._actions[index] = []
      else:
        self._actions[index].append(actions[index].tolist())
    timestep = self.env.step(actions, restart, self._seeds())
    self._restart = timestep.is_last.copy()
    self._failed = _failed(self.env)
    for index in np.flatnonzero(self._failed):
      self._actions[index].pop()  # nothing came of it
    return timestep

  @property
  def ended(self) -> int:
    """Return how many have ended so far."""
    return count_ended(self.state())

  @property
  def failed(self) -> np.ndarray:
    """Return where a failure of the environment has just truncated the present ones, [N] bool."""
    return self._failed

  @property
  def lengths(self) -> np.ndarray:
    """Return how many actions the present episodes have had, [N]."""
    return np.array([len(actions) for actions in self._actions])

  def state(self) -> dict[str, list]:
    """Everything a resumed run needs, as plain lists for JSON.

    The actions are those of the running episodes only: 27,000 integers per
    environment for the longest Atari episode.
    """
    return {
      'episode': self._episode.tolist(),
      'restart': self._restart.tolist(),
      'failed': self._failed.tolist(),
      'actions': [list(actions) for actions in self._actions],
    }

  def restore(self, state: Mapping[str, list], replay: bool = True) -> base.TimeStep | None:
    """Takes up the episodes of `state()`.

    Args:
      state: of another `Episodes` with as many environments.
      replay: play the recorded actions again, from the same seeds, so that
        every environment is where it was. Exact for simulators that are a
        function of seed and actions (Atari, Catch, dm_control are); one that ends otherwise than
        it did begins anew. If False, the interrupted episodes begin anew, with their seeds, on the
        next step.

    Returns:
      The last `TimeStep` before `state()` was called, or None where there was
      none or it was not replayed.
    """
    if len(state['episode']) != self.env.num_envs:
      raise ValueError(
        f'the state has {len(state["episode"])} environments; here are {self.env.num_envs}'
      )
    self._episode = np.array(state['episode'])
    self._restart = np.array(state['restart'], bool)
    # older states have none
    self._failed = np.array(state.get('failed', [False] * self.env.num_envs), bool)
    self._actions = [list(actions) for actions in state['actions']]
    if (self._episode < 0).all():
      return None
    if replay and getattr(self.env, 'replays', True):
      return self._replay()
    self._episode = self._episode - ~self._restart  # interrupted: the same number again
    self._restart[:] = True
    self._failed[:] = False
    return None

  def _replay(self) -> base.TimeStep:
    lengths = self.lengths
    seeds = self._seeds()
    # [N] time steps of its episode that each environment has shown
    shown = np.zeros(self.env.num_envs, int)
    while (shown <= lengths).any():
      idle = shown > lengths  # one that has arrived idles, and thereby repeats its last step
      actions = zero_actions(self.env.spec, self.env.num_envs)
      for index in np.flatnonzero((shown > 0) & ~idle):
        actions[index] = self._actions[index][shown[index] - 1]
      timestep = self.env.step(actions, shown == 0, seeds, idle=idle)
      failed = _failed(self.env)
      shown = np.where(failed, 0, shown + ~idle)  # one that fails begins again
      ends = (shown > lengths) & self._restart & ~self._failed
      other = ~idle & ~failed & (timestep.is_last != ends) & (self._restart | (lengths > 0))
      for index in np.flatnonzero(other):  # its actions, played on, would be past an end
        _logger.warning(
          'environment %d does not repeat: played again, its episode did not end as it had; it '
          'begins anew, and the run is not the one that was interrupted',
          index + self.first,
        )
        self._actions[index], lengths[index], shown[index] = [], 0, 0
        self._restart[index] = self._failed[index] = False
    # the step that failed is not played again: it might succeed
    base.truncate(timestep, self._failed)
    return timestep

  def _seeds(self) -> np.ndarray:
    return np.array(
      [
        episode_seed(self.run_seed, self.stream, index, episode)
        for index, episode in enumerate(self._episode, self.first)
      ]
    )


def count_ended(state: Mapping[str, list]) -> int:
  """Return how many episodes had ended by a `state` of `Episodes`, of any environments."""
  return sum(state['episode']) + sum(state['restart'])


def _failed(env: base.Environment) -> np.ndarray:
  """[N] bool: where the last step truncated an episode because the environment failed."""
  return np.array(getattr(env, 'failed', np.zeros(env.num_envs, bool)))


def _measures(env: base.Environment) -> Mapping[str, np.ndarray]:
  """{name: [N] float32}: what the environment tells beside the reward."""
  return getattr(env, 'measures', {})


class EpisodeResult(NamedTuple):
  """One complete episode: its seed, its sum of rewards and its number of steps.

  `measures` holds, for each outcome that the environment tells beside the
  reward (`env.measures`, e.g. 'success'), the maximum over the time steps.
  `cut` says that it was ended by `play`'s limit, and did not end by itself.
  """

  seed: int
  score: float
  length: int
  # read-only, as all results share the default
  measures: Mapping[str, float] = types.MappingProxyType({})
  cut: bool = False


def run_episodes(
  env: base.Environment,
  seeds: Iterable[int],
  policy: Callable[[base.TimeStep], np.ndarray],
  on_step: Callable[[base.TimeStep, np.ndarray], None] | None = None,
  ends: bool = True,
  limit: int = 0,
) -> list[EpisodeResult]:
  """Plays exactly one complete episode for each seed, over N environments; see `play`.

  Args:
    env: as in `base`; its current episodes are abandoned.
    seeds: one per episode.
    policy: `TimeStep` -> actions [N] or [N, A]; called once a step with the
      whole batch. Rows of idle environments are ignored.
    on_step: called with each time step and the actions chosen there. After the
      end of an idle environment's last episode its row repeats, `is_last` True.
    ends, limit: as of `play`.

  Returns:
    One `EpisodeResult` per seed, in the order of the seeds.
  """
  game = play(env, seeds, limit, ends)
  try:
    timestep = next(game)
    while True:
      actions = np.asarray(policy(timestep))
      if on_step:
        on_step(timestep, actions)
      timestep = game.send(actions)
  except StopIteration as end:
    return end.value


def play(
  env: base.Environment, seeds: Iterable[int], limit: int = 0, ends: bool = True
) -> Generator[base.TimeStep, np.ndarray, list[EpisodeResult]]:
  """A generator of exactly one complete episode for each seed: gives time steps, is sent actions
  [N] or [N, A].

  An environment whose episode ends takes the next seed; when none is left it
  idles. What is played does not depend on how long episodes last, so short
  ones are not favoured, as they are where one stops at the first episodes that
  happen to finish. An episode that a failure of its environment cuts off is
  played again from its seed and only the complete one counts, as what fails is
  no fair sample either. Returns one `EpisodeResult` per seed, in order.

  Raises EnvironmentFault where an observation or a reward is not finite.

  An episode of `limit` steps is cut there, where that is not 0: some never end. Without `ends` the
  reward of an episode's last step is not in its score.
  """
  seeds = [int(seed) for seed in seeds]
  num_envs = env.num_envs
  scores, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), int)
  best = {name: np.full(len(seeds), -np.inf) for name in _measures(env)}
  cut = np.zeros(len(seeds), bool)
  waves = getattr(env, 'waves', False)
  playing = np.arange(num_envs)  # [N] index of the seed that each environment plays
  begun = num_envs  # seeds given out
  restart = np.ones(num_envs, bool)
  actions = zero_actions(env.spec, num_envs)
  while (playing < len(seeds)).any():
    idle = over = playing >= len(seeds)
    if waves and not (restart | over).all():
      idle = over | restart
    now = np.array([0 if over[i] else seeds[playing[i]] for i in range(num_envs)])
    timestep = env.step(actions, restart, now, idle=idle)
    _require_finite(timestep, ~idle)
    failed = _failed(env)
    restart = restart & idle | failed
    for index in np.flatnonzero(failed):
      scores[playing[index]] = lengths[playing[index]] = 0
      for values in best.values():
        values[playing[index]] = -np.inf
    for index in np.flatnonzero(~idle & ~restart):
      if ends or not timestep.is_last[index]:
        scores[playing[index]] += timestep.reward[index]
      lengths[playing[index]] += not timestep.is_first[index]
      for name, values in best.items():
        values[playing[index]] = max(values[playing[index]], _measures(env)[name][index])
      cut[playing[index]] = lengths[playing[index]] == limit > 0 and not timestep.is_last[index]
      if timestep.is_last[index] or cut[playing[index]]:
        playing[index] = playing[index] + num_envs if waves else begun
        begun, restart[index] = begun + 1, True
    actions = yield timestep
  measures = [
    {name: float(values[index]) for name, values in best.items()} for index in range(len(seeds))
  ]
  rows = zip(seeds, scores.tolist(), lengths.tolist(), measures, cut.tolist())
  return [EpisodeResult(*row) for row in rows]


def _require_finite(timestep, rows):
  """Raise where a number is none: a policy's memory would keep it, and its choices be the first."""
  for name, array in {**timestep.observation, 'reward': timestep.reward}.items():
    if array.dtype.kind == 'f' and not (finite := np.isfinite(array[rows])).all():
      raise EnvironmentFault(f'{name!r} has {array[rows][~finite][0]} in it, in an evaluation')


def random_policy(spec: base.Spec, seed: int) -> Callable[[base.TimeStep], np.ndarray]:
  """A policy for `run_episodes`: uniform over the actions, whatever it sees."""
  rng = np.random.default_rng(seed)

  def policy(timestep):
    num_envs = len(timestep.reward)
    if spec.discrete:
      return rng.integers(spec.num_actions, size=num_envs, dtype=np.int32)
    return base.random_vectors(spec, num_envs, rng)

  return policy
