"""A run measures itself, so that the next one knows before it starts how long and big it is."""

import io
import json
import re
import time
import types

import numpy as np

from harmony_jax.training import measured, progress
from harmony_jax.training.run_state import RunState
from tests.runs import config_of, train


def test_a_run_measures_itself_for_the_next_one(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(measured, 'SECONDS', 0.0)
  config = config_of()
  assert measured.load(config, 'cpu') is None
  train(tmp_path / 'run', config)
  said = re.findall(
    r'measured: (\S+) steps/s, (\S+) left .* memory (.*), (.*) with', capsys.readouterr().out
  )
  assert len(said) == 1
  found = measured.load(config.replace({'seed': 7, 'steps': 10**6}), 'cpu')
  assert found and f'{found["steps_per_second"]:.3g}' == said[0][0]
  assert 1e8 < found['memory'] < 1e11
  assert measured.load(config.replace({'batch_size': 2}), 'cpu') is None
  assert measured.load(config, 'gpu') is None
  told = measured.text(found | {'steps_per_second': 50.0, 'memory': 2e9, 'cores': 1}, 3600 * 50)
  assert told.startswith('about 1:00:00 without evaluations, 2.0 GB of memory (measured here on')
  measured.place(config, 'cpu').write_text(json.dumps({'steps_per_second': 0}))
  assert measured.load(config, 'cpu') is None


def test_an_environment_of_another_package_is_another_kind():
  """A picture of a slow simulator is not as fast as CartPole; Atari's games are."""
  for suite, tasks, alike in (
    ('gym', ('CartPole-v1', 'Humanoid-v5'), False),
    ('jax_envs', ('gymnax:CartPole-v1', 'craftax:Craftax-Pixels-v1'), False),
    ('atari', ('Pong', 'Breakout'), True),
  ):
    each = {measured.place(config_of(suite=suite, task=task), 'cpu') for task in tasks}
    assert (len(each) == 1) == alike


def test_updates_that_are_only_begun_are_waited_for(monkeypatch):
  """100 steps of an episode take 10 s, the updates that are begun at its end another 90."""
  clock, told = [0.0], []
  monkeypatch.setattr(time, 'monotonic', lambda: clock[0])
  never = types.SimpleNamespace(crossed=lambda step, every: False)
  wait = lambda: clock.__setitem__(0, clock[0] + 90)
  running = types.SimpleNamespace(block_until_ready=wait)
  trainer = types.SimpleNamespace(
    state=RunState(np.zeros(1), step=100, update=3),
    config=config_of(steps=1000),
    updates=types.SimpleNamespace(done=True, state=running),
    schedule=never,
    replay=None,
    group=types.SimpleNamespace(count=2),
    progress=types.SimpleNamespace(line=told.append),
  )
  measure = measured.Measurement()
  measure(trainer)
  clock[0], trainer.state.step, trainer.state.update = 10.0, 200, 53
  measure(trainer)
  assert told and told[0].startswith('measured: 1 steps/s, 0:13:20 left')


def test_time_left_counts_from_the_first_update_of_this_process(monkeypatch):
  """A run that goes on from step 500 compiles for 100 s, then makes 10 steps a second."""
  clock = [0.0]
  monkeypatch.setattr(time, 'monotonic', lambda: clock[0])
  out = io.StringIO()
  shown = progress.Progress(1000, 500, interval=0, live=False, file=out)
  shown.prepare('compiling')
  clock[0] = 100.0
  shown.update(501)
  shown.prepare('')
  for second in range(20):
    clock[0] += 1
    shown.update(501 + 10 * (second + 1))
  assert out.getvalue().splitlines()[-1].endswith('10.0 steps/s  0:00:30 left')
