"""What runs take on disk and what they leave there: the replay goes, unless it is to be kept."""

import contextlib
import json
import re

import pytest

from experiments import folders
from harmony_jax import config as config_
from harmony_jax import disk
from harmony_jax.errors import UserError
from harmony_jax.processes import ALONE
from harmony_jax.training import run_folder
from tests.runs import From, config_of, dreamer_of, train

UNITS = {'kB': 1e3, 'MB': 1e6, 'GB': 1e9}


def complete(folder, config, **written):
  """Make the folder of a complete run whose replay is still there; `written` is its config.json."""
  with run_folder.prepare(folder, config, run_folder.identity(config)) as opened:
    opened.mark_complete({})
  there = json.loads((folder / 'config.json').read_text())
  there['config'] |= written
  (folder / 'config.json').write_text(json.dumps(there))
  (folder / 'replay').mkdir()
  (folder / 'replay' / 'steps').write_bytes(bytes(2_500_000))


def test_the_replay_goes_at_the_end(tmp_path, capsys):
  train(tmp_path / 'dropped', config_of())
  assert not (tmp_path / 'dropped' / 'replay').exists()
  assert 'MB dropped (--config.keep_replay=True keeps it)' in capsys.readouterr().out
  train(tmp_path / 'kept', config_of(keep_replay=True))
  assert (tmp_path / 'kept' / 'replay' / 'manifest.json').exists()
  assert 'dropped' not in capsys.readouterr().out


def test_a_folder_with_a_replay_of_somebody_else_is_refused(tmp_path):
  """It would go with the run's own."""
  (tmp_path / 'replay').mkdir()
  (tmp_path / 'replay' / 'buffer.py').touch()
  with pytest.raises(UserError, match='holds replay/buffer.py, which is of no run'):
    run_folder.prepare(tmp_path, config_of(), {})
  assert not (tmp_path / 'config.json').exists()


@pytest.mark.parametrize('keep', [False, True])
def test_what_is_said_beforehand_is_what_it_takes(keep, tmp_path, capsys):
  """Within a fifth, at the most and at the end."""
  most, folders_ = [], ('replay', 'checkpoints')
  size = lambda: sum(disk.size(tmp_path / name) for name in folders_)
  large = dict(stride=1, train_ratio=1.0)  # of which every update takes long
  config = dreamer_of('tests.shooting:METHOD', replay__sampling='windows', **large)
  config = config.replace({'steps': 240, 'keep_replay': keep})
  train(tmp_path, config, From(0, lambda trainer: most.append(size())))
  said = re.search(r'disk: up to (\S+) (\w+) for .*, (\S+) (\w+) after', capsys.readouterr().out)
  most_said, end_said = float(said[1]) * UNITS[said[2]], float(said[3]) * UNITS[said[4]]
  assert size() == pytest.approx(end_said, rel=0.2)
  one = size() / 2 if not keep else disk.size(tmp_path / 'checkpoints') / 2
  assert max(*most, size()) + one == pytest.approx(most_said, rel=0.2)  # a third is not seen here


def test_replays_have_a_largest_size():
  run = config_of(steps=10**7, replay_capacity=10_000, num_envs=4, checkpoint_every=500).run
  assert disk.replay(run, 10) == 10 * (10_000 + 4 * 256 + 2 * 500 + 4096)
  assert disk.replay(config_of(steps=160).run, 10) == 1600


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
  assert disk.room(1, tmp_path / 'not' / 'there').endswith('B are free')
  monkeypatch.setattr(disk, 'free', lambda path: 2_000_000)
  assert disk.room(3e9, tmp_path) == ', 2.0 MB are free: WARNING, 3.0 GB are needed'


def test_it_goes_after_the_mark_is_written(tmp_path, monkeypatch):
  def fail(folder, summary):
    assert (folder / 'replay' / 'manifest.json').exists()
    raise OSError(28, 'No space left on device')

  with monkeypatch.context() as patch, pytest.raises(OSError):
    patch.setattr(run_folder.RunFolder, 'mark_complete', fail)
    train(tmp_path, config_of())
  assert (tmp_path / 'replay' / 'manifest.json').exists()
  train(tmp_path, config_of())
  assert run_folder.is_complete(tmp_path) and not (tmp_path / 'replay').exists()


@pytest.mark.parametrize('began', [False, True, None])
@pytest.mark.parametrize('now', [False, True])
def test_a_complete_run_that_is_started_again(began, now, tmp_path, capsys):
  """It was killed before its replay went. None: of a version that kept every replay."""
  complete(tmp_path, dreamer_of(), keep_replay=began)
  if began is None:
    there = json.loads((tmp_path / 'config.json').read_text())
    del there['config']['keep_replay']
    (tmp_path / 'config.json').write_text(json.dumps(there))
  config_.read(tmp_path)  # a look
  with contextlib.ExitStack() as stack:
    assert not folders.open_runs(stack, [(dreamer_of(keep_replay=now), str(tmp_path))], ALONE)
  goes = began is False and not now
  assert (tmp_path / 'replay').exists() != goes
  assert ('replay of 2.5 MB dropped' in capsys.readouterr().out) == goes
