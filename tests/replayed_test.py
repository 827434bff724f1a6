"""A run's replay as a buffer: whole episodes, as they were played."""

import json
import shutil

import numpy as np
import pytest

from harmony_jax import config as configuration
from harmony_jax import envs, replay_files
from harmony_jax.envs.base import random_vectors, to_environment
from harmony_jax.errors import UserError
from harmony_jax.offline import buffer, minari_data, replayed
from harmony_jax.replay import Replay
from harmony_jax.training.checkpoint import Checkpoints
from harmony_jax.training.loop import _row
from tests import commands, small


def played(folder, capacity, steps):
  """A run folder whose replay holds some steps of two games; return the rows by environment."""
  config, env = small.run_config(), envs.make('catch', 'catch', 2)
  text = {'format': configuration.FORMAT, 'config': config.to_json(), 'identity': {}}
  (folder / 'config.json').write_text(json.dumps(text))
  specs = {'image': ((64, 64, 3), np.uint8), 'action': ((3,), np.float32)}
  specs |= {'reward': ((), np.float32)}
  specs |= dict.fromkeys(('is_first', 'is_last', 'is_terminal'), ((), bool))
  replay, episodes = Replay(specs, 2, capacity, 2, 4, 0, margin=1), envs.Episodes(env, 0, 'train')
  rng, action, rows = np.random.default_rng(0), None, []
  for _ in range(steps):
    now = episodes.step(action)
    vector = random_vectors(env.spec, 2, rng)
    rows.append(_row(now, vector))
    replay.append(rows[-1])
    action = to_environment(vector, env.spec)
  replay.save(folder / 'replay')
  with Checkpoints(folder / 'checkpoints') as checkpoints:
    checkpoints.save(2 * steps, {'x': np.zeros(1)}, {'spec': env.spec.to_json()})
  return {name: np.stack([row[name] for row in rows], 1) for name in rows[0]}


@pytest.mark.parametrize(('capacity', 'oldest'), [(200, 0), (48, 8)])
def test_whole_episodes(tmp_path, capacity, oldest):
  """Games are of 8 steps. Of 27, the last 3 are a game that goes on; of the last 25 that a small
  replay keeps the first 6 are of a game whose beginning has gone.
  """
  rows = played(tmp_path, capacity, 27)
  found = replayed.load(tmp_path)
  np.testing.assert_array_equal(found.starts, np.arange(0, 2 * (24 - oldest) + 1, 8))
  for name, array in {**found.observation, **found.rows}.items():
    expected = np.concatenate([rows[name][env, oldest:24] for env in range(2)])
    np.testing.assert_array_equal(array, expected)
  assert found.rows['is_first'][found.starts[:-1]].all()
  assert found.rows['is_last'][found.starts[1:] - 1].all()
  assert found.spec == envs.make('catch', 'catch', 1).spec


def test_parts_of_other_numbers_of_processes_are_of_the_past(tmp_path):
  """Two processes began the run, which one goes on with: what they saved stays in the folder."""
  for name in ('past', 'run'):
    (tmp_path / name).mkdir()
  played(tmp_path / 'past', 200, 11)
  rows = played(tmp_path / 'run', 200, 27)
  for index in range(2):
    place = replay_files.part(tmp_path / 'run' / 'replay', index, 2)
    shutil.copytree(tmp_path / 'past' / 'replay', place)
  found = replayed.load(tmp_path / 'run')
  assert len(found.starts) == 7 and len(found.rows['reward']) == 48
  np.testing.assert_array_equal(found.rows['reward'][:24], rows['reward'][0, :24])


def test_the_command_and_minari(tmp_path, monkeypatch):
  pytest.importorskip('minari')
  monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path / 'datasets'))
  rows = played(tmp_path, 200, 27)
  ended = commands.run(
    *('offline', 'replay', f'--logdir={tmp_path}', f'--output={tmp_path / "b.npz"}')
  )
  assert ended.returncode == 0, ended.stderr
  assert '6 episodes, 48 steps' in ended.stdout
  minari_data.save(buffer.load(tmp_path / 'b.npz'), 'mine/catch-v0')
  again = minari_data.load('mine/catch-v0')
  np.testing.assert_array_equal(again.observation['image'][:24], rows['image'][0, :24])
  np.testing.assert_array_equal(again.rows['reward'][24:], rows['reward'][1, :24])


def test_what_has_no_replay(tmp_path):
  played(tmp_path, 200, 5)
  with pytest.raises(UserError, match='no complete episode yet'):
    replayed.load(tmp_path)
  (path,) = (tmp_path / 'replay').glob('steps-*.npz')
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(UserError, match='is damaged'):
    replayed.load(tmp_path)
  for each in (tmp_path / 'replay').iterdir():
    each.unlink()
  (tmp_path / 'replay').rmdir()
  with pytest.raises(UserError, match='keep_replay=True'):
    replayed.load(tmp_path)
