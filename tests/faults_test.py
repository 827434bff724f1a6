"""What goes wrong: numbers that are not finite, signals, full disks; and what is left then."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from harmony_jax import replay_files
from harmony_jax.errors import UserError
from harmony_jax.sweeping.sweep import signals_received
from harmony_jax.training import faults, run_folder
from harmony_jax.training.checkpoint import Checkpoints
from harmony_jax.training.interruption import SIGNALS, Interrupted, Interruption
from tests.runs import From, ask, compile_once, config_of, lines, train


def spoiled(at, value=np.nan):
  """Return what has the first environment's reward be such a number from step `at` on."""

  def prepare(trainer):
    step = trainer.episodes.step

    def spoiling(action):
      timestep = step(action)
      if trainer.state.step >= at:
        timestep.reward[0] = value
      return timestep

    trainer.episodes.step = spoiling

  return prepare


class Asking:
  """A compiler by which a run is asked to end at its first evaluation from step `at` on."""

  def __init__(self, at):
    self.at, self.interruption, self.calls = at, Interruption(), 0

  def __call__(self, method):
    compiled = compile_once(method)

    def act(*args, **kwargs):
      evaluates = len(jax.tree.leaves(args[1])[0]) == 2  # one of two groups
      self.calls += evaluates
      if evaluates and self.calls > self.at:
        self.interruption.requested = 'SIGTERM'
      return compiled.act(*args, **kwargs)

    return dataclasses.replace(compiled, act=act)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_not_finite_stops_names_the_first_and_can_be_repeated(value, tmp_path):
  with pytest.raises(UserError) as caught:
    train(tmp_path, config_of(), prepare=spoiled(100, value))
  text = str(caught.value)
  assert '\n' not in text and 'first in batch: reward' in text
  assert 'of step 80' in text and 'experiments.reproduce' in text
  with Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
    assert checkpoints.latest() == 80
  found = faults.reproduce(tmp_path, allow_import=True)
  assert found['found'] == found['recorded'] == ['batch: reward'] and found['step'] >= 100
  assert f'update {found["update"]:,} at step {found["step"]:,}' in text


def test_updates_that_are_not_finite_can_be_left_out(tmp_path):
  """The count is in the metrics; what was learned before stays, and nothing becomes infinite."""
  trainer = train(tmp_path, config_of(skip_nonfinite=1000), prepare=spoiled(100))
  counts = [
    line['nonfinite_updates']
    for line in lines(tmp_path, 'metrics.jsonl')
    if 'nonfinite_updates' in line
  ]
  assert counts[0] == 0 and counts[-1] > 0 and counts == sorted(counts)
  state = trainer.updates.state
  assert int(state.nonfinite) >= counts[-1] and int(state.step) == trainer.state.update
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, state.opt_state)))


def test_nothing_to_repeat_is_one_line(tmp_path):
  with pytest.raises(UserError, match='holds no run'):
    faults.reproduce(tmp_path)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
  def full(descriptor):
    raise OSError(errno.ENOSPC, 'No space left on device')

  fill = From(100, lambda trainer: monkeypatch.setattr(replay_files.os, 'fsync', full))
  with pytest.raises(OSError) as caught:
    train(tmp_path, config_of(), fill)
  assert 'disk is full' in faults.explain(caught.value)
  monkeypatch.undo()
  with Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
    assert checkpoints.latest() == 80
  assert train(tmp_path, config_of()).state.step == 160  # and goes on from there


@pytest.mark.parametrize(
  'error, words',
  [
    (OSError(errno.EACCES, 'Permission denied', '/some/where'), 'cannot write: /some/where'),
    (
      jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.'),
      'batch_size',
    ),
    (jax.errors.JaxRuntimeError('UNAVAILABLE: the service is gone'), 'another process'),
    (MemoryError(), 'out of memory'),
    (OSError(errno.EDQUOT, 'Quota exceeded'), 'disk is full'),
    # as TensorStore says it, which writes checkpoints
    (ValueError("OUT_OF_RANGE: Failed to write 9 bytes [os_error_code='28']"), 'disk is full'),
    (ValueError('unlike any of these'), None),
  ],
)
def test_limits_of_the_machine_in_one_line(error, words):
  wrapped = RuntimeError('while saving')
  wrapped.__cause__ = error
  for each in (error, wrapped):
    line = faults.explain(each)
    assert line is None if words is None else words in line and '\n' not in line


