"""Processes: the numbers of one process, and no failure without its reason or with a survivor."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from harmony_jax import envs
from harmony_jax.envs import base
from harmony_jax.envs import processes
from harmony_jax.envs.check import check
from harmony_jax.envs.processes import Processes

GO, RAISE, DIE, HANG, DOZE = range(5)
ROOT = pathlib.Path(__file__).parent.parent


class Probe:
  """Shows [seed, time, process id, seen variables, JAX is loaded]; its actions make trouble (see above)."""

  def __init__(self, error=None, num_envs=1, size=5):
    if error:
      raise error
    self.num_envs = num_envs
    self.spec = base.Spec({'vector': base.ArraySpec((size,), np.float64)}, True, 5, 1)
    self.measures = {'time': np.zeros(1, np.float32)}
    self.time = 0

  def step(self, actions, restart, seeds, idle=None):
    assert idle is None and actions.shape == restart.shape == seeds.shape == (1,)
    self.time = 0 if restart[0] else self.time + 1
    self.measures['time'][:] = self.time
    if not restart[0]:
      self.trouble(actions[0])
    timestep = base.empty_timestep(self.spec, 1)
    threads = os.environ['OMP_NUM_THREADS'] == os.environ['OPENBLAS_NUM_THREADS'] == '1'
    timestep.observation['vector'][0, :5] = seeds[0], self.time, os.getpid(), threads, 'jax' in sys.modules
    timestep.is_first[:] = restart
    return timestep

  def trouble(self, action):
    if action == RAISE:
      raise KeyError('the reason')
    if action == DIE:
      os.kill(os.getpid(), signal.SIGKILL)
    if action == DOZE:
      time.sleep(0.4)
    while action == HANG:
      time.sleep(1)

  def close(self):
    pass


def begin(env):
  return env.step(base.zero_actions(env.spec, env.num_envs), np.ones(env.num_envs, bool), np.arange(env.num_envs))


def act(env, *actions):
  return env.step(np.array(actions), np.zeros(env.num_envs, bool), np.arange(env.num_envs))


def process_ids(timestep):
  return timestep.observation['vector'][:, 2].astype(int).tolist()


def alive(pid):
  """Whether a process runs; one that has ended and was not waited for does not."""
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] not in 'ZX'
  except (FileNotFoundError, ProcessLookupError):
    return False


def assert_ended(pids, seconds=10):
  deadline = time.monotonic() + seconds
  while any(map(alive, pids)):
    assert time.monotonic() < deadline, f'still alive: {[pid for pid in pids if alive(pid)]}'
    time.sleep(0.02)


def test_the_numbers_of_one_process_with_restarts_and_idling():
  games = functools.partial(envs.make, 'atari', 'Breakout', frame_cap=80)
  single, several = games(3), Processes(functools.partial(games, 1), 3)
  assert several.spec == single.spec and several.num_envs == 3
  assert not hasattr(several, 'measures')
  rng = np.random.default_rng(0)
  restart = np.ones(3, bool)
  for count in range(40):
    actions, seeds, idle = rng.integers(4, size=3, dtype=np.int32), rng.integers(9, size=3), rng.random(3) < 0.3
    if not count:
      idle[:] = False  # what an environment that never began shows is compared with zeros below
    expected, timestep = (env.step(actions, restart, seeds, idle) for env in (single, several))
    for name in ('reward', 'is_first', 'is_last', 'is_terminal'):
      np.testing.assert_array_equal(getattr(timestep, name), getattr(expected, name))
    np.testing.assert_array_equal(timestep.observation['image'], expected.observation['image'])
    restart = expected.is_last | (rng.random(3) < 0.04)
  several.close()


def test_what_a_worker_sees_and_tells():
  env = Processes(Probe, 2)
  untouched = env.step(np.zeros(2, int), np.ones(2, bool), np.array([7, 8]), idle=np.array([False, True]))
  np.testing.assert_array_equal(untouched.observation['vector'][1], np.zeros(5))
  timestep = env.step(np.zeros(2, int), np.ones(2, bool), np.array([7, 8]))
  seed, _, pids, threads, jax = timestep.observation['vector'].T
  assert seed.tolist() == [7, 8] and len({*pids, os.getpid()}) == 3
  assert threads.all() and not jax.any()
  for _ in range(2):
    act(env, GO, GO)
  env.step(np.zeros(2, int), np.zeros(2, bool), np.zeros(2), idle=np.array([True, False]))
  assert env.measures.keys() == {'time'} and env.measures['time'].dtype == np.float32
  assert env.measures['time'].tolist() == [2, 3]
  assert 'LP_NUM_THREADS' not in os.environ or os.environ['LP_NUM_THREADS'] != '1'  # the parent's own are as they were
  env.close()
  env.close()
  assert_ended(pids.astype(int), 0)
  assert env.measures['time'].tolist() == [2, 3]  # the memory outlives the workers
  with pytest.raises(RuntimeError, match='closed'):
    begin(env)


def test_the_convention_with_continuous_actions_and_measures():
  env = Processes(Reacher, 2)
  check(env)
  results = envs.run_episodes(env, range(5), lambda timestep: np.tile([0.5, -1], (2, 1)))
  assert [(result.score, result.length) for result in results] == [(-1.5 * seed, 3) for seed in range(5)]
  assert [result.measures for result in results] == [{'success': float(seed == 3)} for seed in range(5)]


class Reacher:
  """Three steps, each pays the sum of its two actions times the seed; seed 3 succeeds in the second."""

  def __init__(self):
    self.num_envs, self.time = 1, 0
    self.spec = base.Spec({'vector': base.ArraySpec((2,), np.float32)}, False, 2, 1)
    self.measures = {'success': np.zeros(1, np.float32)}

  def step(self, actions, restart, seeds, idle=None):
    self.time = 0 if restart[0] else self.time + 1
    self.measures['success'][:] = self.time == 2 and seeds[0] == 3
    timestep = base.empty_timestep(self.spec, 1)
    if not restart[0]:
      timestep.observation['vector'][:] = actions
      timestep.reward[:] = actions.sum() * seeds[0]
    timestep.is_first[:], timestep.is_last[:] = restart, self.time == 3
    return timestep

  def close(self):
    pass


class Stubborn(Probe):

  def close(self):
    time.sleep(60)


@pytest.mark.parametrize('factory, seconds, code', [(Probe, 30, 0), (Stubborn, 0.2, -signal.SIGKILL)])
def test_closing_waits_for_the_simulator_but_not_for_ever(factory, seconds, code, monkeypatch):
  monkeypatch.setattr(processes, 'CLOSE_SECONDS', seconds)
  env = Processes(factory, 2)
  ended = [worker.process for worker in env._workers]
  started = time.monotonic()
  env.close()
  assert time.monotonic() - started < 20
  assert [process.exitcode for process in ended] == [code, code]


def test_workers_move_at_the_same_time():
  env = Processes(Probe, 3)
  begin(env)
  started = time.monotonic()
  act(env, DOZE, DOZE, DOZE)
  assert 0.4 <= time.monotonic() - started < 1.1  # 1.2 one after the other
  env.close()


def test_a_wrong_task_is_the_same_error():
  with pytest.raises(ValueError) as here:
    envs.make('atari', 'Pogn', 1)
  with pytest.raises(ValueError) as there:
    Processes(functools.partial(envs.make, 'atari', 'Pogn', 1), 2)
  assert str(there.value) == str(here.value)


@pytest.mark.parametrize('raised, text', [
    (RuntimeError('no simulator'), 'no simulator'),
    (ImportError('no module'), 'environment 0: ImportError: no module')])
def test_an_environment_that_cannot_be_made(raised, text):
  with pytest.raises(RuntimeError) as error:
    Processes(functools.partial(Probe, raised), 1)
  assert str(error.value) == text
  assert 'in __init__' in error.value.__notes__[0]  # the worker's traceback


def test_a_factory_of_more_than_one_environment_or_of_a_lambda():
  with pytest.raises(ValueError, match='makes 3 environments'):
    Processes(functools.partial(Probe, num_envs=3), 1)
  with pytest.raises((AttributeError, TypeError, ValueError), match='pickle'):
    Processes(lambda: Probe(), 1)


@pytest.mark.parametrize('actions, text', [
    ((GO, RAISE), "environment 1: KeyError: 'the reason'"),
    ((DIE, GO), 'environment 0: its process died with exit code -9 (SIGKILL)'),
    ((HANG, RAISE), "environment 1: KeyError: 'the reason'")])  # the first one's hang does not hide it
def test_a_failure_is_told_and_ends_all(actions, text):
  env = Processes(Probe, 2)
  pids = process_ids(begin(env))
  with pytest.raises(RuntimeError) as error:
    act(env, *actions)
  assert str(error.value) == text
  assert_ended(pids, 0)
  if RAISE in actions:
    assert "raise KeyError('the reason')" in error.value.__notes__[0]
  env.close()


def test_a_worker_that_dies_between_steps():
  env = Processes(Probe, 2)
  pids = process_ids(begin(env))
  os.kill(pids[1], signal.SIGTERM)
  assert_ended(pids[1:])
  with pytest.raises(RuntimeError, match='environment 1: its process died with exit code -15'):
    act(env, GO, GO)
  assert_ended(pids, 0)


SCRIPT = """
from tests.envs_processes_test import GO, HANG, Probe, Processes, act, begin, process_ids
if __name__ == '__main__':
  env = Processes(Probe, 2)
  print(*process_ids(begin(env)), flush=True)
  {then}
