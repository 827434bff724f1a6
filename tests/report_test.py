"""Reports say what there is and what is missing; their numbers are those of the runs, their page
needs nothing else.
"""

import json
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest

from harmony_jax.errors import UserError
from harmony_jax.reporting import (
  charts,
  comparisons,
  curves,
  grouping,
  page,
  page_style,
  published,
  references,
  report,
  report_files,
  statistics,
  tables,
)
from tests.reports import record

ROOT = pathlib.Path(__file__).parents[1]
SCORES = ROOT.parent / 'shared' / 'scores'


def words(html):
  """What a reader reads: no style, no figures, no tags."""
  html = re.sub(r'<style>.*?</style>|<svg.*?</svg>', ' ', html, flags=re.S)
  return re.sub(r'\s+', ' ', re.sub(r'<[^>]+>', ' ', html))


def rendered(records, problems=(), **options):
  made = report.make(records, problems, **options)
  return made, report.render(made, 'today', 'python -m experiments.report runs')


def row(table, *first):
  """The cells of the row that begins so."""
  return next(
    each for each in table.rows if [cell.text for cell in each[: len(first)]] == list(first)
  )


# --------------------------------------------------------------------------------------------------
# what counts


def test_losses_and_methods_can_be_told_apart():
  """A colour for each loss, and a line for each of five methods, on the page and in its legends."""
  assert len(set(charts.TASKS.values())) == len(charts.TASKS)
  names = [curves.STYLE_NAMES[style] for style in curves.STYLES]
  assert len(set(names)) == len(names) == 5
  legend = charts.handles(
    types.SimpleNamespace(legend=[('a method', charts.INK, name) for name in names])
  )
  assert len({str(handle.get_linestyle()) + str(handle._dash_pattern) for handle in legend}) == 5
  assert all(f'.legend .{name}{{' in page_style.CSS for name in names[1:])


def test_runs_not_complete_are_in_the_curves_but_in_no_mean():
  records = [
    record(seed=0),
    record(seed=1, complete=False, values=(-20.0, 100.0), planned_steps=4000),
  ]
  made, html = rendered(records)
  cell = tables.atari(records).rows[list_index(tables.atari(records), 'Pong')][9]
  assert cell.text == '15.0' and 'seed 1 not complete: 50 %' in cell.notes
  assert '1 of 2' in words(
    html
  ) and 'Pong, dreamerv3-harmony-cpu, seed 1: step 2,000 of 4,000 (50 %)' in words(html)
  assert grouping.finals(records) == {'Pong': [15.0]}
  assert len(grouping.points(records[1])) == 2  # drawn
  assert made.figures[0].name == 'atari-curves-frames'


def list_index(table, name):
  return [each[0].text for each in table.rows].index(name)


def test_problems_are_named():
  _, html = rendered([record()], ['runs/x/seed3 holds no run: its config.json cannot be read'])
  assert 'runs/x/seed3 holds no run' in words(html)


def test_a_run_without_any_evaluation_yet():
  _, html = rendered([record(complete=False, values=(), planned_steps=4000, metrics=False)])
  assert 'seed 0: nothing written yet' in words(html) and '<svg' not in html


@pytest.mark.parametrize('wrong', [float('nan'), None, float('inf')])
def test_a_score_that_is_none_is_missing_not_zero(wrong):
  records = [record(values=(1.0, wrong)), record(seed=1, values=(1.0, 3.0))]
  assert grouping.finals(records) == {'Pong': [3.0]}
  assert len(grouping.points(records[0])) == 1
  cell = tables.summary_of(records)
  assert cell.text == '3.00' and '1 complete without a finite score' in cell.notes
  _, html = rendered(records)
  assert 'nan' not in words(html).lower().split()


def test_one_seed_has_no_interval_and_the_page_says_so():
  _, html = rendered([record(), record(method='dreamerv3-none-cpu', values=(1.0, 2.0, 3.0))])
  assert 'One seed only, so no interval' in words(html) and 'no interval: 1 run' in words(html)
  assert 'fill-opacity' not in html  # bands would have it
  _, html = rendered([record(), record(seed=1, values=(0.0, 1.0, 2.0))])
  assert 'fill-opacity: 0.2' in html and 'fewer than five' in words(html)


