"""Replay: choosing and copying one batch, and storing one step; on the host, and on the device."""

import itertools

import jax
import numpy as np

from harmony_jax.benchmarking import subject, timing
from harmony_jax.device_replay import DeviceReplay
from harmony_jax.replay import Replay

STEPS = 10_000  # stored; 123 MB of images 64 × 64, more than the caches hold
EPISODE = 500
CALLS = 100
WARM_UP = 3


def measure(config, actions=0, repeats=0) -> dict:
  """Milliseconds of one batch, drawn and gathered: `host` in NumPy, `host_to_device` copied there,
  `device` kept there.

  `gbytes_per_second` are the batch's bytes by the median time. Between two batches one step of all
  environments is appended (`append`, not part of the batch's time); the device fetches it with the
  batch.

  Args:
    actions: number of actions; 0 takes the suite's.
    repeats: batches; 0 for 100.
  """
  spec = subject.make_spec(config, actions)
  host, steps = make_host_replay(config, spec), _steps(config, spec)
  append = lambda: host.append(next(steps))
  appended = timing.repeat(append, max(STEPS // config.num_envs, config.batch_length))
  device = DeviceReplay(host)
  ways = {
    'host': lambda update: host.gather(host.draw(update)),
    'host_to_device': lambda update: jax.block_until_ready(
      jax.device_put(host.gather(host.draw(update)))
    ),
    'device': lambda update: jax.block_until_ready(device.gather(device.draw(update))),
  }
  size = sum(array.nbytes for array in host.sample(0).values())
  batches = {name: _time(way, append, size, repeats or CALLS) for name, way in ways.items()}
  return {
    'batch_bytes': size,
    'steps_stored': host.steps * config.num_envs,
    **batches,
    'append': timing.spread(appended, 'ms', 1e3),
  }


def make_host_replay(config, spec) -> Replay:
  """An empty replay of `STEPS` steps for these observations."""
  specs = {name: (array.shape, array.dtype) for name, array in spec.observation.items()}
  specs |= {'action': ((spec.num_actions,), np.float32), 'reward': ((), np.float32)}
  specs |= dict.fromkeys(('is_first', 'is_last', 'is_terminal'), ((), bool))
  return Replay(
    specs,
    config.num_envs,
    STEPS,
    config.batch_size,
    config.batch_length,
    config.seed,
    **config.replay,
  )


def _time(way, append, size, repeats):
  """Times `way(update)` alone, with an append before each."""
  times = []
  for update in range(WARM_UP + repeats):
    append()
    times += timing.repeat(lambda update=update: way(update), 1)
  found = timing.spread(times[WARM_UP:], 'ms', 1e3)
  return found | {'gbytes_per_second': 1e-6 * size / found['ms_median']}


def _steps(config, spec):
  """Endless steps of all environments, in episodes of `EPISODE` steps; a few different ones, drawn
  beforehand.
  """
  noise = []
  for seed in range(8):
    timestep = subject.random_timestep(spec, config.num_envs, seed)
    action = np.zeros((config.num_envs, spec.num_actions), np.float32)
    noise.append({**timestep.observation, 'action': action, 'reward': timestep.reward})
  for number in itertools.count():
    flags = {
      name: np.full(config.num_envs, number % EPISODE == at)
      for name, at in (('is_first', 0), ('is_last', EPISODE - 1), ('is_terminal', EPISODE - 1))
    }
    yield {**noise[number % len(noise)], **flags}
