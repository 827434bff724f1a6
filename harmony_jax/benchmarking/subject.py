"""What is measured: a configuration's method, on noise of the shapes that it sees."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from harmony_jax import parallel
from harmony_jax.config import Config
from harmony_jax.envs.base import TimeStep
from harmony_jax.method import TrainState
from harmony_jax.processes import ALONE
from harmony_jax.training import evaluation, setup


class Subject:
  """A method of a configuration, for the environment that it names, and noise for it."""

  def __init__(self, config: Config):
    env = setup.make_env(config, 1)
    env.close()
    self.config, self.spec = config, env.spec
    self.method = setup.make_method(config, env.spec)
    self.compiled = parallel.compile_method(self.method)

  def state(self) -> TrainState:
    """Return a fresh state."""
    return self.compiled.init(jax.random.key(0))

  def steps(self, num_envs: int) -> Iterator[tuple[TimeStep, np.ndarray]]:
    """Yield time steps of noise, and actions [N, A], in episodes of two batch lengths."""
    rng, length = np.random.default_rng(0), 2 * self.config.agent.batch_length
    for number in itertools.count():
      seen = {
        name: rng.uniform(0, 256, (num_envs, *array.shape)).astype(array.dtype)
        for name, array in self.spec.observation.items()
      }
      reward = rng.normal(size=num_envs).astype(np.float32)
      first, last = (np.full(num_envs, number % length == at) for at in (0, length - 1))
      action = evaluation.random_actions(self.spec, num_envs, 0, number)
      yield TimeStep(seen, reward, first, last, last), action

  def replay(self, capacity: int) -> Any:
    """Return an empty replay in NumPy."""
    config = self.config.replace({'replay_capacity': capacity, 'replay_on': 'host'})
    return setup.make_replay(config, self.method, ALONE, 1)

  def batch(self) -> dict[str, np.ndarray]:
    """Return a batch as replay gives it."""
    agent, num_envs = self.config.agent, self.config.run.num_envs
    replay = self.replay(4 * agent.batch_length * (agent.batch_size + num_envs))
    steps = self.steps(num_envs)
    while not replay.filled(0):
      replay.append(row(*next(steps)))
    return replay.sample(0)


def row(timestep: TimeStep, action: np.ndarray) -> dict[str, np.ndarray]:
  """Return a time step and the actions [N, A] after it, as replay stores them."""
  rest = timestep._asdict()
  return {**rest.pop('observation'), 'action': action, **rest}
