"""Processes: the numbers of one process; failures that cost one episode or, in a row, end all with
their reason.
"""

import functools
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from harmony_jax import envs
from harmony_jax.envs import base, processes
from harmony_jax.envs.check import check
from harmony_jax.envs.processes import Processes
from tests.trouble import (
  CRASH,
  DIE,
  GO,
  HALF,
  HANG,
  RAISE,
  Probe,
  Rebuilt,
  Stubborn,
  Undeclared,
  Walk,
  act,
  begin,
  process_ids,
)

ROOT = pathlib.Path(__file__).parent.parent


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
    actions, seeds, idle = (
      rng.integers(4, size=3, dtype=np.int32),
      rng.integers(9, size=3),
      rng.random(3) < 0.3,
    )
    if not count:
      idle[:] = False  # what an environment that never began shows is compared with zeros below
    expected, timestep = (env.step(actions, restart, seeds, idle) for env in (single, several))
    for name in ('reward', 'is_first', 'is_last', 'is_terminal'):
      np.testing.assert_array_equal(getattr(timestep, name), getattr(expected, name))
    np.testing.assert_array_equal(timestep.observation['image'], expected.observation['image'])
    restart = expected.is_last | (rng.random(3) < 0.04)
  several.close()


@pytest.mark.parametrize(
  'suite, count, cores, apart',
  [('dmc', 2, 2, True), ('dmc', 1, 2, False), ('dmc', 3, 2, False), ('catch', 2, 2, False)],
)
def test_auto_is_several_of_a_slow_suite_with_a_core_each(suite, count, cores, apart, monkeypatch):
  told = []
  monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(cores)))
  monkeypatch.setattr(envs, 'Processes', lambda *args: told.append('apart'))
  monkeypatch.setattr(envs, '_class', lambda name: lambda *args: told.append('here'))
  envs.make(suite, '', count, processes='auto')
  assert told == ['apart' if apart else 'here']


def test_what_a_worker_sees_and_tells():
  env = Processes(Probe, 2)
  untouched = env.step(
    np.zeros(2, int), np.ones(2, bool), np.array([7, 8]), idle=np.array([False, True])
  )
  np.testing.assert_array_equal(untouched.observation['vector'][1], np.zeros(5))
  timestep = env.step(np.zeros(2, int), np.ones(2, bool), np.array([7, 8]))
  seed, _, pids, threads, jax = timestep.observation['vector'].T
  assert seed.tolist() == [7, 8] and len({*pids, os.getpid()}) == 3
  assert threads.all() and not jax.any()
  for _ in range(2):
    act(env, GO, GO)
  env.step(np.zeros(2, int), np.zeros(2, bool), np.zeros(2), idle=np.array([True, False]))
  assert env.measures.keys() == {'time', 'none'} and env.measures['time'].dtype == np.float32
  assert env.measures['time'].tolist() == [2.5, 3.5]
  # the parent's own are as they were
  assert 'LP_NUM_THREADS' not in os.environ or os.environ['LP_NUM_THREADS'] != '1'
  env.close()
  env.close()
  assert_ended(pids.astype(int), 0)
  assert env.measures['time'].tolist() == [2.5, 3.5]  # the memory outlives the workers
  with pytest.raises(RuntimeError, match='closed'):
    begin(env)


def test_the_convention_with_continuous_actions_and_measures():
  env = Processes(Reacher, 2)
  check(env)
  results = envs.run_episodes(env, range(5), lambda timestep: np.tile([0.5, -1], (2, 1)))
  assert [(result.score, result.length) for result in results] == [
    (-1.5 * seed, 3) for seed in range(5)
  ]
  assert [result.measures for result in results] == [
    {'success': float(seed == 3)} for seed in range(5)
  ]


class Reacher:
  """Three steps, each pays the sum of its two actions times the seed; seed 3 succeeds in the
  second.
  """

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


@pytest.mark.parametrize(
  'factory, seconds, code', [(Probe, 30, 0), (Stubborn, 0.2, -signal.SIGKILL)]
)
def test_closing_waits_for_the_simulator_but_not_for_ever(factory, seconds, code, monkeypatch):
  monkeypatch.setattr(processes, 'CLOSE_SECONDS', seconds)
  env = Processes(factory, 2)
  ended = [worker.process for worker in env._workers]
  started = time.monotonic()
  env.close()
  assert time.monotonic() - started < 20
  assert [process.exitcode for process in ended] == [code, code]


