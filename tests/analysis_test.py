"""The paper's analyses: what they would run, and what they draw of runs that are there."""

import csv
import json
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments import configs
from harmony_jax.errors import UserError
from harmony_jax.offline import buffer as buffers
from harmony_jax.offline import figures, study
from harmony_jax.reporting import analysis as reporting
from harmony_jax.reporting import figures as drawing
from tests import commands, offline_test, reports


def lines_of(*words):
  done = commands.run('analysis', '--dry_run', *words)
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()


def rows_of(path):
  with open(path, encoding='utf-8') as file:
    return list(csv.DictReader(file))


def test_a_figure_is_some_commands():
  """Each as one could type it; variants whose rule does not say all have a root of their own."""
  lines = lines_of('--figure=18', '--seeds=3', '--config.steps=5000', '--', '--workers=2')
  assert len(lines) == 6  # two suites, three variants
  assert all(line.endswith('--workers=2 --config.steps=5000') for line in lines)
  assert '--tasks=lever_pull,handle_pull_side' in lines[0] and '--tasks=cheetah_run,' in lines[3]
  assert '--root=runs ' in lines[0] and '--root=runs/variants/w_r10 ' in lines[1]
  words = lines[1].removeprefix('$ python -m experiments.').split()
  done = commands.run(*words, '--dry_run')
  assert done.returncode == 0 and '6 waiting' in done.stdout, (done.stdout, done.stderr)
  assert '--config.weighting.w_r=10' in done.stdout
  record, train = lines_of('--figure=e10', '--preset=tiny', '--suite=catch')
  assert '--suite=catch --task=catch' in record and '--policy=random' in record
  assert '--context=35 --horizon=15' in train and train.count('--variant=') == 2


def test_a_figure_of_runs(tmp_path):
  """Of the runs that are there, by the variants of the figure; of others nothing."""
  for rule in ('none', 'harmony', 'fixed'):
    for seed in (0, 1):
      folder = tmp_path / 'runs' / 'dmc' / 'quadruped_run' / f'dreamerv2-{rule}-cpu' / f'seed{seed}'
      reports.write_run(folder, seed, suite='dmc', task='quadruped_run', method='dreamerv2')
      reports.change(folder, weighting={'rule': rule})
      for step in (1, 2):
        weights = {'loss/dynamics': 7.0, 'harmony/reward/weight': 1.0 + step}
        reports.append(folder / 'metrics.jsonl', {'step': 10 + step, **weights})
  where = f'--root={tmp_path}/runs', f'--output={tmp_path}/drawn'
  done = commands.run('analysis', '--figure=15', '--seeds=2', '--draw_only', *where)
  assert done.returncode == 0, done.stderr
  rows = rows_of(tmp_path / 'drawn' / 'figure_15.csv')
  assert {row['label'] for row in rows} == {'none', 'harmony'}
  assert {row['measure'] for row in rows} == {'return', 'loss/dynamics', 'harmony/reward/weight'}
  assert sum(row['measure'] == 'return' for row in rows) == 8  # labels, seeds, evaluations
  assert (tmp_path / 'drawn' / 'figure_15.png').stat().st_size > 10_000
  text = (tmp_path / 'drawn' / 'figure_15.md').read_text()
  assert 'dmc: quadruped_run; dreamerv2, preset `cpu`, 2 seeds.' in text and '2 of the five' in text
  assert 'Of the 6 runs 4 are complete' in text
  assert ', steps (100 for ' in text and 'weighting.rule' not in text
  where = f'--results={tmp_path}/runs', f'--output={tmp_path}/again'
  done = commands.run('analysis', '--figure=15', '--seeds=2', *where)
  assert done.returncode == 0, done.stderr
  assert rows_of(tmp_path / 'again' / 'figure_15.csv') == rows


