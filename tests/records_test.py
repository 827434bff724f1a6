"""Runs become records wherever they lie; what is damaged, missing or there twice is named."""

import json
import os
import pathlib
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harmony_jax.reporting import records, results_files
from tests import sweeps
from tests.damage import assert_one_line, cases, copy_of, damages, files_in
from tests.reports import append, change, write_run


def only(paths, **options):
  """The one record there, with nothing to complain of."""
  found, problems = records.collect(paths, **options)
  assert not problems and len(found) == 1, problems
  return found[0]


def test_a_run_folder_becomes_a_record(tmp_path):
  folder = write_run(tmp_path / 'seed3', 3)
  record = only(folder)
  assert record == records.read(folder)
  assert record.place == ('atari', 'dreamerv3-harmony-cpu', 'Pong', 3) and record.complete
  assert (record.weighting, record.steps, record.frames_per_step) == ('harmony', 100, 4)
  assert (record.scores, record.final, record.final_scores) == ([1.0, 2.0], 2.0, [1.5, 2.5])
  assert record.evaluations == {
    'step': [50, 100],
    'frame': [200, 400],
    'update': [50, 100],
    'hours': [0.05, 0.1],
    'eval_mean': [1.0, 2.0],
    'eval_std': [0.5, 0.5],
    'eval_episodes': [2, 2],
    'train_mean': [None, 3.0],
    'train_episodes': [None, None],
    'measures': {'success': [0.25, 0.25]},
  }
  assert record.hours == 0.1 and record.steps_per_second == pytest.approx(100 / 360)
  assert record.metrics == {
    'step': list(range(1, 11)),
    'harmony/reward/sigma': [0.123457] * 10,
    'loss/reward': [float(f'{1 / step:.6g}') for step in range(1, 11)],
  }
  assert record.environment == {
    'command': 'python -m experiments.dmcr --seed=3 --dmcr_assets=…/pictures',
    'commit': 'abc (dirty); def',  # of both starts
    'python': '3.11.7 on Linux',
    'devices': 'NVIDIA H100 (gpu)',
    'date': '2026-01-02T03:04:05+00:00',
    'versions': {'jax': '0.10.2'},
  }


def test_scores_are_what_a_suite_is_judged_by(tmp_path):
  assert only(write_run(tmp_path / 'a', score='success')).scores == [0.25, 0.25]
  assert only(write_run(tmp_path / 'b', score='speed')).final is None  # nobody measured it


def test_a_score_of_episodes_that_did_not_end_is_told(tmp_path):
  """The last one's: a report would show it as any other, of complete episodes."""
  early, late = (write_run(tmp_path / str(seed), seed, steps=()) for seed in range(2))
  for folder, cut in ((early, 1), (late, 2)):
    for step, count in ((50, cut), (100, cut - 1)):
      line = {'step': step, 'frame': step, 'eval_mean': 1.0, 'eval_scores': [1.0, 1.0]}
      append(folder / 'scores.jsonl', line | ({'eval_cut': count} if count else {}))
  found, (told,) = records.collect([tmp_path])
  assert len(found) == 2 and told == (
    f'{late}: 1 of 2 episodes of its last evaluation did not end and were cut: its score is of '
    'what was played of them'
  )
  results_files.write(found, tmp_path / 'results')
  assert f'{late}' not in records.collect([tmp_path / 'results'])[1][0]
  assert '1 of 2 episodes of its last' in records.collect([tmp_path / 'results'])[1][0]


def test_a_method_that_weighs_nothing(tmp_path):
  run = write_run(tmp_path / 'seed0', method='mine')
  change(run, weighting=None)
  record = only(run)
  assert (record.method, record.weighting) == ('mine-cpu', '–')


def test_any_metric_can_be_asked_for(tmp_path):
  run = write_run(tmp_path / 'seed0', lines=1_000)
  last = {'step': 1_001, 'loss/reward': None, 'harmony/reward/sigma': 1.0}
  append(run / 'metrics.jsonl', {**last, 'actor/entropy': 'high'})
  record = only(run)
  assert 'actor/entropy' not in record.metrics and record.metrics['loss/reward'][-1] is None
  steps = record.metrics['step']
  assert len(steps) == records.MOST and (steps[0], steps[-1]) == (1, 1_001)
  assert {b - a for a, b in zip(steps, steps[1:])} == {5, 6}
  (problem,) = records.collect(run, metrics=['actor/'])[1]
  assert "'high' is not a number as actor/entropy" in problem
  assert only(write_run(tmp_path / 'b'), metrics=['actor/']).metrics['actor/entropy'] == [1.0] * 10