def test_asked_to_end_in_an_evaluation_it_is_repeated(tmp_path):
  """Interrupted in the middle of the evaluation at step 80, and later; all lines are the same."""
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  train(whole, config_of())
  first, last = Asking(2), Asking(2)
  with pytest.raises(Interrupted, match='SIGTERM: saved at step 80 of 160'):
    train(cut, config_of(), compiler=first, interruption=first.interruption)
  with pytest.raises(Interrupted, match='SIGTERM: saved at step 104 of 160'):
    train(cut, config_of(), From(100, ask))
  with pytest.raises(Interrupted, match='SIGTERM: saved at step 160 of 160'):
    train(cut, config_of(), compiler=last, interruption=last.interruption)
  train(cut, config_of())
  for name in ('metrics.jsonl', 'scores.jsonl'):
    assert lines(whole, name) == lines(cut, name)


BUSY = """
import numpy as np
from harmony_jax.training.interruption import Interruption
with Interruption() as interruption:
  interruption.arm()
  matrix = np.random.default_rng(0).normal(size=(4000, 4000))
  print('ready', flush=True)
  np.linalg.svd(matrix)  # in which Python sees no signals
  print('done', interruption.requested, flush=True)
"""


@pytest.mark.parametrize('again', [False, True])
def test_the_second_ctrl_c_ends_at_once(again):
  process = subprocess.Popen(
    [sys.executable, '-c', BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == 'ready\n'
  time.sleep(0.2)
  process.send_signal(signal.SIGINT)
  assert process.stderr.readline() + process.stderr.readline() == (
    '\nSIGINT: saving after this step; Ctrl-C to leave at once\n'
  )
  if again:
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
  else:
    process.kill()
    process.wait()


@pytest.mark.parametrize('number', [each for each in SIGNALS if each != signal.SIGINT])
def test_what_ends_a_job_asks_the_run(number):
  """Also a terminal that closes, and a scheduler's warning."""
  with Interruption() as interruption:
    interruption.arm()
    os.kill(os.getpid(), number)
    deadline = time.monotonic() + 10
    while not interruption.requested and time.monotonic() < deadline:
      time.sleep(0.01)
  assert interruption.requested == number.name


def test_what_is_ignored_stays_ignored():
  """As nohup has it: the terminal closes, and the run goes on."""
  before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with Interruption() as interruption, signals_received() as received:
      interruption.arm()
      assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
      os.kill(os.getpid(), signal.SIGHUP)
      os.kill(os.getpid(), signal.SIGUSR2)
      time.sleep(0.1)
    assert received == ['SIGUSR2'] and interruption.requested in ('', 'SIGUSR2')
  finally:
    signal.signal(signal.SIGHUP, before)


def test_before_training_a_signal_is_the_usual_ctrl_c():
  with pytest.raises(KeyboardInterrupt):
    with Interruption():
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(5)
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_goes_on_with_other_ways_of_the_same_numbers(tmp_path):
  config = config_of()
  run_folder.prepare(tmp_path, config, {}).close()
  (tmp_path / 'checkpoints' / '10').mkdir(parents=True)
  for name, value in (('env_processes', True), ('replay_on', 'host')):
    run_folder.prepare(tmp_path, config.replace({name: value}), {}).close()
  with pytest.raises(UserError, match='batch_size'):
    run_folder.prepare(tmp_path, config.replace({'batch_size': 5}), {})
  assert json.loads((tmp_path / 'config.json').read_text())['config']['env_processes'] == 'auto'


def test_damage_of_the_newest_replay_file(tmp_path, caplog):
  """The checkpoint that needs it counts as damaged: the run goes on from the one before, to the
  same end.
  """
  whole, harmed = tmp_path / 'whole', tmp_path / 'harmed'
  train(whole, config_of(steps=240))
  with pytest.raises(Interrupted, match='saved at step 204'):
    train(harmed, config_of(steps=240), From(200, ask))
  newest = sorted((harmed / 'replay').glob('steps-*'))[-1]
  newest.write_bytes(newest.read_bytes()[:-1])
  train(harmed, config_of(steps=240))
  assert any(
    newest.name in record.getMessage() and 'from checkpoint 160' in record.getMessage()
    for record in caplog.records
  )
  for name in ('metrics.jsonl', 'scores.jsonl'):
    assert lines(whole, name) == lines(harmed, name)


@pytest.mark.slow
def test_a_run_goes_on_with_its_environments_in_processes(tmp_path):
  """The running episodes are played again there, and everything goes on as in one process."""
  whole, moved = tmp_path / 'whole', tmp_path / 'moved'
  small = dict(num_envs=2, eval_envs=2, steps=240)
  train(whole, config_of(**small))
  with pytest.raises(Interrupted, match='saved at step 112'):
    train(moved, config_of(**small), From(110, ask))
  train(moved, config_of(**small, env_processes=True))
  for name in ('metrics.jsonl', 'scores.jsonl'):
    assert lines(whole, name) == lines(moved, name)
