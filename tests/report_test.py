"""Reports say what there is and what is missing; their numbers are those of the runs, their page
needs nothing else.

    UPDATE_SNAPSHOTS=1 python -m pytest tests/report_test.py     # writes tests/snapshots/ anew
"""

import dataclasses
import html
import os
import pathlib
import re

import pytest
from matplotlib.figure import Figure

from harmony_jax.errors import UserError
from harmony_jax.reporting import curves, figures, report, tables
from tests import commands
from tests.reports import append, record, write_run

ROOT = pathlib.Path(__file__).parents[1]
SNAPSHOT = pathlib.Path(__file__).parent / 'snapshots' / 'report.txt'
SCORES = pathlib.Path(os.environ.get('HARMONY_SCORES_DIR', ROOT.parent / 'shared' / 'scores'))
AUTHORS = 'Harmony DreamerV3 (authors)'


def rendered(records, problems=(), **options):
  made = report.make(records, problems, **options)
  return made, report.render(made, 'today', 'python -m experiments.report runs')


def words(page):
  """What a reader reads, a line for each row or paragraph: no style, no figures, no tags."""
  page = re.sub(r'<style>.*?</style>|<svg.*?</svg>|\n', ' ', page, flags=re.S)
  page = re.sub(r'</(tr|p|h\d|li|caption|figcaption|title|summary)>', '\n', page)
  lines = html.unescape(re.sub(r'<[^>]+>', ' ', page)).splitlines()
  return '\n'.join(' '.join(line.split()) for line in lines if line.strip())


def several_suites():
  none, short = 'dreamerv3-none-cpu', {'env': {'frame_cap': 400}}
  yield from (record(seed=seed, values=(-20.0, 1.0, 10.0 + seed)) for seed in range(3))
  yield record(none, values=(-20.0, 1.0, 9.0))
  yield record(none, seed=1, values=(-20.0, 0.5), steps=9_000, complete=False)
  yield from (record(method, 'Boxing', config=short) for method in ('dreamerv3-harmony-cpu', none))
  yield record(method=none, task='Alien', seed=2, values=(300.0,))
  for seed in range(5):
    theirs = record(seed=seed, values=(-20.0, 18.0 + seed / 10))
    yield dataclasses.replace(theirs, method=AUTHORS)
  for seed, task in enumerate(('walker_run', 'walker_run', 'cup_catch')):
    yield record(suite='dmc', task=task, seed=seed, values=(100.0, 700.0 + seed))
  weights = {'weighting': {'rule': 'fixed', 'w_o': 1.0, 'w_r': 1000.0}}
  yield record('dreamerpro-fixed-cpu', 'walker_run', suite='dmc', values=(300.0,), config=weights)
  for seed, rate in enumerate((0.5, 0.9)):
    yield record(suite='metaworld', task='push', seed=seed, values=(0.1, rate), score='success')
  yield record(suite='metaworld', task='push', seed=7, values=(123.0,))
  yield record('mine-x-cpu', 'level 1', suite='maze', values=(1.0,), config={'weighting': None})


def test_a_metric_that_no_run_has_is_told():
  runs = [record(values=(1.0,))]
  there = next(name for name in runs[0].metrics if name != 'step')
  (line,) = report.unlogged(runs, ['harmony/', 'loss/', there, 'loss/rewrad'])
  assert line.startswith('--metrics=loss/rewrad: ')


def test_the_whole_report_reads_as_before():
  """Compared as a whole: look at the difference, and write the snapshot anew if it is meant."""
  references = {'walker_run': {'random': 25.0}, 'Pong': {'mine': 70_000.0}}
  made, page = rendered([*several_suites()], ['runs/x is damaged'], references=references)
  found = '\n'.join([*report.text(made), '', '=' * 80, '', words(page), ''])
  if os.environ.get('UPDATE_SNAPSHOTS'):
    SNAPSHOT.write_text(found, encoding='utf-8')
  assert found == SNAPSHOT.read_text(encoding='utf-8')