def test_tasks_that_one_method_lacks_are_missing():
  records = [record(), record(task='Boxing'), record(method='dreamerv3-none-cpu')]
  made, html = rendered(records)
  boxing = row(tables.atari(records), 'Boxing')
  assert [cell.text for cell in boxing[-4:]] == ['15.0', '14.0', 'missing', 'missing']
  assert 'dreamerv3-none-cpu: 1 of 26 games have a complete run' in words(html)
  sets = [[cell.text for cell in each] for each in made.tables[1].rows if len(each) == 1]
  assert sets == [['1 of 26 games: Pong'], ['2 of 26 games: Boxing, Pong']]
  assert 'missing: Alien' in '\n'.join(tables.lines(made.tables[0]))


def test_an_unknown_method_and_suite():
  records = [
    record(method='mine', suite='mygame', task='level 1'),
    record(suite='mygame', task='level 1'),
  ]
  _, html = rendered(records)
  assert 'mine' in words(html) and 'level 1' in words(html)
  colors = charts.method_colors(records)
  assert (
    len(set(colors.values())) == 2 and colors['dreamerv3-harmony-cpu'] == charts.COLORS['harmony']
  )


def test_what_comes_from_files_is_escaped(tmp_path):
  evil = '<script>alert("x")</script>&'
  records = [
    record(task=evil, suite='"><b>', method=f'{evil}-none-cpu', source=evil) for _ in range(1)
  ]
  made, html = rendered(records, [evil], title=evil, references={evil: {evil: 1.0}})
  assert '<script' not in html and '"><b>' not in html and '&lt;script&gt;' in html
  assert all(re.fullmatch(r'[a-z0-9_-]+', figure.name) for figure in made.figures)


def test_success_rates_are_percentages():
  records = [
    record(suite='metaworld', task='lever_pull', seed=seed, values=(0.1, value), score='success')
    for seed, value in enumerate((0.5, 0.9))
  ]
  made, html = rendered(records)
  cells = [cell.text for cell in row(made.tables[0], 'lever_pull')]
  assert cells[2].startswith('70% ± 28.3%') and cells[3] == '0.700'  # the rate, then the return
  assert '>100%<' in html or '>80%<' in html  # an axis


def test_tasks_judged_by_different_things_are_not_mixed():
  """One task by success, one by the return, and one by either: each number is what it is."""
  records = [
    record(suite='gym', task='Pull', values=(0.5,), score='success'),
    record(suite='gym', task='Walk', values=(700.0,)),
    record(suite='gym', task='Both', values=(300.0,)),
    record(suite='gym', task='Both', seed=1, values=(0.25,), score='success'),
    record('dreamerv3-none-cpu', suite='gym', task='Both', values=(200.0,)),
  ]
  made, html = rendered(records)
  table = made.tables[0]
  assert table.header[2] == 'Score' and 'Score over environment frames' in words(html)
  ours = [
    (each[0].text, each[2].text, each[3].text)
    for each in table.rows
    if each[1].text == 'dreamerv3-harmony-cpu'
  ]
  assert ours == [
    ('Both', '300.0', '300.0'),
    ('Both (by success)', '25%', '0.250'),
    ('Pull', '50%', '0.500'),
    ('Walk', '700.0', '700.0'),
  ]
  figure = made.figures[0]
  assert [panel.title for panel in figure.panels] == ['Both', 'Both (by success)', 'Pull', 'Walk']
  shown = [bool(re.search(r'>[\d.]+%<', svg)) for svg in charts.inline(figure)]
  assert shown == [False, True, True, False]
  improvement = made.tables[-1].rows[0]
  # 300 against 200, and no 0.25 against 200
  assert improvement[2].text == '1.000' and improvement[3].text == '1'


def test_returns_over_1000_are_of_returns():
  records = [record(suite='dmc', task=task, values=(500.0,)) for task in ('a', 'b')]
  records.append(record(suite='dmc', task='c', values=(1.0,), score='success'))
  made, _ = rendered(records)
  assert [row[0].text for row in made.tables[1].rows] == ['2 tasks: a, b', 'dreamerv3-harmony-cpu']