def test_workers_move_at_the_same_time(tmp_path):
  """Each waits in its step for all others to be in theirs."""
  env = Processes(functools.partial(Meeting, tmp_path), 3)
  begin(env)
  assert act(env, GO, GO, GO).reward.tolist() == [3, 3, 3]
  env.close()


class Meeting(Reacher):
  """Its reward is how many were in a step with it, within half a minute."""

  def __init__(self, folder):
    super().__init__()
    self.folder = folder

  def step(self, actions, restart, seeds, idle=None):
    timestep = super().step(np.zeros(2), restart, seeds)
    if not restart[0]:
      (self.folder / str(os.getpid())).touch()
      until = time.monotonic() + 30
      while len([*self.folder.iterdir()]) < 3 and time.monotonic() < until:
        time.sleep(0.01)
      timestep.reward[:] = len([*self.folder.iterdir()])
    return timestep


def test_a_wrong_task_is_the_same_error():
  with pytest.raises(ValueError) as here:
    envs.make('atari', 'Pogn', 1)
  with pytest.raises(ValueError) as there:
    Processes(functools.partial(envs.make, 'atari', 'Pogn', 1), 2)
  assert str(there.value) == str(here.value)


@pytest.mark.parametrize(
  'raised, text',
  [
    (RuntimeError('no simulator'), 'no simulator'),
    (ImportError('no module'), 'environment 0: ImportError: no module'),
  ],
)
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


def steady(timestep):
  return np.tile(np.float32([0.5, -1, 0.25]), (len(timestep.reward), 1))


@pytest.mark.parametrize(
  'trouble, steps, reason',
  [
    (RAISE, 2, "KeyError: 'the reason'"),
    (HALF, 1, "KeyError: 'none'"),
    (DIE, 0, 'its process died with exit code -9 (SIGKILL)'),
    (HANG, 2, 'it hangs, no answer for 1 s'),
  ],
)
def test_a_failure_truncates_its_episode_and_the_next_one_runs_in_a_new_process(
  trouble, steps, reason, caplog
):
  env = Processes(Probe, 2, timeout=1)
  before = begin(env)
  for _ in range(steps):
    before = act(env, GO, GO)
  assert env.failures == 0 and not env.failed.any()
  timestep = act(env, GO, trouble)
  healthy, failed = timestep.observation['vector']
  assert healthy[1] == timestep.reward[0] == steps + 1
  np.testing.assert_array_equal(failed, before.observation['vector'][1])
  assert (timestep.reward[1], env.measures['time'][1]) == (0, steps + 0.5)
  assert timestep.is_last.tolist() == env.failed.tolist() == [False, True]
  assert not timestep.is_first.any() and not timestep.is_terminal.any()
  old = process_ids(timestep)
  assert_ended(old[1:], 0)

  timestep = begin(env, 1, seed=8)
  assert timestep.observation['vector'][:, :2].tolist() == [[8, steps + 2], [9, 0]]
  assert (
    timestep.is_first.tolist() == [False, True]
    and not timestep.is_last.any()
    and not env.failed.any()
  )
  new = process_ids(timestep)
  assert new[0] == old[0] and new[1] != old[1]
  assert act(env, GO, GO).observation['vector'][:, 1].tolist() == [steps + 3, 1]
  assert env.failures == 1
  assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
    (
      logging.WARNING,
      f'environment 1: {reason}; its episode was truncated, and it goes on in a new process',
    )
  ]
  env.close()
  assert_ended(new, 0)


def test_all_other_numbers_are_those_without_failures(tmp_path):
  plan = {(100, 3): 1, (101, 1): 1, (102, 6): 1, (103, 0): 1}  # of environment 1
  env, alone = (
    Processes(functools.partial(Walk, tmp_path, plan, DIE), 3),
    [Walk() for _ in range(3)],
  )
  rng = np.random.default_rng(0)
  restart, episode, truncated = np.ones(3, bool), np.array([-1, 99, 199]), 0
  for _ in range(40):
    episode = episode + restart
    actions = rng.uniform(-1, 1, (3, 3)).astype(np.float32)
    timestep = env.step(actions, restart, episode)
    for index in range(3):
      expected = alone[index].step(actions[[index]], restart[[index]], episode[[index]])
      if env.failed[index]:
        truncated += 1
        continue
      np.testing.assert_array_equal(
        timestep.observation['vector'][index], expected.observation['vector'][0]
      )
      assert [field[index] for field in timestep[1:]] == [field[0] for field in expected[1:]]
      assert env.measures['height'][index] == alone[index].measures['height'][0]
    restart = timestep.is_last
  assert (truncated, env.failures) == (3, 4) and episode[1] > 104
  env.close()