def test_the_page_needs_nothing_else_and_what_comes_from_files_is_escaped():
  evil = '<script>alert("x")</script>&'
  records = [record(task=evil, source=evil), record(task=evil, seed=1), record(task='Boxing')]
  made, page = rendered(records, [evil], title=evil, references={evil: {evil: 1.0}})
  assert not re.search(
    r'<script|<link(?! rel="icon" href="data:,")|@import|https?://(?!www\.w3\.org)', page
  )
  assert not re.search(r'(src|href)="(?!#|figures/|data:,)', page)
  assert '&lt;script&gt;' in page
  ids = re.findall(r' id="([^"]+)"', page)
  assert len(ids) == len(set(ids))
  assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)
  names = {figure.name for figure in made.figures()}
  assert set(re.findall(r'href="figures/([a-z0-9_-]+)\.svg', page)) == names
  assert page.count('<svg') == page.count('role="img" aria-label="') > 5
  assert 'currentColor' in page and figures.INK not in page and '<text' in page


def drawn(records):
  """(the figure, [(x, y, width)] of the first panel's lines) of learning curves."""
  figure = curves.learning(records, curves.method_colors(records), {})
  axis = Figure().add_subplot()
  figure.panels[0].draw(axis)
  lines = [line for line in axis.lines if line.get_linestyle() == '-']
  return figure, [(*map(list, line.get_data()), line.get_linewidth()) for line in lines]


def test_a_run_that_has_just_begun_does_not_end_the_mean():
  whole = [record(seed=seed, values=(0.0, 5.0, 10.0 + 2 * seed)) for seed in range(2)]
  begun = record(seed=2, values=(3.0,), complete=False, steps=3000)
  figure, lines = drawn([*whole, begun])
  assert ([4000, 8000, 12000], [0, 5, 11], 1.8) in lines and ([4000], [3], 0.7) in lines
  assert len(lines) == 4 and figure.legend[0][0] == 'dreamerv3-harmony-cpu, 2 seeds: 0, 1'
  going = [record(seed=seed, values=(seed,), steps=9, complete=False) for seed in range(3)]
  assert ([4000], [1], 1.8) in drawn(going)[1]  # none is complete: of all


def test_means_are_taken_where_all_seeds_have_a_point():
  a, b = record(values=(1.0, 3.0)), record(seed=1, values=(2.0, 5.0, 9.0))
  assert ([4000, 8000], [1.5, 4.0], 1.8) in drawn([a, b])[1]
  b.evaluations['frame'] = [frame + 100 for frame in b.evaluations['frame']]
  figure, lines = drawn([a, b])
  assert ([4050, 8050], [1.5, 4.0], 1.8) in lines and 'bins of 4,000 frames' in figure.note


def test_which_metrics_are_drawn():
  """Losses that are weighed, weights that are learned, and whatever is asked for by its name."""
  weighed, free = record('dreamerv3-none-cpu'), record('mine-x-cpu', config={'weighting': None})
  weighed.metrics |= {'loss/actor': [1.0, 2.0, 3.0], 'harmony/reward/weight': [1.0, 1.0, 1.0]}
  free.metrics = {'step': [1], 'loss/actor': [2.0], 'value/mean': [-1.0], 'value/std': [None]}
  parts = lambda each, prefix: [name for name, color, kind in curves.metric([each], prefix).legend]
  assert parts(weighed, 'loss/') == ['observation', 'reward', 'dynamics']
  assert parts(weighed, 'harmony/') == ['observation', 'dynamics']
  titles = [
    curves.metric([record(f'a-{rule}-cpu')], 'harmony/').title for rule in ('harmony', 'dwa')
  ]
  assert ['1/σ' in title for title in titles] == [True, False]
  three = [record('a-none-cpu'), free, record('c-none-cpu')]
  looks = [curves.metric(three, prefix).legend for prefix in ('harmony/', 'loss/')]
  kinds = [kind for each in looks for name, _, kind in each if name == 'c-none-cpu']
  assert kinds == ['dashed', 'dashed']
  assert parts(free, 'loss/') == ['actor'] and curves.metric([free], 'harmony/') is None
  assert parts(free, 'value/') == ['value/mean'] and curves.metric([free], 'valves') is None


