"""Run folders: one configuration, one process, nothing overwritten."""

import json
import subprocess
import sys

import pytest

from harmony_jax import config
from harmony_jax.errors import UserError
from harmony_jax.training import run_folder
from harmony_jax.training.checkpoint import Checkpoints
from tests import small

CONFIG = small.run_config()
IDENTITY = {'task': 'pong', 'method': 'harmony'}


def begun(folder, config=CONFIG):
  """Make a run's folder with something to go on with."""
  run_folder.prepare(folder, config, IDENTITY).close()
  (folder / 'checkpoints' / '10').mkdir(parents=True)


def test_a_new_folder_says_what_the_run_is(tmp_path):
  with run_folder.prepare(tmp_path / 'a' / 'b', CONFIG, IDENTITY) as folder:
    assert not folder.resumed and folder.path == tmp_path / 'a' / 'b'
    assert folder / 'x' == folder.path / 'x'
  assert json.loads((folder / 'config.json').read_text()) == {
    'format': config.FORMAT,
    'config': CONFIG.to_json(),
    'identity': IDENTITY,
  }
  assert config.read(folder.path) == CONFIG
  text = (folder / 'environment.txt').read_text()
  for word in ('command: ', 'commit: ', 'python: ', 'devices: ', 'jax==', 'numpy=='):
    assert word in text


def test_the_same_run_goes_on_in_its_folder(tmp_path):
  run_folder.prepare(tmp_path, CONFIG, IDENTITY).close()
  before = (tmp_path / 'config.json').read_bytes()
  with run_folder.prepare(tmp_path, CONFIG, IDENTITY) as folder:
    assert folder.resumed
  assert (tmp_path / 'config.json').read_bytes() == before
  assert (tmp_path / 'environment.txt').read_text().count('command: ') == 2  # a section a start


def test_a_folder_stays_where_it_is(tmp_path, monkeypatch):
  """Some environments change the working directory."""
  monkeypatch.chdir(tmp_path)
  with run_folder.prepare('run', CONFIG, IDENTITY) as folder:
    monkeypatch.chdir('/')
    folder.mark_complete({})
  assert run_folder.is_complete(tmp_path / 'run')


def test_another_run_is_refused_with_each_key_that_differs(tmp_path):
  begun(tmp_path)
  before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and p.name != '.lock'}
  other = CONFIG.replace({'seed': 1, 'rssm.units': 8, 'weighting.tasks': ['reward']})
  with pytest.raises(UserError) as caught:
    run_folder.prepare(tmp_path, other, IDENTITY | {'task': 'breakout'})
  text = str(caught.value)
  assert 'config.seed: folder has 0, command has 1' in text
  assert 'config.rssm.units: folder has 32, command has 8' in text
  assert "folder has ['observation', 'reward', 'dynamics'], command has ['reward']" in text
  assert "identity.task: folder has 'pong', command has 'breakout'" in text
  assert 'deter' not in text and '\n' not in text
  after = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file() and p.name != '.lock'}
  assert after == before
  run_folder.prepare(tmp_path, CONFIG, IDENTITY).close()  # the refused start left no lock


def test_a_run_of_the_format_before_goes_on(tmp_path):
  """Its config.json stays as it is; a setting that differs is told by its name of today."""
  before = {'config': CONFIG.to_json(), 'identity': IDENTITY}
  (tmp_path / 'config.json').write_text(json.dumps(before))
  (tmp_path / 'checkpoints' / '10').mkdir(parents=True)
  with run_folder.prepare(tmp_path, CONFIG, IDENTITY) as folder:
    assert folder.resumed
  with pytest.raises(UserError, match='config.seed: folder has 0, command has 3'):
    run_folder.prepare(tmp_path, CONFIG.replace({'seed': 3}), IDENTITY)
  assert json.loads((tmp_path / 'config.json').read_text()) == before


def test_a_config_that_is_no_json_is_not_overwritten(tmp_path):
  (tmp_path / 'config.json').write_text('{"config": ')
  with pytest.raises(UserError, match='nothing was overwritten'):
    run_folder.prepare(tmp_path, CONFIG, IDENTITY)
  assert (tmp_path / 'config.json').read_text() == '{"config": '


def test_two_runs_in_one_folder_are_refused(tmp_path):
  with run_folder.prepare(tmp_path, CONFIG, IDENTITY):
    with pytest.raises(UserError, match='in use by process'):
      run_folder.prepare(tmp_path, CONFIG, IDENTITY)
  run_folder.prepare(tmp_path, CONFIG, IDENTITY).close()