def test_runs_of_one_rule_are_told_apart_by_its_weights(tmp_path):
  """Wherever they lie; `fixed` alone does not say which variant of a figure a run is."""
  suites = configs()
  made = suites.make(suites.suite('metaworld'), 'dreamerv2', 'cpu', 'hammer')
  for name, *changes in (
    ('w50', 'weighting.rule=fixed', 'weighting.w_r=50'),
    ('w10', 'weighting.rule=fixed', 'weighting.w_r=10'),
    ('half', 'weighting.rule=harmony', 'weighting.rate=0.5', 'weighting.w_r=7'),  # w_r is idle
    ('w_d1', 'weighting.rule=harmony', 'weighting.tasks=observation,reward'),
  ):
    reports.write_run(tmp_path / name, 0, suite='metaworld', task='hammer', method='dreamerv2')
    reports.change(tmp_path / name, weighting=made.override(changes).to_json()['weighting'])
  where = '--suite=metaworld', '--tasks=hammer', f'--output={tmp_path}/drawn'
  where += (f'--results={tmp_path}/w50,{tmp_path}/w10,{tmp_path}/half',)
  for words, labels in (((), {'w_r10'}), (('--config.weighting.rate=0.5',), {'w_r10', 'harmony'})):
    done = commands.run('analysis', '--figure=18', *where, *words)
    assert done.returncode == 0, done.stderr
    assert {row['label'] for row in rows_of(tmp_path / 'drawn' / 'figure_18.csv')} == labels
    told = 'half is left out, a run with weighting.rate (0.5 for 1.0)\n'
    assert (told in done.stderr) == (not words), done.stderr
  done = commands.run('analysis', '--figure=18', *where, '--config.steps=50')
  assert done.returncode == 2 and 'w10 is left out, a run with steps (100 for 50)' in done.stderr
  again = reports.write_run(tmp_path / 'again', 0, first=7.0)
  shutil.copy(tmp_path / 'w10' / 'config.json', again)
  other = f'--results={tmp_path}/w10,{again},{tmp_path}/w10/'
  done = commands.run('analysis', '--figure=18', *where[:-1], other)
  assert done.stderr == (
    f'note: {again} is left out: {tmp_path}/w10 is another run of hammer, w_r10, seed 0\n'
  )
  where = where[:-1] + (f'--results={tmp_path}/w_d1',)
  done = commands.run('analysis', '--figure=17', *where)
  assert done.returncode == 0 and not done.stderr, done.stderr
  labels = {row['label'] for row in rows_of(tmp_path / 'drawn' / 'figure_17.csv')}
  assert labels == {'harmony_w_d1'}


def test_a_run_of_a_study_is_known_by_its_settings(tmp_path):
  """Its label is none of a figure's, such as fixed10; what is as no variant of it is told."""
  suites = configs()
  made = suites.make(suites.suite('catch'), 'dreamerv2', 'cpu', 'catch').replace({'steps': 100})
  for label, *changes in (
    ('fixed10', 'weighting.rule=fixed', 'weighting.w_r=10'),
    ('slow', 'weighting.rule=fixed', 'weighting.w_r=100', 'critic_opt.lr=1e-5'),
  ):
    folder = reports.write_run(tmp_path / label, 0)
    tree = {'config': made.override(changes).to_json(), 'identity': {'variant': label}}
    (folder / 'config.json').write_text(json.dumps(tree))
  words = '--figure=18', '--suite=catch', '--config.steps=100', f'--output={tmp_path}/drawn'
  done = commands.run('analysis', *words, f'--results={tmp_path}')
  told = 'slow is left out, a run with critic_opt.lr (1e-05 for 0.001)\n'
  assert done.returncode == 0 and done.stderr.endswith(told), done.stderr
  assert {row['label'] for row in rows_of(tmp_path / 'drawn' / 'figure_18.csv')} == {'w_r10'}


