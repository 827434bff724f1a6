"""Several devices, and several processes."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from harmony_jax import processes
from harmony_jax.errors import UserError
from harmony_jax.processes import ProcessGroup
from harmony_jax.replay import Replay
from harmony_jax.training.checkpoint import Checkpoints
from harmony_jax.training.interruption import Interrupted
from tests import commands, kills
from tests.kills import lines

ROOT = pathlib.Path(__file__).parents[1]
TINY = [
  '--config.steps=320',
  '--config.eval_every=160',
  '--config.checkpoint_every=200',
  '--config.log_every=40',
  '--config.eval_episodes=6',
  '--config.final_eval_episodes=6',
  '--config.video_every=0',
  '--config.replay_capacity=2000',
  '--config.keep_replay=True',
]
LIMIT = 300  # seconds


@pytest.mark.parametrize('which', ['not slow', pytest.param('slow', marks=pytest.mark.slow)])
def test_on_four_devices(which):
  """Two cores play four devices: in a process of their own, as the others here have one."""
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=4'
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'pytest',
      '-q',
      '-m',
      which,
      '-p',
      'no:cacheprovider',
      'tests/on_four_devices.py',
    ],
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


# Several processes
# --------------------------------------------------------------------------------------------------


class Pair:
  """Two processes that train one tiny run in a folder, on this machine.

  By default with a small method, whose replay has priorities: it is the processes that are tested.
  """

  def __init__(self, folder, method='tests.shooting:METHOD'):
    self.folder, self.logs = folder, [folder.with_suffix(f'.log{index}') for index in range(2)]
    self._command = ['experiments.catch', '--preset=tiny', f'--logdir={folder}', *TINY]
    self._command += [f'--method={method}', '--config.train_ratio=4']
    self.method = method

  def start(self, *arguments, each=((), ())):
    """Starts both, with these arguments and those of each."""
    with socket.socket() as free:
      free.bind(('localhost', 0))
      address = f'localhost:{free.getsockname()[1]}'
    self.processes = []
    for index, log in enumerate(self.logs):
      command = [
        *self._command,
        *arguments,
        *each[index],
        f'--coordinator={address}',
        '--num_processes=2',
        f'--process_id={index}',
      ]
      log.write_text('')
      self.processes.append(commands.Command(*command, output=log))
    return self

  def signal(self, index, number, after):
    """Sends a signal to one of them when a checkpoint of step `after` is there."""
    until = time.monotonic() + LIMIT
    while not (self.folder / 'checkpoints' / str(after)).is_dir():
      assert time.monotonic() < until and self.processes[index].poll() is None, self.text()
      time.sleep(0.05)
    self.processes[index].send_signal(number)
    return self

  def end(self):
    """The exit codes."""
    try:
      return [process.wait(LIMIT) for process in self.processes]
    finally:
      for process in self.processes:
        process.kill()

  def alone(self):
    """One process in their place, to the end."""
    return commands.Command(*self._command).end(LIMIT)

  def text(self):
    return '\n'.join(log.read_text() for log in self.logs)


def checksums(folder):
  with Checkpoints(folder / 'checkpoints', read_only=True) as checkpoints:
    return checkpoints.checksums(checkpoints.latest())


@pytest.fixture(
  scope='module',
  params=['tests.shooting:METHOD', pytest.param('dreamerv3', marks=pytest.mark.slow)],
)
def undisturbed(request, tmp_path_factory):
  pair = Pair(tmp_path_factory.mktemp('pair') / 'run', request.param)
  assert pair.start().end() == [0, 0], pair.text()
  return pair


def test_two_processes_train_one_run(undisturbed):
  """Process 0 writes; the replay has a part of each, and they differ; evaluations play every
  episode once.
  """
  folder = undisturbed.folder
  assert {path.name for path in folder.iterdir()} >= {
    'config.json',
    'metrics.jsonl',
    'scores.jsonl',
    '.complete',
  }
  parts = [
    sorted(path.name for path in (folder / 'replay' / name).iterdir())
    for name in ('1-of-2', '2-of-2')
  ]
  assert parts[0] != parts[1]  # names have checksums
  scores = lines(folder / 'scores.jsonl')
  assert [score['step'] for score in scores] == [160, 320] and all(
    len(score['eval_scores']) == 6 for score in scores
  )
  assert undisturbed.logs[1].read_text().count('step') == 0  # one process prints


def test_a_pair_of_which_one_was_killed_goes_on(undisturbed, tmp_path):
  pair = Pair(tmp_path / 'run', undisturbed.method)
  codes = pair.start().signal(1, signal.SIGKILL, after=200).end()
  assert codes[1] == -signal.SIGKILL and codes[0] not in (0, -signal.SIGKILL), pair.text()
  assert pair.start().end() == [0, 0], pair.text()
  assert 'continues from step 200' in pair.logs[0].read_text()
  assert checksums(pair.folder) == checksums(undisturbed.folder)
  for name in ('metrics.jsonl', 'scores.jsonl'):
    assert lines(pair.folder / name) == lines(undisturbed.folder / name)


@pytest.mark.slow
def test_a_pair_of_which_one_is_asked_to_end_saves_and_goes_on_as_one(tmp_path):
  """With another number of processes: other batches, but the same experience."""
  pair = Pair(tmp_path / 'run')
  codes = pair.start().signal(1, signal.SIGTERM, after=200).end()
  assert codes == [Interrupted.exit_code] * 2, pair.text()
  left = int(re.search(r'SIGTERM: saved at step (\d+)', pair.logs[0].read_text())[1])
  alone = pair.alone()
  assert alone.returncode == 0 and f'continues from step {left}' in alone.stdout, (
    alone.stdout + alone.stderr
  )
  parts = [kills.replay(pair.folder / 'replay' / name) for name in ('1-of-2', '2-of-2')]
  whole = kills.replay(pair.folder / 'replay')
  for name, array in whole.items():
    experience = np.concatenate([part[name] for part in parts])
    assert 200 <= left == experience.shape[1] * len(experience) < 320
    np.testing.assert_array_equal(array[:, : experience.shape[1]], experience)


# Their parts
# --------------------------------------------------------------------------------------------------


def replay_of(index, count, envs=4):
  specs = {'x': ((), np.int32), 'is_first': ((), bool)}
  return Replay(specs, envs // count, 64 // count, 2, 4, seed=0, part=(index, count))


def fill(replay, first, envs, steps):
  for step in range(steps):
    numbers = 1000 * (first + np.arange(envs)) + step
    replay.append({'x': numbers.astype(np.int32), 'is_first': np.full(envs, step == 0)})


@pytest.mark.parametrize('then, now', [(2, 1), (1, 2), (2, 4), (4, 2), (2, 2)])
def test_parts_of_a_replay_are_dealt_out_again(tmp_path, then, now):
  for index in range(then):
    part = replay_of(index, then)
    fill(part, index * 4 // then, 4 // then, 50)  # the ring holds the last 16 of each environment
    part.save(tmp_path)
  for index in range(now):
    part, whole = replay_of(index, now), replay_of(index, now)
    part.load(tmp_path, 50, then)
    fill(whole, index * 4 // now, 4 // now, 50)
    for update in range(20):
      np.testing.assert_equal(part.sample(update), whole.sample(update))
    fill(part, index * 4 // now, 4 // now, 3)
    part.save(tmp_path)  # beside what was there
    part.load(tmp_path)


def test_shares_that_are_not_equal_are_refused():
  group = ProcessGroup(2, 3)
  assert group.share(12) == slice(8, 12)
  with pytest.raises(
    UserError, match='config.num_envs is 1: 3 processes can share 3: --config.num_envs=3'
  ):
    group.share(1, 'config.num_envs')


@pytest.mark.parametrize(
  'arguments, wanted',
  [
    (('host:1', None, 0), 'only of use together'),
    (('', 2, 1), 'only of use together'),
    (('host', 2, 1), 'HOST:PORT'),
    (('host:1', 2, 2), '--process_id=2: expected 0 to 1'),
    (('host:99999', 2, 1), 'HOST:PORT'),
  ],
)
def test_joining_with_a_part_missing_is_refused(arguments, wanted):
  with pytest.raises(UserError, match=wanted):
    processes.join(*arguments)


def test_one_process_needs_nobody():
  processes.join()
  processes.join('none')
  processes.join('host:1', 1, 0)
  group = processes.here()
  assert group == processes.ALONE and group.leads
  assert group.exchange({'a': 1}) == [{'a': 1}] and group.share(5) == slice(0, 5)


def test_slurm_and_pods_are_recognised(monkeypatch):
  """By the variables of a step (srun), not by those of a job, which its script has, too."""
  for name in ('SLURM_STEP_NUM_TASKS', 'SLURM_STEP_NODELIST', 'TPU_WORKER_HOSTNAMES'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('SLURM_NTASKS', '4')
  monkeypatch.setenv('SLURM_PROCID', '0')
  assert not processes.on_a_cluster()
  monkeypatch.setenv('SLURM_STEP_NODELIST', 'node[1-2]')
  monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '1')
  assert not processes.on_a_cluster()
  monkeypatch.setenv('SLURM_STEP_NUM_TASKS', '2')
  assert processes.on_a_cluster()
  monkeypatch.delenv('SLURM_STEP_NUM_TASKS')
  monkeypatch.setenv('TPU_WORKER_HOSTNAMES', 'a,b')
  assert processes.on_a_cluster()


def test_processes_with_other_settings_are_refused(tmp_path):
  """Both say which, and neither waits for the other."""
  pair = Pair(tmp_path / 'run')
  began = time.monotonic()
  assert pair.start(each=(['--seed=0'], ['--seed=1'])).end() == [2, 2], pair.text()
  for log in pair.logs:
    assert 'need the same settings (seed: process 0 has 0, process 1 has 1)' in log.read_text()
  assert time.monotonic() - began < processes.HEARTBEAT and not pair.folder.exists()
