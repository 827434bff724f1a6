"""Records from run folders and results files: what is read, what is named and left out; no run
counts twice.
"""

import json
import os
import pathlib
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony_jax.reporting import form, records, results_files
from tests import sweeps
from tests.damage import assert_one_line, cases, copy_of, damages, files_in

ENVIRONMENT = """# 2026-01-02T03:04:05+00:00
command: /home/somebody/venv/bin/python -m experiments.dmcr --seed=3 --logdir=/data/runs/x --dmcr_assets=/data/pictures
commit:  abc (dirty)
python:  3.11.7 on Linux
devices: NVIDIA H100 (gpu)
jax==0.10.2
numpy==2.4.6
pip==26.3

# 2026-01-03T00:00:00+00:00
command: python -m experiments.dmcr --logdir /data/runs/x
commit:  def
jax==0.11.0

"""


def write_run(
  folder, seed=0, steps=(50, 100), complete=True, task='Pong', lines=10, first=1.0, **config
):
  """A run folder with an evaluation at each of `steps`; the score rises by one."""
  folder.mkdir(parents=True)
  config = {
    'suite': 'atari',
    'task': task,
    'method': 'dreamerv3',
    'weighting': {'rule': 'harmony'},
    'preset': 'cpu',
    'seed': seed,
    'steps': 100,
    'score': 'return',
    'eval_every': 50,
    'eval_episodes': 2,
    'final_eval_episodes': 2,
    'env': {'frame_cap': 0},
    **config,
  }
  (folder / 'config.json').write_text(json.dumps({'config': config, 'identity': {}}))
  (folder / 'environment.txt').write_text(ENVIRONMENT)
  append(
    folder / 'metrics.jsonl',
    *(
      {
        'step': step,
        'frame': 4 * step,
        'update': step,
        'loss/reward': 1 / step,
        'harmony/reward/sigma': 0.123456789,
        'harmony/reward/weight': 2.0,
        'harmony/reward/scaled': 9.0,
        'actor/entropy': 1.0,
        'time/hours': step / 1000,
      }
      for step in range(1, lines + 1)
    ),
  )
  append(
    folder / 'scores.jsonl',
    *(
      {
        'step': step,
        'frame': 4 * step,
        'update': step,
        'eval_mean': first + index,
        'eval_std': 0.5,
        'eval_scores': [first + index - 0.5, first + index + 0.5],
        'eval_lengths': [7, 8],
        'eval_success': 0.25,
        'train_mean': None if index == 0 else 3.0,
        'train_scores': [] if index == 0 else [2.0, 4.0],
        'time/hours': step / 1000,
        'time/eval_seconds': 3.0,
      }
      for index, step in enumerate(steps)
    ),
  )
  if complete:
    (folder / '.complete').write_text('{"hours": 0.5}')
  return folder


def append(path, *lines):
  with open(path, 'a', encoding='utf-8') as file:
    file.writelines(json.dumps(line) + '\n' for line in lines)


def change(folder, **fields):
  """Changes fields of a run's configuration; None takes one away."""
  content = json.loads((folder / 'config.json').read_text())
  content['config'] = {
    key: entry for key, entry in (content['config'] | fields).items() if entry is not None
  }
  (folder / 'config.json').write_text(json.dumps(content))


def only(paths):
  """The one record there, with nothing to complain of."""
  found, problems = records.collect(paths)
  assert not problems and len(found) == 1, problems
  return found[0]


