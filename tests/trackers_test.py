"""Trackers: what reaches them, whose run it is there, and that none can end or hold up a run."""

import logging
import sys
import threading
import types

import numpy as np
import pytest

from harmony_jax.errors import UserError
from harmony_jax.training import trackers, video
from harmony_jax.training.trackers import Start, Trackers
from tests import events
from tests.runs import dreamer_of

CONFIG = dreamer_of(seed=3)


def test_names_are_chosen():
  assert trackers.choose(['tensorboard', 'tensorboard']) == ('tensorboard',)
  assert trackers.choose([]) == trackers.choose(['']) == trackers.choose(['none']) == ()
  with pytest.raises(UserError, match="unknown tracker 'wandv': did you mean 'wandb'"):
    trackers.choose(['wandv'])


@pytest.mark.parametrize('name', trackers.TRACKERS)
def test_what_is_missing_is_one_line(name, tmp_path, monkeypatch):
  package = trackers.TRACKERS[name][1]
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(UserError, match=f'pip install {package}$'):
    trackers.choose([name])


def test_a_folder_of_its_name_is_no_package(tmp_path, monkeypatch):
  """Such as wandb/, which wandb leaves where it was started."""
  (tmp_path / 'untracked').mkdir()
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setitem(trackers.TRACKERS, 'untracked', (None, 'untracked'))
  with pytest.raises(UserError, match='pip install untracked'):
    trackers.choose(['untracked'])


def test_a_run_has_a_name_and_a_group(tmp_path):
  start = Start(CONFIG.replace({'weighting.rule': 'none'}), tmp_path)
  assert start.name == 'catch-dreamerv3-none-s3'
  assert start.group == 'catch-catch-dreamerv3-none-tiny'


FRAMES = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.full((1, 4, 6, 3), 80, np.uint8)


def test_tensorboard_has_all(tmp_path):
  """Scalars, hyper-parameters, a picture, and a video as a gif, which its viewer plays."""
  picture = video.save_image(tmp_path / 'picture.png', FRAMES[1])
  shown = Trackers(['tensorboard'])
  shown.begin(Start(CONFIG, tmp_path))
  shown.scalars(10, {'loss/reward': 0.5})
  shown.video(10, 'open_loop/image', tmp_path / 'video.mp4', FRAMES)
  shown.image(10, 'prototypes', picture)
  shown.close()
  found = events.shown(tmp_path / 'tensorboard')
  assert found['loss/reward'] == [(10, 0.5)]
  ((_, movie),), ((_, image),) = found['open_loop/image'], found['prototypes']
  assert movie.encoded_image_string.startswith(b'GIF89a') and (movie.height, movie.width) == (4, 6)
  assert image.encoded_image_string == picture.read_bytes()
  assert {'_hparams_/experiment', '_hparams_/session_start_info'} < set(found)
  (begins,) = [
    value.metadata.plugin_data.content
    for event in events.read(tmp_path / 'tensorboard')
    for value in event.summary.value
    if value.tag.endswith('session_start_info')
  ]
  assert b'rssm.deter' in begins and b'dreamerv3' in begins


def test_tensorboard_drops_what_comes_again(tmp_path):
  for step, value in ((0, 1.0), (5, 2.0)):
    shown = Trackers(['tensorboard'])
    shown.begin(Start(CONFIG, tmp_path, step))
    for at in (5, 6)[bool(step) :]:
      shown.scalars(at, {'x': value})
    shown.close()
  assert events.shown(tmp_path / 'tensorboard')['x'] == [(5, 1.0), (6, 2.0)]


@pytest.fixture
def service(monkeypatch):
  """A module that is wandb and trackio; `calls` lists what it was told, `has` is its next step."""
  fake = types.SimpleNamespace()
  fake.calls, fake.has = [], 0
  run = types.SimpleNamespace(
    log=lambda values, step: fake.calls.append((step, values)),
    finish=lambda: fake.calls.append('finish'),
  )

  def init(*project, **settings):
    run.step = run._next_step = fake.has
    fake.calls.append(dict(zip(('project',), project)) | settings)
    return run

  fake.init, fake.Settings = init, lambda **settings: settings
  fake.Video, fake.Image = lambda path: f'video {path}', lambda path: f'image {path}'
  for name in ('wandb', 'trackio'):
    monkeypatch.setitem(sys.modules, name, fake)
  monkeypatch.setattr(trackers, 'choose', tuple)
  for variable in [name for name in trackers.os.environ if name.startswith('WANDB_')]:
    monkeypatch.delenv(variable)
  return fake