@pytest.mark.parametrize('trouble, often', [(HANG, 1), (DIE, 2)])
def test_one_that_fails_to_begin_an_episode_begins_the_same_again_at_once(
  trouble, often, tmp_path, caplog
):
  env = Processes(functools.partial(Walk, tmp_path, {(6, 0): often}, trouble), 2, timeout=1)
  timestep = begin(env, seed=5)
  expected = Walk().step(np.zeros((1, 3)), np.ones(1, bool), np.array([6]))
  np.testing.assert_array_equal(
    timestep.observation['vector'][1], expected.observation['vector'][0]
  )
  assert timestep.is_first.all() and not timestep.is_last.any() and not env.failed.any()
  assert env.failures == len(caplog.records) == often
  assert all(
    '; it tries the same episode in a new process' in record.getMessage()
    for record in caplog.records
  )
  env.close()


def test_three_failures_in_a_row_end_all_and_a_completed_step_begins_a_new_row():
  env = Processes(Probe, 2)
  begin(env)
  for seed, action in enumerate([RAISE, RAISE, GO, RAISE, RAISE], 10):
    act(env, GO, action)
    timestep = begin(env, 1, seed=seed)
  with pytest.raises(RuntimeError) as error:
    act(env, GO, RAISE)
  assert str(error.value) == "environment 1: KeyError: 'the reason' (3 failures in a row)"
  assert "raise KeyError('the reason')" in error.value.__notes__[0]  # the worker's traceback
  assert env.failures == 5
  assert_ended(process_ids(timestep), 0)
  with pytest.raises(RuntimeError, match='closed'):
    begin(env)


@pytest.mark.parametrize(
  'actions, text, note',
  [
    ((GO, RAISE), "environment 1: KeyError: 'the reason'", "raise KeyError('the reason')"),
    # the first one's hang does not hide it
    ((HANG, RAISE), "environment 1: KeyError: 'the reason'", 'in trouble'),
    ((DIE, GO), 'environment 0: its process died with exit code -9 (SIGKILL)', None),
    ((CRASH, GO), 'environment 0: its process died with exit code -11 (SIGSEGV)', 'in trouble'),
    ((GO, HANG), 'environment 1: it hangs, no answer for 2 s', 'in trouble'),
  ],
)
def test_what_is_told_when_all_end(actions, text, note, monkeypatch):
  monkeypatch.setattr(processes, 'IN_A_ROW', 1)
  env = Processes(Probe, 2, timeout=2 if actions == (GO, HANG) else None)
  pids = process_ids(begin(env))
  with pytest.raises(RuntimeError) as error:
    act(env, *actions)
  assert str(error.value) == f'{text} (1 failures in a row)'
  assert note in error.value.__notes__[0] if note else not hasattr(error.value, '__notes__')
  assert_ended(pids, 0)


def test_an_evaluation_plays_a_failed_episode_again_from_its_seed(tmp_path):
  env = Processes(functools.partial(Walk, tmp_path, {(3, 6): 1, (5, 2): 2}), 2)
  results = envs.run_episodes(env, range(8), steady)
  assert results == envs.run_episodes(Walk(), range(8), steady)
  assert env.failures == 3
  env.close()


def test_an_episode_that_always_fails_ends_its_evaluation(tmp_path):
  env = Processes(functools.partial(Walk, tmp_path, {(1, 3): 3}), 2)
  with pytest.raises(RuntimeError, match='3 failures in a row'):
    envs.run_episodes(env, range(4), steady)


def test_others_do_not_wait_for_one_that_is_started_again(tmp_path):
  env = Processes(functools.partial(Rebuilt, tmp_path, HANG), 2)
  begin(env)
  (tmp_path / 'later').touch()
  act(env, GO, DIE)
  timestep = env.step(
    np.zeros(2, int), np.zeros(2, bool), np.zeros(2, int), idle=np.array([False, True])
  )
  assert timestep.observation['vector'][:, 1].tolist() == [2, 0]
  env.close()