def test_a_variant_without_changes_is_no_run_with_another_s(tmp_path):
  """Both runs of figure 17 are called harmony, in one folder; one has no σ of the dynamics."""
  suites = configs()
  made = suites.make(suites.suite('metaworld'), 'dreamerv2', 'cpu', 'hammer')
  of = {'suite': 'metaworld', 'task': 'hammer', 'method': 'dreamerv2'}
  for first, tasks in ((9.0, 'observation,reward'), (1.0, 'observation,reward,dynamics')):
    folder, changes = (
      tmp_path / f'{first:g}',
      ['weighting.rule=harmony', f'weighting.tasks={tasks}'],
    )
    reports.write_run(folder, 0, first=first, **of)
    reports.change(folder, weighting=made.override(changes).to_json()['weighting'])
  words = '--figure=17', '--tasks=hammer', f'--output={tmp_path}/drawn'
  done = commands.run('analysis', *words, f'--results={tmp_path}')
  assert done.returncode == 0 and not done.stderr, done.stderr
  rows = rows_of(tmp_path / 'drawn' / 'figure_17.csv')
  found = [(row['label'], float(row['value'])) for row in rows]
  assert found == [('harmony', 1), ('harmony', 2), ('harmony_w_d1', 9), ('harmony_w_d1', 10)]


def test_no_rule_is_weights_of_1_where_the_dynamics_has_that_too(tmp_path):
  """With DreamerV2 `none` is figure 22's w_r1, with DreamerV3 another run: w_d is 0.6 there."""
  suites = configs()
  for name, told in (('dreamerv2', ''), ('dreamerv3', 'with weighting.w_d (0.6 for 1.0)\n')):
    made = suites.make(suites.suite('metaworld'), name, 'cpu', 'hammer')
    tree = made.override(['weighting.rule=none', 'weighting.w_r=7']).to_json()  # w_r is idle
    idle = tree['weighting']
    reports.write_run(tmp_path / name, 0, suite='metaworld', task='hammer', method=name)
    reports.change(tmp_path / name, weighting=idle, losses=tree['losses'])
    where = f'--method={name}', f'--results={tmp_path}', f'--output={tmp_path}/drawn'
    done = commands.run('analysis', '--figure=22', *where)
    assert (done.returncode == 0) == (not told) and told in done.stderr, done.stderr
  rows = rows_of(tmp_path / 'drawn' / 'figure_22.csv')
  assert [(row['label'], float(row['value'])) for row in rows] == [('w_r1', 1), ('w_r1', 2)]
  assert 'weighting.rule' not in (tmp_path / 'drawn' / 'figure_22.md').read_text()
  reports.change(tmp_path / 'dreamerv2', seed=1)
  where = f'--results={tmp_path}/dreamerv2', f'--output={tmp_path}/drawn'
  done = commands.run('analysis', '--figure=22', *where)
  assert done.returncode == 2 and 'dreamerv2 has seeds beyond --seeds=1\n' in done.stderr
  reports.change(tmp_path / 'dreamerv2', seed=0, weighting={**idle, 'rule': 'fixed'})
  done = commands.run('analysis', '--figure=15', '--suite=metaworld', '--tasks=hammer', *where)
  assert done.returncode == 2 and 'left out' not in done.stderr  # other weights, another rule


@pytest.mark.parametrize(
  'method, words, scale',
  [('dreamerv2', (), 1), ('dreamerv3', (), 0.6), ('dreamerv2', ('--config.losses.dyn=0.2',), 0.4)],
)
def test_a_figure_says_which_weight_the_dynamics_has_without_its_harmonizer(
  method, words, scale, tmp_path
):
  """It is called w_d = 1, which it is with DreamerV2's own losses alone."""
  folder = tmp_path / 'runs' / 'catch' / 'catch' / f'{method}-none-cpu' / 'seed0'
  reports.write_run(folder, 0, suite='catch', task='catch', method=method)
  reports.change(folder, weighting={'rule': 'none'})
  where = f'--root={tmp_path}/runs', f'--output={tmp_path}', f'--method={method}', '--draw_only'
  done = commands.run('analysis', '--figure=17', '--suite=catch', *where, *words)
  assert done.returncode == 0, done.stderr
  told = f'{method} has w_d = {scale:g} of its own, as harmony_w_d1 has it here.'
  assert (told in (tmp_path / 'figure_17.md').read_text()) == (scale != 1)