@pytest.mark.parametrize('name', ['wandb', 'trackio'])
def test_a_service_goes_on_with_the_same_run(name, tmp_path, service):
  """And is sent only the steps that it does not have; what begins anew is another run there."""
  for step, has in ((0, 0), (50, 70), (0, 0)):
    service.has = has
    shown = Trackers([name])
    shown.begin(Start(CONFIG, tmp_path, step))
    for at in (step + 10, step + 20):
      shown.scalars(at, {'x': 1.0})
    shown.video(step + 30, 'v', tmp_path / 'v.mp4', FRAMES)
    shown.image(step + 30, 'i', tmp_path / 'i.png')
    shown.close()
  begun = [call for call in service.calls if isinstance(call, dict)]
  key = 'id' if name == 'wandb' else 'name'
  assert begun[0][key] == begun[1][key] != begun[2][key]
  assert all(call['resume'] == 'allow' and call['project'] == 'harmony-jax' for call in begun)
  assert begun[0]['config'] == CONFIG.to_json() and begun[0]['group'] == begun[2]['group']
  assert begun[0]['name'].startswith('catch-dreamerv3-harmony-s3')
  at = next(index for index, call in enumerate(service.calls) if call is begun[1])
  media = [(80, {'v': f'video {tmp_path}/v.mp4'}), (80, {'i': f'image {tmp_path}/i.png'})]
  assert service.calls[at + 1 : at + 5] == [(70, {'x': 1.0}), *media, 'finish']


def test_the_users_variables_of_wandb_win(tmp_path, service, monkeypatch):
  for name in ('PROJECT', 'NAME', 'RUN_GROUP', 'DIR', 'RUN_ID', 'RESUME', 'FINISH_TIMEOUT'):
    monkeypatch.setenv(f'WANDB_{name}', '7')
  shown = Trackers(['wandb'])
  shown.begin(Start(CONFIG, tmp_path))
  shown.close()
  assert service.calls[0] == {'config': CONFIG.to_json(), 'settings': {'reinit': 'create_new'}}


def test_one_that_cannot_begin_is_one_line(tmp_path, service):
  service.init = lambda **settings: 1 / 0
  with pytest.raises(UserError, match='--tracker=wandb cannot begin: division by zero'):
    Trackers(['wandb']).begin(Start(CONFIG, tmp_path))


@pytest.fixture
def two(monkeypatch):
  """Two trackers, 'good' and 'bad'; `calls` lists what reached the first."""
  calls, leave = [], threading.Event()
  good = types.SimpleNamespace(
    scalars=lambda step, values: calls.append(step), close=lambda: calls.append('close')
  )
  bad = types.SimpleNamespace(scalars=lambda step, values: 1 / 0, close=leave.wait)
  kinds = {'good': (lambda start: good, 'json'), 'bad': (lambda start: bad, 'json')}
  monkeypatch.setattr(trackers, 'TRACKERS', kinds)
  yield types.SimpleNamespace(calls=calls, bad=bad, leave=leave)
  leave.set()


def warnings(caplog):
  return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_one_that_fails_is_left_out(tmp_path, two, caplog):
  shown = Trackers(['bad', 'good'])
  shown.begin(Start(CONFIG, tmp_path))
  for step in range(3):
    shown.scalars(step, {'x': 1.0})
  shown.close()
  assert two.calls == [0, 1, 2, 'close']
  (line,) = warnings(caplog)
  assert 'without the tracker bad' in line and line.endswith('ZeroDivisionError: division by zero')


@pytest.mark.parametrize('waiting, why', [(100, 'its end takes more'), (2, 'does not keep up')])
def test_one_that_hangs_holds_nothing_up(waiting, why, tmp_path, two, caplog, monkeypatch):
  monkeypatch.setattr(trackers, 'WAITING', waiting)
  monkeypatch.setattr(trackers, 'PATIENCE', 0.1)
  two.bad.scalars = lambda step, values: two.leave.wait()
  shown = Trackers(['bad'])
  shown.begin(Start(CONFIG, tmp_path))
  for step in range(5):
    shown.scalars(step, {'x': 1.0})
  shown.close()
  (line,) = warnings(caplog)
  assert why in line