def test_one_that_cannot_be_built_again_is_tried_three_times(tmp_path):
  env = Processes(functools.partial(Rebuilt, tmp_path, RAISE), 1)
  begin(env)
  (tmp_path / 'later').touch()
  act(env, DIE)
  with pytest.raises(RuntimeError, match='KeyError') as error:
    begin(env)
  assert 'in __init__' in error.value.__notes__[0] and env.failures == 3


def test_one_that_is_another_one_when_built_again(tmp_path):
  env = Processes(functools.partial(Rebuilt, tmp_path, None), 1)
  begin(env)
  (tmp_path / 'later').touch()
  act(env, DIE)
  with pytest.raises(
    RuntimeError, match=r'environment 0 is another one .*\(6,\).*, before .*\(5,\)'
  ):
    begin(env)


def test_building_again_has_a_limit_too(tmp_path, monkeypatch):
  monkeypatch.setattr(processes, 'BUILD_SECONDS', 2)
  monkeypatch.setattr(processes, 'IN_A_ROW', 2)
  env = Processes(functools.partial(Rebuilt, tmp_path, HANG), 1, timeout=1)
  begin(env)
  (tmp_path / 'later').touch()
  act(env, DIE)
  with pytest.raises(RuntimeError, match='it hangs, no answer for 2 s'):
    begin(env)


def test_a_worker_that_dies_between_steps():
  env = Processes(Probe, 2)
  pids = process_ids(begin(env))
  os.kill(pids[1], signal.SIGTERM)
  assert_ended(pids[1:])
  assert act(env, GO, GO).is_last.tolist() == env.failed.tolist() == [False, True]
  assert begin(env, 1).is_first.tolist() == [False, True]
  env.close()


def test_what_make_passes_on(monkeypatch):
  monkeypatch.setattr(envs, 'Processes', lambda *arguments: arguments)
  factory, count = envs.make('catch', 'catch', 3, processes=True, size=12)
  assert count == 3
  assert (factory.args, factory.keywords) == (('catch', 'catch', 1), {'size': 12})
  # one alone may fail, too
  assert envs.make('catch', 'catch', 1, processes=True)[1:] == (1,)


SCRIPT = """
from harmony_jax.envs.processes import Processes
from tests.trouble import DOZE, GO, HANG, Probe, act, begin, process_ids
if __name__ == '__main__':
  env = Processes(Probe, 2, timeout={timeout})
  print(*process_ids(begin(env)), flush=True)
  {then}
"""


def run_script(folder, then, timeout=None):
  """A script with two environments in a process group of its own, once it runs; and the ids of its
  workers.
  """
  path = folder / 'script.py'
  path.write_text(SCRIPT.format(then=then, timeout=timeout))
  script = subprocess.Popen(
    [sys.executable, path],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
    # A shell's background jobs, which these tests may be, ignore it.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )
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


def test_a_stopped_script_takes_no_worker_for_hung(tmp_path):
  script, _ = run_script(tmp_path, 'act(env, GO, DOZE); print(env.failures)', timeout=3)
  time.sleep(0.1)
  os.killpg(script.pid, signal.SIGSTOP)
  time.sleep(4)
  os.killpg(script.pid, signal.SIGCONT)
  assert script.communicate(timeout=30) == ('0\n', '')


def test_shared_memory_has_no_name_that_could_be_left_behind():
  env = Processes(functools.partial(Probe, size=1000), 2)
  assert begin(env).observation['vector'].shape == (2, 1000)
  mapped = [
    line for line in pathlib.Path('/proc/self/maps').read_text().splitlines() if '/dev/shm/' in line
  ]
  assert mapped and all(line.endswith(' (deleted)') for line in mapped)
  env.close()


@pytest.mark.parametrize(
  'shown, told',
  [
    (np.full((1, 5), 0.5), r'float64 \[5\]'),
    (np.full((1, 5), 256, np.uint16), r'uint16 \[5\]'),
    (np.zeros((1, 1), np.uint8), r'uint8 \[1\]'),
  ],
)
def test_what_is_not_as_declared_is_no_zero(shown, told):
  """Floats below 1 would be bytes of 0, 256 would be 0, and one number five."""
  env = Processes(functools.partial(Undeclared, shown), 1)
  with pytest.raises(RuntimeError, match=rf'vector is {told}, declared uint8 \[5\]'):
    begin(env)