@pytest.mark.parametrize('suite', ['atari', 'dmc'])
def test_missing_runs_and_seeds_are_named(suite):
  records = [record(suite=suite, seed=seed) for seed in range(3)] + [
    record(suite=suite, task='Boxing', seed=1)
  ]
  records += [record('dreamerv3-none-cpu', suite=suite, seed=seed) for seed in (0, 2)]
  authors = sorted(grouping.AUTHORS)[0]
  # seeds of their own
  records += [record(authors, suite=suite, seed=seed, weighting=None) for seed in range(5)]
  made, html = rendered(records)
  if suite == 'dmc':
    none = row(made.tables[0], 'Boxing', 'dreamerv3-none-cpu')
    assert [cell.text for cell in none[2:]] == ['missing'] * 5
    notes = lambda task, method: row(made.tables[0], task, method)[2].notes
    assert 'missing: seed 1' in notes('Pong', 'dreamerv3-none-cpu')
    assert 'missing: seeds 0, 2' in notes('Boxing', 'dreamerv3-harmony-cpu')
    assert not any(
      'missing' in note
      for method in ('dreamerv3-harmony-cpu', authors)
      for note in notes('Pong', method)
    )
  assert 'missing: seeds 0, 2' in words(html) and words(html).count('missing: seed') == 2
  assert '(missing: seed 1)' in '\n'.join(report.terminal(made))


def test_the_spread_has_the_digits_of_its_mean():
  cell = lambda *values: (
    tables.summary_of([record(seed=seed, values=(each,)) for seed, each in enumerate(values)]).text
  )
  assert [cell(0.0, 0.0), cell(-1.0, 1.0), cell(15.0, 15.0), cell(0.5, 0.7)] == [
    '0 ± 0',
    '0 ± 1.41',
    '15.0 ± 0.0',
    '0.600 ± 0.141',
  ]


def test_no_runs_at_all():
  _, html = rendered([])
  assert 'There are no runs' in words(html)


# --------------------------------------------------------------------------------------------------
# statistics


def test_means_are_taken_where_all_seeds_have_a_point():
  rows, width = grouping.common_grid(
    [[(4, 4, 1.0), (8, 8, 3.0)], [(4, 6, 2.0), (8, 8, 5.0), (12, 12, 9.0)]]
  )
  assert rows == [(5.0, [1.0, 2.0]), (8.0, [3.0, 5.0])] and width is None


def test_seeds_without_common_frames_are_binned():
  rows, width = grouping.common_grid(
    [[(10, 10, 1.0), (20, 20, 3.0)], [(12, 12, 5.0), (22, 22, 7.0), (32, 32, 9.0)]]
  )
  assert width == 10 and rows == [(11.0, [1.0, 5.0]), (21.0, [3.0, 7.0])]
  runs = [record(seed=0), record(seed=1)]
  for evaluation in runs[1]['evaluations']:
    evaluation['frame'] += 1
  figure = curves.learning('atari', runs, charts.method_colors(runs))
  assert 'bins of 4,000 frames' in figure.caption


def drawn(records, x='frame'):
  """(the figure, {(x, y, width, marker)} of the first panel's lines) of learning curves."""
  from matplotlib.figure import Figure

  figure, axis = (
    curves.learning('atari', records, charts.method_colors(records), x=x),
    Figure().add_subplot(),
  )
  figure.panels[0].draw(axis)
  return figure, [
    (list(line.get_xdata()), list(line.get_ydata()), line.get_linewidth(), line.get_marker())
    for line in axis.lines
    if line.get_linestyle() == '-'
  ]


def test_a_run_that_has_just_begun_does_not_end_the_mean():
  whole = [record(seed=seed, values=(0.0, 5.0, 10.0 + 2 * seed)) for seed in range(2)]
  begun = record(seed=2, values=(3.0,), complete=False, planned_steps=3000)
  figure, lines = drawn([*whole, begun])
  assert ([4000, 8000, 12000], [0, 5, 11], 1.8, 'o') in lines
  assert ([4000], [3], 0.7, 'o') in lines and len(lines) == 4
  assert 'not complete are thin lines only' in figure.caption and figure.legend[0][0].endswith(
    ', 2 seeds'
  )
  figure, lines = drawn([whole[0], begun])
  assert ([4000, 8000, 12000], [0, 5, 10], 1.8, 'o') in lines and len(lines) == 2
  assert 'One seed only' in figure.caption and figure.legend[0][0].endswith(', 1 seed')
  # none is complete: of all
  figure, lines = drawn([{**each, 'complete': False} for each in (*whole, begun)])
  assert ([4000], [1], 1.8, 'o') in lines and 'not complete' not in figure.caption
  assert [width for *_, width, _ in lines].count(0.7) == 3