def test_a_figure_says_of_which_runs_it_is(tmp_path):
  """Three of four runs are there, one of them is going on and one cannot be read."""
  kind = tmp_path / 'runs' / 'dmcr' / 'cheetah_run'
  of = {'suite': 'dmcr', 'task': 'cheetah_run', 'method': 'dreamerv2'}
  for rule, seed in (('none', 0), ('harmony', 0), ('harmony', 1)):
    folder = kind / f'dreamerv2-{rule}-cpu' / f'seed{seed}'
    reports.write_run(folder, seed, complete=rule == 'none', lines=0, steps=(), **of)
    reports.change(folder, weighting={'rule': rule}, final_eval_episodes=0)
  (folder / 'metrics.jsonl').write_text('no JSON\n')
  drawn = tmp_path / 'drawn'
  words = '--figure=6b', '--seeds=2', '--draw_only', f'--root={tmp_path}/runs', f'--output={drawn}'
  done = commands.run('analysis', *words)
  assert done.returncode == 2 and 'have written nothing yet' in done.stderr
  assert 'seed1 is damaged' in done.stderr and not list(drawn.iterdir())
  for rule in ('none', 'harmony'):
    path = kind / f'dreamerv2-{rule}-cpu' / 'seed0' / 'metrics.jsonl'
    reports.append(path, {'step': 1, 'loss/dynamics': 7.0})
  done = commands.run('analysis', *words)
  assert done.returncode == 0, done.stderr
  text = (drawn / 'figure_6b.md').read_text()
  assert 'Of the 4 runs 1 are complete; what is drawn is of 2,' in text and '0 of the five' in text
  done = commands.run('analysis', *words, '--config.label=big')
  assert done.returncode == 2 and 'no run of this figure' in done.stderr  # these are others


def test_a_mean_over_updates_is_of_all_runs():
  """A value that was not finite is missing: a mean of the others would be of other runs."""
  axis = Figure().add_subplot()
  curves = {'a': {1: {'s0': 1.0, 's1': 3.0}, 3: {'s0': 1.0}, 2: {}}}  # no line goes through 2
  reporting.over_updates('', curves, {'a': ('red', 'solid')}).draw(axis)
  *runs, mean = [line.get_ydata() for line in axis.lines]
  np.testing.assert_equal(np.array(runs), [[1, np.nan, 1], [3, np.nan, np.nan]])
  np.testing.assert_equal(mean, [2, np.nan, np.nan])


def test_a_bar_is_the_mean_of_all_runs(tmp_path):
  """As over updates: of two runs of which one has no number there are a dot and no bar."""
  plan = {'updates': 2, 'variants': {'a': {}, 'b': {}}, 'seeds': [0, 1], 'buffers': [{'sha256': 1}]}
  opened = study.open_study(tmp_path, plan)
  for run, value in zip(opened.runs(), (1.0, 2.0, None, 4.0)):
    line = {'update': 2, 'measures': {'reward/mse_open_15': value}}
    (tmp_path / f'{run.name}.jsonl').write_text(json.dumps(line))
  axis = Figure().add_subplot()
  (panel,), _, rows = figures.reward_errors({'x': opened})
  panel.draw(axis)
  np.testing.assert_equal([bar.get_height() for bar in axis.patches], [np.nan, 3])
  assert [row[-1] for row in rows] == [1, 2, 4] and axis.get_ylim()[1] > 4


def test_a_run_that_has_just_begun_does_not_end_a_metric_s_mean():
  axis = Figure().add_subplot()
  begun = {'step': [100], 'loss/reward': [50.0]}
  runs = [reports.record(seed=seed) for seed in (0, 1)]
  runs.append(reports.record(seed=2, complete=False, metrics=begun))
  colors = {run.method: 'red' for run in runs}
  (panel,) = reporting.metric(runs, 'loss/reward', colors)
  panel.draw(axis)
  *seeds, mean = axis.lines
  assert len(seeds) == 3
  np.testing.assert_allclose(mean.get_xydata(), [[100, 0.1], [200, 0.05], [300, 0.1 / 3]])