def test_a_metric_that_is_written_now_and_then_is_not_lost_among_others(tmp_path):
  run = write_run(tmp_path / 'seed0', lines=1_000)
  at = range(40, 1_001, 40)
  for step in at:
    append(run / 'metrics.jsonl', {'step': step, 'return/eval': float(step), 'update': step})
  metrics = only(run, metrics=['return/', 'update']).metrics
  kept = lambda name: {k: v for k, v in zip(metrics['step'], metrics[name]) if v is not None}
  assert kept('return/eval') == kept('update') == {step: step for step in at}
  losses = kept('loss/reward')
  assert losses == {step: float(f'{1 / step:.6g}') for step in metrics['step']}
  assert records.MOST <= len(losses) <= records.MOST + len(at)


def test_runs_that_are_going_on(tmp_path):
  started = write_run(tmp_path / 'seed0', 0, steps=(), complete=False, lines=0)
  going = write_run(tmp_path / 'seed1', 1, steps=(50,), complete=False)
  for name in ('scores.jsonl', 'metrics.jsonl'):
    with open(going / name, 'ab') as file:
      file.write(b'{"step": 100, "eval_mean": 1\xff')
  found, problems = records.collect([started, going])
  assert not problems and [record.scores for record in found] == [[], [1.0]]
  assert not any(record.complete for record in found)
  assert found[0].final is found[0].hours is found[0].steps_per_second is None
  assert found[0].frames_per_step == 4 and found[0].metrics == {'step': []}


LINE = {'step': 100, 'frame': 4, 'update': 1, 'eval_mean': 1.0, 'eval_scores': [1.0]}
DAMAGES = {
  'no config': lambda run: (run / 'config.json').unlink(),
  'garbled config': lambda run: (run / 'config.json').write_bytes(b'\x00{"config'),
  'config is a list': lambda run: (run / 'config.json').write_text('[1]'),
  'no seed': lambda run: change(run, seed=None),
  'a negative seed': lambda run: change(run, seed=-1),
  'weighting of another kind': lambda run: change(run, weighting='harmony'),
  'no steps': lambda run: change(run, steps=None),
  'steps are text': lambda run: change(run, steps='many'),
  'the seed is true': lambda run: change(run, seed=True),
  'a method that is a path': lambda run: change(run, method='../../x'),
  'env is a number': lambda run: change(run, env=5),
  'unknown policy': lambda run: change(run, eval_policy='best'),
  'garbled middle line': lambda run: (run / 'scores.jsonl').write_text('\0\n{}\n'),
  'garbled metrics': lambda run: (run / 'metrics.jsonl').write_bytes(b'{}\n'),
  'a score is text': lambda run: append(run / 'scores.jsonl', {**LINE, 'eval_mean': 'good'}),
  'a score is nan': lambda run: append(run / 'scores.jsonl', {**LINE, 'eval_mean': float('nan')}),
  'a score is huge': lambda run: append(run / 'scores.jsonl', {**LINE, 'eval_mean': 10**400}),
  'a line lacks fields': lambda run: (run / 'scores.jsonl').write_text('{"step": 100}\n'),
  'no scores in a line': lambda run: append(run / 'scores.jsonl', {**LINE, 'eval_scores': []}),
  'a metric is text': lambda run: append(run / 'metrics.jsonl', {'step': 99, 'loss/x': 'small'}),
  'scores are a folder': lambda run: (
    (run / 'scores.jsonl').unlink(),
    (run / 'scores.jsonl').mkdir(),
  ),
  'complete without its last evaluation': lambda run: (run / 'scores.jsonl').write_text(
    (run / 'scores.jsonl').read_text().splitlines(keepends=True)[0]
  ),
}


@pytest.mark.parametrize('kind', DAMAGES)
def test_a_damaged_run_is_named_in_one_line_and_left_out(tmp_path, kind):
  write_run(tmp_path / 'good', 0)
  DAMAGES[kind](write_run(tmp_path / 'bad', 1))
  found, problems = records.collect([tmp_path])
  assert [record.seed for record in found] == [0] and len(problems) == 1
  assert_one_line(problems[0])
  assert str(tmp_path / 'bad') in problems[0]
  told = {
    'complete without its last evaluation': 'its last evaluation is at step 50, not at step 100',
    'no seed': "it has no 'seed'",
    'a negative seed': "'-1' is not a whole number from 0",
  }
  assert told.get(kind, '') in problems[0]


