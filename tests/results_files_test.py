"""Results files: what is written is read again, runs are added bit by bit, and nothing of others is
overwritten.
"""

import concurrent.futures
import dataclasses
import json
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony_jax.errors import UserError
from harmony_jax.reporting import records, results_files
from harmony_jax.reporting.schema import COUNTS, NUMBERS, Record
from tests import reports
from tests.commands import ROOT, run
from tests.damage import assert_one_line, cases
from tests.reports import change, write_run


def without_source(found):
  return sorted((dataclasses.replace(each, source='') for each in found), key=lambda r: r.place)


# --------------------------------------------------------------------------------------------------
# Whatever a record holds

names_ = st.text('=+-@\'"ab,; ', min_size=1, max_size=5)
numbers = st.floats(-1e9, 1e9) | st.integers(-(10**6), 10**6)
lists = st.lists(st.integers(0, 3), max_size=3)
leaves = numbers | st.booleans() | st.none() | st.text(max_size=5) | lists
tables = st.dictionaries(st.text(max_size=3), leaves, max_size=3)
sections = st.dictionaries(st.text(max_size=4), leaves | tables, max_size=4)


@st.composite
def one_record(draw, task, seed):
  config = draw(st.dictionaries(st.sampled_from('abc'), sections | leaves, max_size=3))
  config |= {'suite': 'mine', 'task': task, 'method': 'dreamerv3', 'preset': 'cpu', 'seed': seed}
  config |= {'steps': draw(st.sampled_from([10, 20])), 'score': 'success'}
  config |= {'weighting': {'rule': 'none', **draw(st.dictionaries(st.just('w'), numbers))}}
  steps = sorted(draw(st.sets(st.integers(0, 50), max_size=5)))
  column = lambda each: draw(st.lists(each, min_size=len(steps), max_size=len(steps)))
  evaluations = {name: column(st.none() | st.integers(0, 9)) for name in COUNTS}
  evaluations |= {name: column(st.none() | numbers) for name in NUMBERS}
  evaluations |= {'step': steps, 'frame': steps, 'eval_mean': column(numbers)}
  names = draw(st.sets(st.sampled_from(['success', 'speed'])))
  evaluations['measures'] = {name: column(st.none() | numbers) for name in names}
  at = sorted(draw(st.sets(st.integers(0, 30), max_size=4)))
  values = st.lists(st.none() | numbers, min_size=len(at), max_size=len(at))
  return Record(
    config=config,
    complete=draw(st.booleans()) and bool(steps) and steps[-1] >= config['steps'],
    source='here',
    environment={
      **dict.fromkeys(('command', 'commit', 'python'), draw(st.none() | st.text(max_size=5))),
      'devices': None,
      'date': 'then',
      'versions': {'jax': draw(st.text(max_size=3))},
    },
    evaluations=evaluations,
    final_scores=draw(st.none() | st.lists(numbers, max_size=4)),
    metrics={'step': at, **draw(st.dictionaries(st.sampled_from(['loss/a', 'loss/b']), values))},
    hours=draw(st.none() | numbers),
    steps_per_second=draw(st.none() | numbers),
    frames_per_step=draw(st.integers(1, 8)),
  )


@st.composite
def some_records(draw):
  place = st.tuples(st.sampled_from(['maze', 'Näxt: "x"', 'a,b']), st.integers(0, 2))
  return [draw(one_record(*each)) for each in sorted(draw(st.sets(place, min_size=1)))]


def test_a_name_with_a_dot_is_no_section():
  tree = {'env': {'b.c': 1, '': {}, 'd': {'e': [2]}}, 'x.y': 3}
  assert results_files._nested(results_files._flat(tree)) == tree


@cases(50)
@given(given=some_records())
def test_what_is_written_is_read_again(given):
  with tempfile.TemporaryDirectory() as folder:
    (path, table), problems = results_files.write(given, folder)
    text, rows = path.read_bytes(), table.read_bytes()
    found = without_source(results_files.read(path))
    assert not problems and found == without_source(given)
    # 1, 1.0 and true are not the same
    a, b = (json.dumps([vars(r) for r in each], sort_keys=True) for each in (found, given))
    assert a == b.replace('"source": "here"', '"source": ""')
    results_files.write(records.collect(folder)[0], folder)
    for record in given:  # again, or one by one, it is the same file
      results_files.write([record], folder)
    assert path.read_bytes() == text and table.read_bytes() == rows


# --------------------------------------------------------------------------------------------------


@pytest.fixture
def pong(tmp_path):
  return records.read(write_run(tmp_path / 'runs' / 'pong0', 0))


