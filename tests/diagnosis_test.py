"""What `doctor --run` says of runs that are as they should be, and of those that are not."""

import json

import pytest

from harmony_jax.errors import UserError
from harmony_jax.reporting import diagnosis, ranges
from tests import commands
from tests.reports import append, change, record, write_run


def run(folder, columns=(), lines=40, **config):
  """A run of catch whose metrics are functions of the line's number, from 0 to 1."""
  settings = {
    'suite': 'catch',
    'task': 'catch',
    'preset': 'mine',
    'losses': {'free_nats': 1.0},
    'model_opt': {'clip': 1000.0},
  }
  write_run(folder, steps=(2000, 4000), lines=0, **settings | config)
  change(folder, steps=4000)
  usual = {
    'loss/observation': lambda x: 1000 - 800 * x,
    'loss/dynamics': lambda x: 1 + 10 * x,
    'loss/reward': lambda x: 1.0 - 0.9 * x,
    'harmony/reward/sigma': lambda x: 0.4,  # of a loss of 0.1 to 0.3: 0.37 to 0.72
    'grad_norm/world_model': lambda x: 100.0,
    'actor/entropy': lambda x: 1 - 0.5 * x,
    'return/train': lambda x: x,
    'nonfinite_updates': lambda x: 0.0,
    'speed/env_steps_per_second': lambda x: 50.0,
  }
  for line in range(lines):
    at = line / (lines - 1)
    counts = {'step': 100 * (line + 1), 'frame': 100 * (line + 1), 'update': 50 * line}
    values = {name: of(at) for name, of in (usual | dict(columns)).items()}
    append(folder / 'metrics.jsonl', counts | {'time/hours': at} | values)
  place = folder / 'checkpoints' / '4000' / 'meta'
  place.mkdir(parents=True)
  spec = {'spec': {'discrete': True, 'num_actions': 3, 'choices': []}}
  (place / 'metadata').write_text(json.dumps({'saved': {'meta': spec}}))
  return folder


def odd(folder):
  return [sign.text for sign in diagnosis.examine(folder)[1] if sign.unusual]


def test_a_run_as_it_should_be(tmp_path):
  assert odd(run(tmp_path / 'run')) == []


def test_the_dynamics_has_the_optimum_of_its_own_regulariser(tmp_path):
  """σ of 6/σ + c log(1 + σ) with c = 5/6; with c = 1 it would be 6.87."""
  losses = {'free_nats': 1.0, 'dyn': 0.5, 'rep': 0.1}
  weighting = {'rule': 'harmony', 'dynamics_regularizer': 'code'}
  columns = {'loss/dynamics': lambda x: 6.0, 'harmony/dynamics/sigma': lambda x: 100.0}
  (found,) = odd(run(tmp_path / 'run', columns, losses=losses, weighting=weighting))
  assert 'σ of dynamics is 100.0, its optimum for this loss 8.09:' in found


def test_a_harmonizer_is_held_against_the_loss_that_it_sees(tmp_path):
  """TD-MPC logs a loss of 1; weighed by priorities it was 0.2, of which σ* is 0.558."""
  columns = {'loss/reward': lambda x: 1.0, 'harmony/reward/scaled': lambda x: 0.2 / 20.0}
  columns |= {'harmony/reward/sigma': lambda x: 20.0}
  found = odd(run(tmp_path / 'run', columns))
  assert any('σ of reward is 20.0, its optimum for this loss 0.558:' in text for text in found)


@pytest.mark.parametrize(
  'game, score, same',
  [('Seaquest', 665.0, False), ('Seaquest', 70.0, True), ('Freeway', 0.0, True)],
)
def test_a_random_player_is_one_of_chance(game, score, same, tmp_path):
  """The paper's own of Seaquest is ten times that of chance, and 1.4 % of what people have."""
  folder = run(tmp_path / 'run', suite='atari', task=game)
  (folder / 'scores.jsonl').write_text('')
  values = {'eval_mean': score, 'eval_scores': [score, score + 1]}
  append(folder / 'scores.jsonl', *({'step': s, 'frame': s, **values} for s in (2000, 4000)))
  assert any('is that of a random player' in text for text in odd(folder)) == same


