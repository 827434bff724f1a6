"""Folders as users name them: the home, addresses of other machines, files in the way."""

import os
import pathlib
import re

import pytest

from harmony_jax import config, trained
from harmony_jax.envs import backgrounds, dmcr_textures
from harmony_jax.errors import UserError
from harmony_jax.paths import local_path
from harmony_jax.reporting import published, records, report, results_files
from harmony_jax.training import faults, recording, run_folder
from tests import commands, small

# everything that takes a folder from a user
TAKERS = [
  lambda path: run_folder.prepare(path, small.run_config(), {}),
  lambda path: run_folder.check(path, small.run_config(), {}),
  config.read,
  trained.Agent.load,
  faults.reproduce,
  recording.writable,
  records.read,
  records.collect,
  report.check,
  published.read_scores,
  lambda path: results_files.write([], path),
  lambda path: backgrounds.read_frames(path, 8, 1),
  dmcr_textures.Photos,
]
ADDRESSES = ['gs://bucket/run', 's3://b', 'file:///tmp/x', 'https://host/run', 'memory://x']


@pytest.mark.parametrize('take', TAKERS)
@pytest.mark.parametrize('address', ADDRESSES)
def test_an_address_is_no_folder(take, address, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for each in (address, pathlib.Path(address)):
    with pytest.raises(UserError, match='is an address') as caught:
      take(each)
    assert '\n' not in str(caught.value)
  assert not list(tmp_path.iterdir())


def test_the_home_is_put_in(monkeypatch):
  monkeypatch.setenv('HOME', '/some where')
  assert str(local_path('~/runs/ü→/')) == '/some where/runs/ü→'
  assert local_path('~') == pathlib.Path('/some where')
  assert str(local_path('a b/~x:y')) == 'a b/~x:y'


def test_a_home_that_nobody_knows_is_one_line(monkeypatch):
  monkeypatch.delenv('HOME')
  monkeypatch.setattr(os, 'getuid', lambda: 12345)
  for text in ('~/runs', '~nobody-of-this-name/runs'):
    with pytest.raises(UserError, match=re.escape(text)):
      local_path(text)


def test_bytes_that_are_no_text_are_one_line():
  """Checkpoints could not be written there, which would show hours later."""
  with pytest.raises(UserError, match='PYTHONUTF8=1'):
    local_path('runs/\udcc3\udcbc')


# of each command, the flags that name a place
PLACES = {
  'catch': ['logdir'],
  'evaluate': ['logdir', 'output'],
  'play': ['logdir', 'output'],
  'reproduce': ['logdir'],
  'report': ['output', 'reference'],
  'results': ['output'],
  'sweep': ['root'],
  'benchmark': ['output', 'again'],
  'docs': ['output'],
  'contact_sheet': ['output'],
}


@pytest.mark.parametrize('command', PLACES)
def test_commands_refuse_addresses(command, tmp_path):
  for flag in PLACES[command]:
    done = commands.run(command, f'--{flag}=gs://bucket/run', folder=tmp_path)
    assert done.returncode == 2, done
    [line] = done.stderr.splitlines()
    assert line.startswith(f'error: flag --{flag}=gs://bucket/run: ') and 'mount it' in line


def test_commands_know_the_home_and_files_in_the_way(tmp_path):
  (tmp_path / 'file').write_text('')
  for command in ('reproduce', 'evaluate', 'play'):
    done = commands.run(command, '--logdir=~/none', HOME=str(tmp_path))
    assert done.returncode == 2 and f'{tmp_path}/none holds no run' in done.stderr, done
  for command, flag in (('catch', 'logdir'), ('sweep', 'root'), ('results', 'output')):
    words = [f'--{flag}=~/file', '--preset=tiny'] if command != 'results' else [f'--{flag}=~/file']
    words += ['--suite=catch'] if command == 'sweep' else []
    words += ['~/none'] if command == 'results' else []
    done = commands.run(command, *words, HOME=str(tmp_path))
    assert done.returncode == 2 and len(done.stderr.splitlines()) <= 2, done
    assert str(tmp_path) in done.stderr and 'Traceback' not in done.stderr
  for command, words, told in (
    ('contact_sheet', '--output=~/sheet', 'must end in .png'),
    ('contact_sheet', '--tasks=run_cheetah', 'run_cheetah'),
    ('demo', '--picture=~/screen.png', 'must end in .svg'),
    ('benchmark', '--output=~', 'is a folder'),
  ):
    done = commands.run(command, words, folder=tmp_path, HOME=str(tmp_path))
    assert done.returncode == 2 and told in done.stderr and done.stderr.count('\n') == 1, done
  output = '--output=~/none/bench.json'
  done = commands.run('benchmark', '--what=replay', '--suite=catch', output, HOME=str(tmp_path))
  assert done.returncode == 2 and f'cannot write to the folder of {tmp_path}/none' in done.stderr