def test_files_are_compact_and_diffable(tmp_path):
  """Chopper Command has a frame cap of its own, and one seed another option."""
  options = lambda sticky: {'frame_cap': 0, 'sticky': sticky}
  found = [
    records.read(write_run(tmp_path / task / str(seed), seed, task=task, env=options(sticky)))
    for task, seed, sticky in (('ChopperCommand', 0, 0.0), ('Pong', 0, 0.0), ('Pong', 1, 0.25))
  ]
  (path, table), _ = results_files.write(found, tmp_path / 'results')
  assert path == tmp_path / 'results' / 'dreamerv3-harmony-cpu.json'
  lines = path.read_text(encoding='utf-8').splitlines()
  assert '      "final_scores": [1.5, 2.5],' in lines and '        "step": [50, 100],' in lines
  content = json.loads(path.read_text(encoding='utf-8'))
  text, facts = content['protocol'].values()
  assert text.startswith('mean return of 2 complete episodes every 50 steps (200 frames)')
  assert facts['frame_cap'] == 5_400 and 'seed' not in content['config']
  assert content['config']['env'] == {'frame_cap': 0}
  first, second, third = content['runs']
  assert list(first)[:3] == ['task', 'seed', 'complete'] and first['devices'] == 'NVIDIA H100 (gpu)'
  assert 'at most 5,400 frames' in text and 'protocol' not in first and 'config' in second
  assert 'at most 108,000' in second['protocol'] and 'actions (0.25)' in third['protocol']
  assert third['config'] == {'env': {'sticky': 0.25}}
  assert table.read_text().splitlines()[:2] == [
    'method,task,seed,step,return',
    'dreamerv3-harmony-cpu,ChopperCommand,0,50,1.0',
  ]


def test_runs_are_added_bit_by_bit(tmp_path, pong):
  """A run that went on takes the place of what there was of it; a shorter record of it does not."""
  folder, short = tmp_path / 'results', tmp_path / 'short'
  first = records.read(write_run(short, 0, steps=(50,), complete=False))
  boxing = records.read(write_run(tmp_path / 'boxing', 0, task='Boxing'))
  for record, longest in ((first, 1), (boxing, 2), (pong, 2), (first, 2)):
    (path, table), problems = results_files.write([record], folder)
    lengths = {each.task: len(each.scores) for each in results_files.read(path)}
    assert not problems and lengths[record.task] == longest
  assert lengths == {'Boxing': 2, 'Pong': 2} and len(table.read_text().splitlines()) == 5
  none = records.read(write_run(tmp_path / 'none', weighting={'rule': 'none'}))
  results_files.write([none], folder)  # another method: another file, the same table
  assert len(results_files.read(path)) == 2 and len(table.read_text().splitlines()) == 7
  catch = records.read(write_run(tmp_path / 'catch', suite='catch', task='catch', env={}))
  with pytest.raises(UserError, match='holds runs on suite atari, not on catch: choose another'):
    results_files.write([catch], folder)
  written, _ = results_files.write([pong, catch], tmp_path / 'both')
  assert {path.parent.name for path in written} == {'atari', 'catch'} and len(written) == 4


def test_of_several_that_add_runs_at_once_none_is_lost(tmp_path):
  runs = [reports.record(seed=seed) for seed in range(16)]
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    ((path, _), _), *_ = pool.map(lambda run: results_files.write([run], tmp_path / 'x'), runs)
  assert [record.seed for record in results_files.read(path)] == [*range(16)]


def test_another_run_in_its_place_is_kept_unless_it_is_to_be_replaced(tmp_path, pong):
  folder, other = tmp_path / 'results', records.read(write_run(tmp_path / 'other', first=5.0))
  (path, _), _ = results_files.write([pong], folder)
  before = path.read_bytes()
  _, (problem,) = results_files.write([other], folder)
  assert path.read_bytes() == before and 'another run of Pong, seed 0' in problem
  results_files.write([other], folder, replace=True)
  assert results_files.read(path)[0].final == 6.0


def test_scores_that_are_no_longer_in_the_table_are_told(tmp_path, pong):
  """Of another method, whose file is damaged; a file of somebody else's is none of our business."""
  none = records.read(write_run(tmp_path / 'none', weighting={'rule': 'none'}))
  (path, _, table), problems = results_files.write([pong, none], tmp_path / 'results')
  (table.parent / 'mine.json').write_text('{"mine": 1}')
  assert len(table.read_text().splitlines()) == 5 and not problems
  path.write_text(path.read_text()[:-40])
  _, (problem,) = results_files.write([none], table.parent)
  assert len(table.read_text().splitlines()) == 3
  assert f'scores.csv is without the runs of {path.name}: {path} cannot be read' in problem