@pytest.mark.parametrize(
  'how, told',
  [
    ({'loss/dynamics': lambda x: 1.0}, 'at its floor, the 1 free nats'),
    ({'loss/observation': lambda x: 100 + 900 * x}, 'the observation loss has risen'),
    ({'grad_norm/world_model': lambda x: 1e4}, 'gradient of world_model is cut in 100%'),
    ({'actor/entropy': lambda x: 1.095}, 'the policy is random'),
    (
      {'actor/entropy': lambda x: 0.001, 'return/train': lambda x: 0.0},
      'the policy is deterministic',
    ),
    ({'harmony/reward/sigma': lambda x: 30.0}, 'it stands still'),
    ({'harmony/reward/sigma': lambda x: 30 - 10 * x}, 'more updates at its pace'),
    ({'nonfinite_updates': lambda x: 3.0}, '3 updates were left out'),
    ({'speed/env_steps_per_second': lambda x: 50 - 40 * x}, 'it has become slow'),
  ],
)
def test_what_is_odd_is_told_alone(tmp_path, how, told):
  (found,) = odd(run(tmp_path / 'run', how))
  assert told in found


def test_a_collapse_without_free_nats_is_told(tmp_path):
  """Offline three rules do so on lever pull, whose model has none."""
  for kl, told in ((1e-4, ['the dynamics loss is 0.0001 nats']), (0.5, [])):
    columns = {'loss/dynamics': lambda x, kl=kl: kl}
    assert odd(run(tmp_path / f'{kl}', columns, losses={'free_nats': 0.0})) == told


def test_an_update_that_ended_the_run_is_counted(tmp_path):
  """No line of metrics was written after it."""
  folder = run(tmp_path / 'run')
  (folder / 'nonfinite' / '1951').mkdir(parents=True)
  (found,) = odd(folder)
  assert found.startswith('1 updates were left out or ended the run')


@pytest.mark.parametrize('apart', [False, True])
def test_evaluations_take_time_where_training_waits_for_them(apart, tmp_path):
  folder = run(tmp_path / 'run', {'time/eval_seconds': lambda x: 3600.0}, eval_in_background=apart)
  told = [sign.text for sign in diagnosis.examine(folder)[1]]
  assert ('50 % of the time is evaluation' in told) != apart


def test_the_entropy_of_choices_and_numbers_has_no_most(tmp_path):
  """An action of three choices and two continuous numbers."""
  folder = run(tmp_path / 'run', {'actor/entropy': lambda x: 2.5})
  place = folder / 'checkpoints' / '4000' / 'meta' / 'metadata'
  spec = {'discrete': False, 'num_actions': 5, 'choices': [3]}
  place.write_text(json.dumps({'saved': {'meta': {'spec': spec}}}))
  assert odd(folder) == []


def test_scores_that_say_that_nothing_is_learned(tmp_path):
  flat = run(tmp_path / 'flat', {'loss/reward': lambda x: 0.3})
  (flat / 'scores.jsonl').write_text('')
  same = {'eval_mean': 0.0, 'eval_scores': [0.0, 0.0]}
  append(flat / 'scores.jsonl', *({'step': s, 'frame': s, **same} for s in (2000, 4000)))
  found = odd(flat)
  assert any('the reward loss is flat' in text for text in found)
  assert any('every episode of every evaluation has the same return, 0' in text for text in found)
  early = run(tmp_path / 'early', lines=2)
  signs = diagnosis.examine(early)[1]
  assert any('too early' in sign.text for sign in signs) and not odd(early)
  (early / 'metrics.jsonl').write_text('{"step": 100, "frame": 100, "update": 0}\n')
  assert odd(early) == ['no update in 100 steps']