def test_a_configuration_of_an_older_version_is_read(tmp_path):
  run = write_run(tmp_path / 'seed0')
  change(run, score=None, eval_episodes=None, final_eval_episodes=None, env=None)
  assert only(run).final == 2.0
  sweeps.write_run(tmp_path / 'seed1', 100, 5.0, complete=True)  # without what later versions write
  assert only(tmp_path / 'seed1').final == 5.0


def test_paths(tmp_path, monkeypatch):
  """Folders at any depth, links, single files, and what is not there."""
  runs = [write_run(tmp_path / 'runs' / 'atari' / f'seed{seed}', seed) for seed in (0, 1)]
  (runs[0] / 'checkpoints').mkdir()
  (runs[0] / 'checkpoints' / 'config.json').write_text('{}')  # is no run's
  (tmp_path / 'runs' / 'other.json').write_text('[1, 2]')  # nothing of ours
  (tmp_path / 'runs' / 'again').symlink_to(tmp_path / 'runs')
  (tmp_path / 'empty').mkdir()
  monkeypatch.chdir(tmp_path)
  found, problems = records.collect('runs')
  assert not problems
  assert [record.source for record in found] == ['runs/atari/seed0', 'runs/atari/seed1']
  again = ['runs', 'runs/atari/seed0', pathlib.Path('runs/again/atari/seed1')]
  assert len(records.collect(again)[0]) == 2 and records.collect([]) == ([], [])
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


def test_seeds_below_the_folder_of_one_run_are_found(tmp_path):
  """By --logdir=a, and then --logdir=a --num_seeds=2."""
  write_run(tmp_path / 'a', 7)
  for seed in range(2):
    write_run(tmp_path / 'a' / f'seed{seed}', seed)
  found, problems = records.collect(tmp_path)
  assert [record.seed for record in found] == [7, 0, 1] and not problems


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
  """As it is told to somebody who is not root."""
  write_run(tmp_path / 'seed0')
  write_run(tmp_path / 'secret' / 'seed1', 1)
  scandir = os.scandir

  def refuse(path):
    if pathlib.Path(path).name == 'secret':
      raise PermissionError(13, 'Permission denied', str(path))
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', refuse)
  found, problems = records.collect(tmp_path)
  told = f'{tmp_path / "secret"} cannot be read: Permission denied'
  assert len(found) == 1 and problems == [told]


def test_one_run_is_counted_once_by_its_longest_record(tmp_path):
  whole = write_run(tmp_path / 'whole')
  copied = shutil.copytree(whole, tmp_path / 'copied')
  (copied / '.complete').unlink()
  first, *_ = (whole / 'scores.jsonl').read_text().splitlines(keepends=True)
  (copied / 'scores.jsonl').write_text(first)
  results_files.write([only(copied)], tmp_path / 'results')
  for names in (['copied', 'results', 'whole'], ['whole', 'copied'], ['results', 'whole']):
    record = only([tmp_path / name for name in names])
    assert record.source == str(whole) and record.complete


def test_two_runs_in_one_place(tmp_path):
  """The first, or the one that is complete; a line says so."""
  write_run(tmp_path / 'a', complete=False)
  write_run(tmp_path / 'b', first=5.0)
  write_run(tmp_path / 'c', first=9.0)
  found, problems = records.collect(tmp_path)
  assert [record.source for record in found] == [str(tmp_path / 'b')]
  other = f'{tmp_path / "b"} is another run of Pong, dreamerv3-harmony-cpu, seed 0'
  assert problems == [f'{tmp_path / left} is left out: {other}' for left in 'ac']


def test_runs_of_other_settings_are_two_though_they_begin_alike(tmp_path):
  """As in games whose first scores are all zeros."""
  short = write_run(tmp_path / 'a', devices=1)
  write_run(tmp_path / 'b', steps=(50, 100, 150, 200))
  change(tmp_path / 'b', steps=200)
  found, problems = records.collect(tmp_path)
  assert [record.final for record in found] == [2.0]
  other = f'{short} is another run of Pong, dreamerv3-harmony-cpu, seed 0'
  assert problems == [f'{tmp_path / "b"} is left out: {other}']
  results_files.write(found, tmp_path / 'results')
  _, left_out = results_files.write([records.read(tmp_path / 'b')], tmp_path / 'results')
  assert len(left_out) == 1 and only(tmp_path / 'results').final == 2.0
  change(tmp_path / 'b', steps=100, devices=2)  # which changes no number
  assert only([tmp_path / 'a', tmp_path / 'b']).final == 4.0