@pytest.mark.parametrize(
  'low, high, labels',
  [
    (3, 9, ['3', '5']),
    (0.9, 12, ['1', '2', '3', '5', '10']),
    (0.1, 100, ['0.1', '1', '10', '100']),
  ],
)
def test_a_logarithmic_axis_has_numbers_to_read(low, high, labels):
  axis = Figure().add_subplot()
  axis.plot([0, 1], [low, high])
  drawing.log_scale(axis)
  bottom, top = axis.get_ylim()
  shown = []
  for part in (axis.yaxis.major, axis.yaxis.minor):
    places = [place for place in part.locator() if bottom <= place <= top]
    shown += part.formatter.format_ticks(places)
  assert [text for text in shown if text] == labels


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """A buffer and studies of two models on it, as `experiments.offline` leaves them."""
  root = tmp_path_factory.mktemp('root')
  (root / 'offline').mkdir()
  file = root / 'offline' / 'catch-catch-tiny.npz'
  offline_test.made([60] * 10, side=8).save(file)
  for context, horizon in ((15, 35), (35, 15)):
    folder = root / 'offline' / f'catch-catch-tiny-dreamerv2-{context}+{horizon}'
    folder.mkdir()
    labels = {
      label: {'weighting.rule': 'fixed'} for label in ('w_r1', 'w_r10', 'w_r100', 'w_r100_w_o0')
    }
    plan = {'variants': labels, 'seeds': [0, 1], 'updates': 4, 'context': context}
    plan |= {'reward_scale': 0.1, 'settings': {'batch_size': 99, 'losses': {'dyn': 0.3}}}
    recorded = {'episodes': 77, 'length': 60, 'policy': 'smooth,scripted', 'env': {'ball': 1}}
    file_of = {'path': str(file), 'sha256': buffers.checksum(file)}
    plan['buffers'] = [file_of | {'recorded': recorded}]
    (folder / 'plan.json').write_text(json.dumps(plan))
    for at, label in enumerate(labels):
      for seed in (0, 1):
        measures = {'loss/observation/training': 50.0, 'loss/reward/training': 0.5 + seed}
        measures |= {'state_mlp/ball': 0.25 * at, f'reward/mse_open_{horizon}': 0.5 - 0.1 * at}
        lines = [{'update': update, 'measures': measures} for update in (2, 4)]
        (folder / f'{label}-s{seed}.jsonl').write_text('\n'.join(map(json.dumps, lines)) + '\n')
        shown = {'first': np.array([240]), 'reward': np.arange(240.0, 290)[None]}
        shown['expected'] = shown['reward'] + 100 * at
        shown['picture/image'] = np.full((1, 50, 8, 8, 3), 60 * at, np.uint8)
        np.savez(folder / f'{label}-s{seed}.npz', **shown)
  return root


@pytest.mark.parametrize(
  'figure, measures, count',
  [
    ('2b', {'loss/observation/training', 'loss/reward/training'}, 8),
    ('2c', {'state_mlp/ball'}, 12),
    ('e10', {'reward/mse_open_15'}, 8),
  ],
)
def test_a_figure_of_models_on_a_buffer(root, tmp_path, figure, measures, count):
  """Its data are the figure's variants alone, each seed."""
  where = f'--root={root}', f'--output={tmp_path}', '--suite=catch', '--preset=tiny', '--seeds=2'
  done = commands.run('analysis', f'--figure={figure}', '--draw_only', *where)
  assert done.returncode == 0, done.stderr
  rows = rows_of(tmp_path / f'figure_{figure}.csv')
  assert {row['measure'] for row in rows} == measures and len(rows) == count
  assert {row['label'] for row in rows} == {
    '2b': {'w_r1'},
    '2c': {'w_r1', 'w_r10', 'w_r100'},
    'e10': {'w_r100', 'w_r100_w_o0'},
  }[figure]
  text = (tmp_path / f'figure_{figure}.md').read_text()
  assert 'nothing can be concluded' in text and 'in the preset: batch_size (99 for ' in text
  for told in (
    *('episodes (77 for 10)', 'reward_scale (0.1 for 1.0)', 'env.ball (1 for 0)'),
    *('of the policy smooth,scripted, where', '\nconfig.weighting.w_d is 1, where --wei'),
  ):
    assert told in text, (told, text)
  assert 'length (' not in text and 'random actions' not in text