"""


def run_script(folder, then):
  """A script with two environments in a process group of its own, once it runs; and the ids of its workers."""
  path = folder / 'script.py'
  path.write_text(SCRIPT.format(then=then))
  script = subprocess.Popen([sys.executable, path], cwd=ROOT, env=os.environ | {'PYTHONPATH': str(ROOT)},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
  return script, [int(pid) for pid in script.stdout.readline().split()]


def test_a_script_that_ends_without_closing_leaves_no_worker_and_says_nothing(tmp_path):
  script, pids = run_script(tmp_path, 'act(env, GO, GO)')
  assert script.communicate(timeout=30) == ('', '') and script.returncode == 0
  assert len(pids) == 2
  assert_ended(pids, 0)


def test_ctrl_c_in_a_hang_is_one_interrupt_and_ends_all(tmp_path):
  script, pids = run_script(tmp_path, 'act(env, GO, HANG)')
  time.sleep(1)  # on a busy machine, too, the hang has begun by then
  os.killpg(script.pid, signal.SIGINT)  # a terminal sends it to the whole group
  errors = script.communicate(timeout=30)[1]
  assert errors.count('Traceback') == 1 and errors.strip().endswith('KeyboardInterrupt')
  assert len(pids) == 2
  assert_ended(pids, 0)


def test_workers_end_with_a_parent_that_is_killed_even_one_that_hangs(tmp_path):
  script, pids = run_script(tmp_path, 'act(env, GO, HANG)')
  time.sleep(0.3)
  assert len(pids) == 2 and all(map(alive, pids))
  script.kill()
  script.wait()
  assert_ended(pids)


def test_nothing_is_left_in_shared_memory():
  before = set(pathlib.Path('/dev/shm').glob('harmony-jax-*'))
  env = Processes(functools.partial(Probe, size=1000), 2)
  assert begin(env).observation['vector'].shape == (2, 1000)
  assert set(pathlib.Path('/dev/shm').glob('harmony-jax-*')) <= before
  env.close()