def test_a_run_folder_becomes_a_record(tmp_path):
  folder = write_run(tmp_path / 'seed3', 3)
  record = only(folder)
  assert records.read(folder) == record
  assert {
    key: record[key]
    for key in (
      'suite',
      'task',
      'method',
      'base',
      'weighting',
      'preset',
      'seed',
      'complete',
      'source',
      'planned_steps',
      'action_repeat',
      'score',
      'hours',
    )
  } == {
    'suite': 'atari',
    'task': 'Pong',
    'method': 'dreamerv3-harmony-cpu',
    'base': 'dreamerv3',
    'weighting': 'harmony',
    'preset': 'cpu',
    'seed': 3,
    'complete': True,
    'source': str(folder),
    'planned_steps': 100,
    'action_repeat': 4,
    'score': 'return',
    'hours': 0.5,
  }
  first, last = record['evaluations']
  assert last == {
    'step': 100,
    'frame': 400,
    'update': 100,
    'hours': 0.1,
    'mean': 2.0,
    'std': 0.5,
    'episodes': 2,
    'train_mean': 3.0,
    'train_episodes': 2,
    'scores': [1.5, 2.5],
    'measures': {'success': 0.25},
  }
  assert first['scores'] is None and first['train_mean'] is None and first['episodes'] == 2
  assert (
    records.final(record) == 2.0 and records.value(last, {**record, 'score': 'success'}) == 0.25
  )
  assert records.value(last, {**record, 'score': 'speed'}) is None
  assert record['steps_per_second'] == pytest.approx(100 / (0.1 * 3600))
  steps = list(range(1, 11))
  assert record['metrics'] == {
    'harmony/reward/sigma': [steps, [0.123457] * 10],
    'harmony/reward/weight': [steps, [2.0] * 10],
    'loss/reward': [steps, [float(f'{1 / step:.6g}') for step in steps]],
  }
  assert record['environment'] == {
    'command': "python -m experiments.dmcr --seed=3 '--dmcr_assets=…/pictures'",
    'commit': 'abc (dirty)',
    'python': '3.11.7 on Linux',
    'devices': 'NVIDIA H100 (gpu)',
    'date': '2026-01-02T03:04:05+00:00',
    'versions': {'jax': '0.10.2', 'numpy': '2.4.6'},
  }


def test_many_metrics_are_thinned_evenly(tmp_path):
  folder = write_run(tmp_path / 'seed0', lines=1_000)
  steps, values = only(folder)['metrics']['loss/reward']
  assert len(steps) == len(values) == form.MOST and steps[0] == 1 and steps[-1] == 1_000
  assert {b - a for a, b in zip(steps, steps[1:])} == {5, 6}
  append(
    folder / 'metrics.jsonl', {'step': 1_001, 'loss/reward': None, 'nonfinite': ['loss/reward']}
  )
  assert only(folder)['metrics']['loss/reward'][0][-1] < 1_001  # a number that was not finite


def test_runs_that_are_going_on(tmp_path):
  started = write_run(tmp_path / 'seed0', 0, steps=(), complete=False, lines=0)
  going = write_run(tmp_path / 'seed1', 1, steps=(50,), complete=False)
  for name in ('scores.jsonl', 'metrics.jsonl'):
    with open(going / name, 'ab') as file:
      file.write(b'{"step": 100, "eval_mean": 1\xff')
  found, problems = records.collect([started, going])
  assert not problems and [len(record['evaluations']) for record in found] == [0, 1]
  assert not found[0]['complete'] and not found[1]['complete']
  assert (
    records.final(found[0]) is None and found[0]['hours'] is found[0]['steps_per_second'] is None
  )
  assert (
    found[0]['action_repeat'] == 4 and found[0]['metrics'] == {} and records.final(found[1]) == 1.0
  )


LINE = {
  'step': 100,
  'frame': 400,
  'update': 1,
  'eval_mean': 1.0,
  'eval_scores': [1.0],
  'train_mean': None,
}
DAMAGES = {
  'no config': lambda run: (run / 'config.json').unlink(),
  'garbled config': lambda run: (run / 'config.json').write_bytes(b'\x00{"config'),
  'config is a list': lambda run: (run / 'config.json').write_text('[1]'),
  'no seed': lambda run: change(run, seed=None),
  'no weighting': lambda run: change(run, weighting=None),
  'weighting of another kind': lambda run: change(run, weighting='harmony'),
  'no steps': lambda run: change(run, steps=None),
  'steps are text': lambda run: change(run, steps='many'),
  'the seed is true': lambda run: change(run, seed=True),
  'a method that is a path': lambda run: change(run, method='../../x'),
  'env is a number': lambda run: change(run, env=5),
  'unknown policy': lambda run: change(run, eval_policy='best'),
  'garbled middle line': lambda run: (run / 'scores.jsonl').write_bytes(
    b'\x00\n' + (run / 'scores.jsonl').read_bytes()
  ),
  'garbled metrics': lambda run: (run / 'metrics.jsonl').write_bytes(b'{}\n'),
  'a score is text': lambda run: append(run / 'scores.jsonl', {**LINE, 'eval_mean': 'good'}),
  'a score is nan': lambda run: (run / 'scores.jsonl').write_text(
    '{"step": 100, "eval_mean": NaN}\n'
  ),
  'a score is huge': lambda run: (run / 'scores.jsonl').write_text(
    '{"step": 100, "eval_mean": 1e999}\n'
  ),
  'a line lacks fields': lambda run: (run / 'scores.jsonl').write_text('{"step": 100}\n'),
  'no scores in a line': lambda run: append(run / 'scores.jsonl', {**LINE, 'eval_scores': []}),
  'a metric is text': lambda run: append(
    run / 'metrics.jsonl', {'step': 99, 'loss/reward': 'small'}
  ),
  'scores are a folder': lambda run: (
    (run / 'scores.jsonl').unlink(),
    (run / 'scores.jsonl').mkdir(),
  ),
  'complete without its last evaluation': lambda run: (run / 'scores.jsonl').write_bytes(
    (run / 'scores.jsonl').read_bytes().splitlines(keepends=True)[0]
  ),
}


