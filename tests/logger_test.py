"""Metrics, scores and progress: every line readable, none doubled after a resume."""

import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax.training import progress
from harmony_jax.training.logger import MetricsWriter


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_take_every_kind_of_scalar(tmp_path):
  writer = MetricsWriter(tmp_path)
  assert writer.write(10, 40, 3, {'loss/reward': jnp.float32(0.5), 'a': np.ones(1), 'b': 2}) == []
  assert lines(tmp_path / 'metrics.jsonl') == [
    {'step': 10, 'frame': 40, 'update': 3, 'loss/reward': 0.5, 'a': 1.0, 'b': 2.0}
  ]


def test_what_is_not_finite_is_null_and_named(tmp_path):
  writer = MetricsWriter(tmp_path)
  bad = writer.write(1, 4, 0, {'x': np.nan, 'y': jnp.inf, 'z': 1.0})
  assert bad == ['x', 'y']
  assert lines(tmp_path / 'metrics.jsonl') == [
    {'step': 1, 'frame': 4, 'update': 0, 'x': None, 'y': None, 'z': 1.0, 'nonfinite': ['x', 'y']}
  ]


def test_a_metric_that_is_no_scalar_is_named(tmp_path):
  writer = MetricsWriter(tmp_path)
  with pytest.raises(ValueError, match='loss/image has shape'):
    writer.write(1, 4, 0, {'loss/image': np.zeros(3)})
  assert not (tmp_path / 'metrics.jsonl').exists()


def test_scores_keep_their_lists(tmp_path):
  writer = MetricsWriter(tmp_path)
  writer.write_score(
    {'step': 5, 'scores': np.array([1.5, np.nan]), 'task': 'pong', 'n': np.int64(2)}
  )
  assert lines(tmp_path / 'scores.jsonl') == [
    {'step': 5, 'scores': [1.5, None], 'task': 'pong', 'n': 2}
  ]
  with pytest.raises(ValueError, match='step'):
    writer.write_score({'score': 1.0})
  with pytest.raises(TypeError, match='object'):
    writer.write_score({'step': 6, 'x': object()})


def test_truncate_drops_later_and_unfinished_lines(tmp_path):
  writer = MetricsWriter(tmp_path)
  for step in (10, 20, 30):
    writer.write(step, 4 * step, step, {'x': step})
    writer.write_score({'step': step, 'score': 1.0})
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 15, "fra')  # a crash in the middle of a line
  resumed = MetricsWriter(tmp_path)
  resumed.truncate_after(20)
  assert [line['step'] for line in lines(tmp_path / 'metrics.jsonl')] == [10, 20]
  assert [line['step'] for line in lines(tmp_path / 'scores.jsonl')] == [10, 20]
  resumed.write(30, 120, 30, {'x': 0})
  assert [line['step'] for line in lines(tmp_path / 'metrics.jsonl')] == [10, 20, 30]
  assert sorted(path.name for path in tmp_path.iterdir()) == ['metrics.jsonl', 'scores.jsonl']


def test_what_is_finite_is_shown(tmp_path):
  shown = []
  writer = MetricsWriter(tmp_path, lambda step, values: shown.append((step, values)))
  writer.write(10, 40, 3, {'loss/reward': 0.5, 'broken': np.nan})
  assert shown == [(10, {'loss/reward': 0.5})]


INFO = {'score': 21.0, 'harmony/reward/sigma': 0.25, 'harmony/reward/weight': 4.0}


def test_progress_prints_plain_lines_at_its_interval():
  file = io.StringIO()
  with progress.Progress(1000, interval=3600, file=file) as shown:
    for step in range(1, 11):
      shown.update(step, INFO)
    shown.line('evaluation: 21.0')
  first, second = file.getvalue().splitlines()
  assert first.startswith('step 1/1,000 (0.1%)')
  assert 'score 21' in first and 'reward σ=0.25 w=4' in first
  assert second == 'evaluation: 21.0'


def test_progress_panel_shows_the_weights():
  file = io.StringIO()
  with progress.Progress(1000, live=True, file=file) as shown:
    shown.update(500, INFO)
    shown.line('evaluation: [21.0]')
  text = file.getvalue()
  assert 'evaluation: [21.0]' in text
  assert 'step 500/1,000 (50.0%)' in text and 'reward' in text and '0.25' in text


def test_speed_leaves_out_the_steps_of_an_earlier_start(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  file = io.StringIO()
  shown = progress.Progress(1000, start=400, interval=0, file=file)
  now[0] = 110.0
  shown.update(600)
  assert shown.speed() == 20.0
  assert '20.0 steps/s  0:00:20 left' in file.getvalue()


def test_before_the_first_update_there_is_no_speed(monkeypatch):
  """And then it is counted from there: compiling took 100 s, a step takes one."""
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  file = io.StringIO()
  shown = progress.Progress(1000, start=400, interval=0, file=file)
  shown.prepare('collects experience: 400 of at least 401 steps')
  shown.update(401)
  shown.prepare('compiling')
  now[0] = 100.0
  shown.prepare('')
  for step in range(402, 414):
    now[0] += 1
    shown.update(step)
  first, *_, last = file.getvalue().splitlines()
  assert first == 'step 401/1,000 (40.1%)  collects experience: 400 of at least 401 steps'
  assert last.endswith('1.0 steps/s  0:09:47 left')
