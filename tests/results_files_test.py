"""Results files: what is written is read again, runs are added bit by bit, and nothing of others is
overwritten.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony_jax.errors import UserError
from harmony_jax.reporting import form, published, records, results_files
from tests.damage import assert_one_line, cases
from tests.records_test import append, change, write_run

ROOT = pathlib.Path(__file__).parents[1]


def without_source(found):
  return sorted(({**record, 'source': ''} for record in found), key=form.place)


# --------------------------------------------------------------------------------------------------
# Whatever a record holds

numbers = st.floats(-1e9, 1e9) | st.integers(-(10**6), 10**6)
leaves = (
  numbers
  | st.booleans()
  | st.none()
  | st.text(max_size=5)
  | st.lists(st.integers(0, 3), max_size=3)
)
sections = st.dictionaries(
  st.text(max_size=4), leaves | st.dictionaries(st.text(max_size=3), leaves, max_size=3), max_size=4
)


@st.composite
def one_record(draw, task, seed):
  config = {
    **draw(st.dictionaries(st.sampled_from('abc'), sections | leaves, max_size=3)),
    'suite': 'mine',
    'task': task,
    'method': 'dreamerv3',
    'weighting': {'rule': 'none', **draw(st.dictionaries(st.just('w'), numbers))},
    'preset': 'cpu',
    'seed': seed,
    'steps': draw(st.sampled_from([10, 20])),
    'score': 'success',
  }
  steps = sorted(draw(st.sets(st.integers(0, 50), max_size=5)))
  evaluations = [
    {
      'step': step,
      'frame': 4 * step,
      'update': draw(st.none() | st.just(step)),
      'hours': draw(st.none() | numbers),
      'mean': draw(numbers),
      'std': draw(st.none() | numbers),
      'episodes': draw(st.none() | st.integers(1, 9)),
      'train_mean': draw(st.none() | numbers),
      'train_episodes': draw(st.none() | st.integers(0, 9)),
      'scores': None,
      'measures': draw(st.dictionaries(st.sampled_from(['success', 'speed']), numbers)),
    }
    for step in steps
  ]
  if evaluations:
    evaluations[-1]['scores'] = draw(st.none() | st.lists(numbers, max_size=4))
  metrics = {}
  for name in draw(st.sets(st.sampled_from(['loss/a', 'harmony/a/weight', 'loss/b']))):
    at = sorted(draw(st.sets(st.integers(0, 30), min_size=1, max_size=4)))
    metrics[name] = [at, draw(st.lists(numbers, min_size=len(at), max_size=len(at)))]
  environment = {
    **dict.fromkeys(form.FACTS, draw(st.none() | st.text(max_size=5))),
    'versions': draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)),
  }
  return form.make(
    config,
    draw(st.booleans()) and bool(steps) and steps[-1] >= config['steps'],
    'here',
    environment,
    evaluations,
    metrics,
    draw(st.none() | numbers),
    draw(st.none() | numbers),
    draw(st.integers(1, 8)),
  )


@st.composite
def some_records(draw):
  places = draw(
    st.sets(st.tuples(st.sampled_from(['maze', 'Näxt: "x"', 'a,b']), st.integers(0, 2)), min_size=1)
  )
  return [draw(one_record(*place)) for place in sorted(places)]


@cases(50)
@given(given=some_records())
def test_what_is_written_is_read_again(given):
  with tempfile.TemporaryDirectory() as folder:
    (path, table), problems = results_files.write(given, folder)
    text, rows = path.read_bytes(), table.read_bytes()
    found = results_files.read(path)
    assert not problems and without_source(found) == without_source(given)
    a, b = (json.dumps(without_source(each), sort_keys=True) for each in (found, given))
    assert a == b  # 1, 1.0 and true are not the same
    # again, or one by one, it is the same file
    results_files.write(records.collect(folder)[0], folder)
    for record in given:
      results_files.write([record], folder)
    assert path.read_bytes() == text and table.read_bytes() == rows


# --------------------------------------------------------------------------------------------------


@pytest.fixture
def pong(tmp_path):
  return records.read(write_run(tmp_path / 'runs' / 'pong0', 0))


def test_files_are_compact_and_diffable(tmp_path, pong):
  (path, table), _ = results_files.write([pong], tmp_path / 'results')
  assert path == tmp_path / 'results' / 'dreamerv3-harmony-cpu.json'
  lines = path.read_text(encoding='utf-8').splitlines()
  assert '      "final_scores": [1.5, 2.5],' in lines and '        "step": [50, 100],' in lines
  content = json.loads(path.read_text(encoding='utf-8'))
  assert content['protocol']['text'].startswith(
    'mean return of 2 complete episodes every 50 steps (200 frames)'
  )
  assert content['protocol']['facts']['frame_cap'] == 108_000 and 'seed' not in content['config']
  run = content['runs'][0]
  assert (
    list(run)[:3] == ['task', 'seed', 'complete'] and 'config' not in run and 'protocol' not in run
  )
  assert (
    run['commit'] == 'abc (dirty)'
    and run['versions']['jax'] == '0.10.2'
    and run['devices'] == 'NVIDIA H100 (gpu)'
  )
  assert run['evaluations']['eval_mean'] == [1.0, 2.0] and run['evaluations']['train_mean'] == [
    None,
    3.0,
  ]
  assert table.read_text() == (
    'method,task,seed,step,return\ndreamerv3-harmony-cpu,Pong,0,50,1.0\n'
    'dreamerv3-harmony-cpu,Pong,0,100,2.0\n'
  )


def test_what_differs_stands_with_the_run(tmp_path):
  """Chopper Command has a frame cap of its own, and one seed another option."""
  found = [
    records.read(
      write_run(
        tmp_path / task / str(seed), seed, task=task, env={'frame_cap': 0, 'sticky': sticky}
      )
    )
    for task, seed, sticky in (('ChopperCommand', 0, 0.0), ('Pong', 0, 0.0), ('Pong', 1, 0.25))
  ]
  (path, _), _ = results_files.write(found, tmp_path / 'results')
  content = json.loads(path.read_text(encoding='utf-8'))
  assert content['config']['env'] == {'frame_cap': 0}
  first, second, third = content['runs']
  assert 'at most 5,400 frames' in content['protocol']['text'] and 'protocol' not in first
  assert (
    'at most 108,000 frames' in second['protocol'] and 'sticky actions (0.25)' in third['protocol']
  )
  assert third['config'] == {'env': {'sticky': 0.25}}
  assert without_source(results_files.read(path)) == without_source(found)


def test_runs_are_added_bit_by_bit(tmp_path, pong):
  """A run that went on takes the place of what there was of it; a shorter record of it does not."""
  folder = tmp_path / 'results'
  short = {**pong, 'evaluations': pong['evaluations'][:1], 'complete': False}
  boxing = records.read(write_run(tmp_path / 'boxing', 0, task='Boxing'))
  for record, longest in ((short, 1), (boxing, 2), (pong, 2), (short, 2)):
    (path, table), problems = results_files.write([record], folder)
    lengths = {each['task']: len(each['evaluations']) for each in results_files.read(path)}
    assert not problems and lengths[record['task']] == longest
  found = results_files.read(path)
  assert [(record['task'], len(record['evaluations'])) for record in found] == [
    ('Boxing', 2),
    ('Pong', 2),
  ]
  assert len(table.read_text().splitlines()) == 5
  none = records.read(write_run(tmp_path / 'none', weighting={'rule': 'none'}))
  results_files.write([none], folder)  # another method: another file, the same table
  assert results_files.read(path) == found and len(table.read_text().splitlines()) == 7


def test_another_run_in_its_place_is_kept_unless_it_is_to_be_replaced(tmp_path, pong):
  folder, other = tmp_path / 'results', records.read(write_run(tmp_path / 'other', first=5.0))
  (path, _), _ = results_files.write([pong], folder)
  before = path.read_bytes()
  _, problems = results_files.write([other], folder)
  assert path.read_bytes() == before and len(problems) == 1
  assert 'is left out' in problems[0] and 'another run of Pong, seed 0' in problems[0]
  results_files.write([other], folder, replace=True)
  assert form.final(results_files.read(path)[0]) == 6.0


def test_several_suites_have_a_folder_each(tmp_path, pong):
  catch = records.read(write_run(tmp_path / 'catch', suite='catch', task='catch', env={}))
  written, _ = results_files.write([pong, catch], tmp_path / 'results')
  assert {str(path.relative_to(tmp_path / 'results')) for path in written} == {
    f'{suite}/{name}'
    for suite in ('atari', 'catch')
    for name in ('dreamerv3-harmony-cpu.json', 'scores.csv')
  }


@pytest.mark.parametrize(
  'name, content, told',
  [
    ('dreamerv3-harmony-cpu.json', '{"mine": 1}', 'is no results file'),
    ('dreamerv3-harmony-cpu.json', '{"config": {}, "runs": []}', 'is of an older format'),
    (
      'dreamerv3-harmony-cpu.json',
      '{"format": "harmony-jax results, version 9"}',
      'is of another format',
    ),
    ('dreamerv3-harmony-cpu.json', '{"format"', 'cannot be read as JSON'),
    ('scores.csv', 'a,b\n1,2\n', 'no table of scores'),
    ('scores.csv', '', 'no table of scores'),
    ('scores.csv', '\0\n', 'no table of scores'),
  ],
)
def test_what_is_in_the_way_is_left_alone(tmp_path, pong, name, content, told):
  folder = tmp_path / 'results'
  folder.mkdir()
  (folder / name).write_text(content)
  with pytest.raises(UserError, match=told) as caught:
    results_files.write([pong], folder)
  assert_one_line(caught.value)
  assert [path.name for path in folder.iterdir()] == [name] and (
    folder / name
  ).read_text() == content


def test_a_file_of_another_suite_and_a_folder_that_is_none(tmp_path, pong):
  catch = records.read(write_run(tmp_path / 'catch', suite='catch', task='catch', env={}))
  results_files.write([catch], tmp_path / 'results')
  with pytest.raises(
    UserError, match='holds dreamerv3-harmony-cpu on suite catch, not on atari: choose another'
  ):
    results_files.write([pong], tmp_path / 'results')
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match='cannot write to'):
    results_files.write([pong], tmp_path / 'file')


def test_rows_of_runs_that_no_file_has_stay_in_the_table(tmp_path, pong):
  folder = tmp_path / 'results'
  (path, table), _ = results_files.write([pong], folder)
  path.rename(tmp_path / 'moved.json')
  write_run(tmp_path / 'one', 1)
  results_files.write([records.read(tmp_path / 'one')], folder)
  assert len(table.read_text().splitlines()) == 5


@pytest.mark.parametrize(
  'change',
  [
    lambda content: content.pop('runs'),
    lambda content: content['runs'][0].pop('metrics'),
    lambda content: content['runs'][0]['evaluations'].pop('eval_mean'),
    lambda content: content['runs'][0]['evaluations']['step'].pop(),
    lambda content: content['runs'][0]['evaluations']['step'].reverse(),
    lambda content: content['runs'][0]['metrics']['loss/reward'].pop(),
    lambda content: content['runs'][0].update(seed='0'),
    lambda content: content.update(method='other'),
    lambda content: content['runs'].append(content['runs'][0]),
    lambda content: content.update(runs=[5]),
    lambda content: content.update(config=None),
  ],
)
def test_damaged_files_are_named(tmp_path, pong, change):
  (path, _), _ = results_files.write([pong], tmp_path)
  content = json.loads(path.read_text(encoding='utf-8'))
  change(content)
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match='is damaged') as caught:
    results_files.read(path)
  assert_one_line(caught.value)
  assert str(path) in str(caught.value)


def test_old_files_are_named_as_old(tmp_path):
  (tmp_path / 'catch-catch-dreamerv3-none-cpu.json').write_text('{"config": {}, "runs": []}')
  found, problems = records.collect(tmp_path)
  assert not found and len(problems) == 1 and 'is of an older format' in problems[0]


def test_the_committed_results_are_read_and_their_tables_agree():
  for folder in ('results/catch', 'benchmarks/catch_two_cores', 'results/atari100k', 'results/dmc'):
    path = ROOT / folder
    found = [record for each in sorted(path.glob('*.json')) for record in results_files.read(each)]
    assert found and all(record['metrics'] and record['environment']['commit'] for record in found)
    rows = {tuple(line.split(',')) for line in (path / 'scores.csv').read_text().splitlines()[1:]}
    assert rows == {
      (record['method'], record['task'], f'{record["seed"]}', f'{each["step"]}', f'{each["mean"]}')
      for record in found
      for each in record['evaluations']
    }


def test_published_records_have_the_form():
  """Beside the name of their method they are like ours."""
  assert set(form.NO_ENVIRONMENT) == {*form.FACTS, 'versions'}
  config = {
    'suite': 'atari',
    'task': 'Pong',
    'method': 'x',
    'weighting': {'rule': 'y'},
    'preset': 'z',
    'seed': 0,
    'steps': 5,
  }
  made = form.make(config, False, 'here', form.NO_ENVIRONMENT, [], {}, None, None, 4)
  assert made.keys() == published._record('harmony_dreamerv3.json', 'Pong', 0, [20], [1.0]).keys()


def command(*words, **options):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.results', *map(str, words)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    **options,
  )


def test_the_command(tmp_path):
  """A folder with a whole run, one that is going on and one that is broken; then mistakes."""
  write_run(tmp_path / 'runs' / 'seed0', 0)
  write_run(tmp_path / 'runs' / 'seed1', 1, steps=(50,), complete=False)
  change(write_run(tmp_path / 'runs' / 'seed2', 2), seed=None)
  append(tmp_path / 'runs' / 'seed0' / 'metrics.jsonl', {'step': 99})
  result = command(tmp_path / 'runs', f'--output={tmp_path}/results')
  assert result.returncode == 0, result.stderr
  assert 'atari Pong dreamerv3-harmony-cpu seed 0: 2.000 at step 100\n' in result.stdout
  assert 'seed 1: 1.000 at step 50 (not complete: 100 steps)' in result.stdout
  assert len(result.stderr.splitlines()) == 1 and 'seed2 is damaged' in result.stderr
  assert {path.name for path in (tmp_path / 'results').iterdir()} == {
    'dreamerv3-harmony-cpu.json',
    'scores.csv',
    'curves.png',
  }
  result = command(
    tmp_path / 'runs',
    '--output=~/mine',
    '--references={"Pong": {"random": -20.7}}',
    '--title=x',
    env={**os.environ, 'HOME': str(tmp_path)},
  )
  assert result.returncode == 0 and (tmp_path / 'mine' / 'curves.png').exists(), result.stderr
  (tmp_path / 'results' / 'scores.csv').write_text('mine')
  for words, told in (
    ((), 'name one or more run folders'),
    ((tmp_path / 'nowhere',), 'no run can be read'),
    ((tmp_path / 'runs', '--references={"a": {"b": NaN}}'), '--references must be'),
    ((tmp_path / 'runs', '--outptu=x'), "Unknown command line flag 'outptu'"),
    ((tmp_path / 'runs', f'--output={tmp_path}/results'), 'is in the way'),
  ):
    result = command(*words)
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    assert result.stderr.splitlines()[-1].startswith('error: ') and told in result.stderr