def test_the_title_of_a_file_is_whole():
  for panels in (1, 2):
    records = [record(task=task, suite='dmc') for task in ('a', 'b')[:panels]]
    for figure in report.make(records).figures:
      canvas = charts._grid(figure)
      box = canvas.texts[0].get_window_extent()
      assert box.x1 <= canvas.bbox.x1, figure.title


def test_captions_say_what_is_averaged():
  records = [record()]
  assert 'at most 200 of the logged values' in curves.losses('atari', records).caption
  assert 'at most 200 of the logged values' in curves.harmonizers('atari', records).caption


def test_bold_is_within_5_percent_of_the_best():
  assert tables.within_5_percent({'a': 100, 'b': 95, 'c': 94.9, 'd': None}) == {'a', 'b'}
  assert tables.within_5_percent({'a': -20.0, 'b': -20.9, 'c': -21.1}) == {'a', 'b'}


def test_improvement_of_harmony_over_none():
  records = [record(seed=seed, values=(each,)) for seed, each in enumerate((3.0, 5.0))]
  records += [
    record(method='dreamerv3-none-cpu', seed=seed, values=(each,))
    for seed, each in enumerate((1.0, 4.0))
  ]
  made, _ = rendered(records)
  cells = made.tables[-1].rows[0]
  assert [cell.text for cell in cells] == [
    'dreamerv3-harmony-cpu',
    'dreamerv3-none-cpu',
    '0.750',
    '1',
  ]


def test_numbers_of_the_published_columns_are_computed_from_game_means():
  found = comparisons.published_aggregates(sorted(published.TABLE_2['Harmony DreamerV3']))
  assert round(found['Harmony DreamerV3']['median'], 3) == 0.671 and found[
    'SimPLe (2020)'
  ].keys() == {'mean', 'median'}


def test_protocols_that_differ_are_printed_each():
  short = record(task='Boxing')
  short['config']['env'] = {'frame_cap': 400}
  lines = report.protocol_lines([record(), record(seed=1), short])
  assert [bold for bold, _ in lines] == ['Protocol:', 'Boxing:'] and 'at most 400 frames' in lines[
    1
  ][1]
  other = record(seed=2)
  other['config']['final_eval_episodes'] = 7
  lines = report.protocol_lines([record(), record(seed=1), other])
  assert (
    lines[0][0] == 'Protocols differ'
    and sum('7 complete episodes' in line for _, line in lines) == 1
  )
  behind = [record(task='walker_walk', suite='dmc', seed=seed) for seed in range(2)]
  for each in behind:
    each['config']['env'] = {'background': 'video'}
  lines = report.protocol_lines([*behind, record(task='cup_catch', suite='dmc')])
  assert lines[1] == (
    'cup_catch:',
    '(not: moving pictures behind the robot, generated); else as above.',
  )
  assert report._difference('a; b, c', 'a; c, b') == 'a; b, c.' and report._difference(
    'a; b, b', 'a; b'
  ) == ('b; else as above.')
  theirs = record(method='dreamerv3-none-cpu')
  theirs['config']['eval_policy'] = 'mode'
  assert [bold for bold, _ in report.protocol_lines([record(), record(seed=1), short, theirs])] == [
    'Protocols differ',
    'dreamerv3-harmony-cpu:',
    'Boxing:',
    'dreamerv3-none-cpu:',
  ]


# --------------------------------------------------------------------------------------------------
# the page


def test_the_page_needs_nothing_else_and_its_links_lead_somewhere():
  made, html = rendered(
    [record(seed=seed) for seed in range(2)] + [record(task='Boxing')], references={}
  )
  assert not re.search(
    r'<script|<link(?! rel="icon" href="data:,")|@import|https?://(?!www\.w3\.org)', html
  )
  assert not re.search(r'(src|href)="(?!#|figures/|data:,)', html)
  ids = re.findall(r' id="([^"]+)"', html)
  assert len(ids) == len(set(ids))
  assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', html)) <= set(ids)
  assert set(re.findall(r'href="figures/([^"]+)\.svg', html)) == {
    figure.name for figure in made.figures
  }
  assert html.count('<svg') == html.count('role="img" aria-label="')
  assert 'currentColor' in html and charts.INK not in html and '<text' in html


