"""The ordinary loop for one agent as pure functions: act, store, update, step; and evaluation.

`begin`, then `fill` and `learn` from stop to stop, with `evaluate` between. Everything that an
agent has is one tree, its replay among it, so that agents can be mapped; what it draws comes from
its tables (timetable.py). Given the same draws it does what training/loop.py does, in this order.

Shapes: N environments, B sequences of T steps in a batch, A actions, E episodes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from harmony_jax import device_replay, method, settings, tiles
from harmony_jax.config import Config
from harmony_jax.envs.base import TimeStep, zero_actions
from harmony_jax.envs.pure import Game
from harmony_jax.errors import UserError
from harmony_jax.ondevice.timetable import Timetable
from harmony_jax.replay import Replay
from harmony_jax.training.setup import stored

Own = Mapping[str, Any]  # an agent's tables, and 'numbers', its own values of settings by name


class Agent(NamedTuple):
  """All that changes of a run.

  Attributes:
    learned: as `train_step` has it. metrics: of the last update, zeros before the first.
    carry: what acting carries. games: states of the environments. seen: their time step.
    episode: [N] numbers of the running episodes. returns: [N] theirs so far.
    ring: {name: [rows, N, ...]}, pictures as tiles.py stores them.
  """

  learned: method.TrainState
  metrics: method.Metrics
  carry: Any
  games: Any
  seen: TimeStep
  episode: jax.Array
  returns: jax.Array
  ring: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
  """A run's functions, of one agent each.

  Attributes:
    config: of the run, whatever its seed. game: what it plays. timetable: what it does when.
    groups: environments that evaluate, in groups as the loop has them.
  """

  config: Config
  game: Game
  timetable: Timetable
  groups: Sequence[int]

  def make(self, own: Own) -> method.Method:
    """Return the method with an agent's own numbers, which may be traced.

    Raises:
      UserError: it needs what the device does not do, or does not fit the game.
    """
    name = self.config.run.method
    agent = settings.swap(self.config.agent, own.get('numbers', {}))
    try:
      made = method.entry(name).make(agent, self.game.spec)
    except ValueError as error:
      raise UserError(str(error)) from None
    if made.replay is not Replay:
      raise UserError(f'{name} has a replay of its own, which is on the host: not on the device')
    if made.eval_seed is not None or not made.eval_ends:
      raise UserError(f'{name} has a way of its own to evaluate: not on the device')
    if made.calibration:
      raise UserError(f'{name} starts from its first batches (…calibrate): not on the device')
    return made

  def begin(self, own: Own) -> Agent:
    """Return an agent before its first step."""
    of, num_envs = self.make(own), self.config.run.num_envs
    learned = of.init(jax.random.fold_in(jax.random.key(own['seed']), 0))
    states, nothing = self.game.nothing(num_envs)
    everyone, nobody = jnp.ones(num_envs, bool), jnp.zeros(num_envs, bool)
    actions = jnp.asarray(zero_actions(self.game.spec, num_envs))
    seeds = own['episodes'][:, 0]
    games, seen = self.game.advance(states, nothing, actions, everyone, seeds, nobody)
    row = self._row(seen, jnp.zeros((num_envs, self.game.spec.num_actions), jnp.float32))
    rows = self.timetable.rows
    ring = {name: jnp.zeros((rows, *x.shape), x.dtype) for name, x in row.items()}
    batch = jax.eval_shape(lambda: self._batch(ring, own, jnp.int32(0)))
    metrics = jax.eval_shape(of.train_step, learned, batch)[1]
    return Agent(
      learned=learned,
      metrics=jax.tree.map(lambda each: jnp.zeros(each.shape, each.dtype), metrics),
      carry=of.initial_carry(of.variables(learned), num_envs),
      games=games,
      seen=seen,
      episode=jnp.zeros(num_envs, jnp.int32),
      returns=jnp.zeros(num_envs, jnp.float32),
      ring=ring,
    )

  def fill(self, agent: Agent, own: Own, shared: Own, first: Any, end: Any) -> tuple[Agent, Any]:
    """Take random actions from iteration `first` on, before `end`; see `learn`."""
    del shared

    def iterate(index, agent):
      vector = own['random'][index]
      return self._step(self._store(agent, vector, index), own, vector)

    return self._between(iterate, agent, first, end)

  def learn(self, agent: Agent, own: Own, shared: Own, first: Any, end: Any) -> tuple[Agent, Any]:
    """Act and learn; return (agent, returns of episodes by the iteration [I, N] of their end).

    I is the most iterations between two stops; NaN where no episode ended.
    """
    of, num_envs = self.make(own), self.config.run.num_envs
    player = jax.random.fold_in(jax.random.key(own['seed']), 2)

    def iterate(index, agent):
      seen, key = agent.seen, jax.random.fold_in(player, jnp.uint32(index * num_envs))
      variables = of.variables(agent.learned)
      vector, carry = of.act(variables, agent.carry, seen.observation, seen.is_first, key)
      agent = self._store(agent._replace(carry=carry), vector, index)

      def update(number, learning):
        batch = self._batch(agent.ring, own, shared['first'][index] + number)
        return of.train_step(learning[0], batch)

      learning = agent.learned, agent.metrics
      learned, metrics = jax.lax.fori_loop(0, shared['due'][index], update, learning)
      return self._step(agent._replace(learned=learned, metrics=metrics), own, vector)

    return self._between(iterate, agent, first, end)

  def _between(self, iterate, agent, first, end):
    """Iterations from `first` on, before `end`, and the returns of what ended in each."""
    shape = self.timetable.longest, self.config.run.num_envs

    def note(index, carry):
      agent, ended = carry
      seen = agent.seen
      so_far = jnp.where(seen.is_first, 0, agent.returns) + seen.reward
      ended = ended.at[index - first].set(jnp.where(seen.is_last, so_far, jnp.nan))
      return iterate(index, agent._replace(returns=so_far)), ended

    return jax.lax.fori_loop(first, end, note, (agent, jnp.full(shape, jnp.nan)))

  def _row(self, seen, vector):
    """What the replay stores of a time step, [N, ...] each, if that is what is declared."""
    row = {
      **seen.observation,
      'action': jnp.where(seen.is_last[:, None], 0, vector).astype(jnp.float32),
      'reward': seen.reward,
      'is_first': seen.is_first,
      'is_last': seen.is_last,
      'is_terminal': seen.is_terminal,
    }
    for name, (shape, dtype) in stored(self.config, self.game.spec).items():
      shown = row[name].shape[1:], row[name].dtype
      declared = tuple(shape), jax.dtypes.canonicalize_dtype(dtype)
      if shown != declared:
        told = [f'{kind} {list(size)}' for size, kind in (shown, declared)]
        raise UserError(f'the environment shows {name} as {told[0]}, and declares it as {told[1]}')
    return {name: tiles.fold(x, x.shape[1:]) for name, x in row.items()}

  def _store(self, agent, vector, index):
    num_envs = self.config.run.num_envs
    rows = index % self.timetable.rows * num_envs + jnp.arange(num_envs)
    # Not as a slice: of several agents a TPU then turns the whole ring around for each step.
    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in agent.ring.items()}
    written = device_replay.write_rows(flat, self._row(agent.seen, vector), rows)
    return agent._replace(ring={k: x.reshape(agent.ring[k].shape) for k, x in written.items()})

  def _batch(self, ring, own, update):
    """The batch of an update, as the host's replay gathers it."""
    rows, (num_envs, length) = self.timetable.rows, self._sizes
    envs, starts = own['envs'][update], own['starts'][update]  # [B]
    of = lambda steps: steps % rows * num_envs + (envs if steps.ndim == 1 else envs[:, None])
    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in ring.items()}
    before = None
    if self.config.agent.replay.first_action:
      goes_on = ~flat['is_first'][of(starts)] & own['stored'][update]
      before = jnp.where(goes_on, of(starts - 1), -1)
    shapes = [(name, shape) for name, (shape, _) in stored(self.config, self.game.spec).items()]
    window = of(starts[:, None] + jnp.arange(length))  # [B, T]
    return tiles.apart(device_replay.read_rows(flat, window, before, shapes))

  @property
  def _sizes(self):
    return self.config.run.num_envs, self.config.agent.batch_length

  def _actions(self, vector):
    """As `base.to_environment`."""
    if self.game.spec.discrete:
      return vector.argmax(-1).astype(jnp.int32)
    return jnp.clip(vector, -1, 1).astype(jnp.float32)

  def _step(self, agent, own, vector):
    restart, nobody = agent.seen.is_last, jnp.zeros(len(agent.episode), bool)
    episode = agent.episode + restart
    seeds = own['episodes'][jnp.arange(len(episode)), episode]
    games, seen = self.game.advance(
      agent.games, agent.seen, self._actions(vector), restart, seeds, nobody
    )
    return agent._replace(games=games, seen=seen, episode=episode)

  # ------------------------------------------------------------------------------------------------

  def evaluate(
    self, learned: method.TrainState, own: Own, seeds: jax.Array, step: Any
  ) -> tuple[jax.Array, jax.Array]:
    """Play an episode for each seed [E]; return (scores [E], lengths [E]).

    In the groups and with the draws of `training.evaluation.evaluate` at this step of the run.
    """
    of, count = self.make(own), len(self.groups)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(own['seed']), 1), step)
    scores, lengths = jnp.zeros(len(seeds)), jnp.zeros(len(seeds), jnp.int32)
    for index, size in enumerate(self.groups[: len(seeds)]):  # of few episodes some have none
      draws = jax.random.fold_in(key, index)
      played = self._play(of, of.variables(learned), seeds[index::count], size, draws)
      scores, lengths = (
        x.at[index::count].set(y) for x, y in zip((scores, lengths), played, strict=True)
      )
    return scores, lengths

  def _play(self, of, variables, seeds, size, key):
    """As `envs.play`: an environment whose episode ends takes the next seed, or idles.

    An episode ends, with the score NaN, where it shows what is not finite: that is refused there.
    """
    wanted, mode = len(seeds), self.config.agent.eval_policy == 'mode'
    games, seen = self.game.nothing(size)
    zero = jnp.asarray(zero_actions(self.game.spec, size))
    start = {
      'games': games,
      'seen': seen,
      'carry': of.initial_carry(variables, size),
      'actions': zero,
      'restart': jnp.ones(size, bool),
      'playing': jnp.arange(size),
      'begun': jnp.int32(size),
      'calls': jnp.uint32(0),
      'scores': jnp.zeros(wanted),
      'lengths': jnp.zeros(wanted, jnp.int32),
    }

    def step(now):
      playing = now['playing']
      idle, place = playing >= wanted, jnp.minimum(playing, wanted - 1)
      games, seen = self.game.advance(
        now['games'], now['seen'], now['actions'], now['restart'], seeds[place], idle
      )
      place = jnp.where(idle, wanted, playing)  # what idles is counted nowhere
      fine = _finite(seen)
      ended = (seen.is_last | ~fine) & ~idle
      following = now['begun'] + jnp.cumsum(ended) - 1
      draw = jax.random.fold_in(key, now['calls'])
      vector, carry = of.act(
        variables, now['carry'], seen.observation, seen.is_first, draw, mode=mode
      )
      return {
        'games': games,
        'seen': seen,
        'carry': carry,
        'actions': self._actions(vector),
        'restart': ended,
        'playing': jnp.where(ended, following, playing),
        'begun': now['begun'] + ended.sum(),
        'calls': now['calls'] + 1,
        'scores': now['scores'].at[place].add(jnp.where(fine, seen.reward, jnp.nan), mode='drop'),
        'lengths': now['lengths'].at[place].add((~seen.is_first).astype(jnp.int32), mode='drop'),
      }

    start = jax.tree.map(jnp.asarray, start)
    last = jax.lax.while_loop(lambda now: (now['playing'] < wanted).any(), step, start)
    return last['scores'], last['lengths']


def _finite(seen):
  """Of each environment's observation and reward, [N]."""
  arrays = [x for x in (*seen.observation.values(), seen.reward) if x.dtype.kind == 'f']
  return jnp.stack([jnp.isfinite(x).reshape(len(x), -1).all(-1) for x in arrays]).all(0)
