"""Playing with a policy: complete episodes for evaluation, actions for training."""

import collections

import jax
import numpy as np

from harmony_jax.envs import EpisodeResult, episode_seed, play


class Player:
  """Chooses actions for N environments with a compiled agent; `carry` is its latent state between
  calls.

  Args:
    agent: an `Agent`.
    act: its compiled `act`.
    params: `TrainState.params`, for the first latent state.
    num_envs: N.
    key: randomness; call number t draws from fold_in(key, t).
    mode: take the policy's mode instead of a sample.
  """

  def __init__(self, agent, act, params, num_envs, key, mode=False):
    self._agent, self._act, self._key, self._mode = agent, act, key, mode
    # Bound to a device as what `act` returns may be: it would be compiled again for a carry that is
    # not.
    self.carry = jax.device_put(agent.initial_carry(params, num_envs), jax.local_devices()[0])

  def act(self, params, timestep, call):
    """(actions for the environments, the same as vectors [N, A]) for a `TimeStep`; `call` numbers
    the draws.
    """
    return self.finish(self.begin(params, timestep, call))

  def begin(self, params, timestep, call):
    """Has the device choose; `finish` waits for what this returns."""
    seen = jax.device_put((timestep.observation, timestep.is_first, np.uint32(call)))
    action, self.carry = self._act(params, self.carry, *seen, self._key, mode=self._mode)
    return action

  def finish(self, action):
    """What `act` returns, for an action that was begun."""
    vector = jax.device_get(action)
    return to_environment(vector, self._agent.discrete), vector


def to_environment(vector, discrete):
  """Action vectors [N, A] as an environment takes them: int32 [N] if discrete, else clipped to [-1,
  1].
  """
  return (
    vector.argmax(-1).astype(np.int32) if discrete else np.clip(vector, -1, 1).astype(np.float32)
  )


def group_sizes(num_envs) -> list:
  """How many environments the groups of an evaluation have: two halves, so that one can step while
  the other's actions are chosen. Sizes are equal, for one compiled program, where the number is
  even."""
  return [num_envs] if num_envs < 2 else [num_envs - num_envs // 2, num_envs // 2]


def evaluate(agent, act, params, groups, run_seed, step, episodes, mode=False, part=(0, 1)):
  """Plays exactly `episodes` complete episodes; their seeds belong to (run seed, step).

  Actions are sampled, or the policy's `mode`; the latent state is sampled either way.

  Args:
    groups: environments in one or more groups: while one group steps, the device chooses for the
      next.
    part: (index, count): plays each count-th of the episodes, from this index on, where several
      processes share them.

  Returns: a list of `EpisodeResult`, one per episode played.
  """
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run_seed), 1), step)
  seeds = [episode_seed(run_seed, 'eval', step, episode) for episode in range(episodes)][
    part[0] :: part[1]
  ]
  results = [None] * len(seeds)
  waiting = collections.deque()

  def go_on(index, game, player, calls, actions):
    """Steps a group and begins its next choice; at the end of its last episode takes its results."""
    try:
      timestep = game.send(actions)
    except StopIteration as end:
      results[index :: len(groups)] = end.value
    else:
      waiting.append((index, game, player, calls + 1, player.begin(params, timestep, calls)))

  for index, env in enumerate(groups):
    player = Player(
      agent, act, params, env.num_envs, jax.random.fold_in(key, part[0] * len(groups) + index), mode
    )
    go_on(index, play(env, seeds[index :: len(groups)]), player, 0, None)
  while waiting:
    index, game, player, calls, action = waiting.popleft()
    go_on(index, game, player, calls, player.finish(action)[0])
  return results


def together(parts):
  """All processes' [results, scores of training episodes] in one list each, results in the order of
  episodes.
  """
  results = [None] * sum(len(played) for played, _ in parts)
  for index, (played, _) in enumerate(parts):
    results[index :: len(parts)] = [EpisodeResult(*row) for row in played]
  return results, sum((recent for _, recent in parts), [])


def summary(results):
  """{'mean', 'std', 'scores', 'lengths'} of a list of `EpisodeResult`, and the mean of each
  measure, e.g. 'success'.
  """
  scores = [result.score for result in results]
  measures = {
    name: float(np.mean([result.measures[name] for result in results]))
    for name in results[0].measures
  }
  return {
    'mean': float(np.mean(scores)),
    'std': float(np.std(scores)),
    'scores': scores,
    'lengths': [result.length for result in results],
    **measures,
  }