def test_our_runs_are_the_measure(monkeypatch, tmp_path):
  """Ranges are those of the runs that they were measured of; three times outside is odd."""
  assert ranges.expected()['catch dreamerv3-harmony-cpu']['runs'] == 3
  four = [0.0, 0.2, 0.4, 0.6]  # evaluations, every 1,000 steps
  ours = [record(seed=seed, suite='catch', task='catch', values=four) for seed in range(2)]
  table = ranges.measure([*ours, record(complete=False, steps=9000)])
  assert list(table) == ['catch dreamerv3-harmony-cpu']
  values = {'loss/reward': 0.1, 'loss/observation': 1.0, 'actor/entropy': 0.1}
  folder = run(tmp_path / 'run', preset='cpu')
  for each in ours:
    each.config = diagnosis.examine(folder)[0].config | {'seed': each.seed}
    each.metrics = {'step': [500, 1000, 2000, 3000], **{k: [v] * 4 for k, v in values.items()}}
    each.environment['devices'], each.steps_per_second = 'a card', 20.0 + each.seed
  table = ranges.measure(ours)
  assert table['catch dreamerv3-harmony-cpu']['ranges']['loss/reward'] == [[0.1, 0.1, 2]] * 4
  monkeypatch.setattr(ranges, 'expected', lambda: table)
  assert [text.partition(' is ')[0] for text in odd(folder)] == [
    'actor/entropy',
    'loss/observation',
  ]
  (name, _, range_) = diagnosis.examine(folder)[2][-1]
  assert (name, range_) == ('steps per second', '20.0 to 21.0 on a card')
  (folder / '.complete').unlink()
  change(folder, steps=8000)  # half of a longer run
  assert odd(folder) == []
  notes = [sign.text for sign in diagnosis.examine(folder)[1]]
  assert notes[0] == 'our runs of this method had other settings: steps 8,000 for 4,000'
  change(folder, steps=4000, losses={'free_nats': 2.0}, eval_every=7)
  assert odd(folder) == []
  assert diagnosis.examine(folder)[1][0].text.endswith('settings: losses.free_nats 2.0 for 1.0')


def test_a_run_under_way_is_compared_by_the_parts_that_are_over(monkeypatch, tmp_path):
  """A loss of 100 / step has medians of 0.16, 0.067, 0.04 and 0.029 in the quarters of our run."""
  ours = record(suite='catch', task='catch', values=[0.0] * 4)
  steps = list(range(20, 4001, 20))
  ours.metrics = {'step': steps, 'loss/reward': [100 / step for step in steps]}
  table = ranges.measure([ours])
  monkeypatch.setattr(ranges, 'expected', lambda: table)
  ours.complete = False
  for end in (20, 100, 980, 1000, 1020, 2020, 3900, 4000):
    count = end // 20
    ours.metrics = {'step': steps[:count], 'loss/reward': [100 / step for step in steps[:count]]}
    signs, rows = ranges.compare(ours)
    assert [sign.text for sign in signs if sign.unusual] == []
    assert bool(rows) == (end >= 1000) and len(signs) == (end < 1000)
  assert rows == [('loss/reward', '0.0286', '0.0286 to 0.0286')]


def test_the_command(tmp_path):
  folder = run(tmp_path / 'run', {'loss/dynamics': lambda x: 1.0})
  result = commands.run('doctor', f'--run={folder}')
  assert result.returncode == 0 and 'ODD   the dynamics loss' in result.stdout, result.stderr
  result = commands.run('doctor', f'--run={tmp_path}')
  assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
  assert result.stderr.startswith('error: ') and 'holds no run' in result.stderr
  result = commands.run('doctor', '--rum=x')
  assert result.returncode == 2
  assert result.stderr.startswith('error: unrecognized arguments: --rum=x; the doctor takes --run=')
  with pytest.raises(UserError, match='holds a complete run'):
    ranges.write([str(tmp_path / 'none')], tmp_path / 'expected.json')
  other = run(tmp_path / 'other', seed=1, batch_size=7)
  change(folder, batch_size=16)
  table, (problem,) = ranges.write([str(folder), str(other)], tmp_path / 'expected.json')
  assert [each['runs'] for each in table.values()] == [2] and 'batch_size (' in problem
  assert 'batch_size' not in next(iter(table.values()))['settings']