@pytest.mark.parametrize(
  'name, content, told',
  [
    ('dreamerv3-harmony-cpu.json', '{"mine": 1}', 'is no results file'),
    ('dreamerv3-harmony-cpu.json', '{"config": {}, "runs": []}', 'is of an older format'),
    (
      'dreamerv3-harmony-cpu.json',
      '{"format": "harmony-jax results, version 9"}',
      'another format',
    ),
    ('dreamerv3-harmony-cpu.json', '{"format"', 'cannot be read .as JSON'),
    ('scores.csv', 'a,b\n1,2\n', 'no table of scores'),
    ('scores.csv', '', 'no table of scores'),
  ],
)
def test_what_is_in_the_way_is_left_alone(tmp_path, pong, name, content, told):
  folder = tmp_path / 'results'
  folder.mkdir()
  (folder / name).write_text(content)
  with pytest.raises(UserError, match=told) as caught:
    results_files.write([pong], folder)
  assert_one_line(caught.value)
  assert [path.read_text() for path in folder.iterdir()] == [content]
  with pytest.raises(UserError, match='cannot write to'):
    results_files.write([pong], folder / name)


@pytest.mark.parametrize(
  'harm',
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
def test_damaged_files_are_named(tmp_path, pong, harm):
  (path, _), _ = results_files.write([pong], tmp_path)
  content = json.loads(path.read_text(encoding='utf-8'))
  harm(content)
  path.write_text(json.dumps(content))
  with pytest.raises(UserError, match=f'{path} is damaged') as caught:
    results_files.read(path)
  assert_one_line(caught.value)


def test_the_committed_results_are_read_and_their_tables_agree():
  """They were written by earlier versions."""
  for folder in ('results/catch', 'benchmarks/catch_two_cores', 'results/atari100k', 'results/dmc'):
    found = [r for path in sorted((ROOT / folder).glob('*.json')) for r in results_files.read(path)]
    assert found and all(len(each.metrics) > 1 and each.environment['commit'] for each in found)
    text = (ROOT / folder / 'scores.csv').read_text()
    assert {tuple(line.split(',')) for line in text.splitlines()[1:]} == {
      (each.method, each.task, f'{each.seed}', f'{step}', f'{score}')
      for each in found
      for step, score in zip(each.evaluations['step'], each.scores)
    }


def test_a_table_of_scores_says_what_they_are(tmp_path):
  """A success rate is no return; of both in one folder there is but 'score'."""
  for at, (kinds, told) in enumerate((('success', 'success'), ('success return', 'score'))):
    found = [
      reports.record(suite='own', seed=i, score=kind) for i, kind in enumerate(kinds.split())
    ]
    (*_, path), _ = results_files.write(found, tmp_path / str(at))
    assert path.read_text().startswith(f'method,task,seed,step,{told}\n')
  assert not results_files.write(found, tmp_path / '0')[1]  # as it was, a table of scores


def test_the_command(tmp_path):
  """A folder with a whole run, one that is going on and one that is broken; then mistakes."""
  write_run(tmp_path / 'runs' / 'seed0', 0)
  write_run(tmp_path / 'runs' / 'seed1', 1, steps=(50,), complete=False)
  change(write_run(tmp_path / 'runs' / 'seed2', 2), seed=None)
  options = ['--references={"Pong": {"random": -20.7}}', '--title=x', '--output=~/mine']
  result = run('results', tmp_path / 'runs', *options, HOME=str(tmp_path))
  assert result.returncode == 0, result.stderr
  assert '1 of 2 runs are complete' in result.stdout and ' 2.00 ' in result.stdout
  assert 'seed 1 not complete: step 50 of 100 (50 %)' in result.stdout
  assert len(result.stderr.splitlines()) == 1 and 'seed2 is damaged' in result.stderr
  names = {'dreamerv3-harmony-cpu.json', 'scores.csv', 'curves.png', 'curves.svg'}
  assert {path.name for path in (tmp_path / 'mine').iterdir()} == names
  other = write_run(tmp_path / 'other', 3, train_ratio=32.0)
  change(tmp_path / 'runs' / 'seed0', train_ratio=64.0)
  for words in (tmp_path / 'runs', '--replace'), (other,):  # which come together in the file
    result = run('results', *words, '--nofigure', f'--output={tmp_path}/mine')
  told = (
    'Pong, seed 3: its settings are not those of ',
    'Pong, seed 0',
    'train_ratio (32.0 for 64.0)',
  )
  assert all(text in result.stderr for text in told), result.stderr
  (tmp_path / 'mine' / 'scores.csv').write_text('mine')
  for words, told in (
    ((), 'name one or more run folders'),
    ((tmp_path / 'nowhere',), 'no run can be read'),
    ((tmp_path / 'runs', '--references={"a": {"b": NaN}}'), '--references must be'),
    ((tmp_path / 'runs', '--outptu=x'), "Unknown command line flag 'outptu'"),
    ((tmp_path / 'runs', f'--output={tmp_path}/mine'), 'is in the way'),
  ):
    result = run('results', *words)
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    assert result.stderr.splitlines()[-1].startswith('error: ') and told in result.stderr


def test_names_that_a_spreadsheet_would_compute_are_texts():
  """Numbers stay numbers."""
  text = results_files.to_csv([('=1+1', '@x', 0, 1, -2.5), ('a', "'b", 1, 2, None)])
  assert text.splitlines()[1:] == ["'=1+1,'@x,0,1,-2.5", "a,''b,1,2,"]