def test_numbers_and_lines_that_would_flatten_a_curve():
  values = (22274.4, 144.25, 18.6, 1.364, 0.0122, -0.00042, -0.5, 0, 617, None)
  shown = ['22,274', '144.2', '18.6', '1.36', '0.012', '−0.00042', '−0.500', '0', '617', 'missing']
  assert [figures.number(each) for each in values] == shown
  ticks = [figures.tick(each) for each in (400000, 1500, 0.5, 0.002, -20)]
  assert ticks == ['400k', '1.5k', '0.5', '0.002', '−20']
  axis = Figure().add_subplot()
  axis.plot([0, 1], [0, 10])
  curves.reference_lines(axis, {'random': 1.0, 'human': 70000.0})
  assert axis.get_ylim()[1] < 20
  assert [text.get_text() for text in axis.texts] == ['random', 'human 70k ↑']
  assert tables.within_5_percent({'a': 100, 'b': 95, 'c': 94.9, 'd': None}) == {'a', 'b'}
  assert tables.within_5_percent({'a': -20.0, 'b': -20.9, 'c': -21.1}) == {'a', 'b'}


def test_a_mean_of_training_says_of_how_few_runs_it_is():
  """Of a run no episode may have ended since the evaluation before the last."""
  runs = [record(seed=seed) for seed in range(3)]
  runs[1].evaluations['train_mean'][-1] = None
  cell = lambda runs: tables.scores(runs, {'Pong': {}})['dreamerv3-harmony-cpu, training'][0]
  assert cell(runs) == '14.0\n(of 2 of 3 runs)' and cell(runs[:1]) == '14.0'


def test_a_probability_of_improvement_says_over_which_tasks():
  games = {f'game {index}': [1.0] for index in range(4)}
  found = {'x': {'A': [1.0], 'B': [2.0], **games}, 'y': {'A': [0.0], 'C': [3.0]}, 'z': games}
  table = tables.improvement(tables.improvements(found), found)
  rows = zip(table['First'], table['Second'], table['Tasks'])
  assert [*rows] == [('x', 'y', 'A'), ('x', 'z', '4')]


# --------------------------------------------------------------------------------------------------
# the folder


def write(folder, title='a', results=lambda folder: folder.mkdir()):
  made = report.make([record()], title=title)
  made.suites = {}  # figures take a while
  report.write(made, report.render(made, '', ''), folder, results)


@pytest.mark.parametrize('name', ['notes.txt', 'figures/notes.txt', 'results/deep/mine', 'link'])
def test_what_a_user_has_put_into_a_report_is_not_lost(tmp_path, name):
  write(tmp_path / 'r')
  write(tmp_path / 'r', 'b')  # its own files are written anew
  assert '<title>b' in (tmp_path / 'r' / 'index.html').read_text()
  path = tmp_path / 'r' / name
  path.parent.mkdir(parents=True, exist_ok=True)
  path.symlink_to(tmp_path) if name == 'link' else path.write_text('mine')
  with pytest.raises(UserError, match=re.escape(f'{name!r}, which is no part of a report')):
    write(tmp_path / 'r', 'c')
  assert path.exists() and [each.name for each in tmp_path.iterdir()] == ['r']


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  write('~/r')

  def fail(folder):
    raise OSError(28, 'No space left on device')

  with pytest.raises(UserError, match='No space left'):
    write(tmp_path / 'r', 'b', fail)
  rename = pathlib.Path.rename

  def stop(path, target):
    if path.name == 'new':
      raise KeyboardInterrupt
    return rename(path, target)

  monkeypatch.setattr(pathlib.Path, 'rename', stop)
  with pytest.raises(KeyboardInterrupt):
    write(tmp_path / 'r', 'b')
  assert '<title>a' in (tmp_path / 'r' / 'index.html').read_text()
  assert [path.name for path in tmp_path.iterdir()] == ['r']
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'index.html').write_text('mine')
  for name, told in (('thesis', 'index.html.*no part'), ('thesis/index.html', 'cannot be read')):
    with pytest.raises(UserError, match=told):
      report.check(tmp_path / name)