@pytest.mark.parametrize('kind', DAMAGES)
def test_a_damaged_run_is_named_in_one_line_and_left_out(tmp_path, kind):
  write_run(tmp_path / 'good', 0)
  DAMAGES[kind](write_run(tmp_path / 'bad', 1))
  found, problems = records.collect([tmp_path])
  assert [record['seed'] for record in found] == [0] and len(problems) == 1
  assert_one_line(problems[0])
  assert str(tmp_path / 'bad') in problems[0]


def test_a_damage_says_what_is_wrong(tmp_path):
  run = write_run(tmp_path / 'seed0')
  DAMAGES['complete without its last evaluation'](run)
  assert 'its last evaluation is at step 50, not at step 100' in records.collect(run)[1][0]
  change(run, seed=None)
  assert "it has no 'seed'" in records.collect(run)[1][0]
  change(run, seed=-1)
  assert "seed must be a whole number from 0, not '-1'" in records.collect(run)[1][0]


def test_a_configuration_of_an_older_version_is_read(tmp_path):
  run = write_run(tmp_path / 'seed0')
  change(run, score=None, eval_episodes=None, final_eval_episodes=None, env=None)
  assert records.final(only(run)) == 2.0
  sweeps.write_run(tmp_path / 'seed1', 100, 5.0, complete=True)  # without what later versions write
  assert records.final(only(tmp_path / 'seed1')) == 5.0


def test_paths(tmp_path, monkeypatch):
  """Folders at any depth, links, single files, and what is not there."""
  for seed in (0, 1):
    write_run(tmp_path / 'runs' / 'atari' / f'seed{seed}', seed)
  (tmp_path / 'runs' / 'atari' / 'seed0' / 'checkpoints').mkdir()
  # is no run's
  (tmp_path / 'runs' / 'atari' / 'seed0' / 'checkpoints' / 'config.json').write_text('{}')
  (tmp_path / 'runs' / 'other.json').write_text('[1, 2]')  # nothing of ours
  (tmp_path / 'runs' / 'again').symlink_to(tmp_path / 'runs')
  monkeypatch.chdir(tmp_path)
  found, problems = records.collect(['runs'])
  assert not problems and [record['source'] for record in found] == [
    'runs/atari/seed0',
    'runs/atari/seed1',
  ]
  assert (
    len(records.collect(['runs', 'runs/atari/seed0', pathlib.Path('runs/again/atari/seed1')])[0])
    == 2
  )
  assert records.collect('runs')[0] == found
  (tmp_path / 'empty').mkdir()
  for path, told in (
    ('runs/atary', 'runs/atary does not exist; the nearest there is: runs/atari'),
    ('rums/atari/seed0', 'rums/atari/seed0 does not exist; the nearest there is: runs'),
    ('runs/atari/zzz', 'runs/atari/zzz does not exist'),
    ('empty', 'empty holds no run folder and no results file'),
    ('runs/atari/seed0/scores.jsonl', 'is a file of a run: name its folder runs/atari/seed0'),
    ('runs/other.json', 'runs/other.json is no results file'),
    ('x\0y', 'does not exist'),
  ):
    found, problems = records.collect([path, 'runs/atari/seed1'])
    assert len(found) == 1 and len(problems) == 1 and told in problems[0], problems
    assert_one_line(problems[0])
  assert records.collect([]) == ([], [])


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
  """As it is told to somebody who is not root."""
  write_run(tmp_path / 'seed0')
  write_run(tmp_path / 'secret' / 'seed1', 1)
  listdir = os.listdir

  def refuse(path):
    if pathlib.Path(path).name == 'secret':
      raise PermissionError(13, 'Permission denied')
    return listdir(path)

  monkeypatch.setattr(os, 'listdir', refuse)
  found, problems = records.collect(tmp_path)
  assert len(found) == 1 and problems == [
    f'{tmp_path / "secret"} cannot be read: Permission denied'
  ]


