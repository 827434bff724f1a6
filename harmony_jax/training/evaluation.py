"""Playing with a policy: complete episodes for evaluation, actions for training."""

import itertools

import jax
import numpy as np

from harmony_jax.envs import episode_seed, run_episodes


class Player:
  """Chooses actions for N environments with a compiled agent; `carry` is its latent state between calls.

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
    self.carry = agent.initial_carry(params, num_envs)

  def act(self, params, timestep, call):
    """(actions for the environments, the same as vectors [N, A]) for a `TimeStep`; `call` numbers the draws."""
    seen = jax.device_put((timestep.observation, timestep.is_first, np.uint32(call)))
    action, self.carry = self._act(params, self.carry, *seen, self._key, mode=self._mode)
    vector = jax.device_get(action)
    return to_environment(vector, self._agent.discrete), vector


def to_environment(vector, discrete):
  """Action vectors [N, A] as an environment takes them: int32 [N] if discrete, else clipped to [-1, 1]."""
  return vector.argmax(-1).astype(np.int32) if discrete else np.clip(vector, -1, 1).astype(np.float32)


def evaluate(agent, act, params, env, run_seed, step, episodes, mode=False):
  """Plays exactly `episodes` complete episodes; their seeds belong to (run seed, step).

  Actions are sampled, or the policy's `mode`; the latent state is sampled either way.

  Returns: a list of `EpisodeResult`, one per episode.
  """
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(run_seed), 1), step)
  player = Player(agent, act, params, env.num_envs, key, mode)
  calls = itertools.count()
  seeds = [episode_seed(run_seed, 'eval', step, episode) for episode in range(episodes)]
  return run_episodes(env, seeds, lambda timestep: player.act(params, timestep, next(calls))[0])


def summary(results):
  """{'mean', 'std', 'scores', 'lengths'} of a list of `EpisodeResult`, and the mean of each measure, e.g. 'success'."""
  scores = [result.score for result in results]
  measures = {name: float(np.mean([result.measures[name] for result in results])) for name in results[0].measures}
  return {'mean': float(np.mean(scores)), 'std': float(np.std(scores)), 'scores': scores,
          'lengths': [result.length for result in results], **measures}
