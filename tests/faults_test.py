"""What goes wrong: numbers that are not finite, signals, full disks; and what is left then."""

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
from harmony_jax.training import faults, loop, run_folder
from harmony_jax.training.checkpoint import Checkpoints
from harmony_jax.training.interruption import Interrupted, Interruption
from tests.loop_test import config_of, lines


def run(folder, config, spoil=None, interruption=None):
  """A run of the catch game; `spoil(trainer)` may change it first."""
  with run_folder.prepare(folder, config, {}) as opened:
    trainer = loop.Trainer(config, opened, interruption=interruption)
    if spoil:
      spoil(trainer)
    trainer.run()
  return trainer


def reward_of_nothing(at):
  """Spoils a run: from step `at` on, the first environment's reward is not a number."""

  def spoil(trainer):
    step = trainer.episodes.step

    def spoiled(action):
      timestep = step(action)
      if trainer.step >= at:
        timestep.reward[0] = np.nan
      return timestep

    trainer.episodes.step = spoiled

  return spoil


def asking_at(at, in_evaluation=False):
  """Asks a run to end at step `at`: when it chooses an action, or in the middle of that step's
  evaluation.
  """

  def spoil(trainer):
    name = '_act_in_evaluation' if in_evaluation else '_choose'
    call = getattr(trainer, name)

    def asking(*args, **kwargs):
      if trainer.step >= at:
        trainer.interruption.requested = 'SIGTERM'
      return call(*args, **kwargs)

    setattr(trainer, name, asking)

  return spoil


def test_not_finite_stops_names_the_first_and_can_be_repeated(tmp_path):
  with pytest.raises(UserError) as caught:
    run(tmp_path, config_of(), reward_of_nothing(at=100))
  text = str(caught.value)
  assert '\n' not in text and 'first in batch: reward' in text
  assert 'of step 80' in text and 'experiments.reproduce' in text
  with Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
    assert checkpoints.latest() == 80
  found = faults.reproduce(tmp_path)
  assert found['found'] == found['recorded'] == ['batch: reward'] and found['step'] >= 100
  assert f'update {found["update"]:,} at step {found["step"]:,}' in text
  result = subprocess.run(
    [sys.executable, '-m', 'experiments.reproduce', f'--logdir={tmp_path}'],
    capture_output=True,
    text=True,
    timeout=300,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )
  assert result.returncode == 0 and 'batch: reward' in result.stdout, result.stderr


def test_updates_that_are_not_finite_can_be_left_out(tmp_path):
  """The count is in the metrics; what was learned before stays, and nothing becomes infinite."""
  trainer = run(tmp_path, config_of(skip_nonfinite=1000), reward_of_nothing(at=100))
  counts = [
    line['nonfinite_updates']
    for line in lines(tmp_path, 'metrics.jsonl')
    if 'nonfinite_updates' in line
  ]
  assert counts[0] == 0 and counts[-1] > 0 and counts == sorted(counts)
  assert int(trainer.state.nonfinite) >= counts[-1] and int(trainer.state.step) == trainer.update
  assert all(
    np.isfinite(leaf).all()
    for leaf in jax.tree.leaves((trainer.state.params, trainer.state.opt_state))
  )


def test_nothing_to_repeat_is_one_line(tmp_path):
  with pytest.raises(UserError, match='holds no run'):
    faults.reproduce(tmp_path)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
  def fill_disk(trainer):
    save, first = trainer._save, []

    def saving():
      if first:
        monkeypatch.setattr(replay_files.os, 'fsync', full)
      first.append(True)
      save()

    def full(descriptor):
      raise OSError(errno.ENOSPC, 'No space left on device')

    trainer._save = saving

  with pytest.raises(OSError) as caught:
    run(tmp_path, config_of(), fill_disk)
  assert 'disk is full' in faults.explain(caught.value)
  monkeypatch.undo()
  with Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
    assert checkpoints.latest() == 80
  assert run(tmp_path, config_of()).step == 160  # and goes on from there


@pytest.mark.parametrize(
  'error, words',
  [
    (OSError(errno.EACCES, 'Permission denied', '/some/where'), 'cannot write: /some/where'),
    (
      jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.'),
      'batch_size',
    ),
    (MemoryError(), 'out of memory'),
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
  """Interrupted in the middle of the evaluation at step 80, and later; all lines are those of an
  undisturbed run.
  """
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  run(whole, config_of())

  for at, in_evaluation, saved in [(80, True, '80'), (100, False, '104'), (160, True, '160')]:
    with pytest.raises(Interrupted, match=f'SIGTERM: saved at step {saved} of 160'):
      run(cut, config_of(), asking_at(at, in_evaluation), Interruption())
  run(cut, config_of())
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


def test_before_training_a_signal_is_the_usual_ctrl_c():
  with pytest.raises(KeyboardInterrupt):
    with Interruption():
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(5)
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_goes_on_with_other_ways_of_the_same_numbers(tmp_path):
  config = config_of().to_dict()
  run_folder.prepare(tmp_path, config, {}).close()
  for name, value in (('env_processes', True), ('replay_on', 'host')):
    run_folder.prepare(tmp_path, {**config, name: value}, {}).close()
  with pytest.raises(UserError, match='batch_size'):
    run_folder.prepare(tmp_path, {**config, 'batch_size': 5}, {})
  assert json.loads((tmp_path / 'config.json').read_text())['config']['env_processes'] is False


def test_damage_of_the_newest_replay_file(tmp_path, caplog):
  """The checkpoint that needs it counts as damaged: the run goes on from the one before, to the
  same end.
  """
  whole, harmed = tmp_path / 'whole', tmp_path / 'harmed'
  run(whole, config_of(steps=240))
  with pytest.raises(Interrupted, match='saved at step 204'):
    run(harmed, config_of(steps=240), asking_at(200), Interruption())
  newest = sorted((harmed / 'replay').glob('steps-*'))[-1]
  newest.write_bytes(newest.read_bytes()[:-1])
  run(harmed, config_of(steps=240))
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
  run(whole, config_of(**small))
  with pytest.raises(Interrupted, match='saved at step 112'):
    run(moved, config_of(**small), asking_at(110), Interruption())
  run(moved, config_of(**small, env_processes=True))
  for name in ('metrics.jsonl', 'scores.jsonl'):
    assert lines(whole, name) == lines(moved, name)