def test_a_figure_of_pictures(root, tmp_path):
  where = f'--root={root}', f'--output={tmp_path}', '--suite=catch', '--preset=tiny'
  done = commands.run('analysis', '--figure=3', '--draw_only', *where)
  assert done.returncode == 0, done.stderr
  assert (tmp_path / 'figure_3_catch.png').stat().st_size > 5_000


def test_no_figure_of_runs_that_are_not_finished(root, tmp_path):
  """Pictures are written before the line that ends a run, and a run may be killed between."""
  shutil.copytree(root / 'offline', tmp_path / 'offline')
  where = f'--root={tmp_path}', f'--output={tmp_path}', '--suite=catch', '--preset=tiny'
  folder = tmp_path / 'offline' / 'catch-catch-tiny-dreamerv2-15+35'
  for label in ('w_r100', 'w_r1'):
    path = folder / f'{label}-s0.jsonl'
    path.write_text(path.read_text().splitlines()[0] + '\n')
    done = commands.run('analysis', '--figure=3', '--draw_only', *where)
    told = f'error: {folder} has not finished the runs of seed 0, which figure 3 shows\n'
    assert done.returncode == 2 and done.stderr == told, done.stderr


def test_no_figure_of_pictures_of_another_buffer(root, tmp_path):
  """Recorded anew under the same name, its rows are others than those that were predicted."""
  folder = tmp_path / 'study'
  shutil.copytree(root / 'offline' / 'catch-catch-tiny-dreamerv2-15+35', folder)
  plan = json.loads((folder / 'plan.json').read_text())
  plan['buffers'][0]['path'] = str(tmp_path / 'again.npz')
  offline_test.made([50] * 12, side=8).save(tmp_path / 'again.npz')
  (folder / 'plan.json').write_text(json.dumps(plan))
  with pytest.raises(UserError, match='again.npz is not the buffer any more'):
    figures.strips({'catch': study.Study(folder)}, tmp_path, 'figure_3')


def test_figure_4_is_drawn_of_the_rules(tmp_path):
  done = commands.run('analysis', '--figure=4', f'--output={tmp_path}')
  assert done.returncode == 0 and (tmp_path / 'figure_4.png').stat().st_size > 20_000


def test_bad_input_is_one_line(tmp_path):
  assert commands.run('analysis').stdout.startswith('2a ')
  for words, told in (
    (('--figure=2d',), "did you mean '2"),
    (('--figure=18', '--tasks=hammer'), '--tasks needs --suite here'),
    (('--figure=2a', '--preset=small'), 'one of <paper|cpu|'),
    (('--figure=2a', '--seeds=x'), "--seeds is 'x'"),
    (('--figure=6b', '--draw_only', f'--root={tmp_path}'), 'no run of this figure'),
    (('--figure=2b', f'--results={tmp_path}'), '--results is of whole runs'),
    (('--figure=6b', '--results=results/dmc/again'), 'no run of this figure is in results/dmc/a'),
    (('--figure=2b', '--draw_only', f'--root={tmp_path}', '--suite=catch'), 'holds no study'),
  ):
    done = commands.run('analysis', *words, f'--output={tmp_path}/drawn')
    assert done.returncode == 2 and done.stderr.count('\n') == 1, (words, done.stderr)
    assert told in done.stderr, (words, done.stderr)


@pytest.mark.slow
def test_from_nothing_to_a_picture(tmp_path):
  """It records, trains and draws; a second time it only draws."""
  where = f'--root={tmp_path}/runs', f'--output={tmp_path}/drawn', '--suite=dmc', '--preset=tiny'
  words = '--figure=3', *where, '--task=cartpole_swingup'
  done = commands.run('analysis', *words, timeout=1_000)
  assert done.returncode == 0 and 'w_r100-s0, 4 of 4' in done.stdout, done.stderr
  again = commands.run('analysis', *words)
  assert again.returncode == 0 and 'w_r100-s0: finished' in again.stdout
  assert (tmp_path / 'drawn' / 'figure_3_cartpole_swingup.png').exists()