def test_distant_references_are_named_but_do_not_flatten_the_curve():
  from matplotlib.figure import Figure

  axis = Figure().add_subplot()
  axis.plot([0, 1], [0, 10])
  curves._reference_lines(axis, {'random': 1.0, 'human': 70000.0})
  assert axis.get_ylim()[1] < 20 and [text.get_text() for text in axis.texts] == [
    'random',
    'human 70k ↑',
  ]


def test_numbers():
  assert [
    charts.number(each) for each in (22274.4, 144.25, 18.6, 1.364, 0.0122, -0.5, 0, 617, None)
  ] == ['22,274', '144.2', '18.6', '1.36', '0.012', '−0.500', '0', '617', 'missing']
  assert [charts.tick(each) for each in (400000, 1500, 0.5, 1e-6, 0.0002, -20)] == [
    '400k',
    '1.5k',
    '0.5',
    '10⁻⁶',
    '2·10⁻⁴',
    '−20',
  ]


def test_a_folder_that_is_no_report_is_left_alone(tmp_path):
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis' / 'index.html').write_text('mine')
  with pytest.raises(UserError, match='index.html.*no report'):
    report_files.check(tmp_path / 'thesis')
  old = tmp_path / 'old'
  report_files.write(old, page.document('a', '', [], []), [], lambda folder: None)
  report_files.write(old, page.document('b', '', [], []), [], lambda folder: (folder.mkdir(), None))
  assert '<title>b' in (old / 'index.html').read_text() and (old / 'results').is_dir()
  (old / 'notes.txt').write_text('mine')
  with pytest.raises(UserError, match='notes.txt'):
    report_files.check(old)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['old', 'thesis']


def test_a_report_that_does_not_name_its_files_is_left_alone(tmp_path):
  (tmp_path / 'index.html').write_text(page.document('a', '', [], []))
  with pytest.raises(UserError, match='does not say which files are its own'):
    report_files.check(tmp_path)


@pytest.mark.parametrize(
  'name', ['figures/notes.txt', 'results/mine.json', 'figures/deep/er/notes.txt', 'link']
)
def test_what_a_user_has_put_into_a_report_is_not_lost(tmp_path, name):
  made = report.make([record()])

  def write(folder):
    report_files.write(
      folder,
      page.document('a', '', [], []),
      made.figures[:1],
      lambda results: (results.mkdir(), (results / 'scores.csv').write_text('')),
    )

  write(tmp_path / 'r')
  write(tmp_path / 'r')  # its own files are written anew
  path = tmp_path / 'r' / name
  path.parent.mkdir(parents=True, exist_ok=True)
  if name == 'link':
    (tmp_path / 'data').mkdir()
    path.symlink_to(tmp_path / 'data', target_is_directory=True)
  else:
    path.write_text('mine')
  with pytest.raises(UserError, match=re.escape(f'{name!r}, which is no part of a report')):
    write(tmp_path / 'r')
  assert (
    path.exists() and [each.name for each in tmp_path.iterdir() if each.name.startswith('.')] == []
  )


def test_the_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.chdir(tmp_path)
  report_files.write('~/r', page.document('a', '', [], []), [], lambda folder: None)
  assert (tmp_path / 'home' / 'r' / 'index.html').exists() and not (tmp_path / '~').exists()


def test_references_have_two_forms_and_are_finite():
  both = references.parse('{"random": -1, "Pong": {"mine": 2.5}}')
  assert references.of('Pong', both) == {'random': -1, 'mine': 2.5} and references.of(
    'Boxing', both
  ) == {'random': -1}
  assert references.of('Pong', None) == {} == references.of('Pong', references.parse('{}'))
  for wrong in (
    '{"a": NaN}',
    '{"a": {"b": Infinity}}',
    '{"a": true}',
    '{"a": null}',
    '{"a": {"b": "1"}}',
    '[1]',
    '{',
    '{"a": 1e999}',
    '{"a": 1' + '0' * 400 + '}',
    '{"a": {"b": {"c": 1}}}',
  ):
    with pytest.raises(UserError, match='--references must be JSON of names and finite scores'):
      references.parse(wrong)
  assert report.make([record()], references=both).tables


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(tmp_path):
  report_files.write(tmp_path / 'r', page.document('a', '', [], []), [], lambda folder: None)

  def fail(folder):
    raise OSError(28, 'No space left on device')

  with pytest.raises(UserError, match='No space left'):
    report_files.write(tmp_path / 'r', 'new', [], fail)
  assert '<title>a' in (tmp_path / 'r' / 'index.html').read_text()
  assert [path.name for path in tmp_path.iterdir()] == ['r']