def test_a_process_that_died_leaves_no_lock(tmp_path):
  code = (
    'import os, sys; from harmony_jax.training import run_folder as r; '
    'from tests import small; f = r.prepare(sys.argv[1], small.run_config(), {}); os._exit(9)'
  )
  done = subprocess.run([sys.executable, '-c', code, str(tmp_path)], check=False)
  assert done.returncode == 9 and (tmp_path / 'config.json').exists()
  run_folder.prepare(tmp_path, CONFIG, {}).close()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='cannot write to the run folder') as caught:
    run_folder.prepare(tmp_path / 'file' / 'run', CONFIG, IDENTITY)
  assert '\n' not in str(caught.value)


def test_the_marker_of_completion(tmp_path):
  with run_folder.prepare(tmp_path, CONFIG, IDENTITY) as folder:
    assert not folder.is_complete() and not run_folder.is_complete(tmp_path)
    folder.mark_complete({'score': 21.0, 'steps': 100})
    assert folder.is_complete() and run_folder.is_complete(tmp_path)
  assert json.loads((tmp_path / '.complete').read_text()) == {'score': 21.0, 'steps': 100}


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path):
  path = tmp_path / 'file'
  path.write_text('old')
  with pytest.raises(ZeroDivisionError):
    with run_folder.atomic_write(path) as file:
      file.write('new')
      raise ZeroDivisionError
  assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('left', ['nothing', 'lines', 'config', 'half'])
def test_a_folder_in_which_nothing_is_saved_belongs_to_nobody(left, tmp_path):
  """A start that was refused, killed or failed before its first checkpoint, then another one."""
  run_folder.prepare(tmp_path, CONFIG, IDENTITY).close()
  (tmp_path / 'checkpoints').mkdir()
  if left != 'nothing':
    (tmp_path / 'scores.jsonl').write_text('{"step": 0}\n')
  if left == 'config':
    (tmp_path / 'config.json').unlink()
  if left == 'half':
    (tmp_path / 'config.json').write_text('{"config": ')
  other = CONFIG.replace({'seed': 1})
  if left == 'half':  # nobody knows whose
    with pytest.raises(UserError, match='not readable as JSON'):
      run_folder.prepare(tmp_path, other, IDENTITY)
    return
  with run_folder.prepare(tmp_path, other, IDENTITY) as folder:
    assert not folder.resumed and config.read(tmp_path) == other
    assert (tmp_path / 'scores.jsonl').exists() == (left == 'config')
  assert (tmp_path / 'environment.txt').read_text().count('command: ') == 1 + (left == 'config')


def test_what_a_start_may_leave_keeps_nobody_out(tmp_path):
  run_folder.prepare(tmp_path, CONFIG, IDENTITY).close()
  left = 'replay/manifest.json', 'videos/a', 'tensorboard/a', 'checkpoints/1.orbax-checkpoint-tmp/a'
  for path in (tmp_path / name for name in left):
    path.parent.mkdir(parents=True)
    path.touch()
  other = CONFIG.replace({'seed': 1})
  run_folder.prepare(tmp_path, other, IDENTITY).close()
  (tmp_path / 'config.json').unlink()
  run_folder.prepare(tmp_path, other, IDENTITY).close()
  with Checkpoints(tmp_path / 'checkpoints'):
    assert not list((tmp_path / 'checkpoints').iterdir())


@pytest.mark.parametrize('kept', ['checkpoints/10', 'nonfinite/7'])
def test_a_folder_in_which_something_is_saved_is_its_runs(kept, tmp_path):
  run_folder.prepare(tmp_path, CONFIG, IDENTITY).close()
  (tmp_path / kept).mkdir(parents=True)
  with pytest.raises(UserError, match='holds another run'):
    run_folder.prepare(tmp_path, CONFIG.replace({'seed': 1}), IDENTITY)
  with pytest.raises(UserError, match='holds another run'):
    run_folder.check(tmp_path, CONFIG.replace({'seed': 1}), IDENTITY)


def test_a_command_with_bytes_that_are_no_text_is_written_down(tmp_path, monkeypatch):
  """As Python has them of another alphabet where the locale is C."""
  monkeypatch.setattr(sys, 'orig_argv', ['python', '--config.env.files=\udcc3\udcbc'])
  run_folder.prepare(tmp_path, CONFIG, IDENTITY).close()
  text = (tmp_path / 'environment.txt').read_text(encoding='utf-8')
  assert r'--config.env.files=\udcc3\udcbc' in text