def test_references_have_two_forms_and_are_finite():
  both = report.parse_references('{"random": -1, "Pong": {"mine": 2.5}}')
  found = report.references_of([record(), record(task='x', suite='dmc')], both)
  assert found['x'] == {'random': -1} and found['Pong'] == {
    'random': -1,
    'human': 14.6,
    'mine': 2.5,
  }
  wrongs = '{"a": NaN}', '{"a": {"b": Infinity}}', '{"a": true}', '{"a": {"b": "1"}}', '[1]', '{'
  for wrong in (*wrongs, '{"a": 1e999}', '{"a": {"b": {"c": 1}}}'):
    with pytest.raises(UserError, match='--references must be JSON of names and finite scores'):
      report.parse_references(wrong)


# --------------------------------------------------------------------------------------------------
# the command


def command(*given):
  return commands.run('report', *given)


def test_the_command(tmp_path):
  runs, output = tmp_path / 'runs', tmp_path / 'report'
  append(write_run(runs / 'seed1', 1, suite='dmc') / 'metrics.jsonl', {'step': 50, 'mine': 1.0})
  (runs / 'seed1' / 'videos').mkdir()
  for name in ('open_loop_image_00000050.gif', 'open_loop_image_00000100.gif', 'notes.txt'):
    (runs / 'seed1' / 'videos' / name).write_bytes(name.encode())
  os.utime(runs / 'seed1' / 'videos' / 'open_loop_image_00000050.gif', (1, 1))
  (runs / 'seed7').mkdir()
  (runs / 'seed7' / 'config.json').write_text('{')
  options = ['--title=Walker', '--references={"Pong": {"random": 144.2}}', '--metrics=loss/,mine']
  result = command(runs, f'--output={output}', *options)
  assert result.returncode == 0, result.stderr
  page = words((output / 'index.html').read_text(encoding='utf-8'))
  assert '\nDeepMind Control\nProtocol: mean return of 2 ' in result.stdout
  assert 'seed7' in result.stderr and 'seed7' in page and 'Walker' in page and '144.2' in page
  for name in ('dmc-curves-frames', 'dmc-curves-hours', 'dmc-losses', 'dmc-mine'):
    for kind in ('png', 'svg'):
      assert (output / 'figures' / f'{name}.{kind}').stat().st_size > 1000
  (shown,) = (output / 'media').iterdir()  # the newest of its kind
  assert shown.read_bytes() == b'open_loop_image_00000100.gif'
  assert f'src="media/{shown.name}"' in (output / 'index.html').read_text(encoding='utf-8')
  again = command(output, runs, f'--output={output}')  # its own results are no runs beside these
  assert again.returncode == 0 and '1 of 1 runs' in again.stdout, again.stderr


@pytest.mark.parametrize(
  'given, told',
  [
    ((), 'name run folders'),
    (('/nowhere',), 'none of these holds a run'),
    (('results/dmc', '--references={"a": true}'), '--references must be'),
    (('results/dmc', '--outptu=x'), "Unknown command line flag 'outptu'"),
    (('results/dmc', '--output=docs'), 'no part of a report'),
  ],
)
def test_mistakes_are_told_in_one_line(tmp_path, given, told):
  output = [] if '--output=docs' in given else [f'--output={tmp_path / "r"}']
  result = command(*given, *output)
  assert result.returncode == 2 and told in result.stderr and 'Traceback' not in result.stderr
  assert result.stderr.strip().split('\n')[-1].startswith('error: ')
  assert not (tmp_path / 'r').exists()


@pytest.mark.skipif(not SCORES.exists(), reason="the authors' scores are not beside this checkout")
def test_the_published_aggregates_are_reproduced(tmp_path):
  result = command(f'--reference={SCORES}', f'--output={tmp_path / "reference"}')
  assert result.returncode == 0, result.stderr
  line = next(re.finditer(rf'{re.escape(AUTHORS)} 1\..*', result.stdout))[0]
  assert re.findall(r'(\d\.\d{3}) \[', line)[:3] == ['1.364', '0.671', '0.607']
  page = words((tmp_path / 'reference' / 'index.html').read_text(encoding='utf-8'))
  for point, interval in re.findall(r'(\d\.\d{3}) (\[.*?\])', line):
    assert f'{point} {interval}' in page