def test_seeds_with_other_settings_are_named(tmp_path):
  write_run(tmp_path / 'seed0', 0, train_ratio=32.0, devices=0)
  write_run(tmp_path / 'seed1', 1, train_ratio=64.0, devices=1, newer=True)
  # of another task the method's settings count, not the run's nor the environment's
  write_run(
    tmp_path / 'task', 0, task='Boxing', train_ratio=1.0, eval_every=9, env={'frame_cap': 9}
  )
  for rule in ('none', 'harmony'):  # settings of harmonizers matter to harmonizers only
    for seed, beta2 in enumerate((0.99, 0.999)):
      weighting = {'rule': rule, 'beta2': beta2}
      write_run(tmp_path / rule / str(seed), seed, weighting=weighting, preset='tiny')
  found, problems = records.collect(tmp_path)
  assert len(found) == 7
  assert [text.rpartition(': ')[2] for text in sorted(problems)] == [
    'weighting.beta2 (0.999 for 0.99)',
    'train_ratio (64.0 for 32.0)',
    'train_ratio (1.0 for 32.0)',
  ]
  assert 'the same method on another task' in sorted(problems)[-1]


def test_seeds_with_other_settings_are_named_whatever_these_are_called(tmp_path):
  """The σ of a planner begins at `start`, too; an option of the simulator may be in one only."""
  for seed, start in enumerate((0.5, 2.0)):
    std = {'planning': {'std': {'start': start}}, 'weighting': {'rule': 'none'}}
    write_run(tmp_path / 'tdmpc' / str(seed), seed, method='tdmpc', **std)
    own = {'gravity': 5.0} if seed else {'keys': []}  # the latter is what older runs did
    write_run(tmp_path / 'gym' / str(seed), seed, suite='gym', task='Own-v0', env=own)
    # of an older run it is known what it did without such settings; of others, that is not known
    new = {'update_at': 'episodes', 'keep_replay': False, 'unheard': 7} if seed else {}
    write_run(tmp_path / 'older' / str(seed), seed, task='Boxing', preset='tiny', **new)
  _, problems = records.collect(tmp_path)
  assert [text.rpartition(': ')[2] for text in sorted(problems)] == [
    'env.gravity (5.0 for nothing)',
    'update_at (episodes for nothing)',
    'planning.std.start (2.0 for 0.5)',
  ]


def test_seeds_that_began_from_other_steps_of_an_agent_are_named(tmp_path):
  """As those that began one after the other from a run that went on."""
  for seed, step in enumerate((8_000, 60_000)):
    path = write_run(tmp_path / f'seed{seed}', seed) / 'config.json'
    source = {'run': 'runs/a', 'task': 'Boxing', 'method': 'dreamerv3', 'step': step}
    content = json.loads(path.read_text()) | {'identity': {'from': source}}
    path.write_text(json.dumps(content))
  found, (problem,) = records.collect(tmp_path)
  assert {record.method for record in found} == {'dreamerv3-harmony-cpu-from-boxing'}
  assert problem.endswith('a seed of the same method: from_step (60000 for 8000)')


def test_paths_of_the_machine_stay_there(tmp_path):
  config = {'env': {'background_files': '/data/videos/', 'background': 'video'}, 'suite': 'dmc'}
  record = only(write_run(tmp_path / 'seed0', **config))
  assert record.config['env'] == {'background_files': '…/videos', 'background': 'video'}
  (path, *_), _ = results_files.write([record], tmp_path / 'results')
  assert '/data' not in path.read_text() and str(tmp_path) not in path.read_text()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  return write_run(tmp_path_factory.mktemp('runs') / 'seed1', 1)


@cases(150)
@given(harm=st.lists(damages(), min_size=1, max_size=2))
def test_garbage_gives_records_or_lines(run, harm):
  """Damages of a run folder and of a results file."""
  with copy_of(run) as folder:
    (path, _), _ = results_files.write([records.read(run)], folder / 'results')
    path.rename(folder.parent / path.name)
    for damage in harm:
      damage.do([*files_in(folder), folder.parent / path.name])
    found, problems = records.collect([folder, folder.parent / path.name])
    for text in problems:
      assert_one_line(text)
    assert found or problems
    json.dumps([record.config for record in found], allow_nan=False)