def test_one_run_is_counted_once_by_its_longest_record(tmp_path):
  whole = write_run(tmp_path / 'whole')
  shutil.copytree(whole, tmp_path / 'copied')
  (tmp_path / 'copied' / '.complete').unlink()
  (tmp_path / 'copied' / 'scores.jsonl').write_bytes(
    (whole / 'scores.jsonl').read_bytes().splitlines(keepends=True)[0]
  )
  results_files.write([only(tmp_path / 'copied')], tmp_path / 'results')
  for paths in (
    ['copied', 'results', 'whole'],
    ['whole', 'copied', 'results'],
    ['results', 'whole'],
  ):
    record = only([tmp_path / path for path in paths])
    assert record['source'] == str(whole) and record['complete']


def test_two_runs_in_one_place(tmp_path):
  """The first, or the one that is complete; a line says so."""
  write_run(tmp_path / 'a', complete=False)
  write_run(tmp_path / 'b', first=5.0)
  write_run(tmp_path / 'c', first=9.0)
  found, problems = records.collect(tmp_path)
  assert [record['source'] for record in found] == [str(tmp_path / 'b')]
  other = f'{tmp_path / "b"} is another run of Pong, dreamerv3-harmony-cpu, seed 0'
  assert problems == [f'{tmp_path / left} is left out: {other}' for left in 'ac']


def test_seeds_with_other_settings_are_named(tmp_path):
  write_run(tmp_path / 'seed0', 0, train_ratio=32.0, devices=0)
  write_run(tmp_path / 'seed1', 1, train_ratio=64.0, devices=1, newer=True)
  write_run(tmp_path / 'boxing', 0, task='Boxing', train_ratio=1.0)
  found, problems = records.collect(tmp_path)
  assert len(found) == 3 and len(problems) == 1
  assert 'seed1: its settings are not those of' in problems[0] and problems[0].endswith(
    'train_ratio (64.0 for 32.0)'
  )


def test_harmonizers_settings_matter_to_harmonizers_only(tmp_path):
  for rule, count in (('none', 0), ('harmony', 1)):
    for seed, beta2 in enumerate((0.99, 0.999)):
      write_run(tmp_path / rule / str(seed), seed, weighting={'rule': rule, 'beta2': beta2})
    assert len(records.collect(tmp_path / rule)[1]) == count


def test_paths_of_the_machine_stay_there(tmp_path):
  config = {'env': {'background_files': '/data/videos/', 'background': 'video'}, 'suite': 'dmc'}
  record = only(write_run(tmp_path / 'seed0', **config))
  assert record['config']['env'] == {'background_files': '…/videos', 'background': 'video'}
  (path, *_), _ = results_files.write([record], tmp_path / 'results')
  assert '/data' not in path.read_text() and str(tmp_path) not in path.read_text()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return write_run(tmp_path_factory.mktemp('runs') / 'seed1', 1)


@cases(150)
@given(harm=st.lists(damages(), min_size=1, max_size=2))
def test_garbage_gives_records_or_lines(run, harm):
  """Damages of a run folder and of a results file; `fuzz_test` has them in a folder that the run
  itself wrote.
  """
  with copy_of(run) as folder:
    (path, _), _ = results_files.write([records.read(run)], folder / 'results')
    path.rename(folder.parent / path.name)
    for damage in harm:
      damage.do([*files_in(folder), folder.parent / path.name])
    found, problems = records.collect([folder, folder.parent / path.name])
    for record in found:
      form.check(record)
    for text in problems:
      assert_one_line(text)
    assert found or problems