# --------------------------------------------------------------------------------------------------
# the command


def command(*words, **options):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.report', *map(str, words)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=200,
    **options,
  )


def test_the_command_on_results_files(tmp_path):
  broken = tmp_path / 'runs' / 'seed7'
  broken.mkdir(parents=True)
  (broken / 'config.json').write_text('{')
  result = command(
    ROOT / 'results' / 'dmc',
    tmp_path / 'runs',
    f'--output={tmp_path / "report"}',
    '--title=Walker',
    '--references={"walker_stand": {"random": 144.2}}',
  )
  assert result.returncode == 0, result.stderr
  html = (tmp_path / 'report' / 'index.html').read_text(encoding='utf-8')
  assert '\nDeepMind Control\nProtocol: mean return of ' in result.stdout
  assert (
    'seed7' in result.stderr
    and 'seed7' in words(html)
    and '<title>Walker' in html
    and '144.2' in words(html)
  )
  kept = json.loads(
    (ROOT / 'results' / 'dmc' / 'dreamerv2-harmony-cpu.json').read_text(encoding='utf-8')
  )
  mean = np.mean([run['evaluations']['eval_mean'][-1] for run in kept['runs']])
  assert f'{mean:.1f} ±' in result.stdout and f'{mean:.1f} ±' in words(html)
  for name in ('dmc-curves-frames', 'dmc-curves-hours', 'dmc-weights', 'dmc-losses'):
    for kind in ('png', 'svg'):
      assert (tmp_path / 'report' / 'figures' / f'{name}.{kind}').stat().st_size > 1000
  assert (tmp_path / 'report' / 'results' / 'scores.csv').exists()


@pytest.mark.parametrize(
  'given, told',
  [
    ((), 'name run folders'),
    (('/nowhere',), 'none of these holds a run'),
    (('results/dmc', '--references={"a": true}'), '--references must be'),
    (('results/dmc', '--outptu=x'), "Unknown command line flag 'outptu'"),
    (('results/dmc', '--output=docs'), 'no report'),
  ],
)
def test_mistakes_are_told_in_one_line(tmp_path, given, told):
  result = command(
    *given, *([] if any('--output' in word for word in given) else [f'--output={tmp_path / "r"}'])
  )
  assert result.returncode == 2 and told in result.stderr and 'Traceback' not in result.stderr
  assert (
    result.stderr.strip().split('\n')[-1].startswith('error: ') and not (tmp_path / 'r').exists()
  )


@pytest.mark.skipif(not SCORES.exists(), reason="the authors' scores are not beside this checkout")
def test_the_published_aggregates_are_reproduced(tmp_path):
  result = command(f'--reference={SCORES}', f'--output={tmp_path / "reference"}')
  assert result.returncode == 0, result.stderr
  line = next(
    line
    for line in result.stdout.splitlines()
    if re.match(r'Harmony DreamerV3 \(authors\) +1\.', line)
  )
  points = re.findall(r'(\d\.\d{3}) \[(\d\.\d{3}), (\d\.\d{3})\]', line)
  assert [point for point, _, _ in points[:3]] == ['1.364', '0.671', '0.607']
  assert all(float(low) < float(point) < float(high) for point, low, high in points)
  text = words((tmp_path / 'reference' / 'index.html').read_text(encoding='utf-8'))
  for point, low, high in points:
    assert f'{point} [{low}, {high}]' in text
  assert statistics.mean_interval([0.0]).low is None  # the page's numbers come from there


def test_weights_that_a_person_chose_stand_with_the_protocol():
  """They are no other protocol: the runs can be compared."""
  one, other = record('harmony', 'walker_stand', 0), record('fixed', 'walker_stand', 0)
  other['config'] = {
    **other['config'],
    'weighting': {'rule': 'fixed', 'w_o': 1.0, 'w_r': 1000.0, 'w_d': 1.0},
  }
  lines = report.protocol_lines([one, other])
  assert lines[1:] == [
    ('fixed:', 'fixed weights of the losses: observation 1.0, reward 1000.0, dynamics 1.0.')
  ]
