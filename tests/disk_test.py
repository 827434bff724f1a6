"""What runs leave on disk: the replay goes at the end, unless it is to be kept."""

import contextlib
import json

import pytest

from experiments import folders
from harmony_jax import config as config_
from harmony_jax.processes import ALONE
from harmony_jax.training import run_folder
from tests.runs import config_of, train


def complete(folder, config, **written):
  """Make the folder of a complete run whose replay is still there; `written` is its config.json."""
  with run_folder.prepare(folder, config, folders.identity(config)) as opened:
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
  complete(tmp_path, config_of(), keep_replay=began)
  if began is None:
    there = json.loads((tmp_path / 'config.json').read_text())
    del there['config']['keep_replay']
    (tmp_path / 'config.json').write_text(json.dumps(there))
  config_.read(tmp_path)  # a look
  with contextlib.ExitStack() as stack:
    assert not folders.open_runs(stack, [(config_of(keep_replay=now), str(tmp_path))], ALONE)
  goes = began is False and not now
  assert (tmp_path / 'replay').exists() != goes
  assert ('replay of 2.5 MB dropped' in capsys.readouterr().out) == goes
