"""Environments whose actions make trouble, for tests of the processes that they run in.

Apart from those tests, as each process imports this file. JAX, pytest and the like would take
longer there than what is tested.
"""

import os
import signal
import sys
import time

import numpy as np

from harmony_jax.envs import base

GO, RAISE, DIE, HANG, DOZE, HALF, CRASH = range(7)


class Probe:
  """Shows [seed, time, process id, seen variables, JAX is loaded], pays the time; actions make
  trouble (see above).
  """

  def __init__(self, error=None, num_envs=1, size=5):
    if error:
      raise error
    self.num_envs = num_envs
    self.spec = base.Spec({'vector': base.ArraySpec((size,), np.float64)}, True, 7, 1)
    self.measures = {name: np.zeros(1, np.float32) for name in ('time', 'none')}
    self.time = 0

  def step(self, actions, restart, seeds, idle=None):
    assert idle is None and actions.shape == restart.shape == seeds.shape == (1,)
    self.time = 0 if restart[0] else self.time + 1
    self.measures['time'][:] = self.time + 0.5
    if not restart[0]:
      self.trouble(actions[0])
    timestep = base.empty_timestep(self.spec, 1)
    threads = os.environ['OMP_NUM_THREADS'] == os.environ['OPENBLAS_NUM_THREADS'] == '1'
    timestep.observation['vector'][0, :5] = (
      seeds[0],
      self.time,
      os.getpid(),
      threads,
      'jax' in sys.modules,
    )
    timestep.reward[:], timestep.is_first[:] = self.time, restart
    return timestep

  def trouble(self, action):
    if action == RAISE:
      raise KeyError('the reason')
    if action == HALF:
      del self.measures['none']  # the worker misses it when it has written everything else
    if action in (DIE, CRASH):
      os.kill(os.getpid(), signal.SIGKILL if action == DIE else signal.SIGSEGV)
    if action == DOZE:
      time.sleep(0.4)
    while action == HANG:
      time.sleep(1)

  def close(self):
    pass


class Stubborn(Probe):
  def close(self):
    time.sleep(60)


class Undeclared(Probe):
  """Declares bytes and shows something else."""

  def __init__(self, shown):
    super().__init__()
    self.shown = shown
    self.spec = base.Spec({'vector': base.ArraySpec((5,), np.uint8)}, True, 7, 1)

  def step(self, actions, restart, seeds, idle=None):
    timestep = base.empty_timestep(self.spec, 1)
    return timestep._replace(observation={'vector': self.shown}, is_first=restart)


class Walk:
  """Six steps of a walk that the seed draws and actions move. Fails where `plan` says: {(seed,
  time): how often}.
  """

  def __init__(self, folder=None, plan=None, trouble=RAISE):
    self.folder, self.plan, self.trouble = folder, plan or {}, trouble
    self.num_envs = 1
    self.spec = base.Spec({'vector': base.ArraySpec((3,), np.float64)}, False, 3, 1)
    self.measures = {'height': np.zeros(1, np.float32)}

  def step(self, actions, restart, seeds, idle=None):
    if restart[0]:
      self.seed, self.time = int(seeds[0]), 0
      self.rng, self.place = np.random.default_rng(self.seed), np.zeros(3)
    else:
      self.time += 1
    self.fail()
    self.place = self.place + self.rng.normal(size=3) + (0 if restart[0] else actions[0])
    self.measures['height'][:] = self.place[2]
    timestep = base.empty_timestep(self.spec, 1)
    timestep.observation['vector'][0] = self.place
    timestep.reward[:], timestep.is_first[:] = 0 if restart[0] else self.place[0], restart
    timestep.is_last[:] = timestep.is_terminal[:] = self.time == 6
    return timestep

  def fail(self):
    for number in range(self.plan.get((self.seed, self.time), 0)):
      # on disk, since every failure costs the process
      mark = self.folder / f'{self.seed}-{self.time}-{number}'
      if not mark.exists():
        mark.touch()
        Probe.trouble(self, self.trouble)

  def close(self):
    pass


class Rebuilt(Probe):
  """Is built as `Probe` is, but not so when the folder has got a file 'later'."""

  def __init__(self, folder, trouble):
    later = (folder / 'later').exists()
    super().__init__(size=6 if later and trouble is None else 5)
    if later and trouble:
      self.trouble(trouble)


def begin(env, *only, seed=0):
  """Begins all episodes or only some, with seeds `seed`, `seed + 1`, ..."""
  restart = np.isin(np.arange(env.num_envs), only) if only else np.ones(env.num_envs, bool)
  return env.step(
    base.zero_actions(env.spec, env.num_envs), restart, np.arange(env.num_envs) + seed
  )


def act(env, *actions):
  return env.step(np.array(actions), np.zeros(env.num_envs, bool), np.arange(env.num_envs))


def process_ids(timestep):
  return timestep.observation['vector'][:, 2].astype(int).tolist()
