"""The commands as users type them: complete tiny runs, going on, and bad input."""

import functools
import importlib
import json

import pytest

from experiments import configs, launcher
from harmony_jax.envs.worker import Failure
from harmony_jax.errors import UserError
from tests import commands, small
from tests.commands import run

BAD = {
  'game': (['--game=Pogn'], 'Pong'),
  'key': (['--config.batch_sise=8'], 'batch_size'),
  'nested_key': (['--config.rssm.detr=8'], 'rssm.deter'),
  'type': (['--config.batch_size=many'], 'a whole number'),
  'preset': (['--preset=large'], 'paper'),
  'weighting': (['--weighting=harmonie'], 'harmony'),
  'flag': (['--gmae=Pong'], 'game'),
  'task': (['--task=Pong'], 'what to train on is --game here'),
  'seed': (['--seed=-1'], 'seed'),
  'number': (['--seed=one'], '--seed=one: expected a whole number'),
  'num_seeds': (['--num_seeds=0'], 'num_seeds'),
  'tracker': (['--tracker=none,tensorbord'], "did you mean 'tensorboard'?"),
  'wandb': (['--wandb'], 'pip install wandb'),
  'word': (['Pong'], '--game'),
  'folder': (['--logdir=/proc/nowhere'], '/proc/nowhere'),
  'value': (['--config.train_ratio=0'], 'above 0'),
  'rule': (['--config.weighting.rule=harmoni'], 'reciprocal'),
  'name': (['--config.losses.likelihood=symlogs'], 'did you mean symlog?'),
  'option': (['--config.env.sticky=2'], 'config.env.sticky is 2.0: it must be at most 1'),
  'method': (['--method=dreamerv4'], 'dreamerv3'),
  'sizes': (['--config.encoder.patch=7'], 'power of two'),
  'missing_value': (['--config.batch_size'], 'needs a value'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_one_line(case, tmp_path):
  """One line that names the nearest valid choice, a non-zero exit, no traceback."""
  arguments, expected = BAD[case]
  if case != 'folder':
    arguments = [f'--logdir={tmp_path}/run', *arguments]
  result = run('atari100k', '--preset=tiny', *arguments)
  assert result.returncode == 2, result
  lines = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1 and expected in lines[0], result.stderr
  assert 'Traceback' not in result.stderr
  assert not (tmp_path / 'run').exists()  # the folder belongs to nobody


def test_a_fault_in_another_process_is_told_with_its_lines(capsys):
  failure = Failure('ValueError', 'no floor', 'File "my_env.py", line 7, in step\n')
  assert launcher._fail(failure.error(2)) == 2
  told = capsys.readouterr().err
  assert 'File "my_env.py", line 7, in step' in told
  assert told.endswith('\nerror: environment 2: ValueError: no floor\n')


def test_what_calls_sys_exit_is_told(tmp_path, monkeypatch):
  """An environment, or a suite's file; it ended the program with exit code 0 and no word."""
  code = 'import sys; from experiments import launcher; launcher.command(lambda words: sys.exit(0))'
  done = commands.Command('-c', code).end()
  told = 'error: sys.exit(0) was called in <string>, line 1, where an exception would say what is'
  assert done.returncode == 2 and done.stderr.startswith(told), done.stderr
  assert done.stderr.count('\n') == 1
  (tmp_path / 'leaving.py').write_text('import sys; sys.exit()')
  suites = configs()
  monkeypatch.setattr(importlib.import_module(suites.__package__), '__path__', [str(tmp_path)])
  with pytest.raises(UserError, match=r'^configs.leaving calls sys.exit\(None\) where it is impo'):
    suites.suites()


def test_a_flag_that_is_missing_or_of_another_command_is_told_with_the_right_one():
  result = run('evaluate', 'runs/catch')
  assert result.returncode == 2
  assert result.stderr.startswith('error: --logdir=… is missing: The run folder')
  result = run('sweep', '--suite=gym', '--env=CartPole-v1', '--dry_run')
  assert result.returncode == 2
  assert "flag 'env'; what to train on is --tasks here" in result.stderr


@pytest.mark.parametrize(
  'rule, told',
  [('harmony', ['w_r']), ('fixed', ['rate']), ('none', ['w_r', 'rate']), ('dwa', ['w_r', 'rate'])],
)
def test_a_setting_of_another_rule_is_told_to_change_nothing(rule, told):
  """A reward weight of 100 with harmony would be a run without it."""
  config = small.run_config(weighting__rule=rule)
  texts = ['weighting.w_r=100', 'batch_size=8', 'config.weighting.rate=2', 'weighting.w_r=10']
  lines = launcher.idle(config, [*texts, 'weighting.w_d=3'] if rule == 'fixed' else texts)
  assert lines == [
    f'config.weighting.{name} changes nothing with --weighting={rule}' for name in told
  ]


def test_tasks_and_tdmpc_s_coefficients_are_of_some_rules_alone():
  texts = ['weighting.tasks=reward', 'weighting.consistency=4']
  config = lambda rule: small.run_config(weighting__rule=rule)
  told = {rule: launcher.idle(config(rule), texts) for rule in ('none', 'fixed', 'harmony')}
  assert [each.split()[0] for each in told['none']] == ['config.weighting.tasks']
  assert [each.split()[0] for each in told['harmony']] == ['config.weighting.consistency']
  assert not any('nothing' in each for each in told['fixed'])
  empty = small.run_config(weighting__tasks=())
  assert 'weighs nothing, as none does' in launcher.idle(empty, ['weighting.tasks='])[0]


def test_fixed_says_where_the_dynamics_has_another_weight_than_by_none():
  """A reward weight of 100 is not the only thing that differs then."""
  fixed = functools.partial(small.run_config, weighting__rule='fixed', weighting__w_r=100.0)
  told = ['config.weighting.w_d is 1, where --weighting=none has 0.6']
  assert launcher.idle(fixed(), ['weighting.w_r=100']) == told
  assert not launcher.idle(fixed(), ['weighting.w_d=1'])
  assert not launcher.idle(fixed(weighting__tasks=('reward',)), [])
  assert not launcher.idle(fixed(losses__dyn=0.9), []) and not launcher.idle(small.run_config(), [])


def test_missing_rom_is_one_line(tmp_path):
  words = ['--preset=tiny', f'--logdir={tmp_path}/run']
  result = run('atari100k', *words, ALE_ROMS_DIR=str(tmp_path))
  assert result.returncode == 2, result
  assert 'ROM' in result.stderr and 'Traceback' not in result.stderr


PONG = 'atari100k', '--game=pong', '--preset=tiny', '--config.train_ratio=4'


@pytest.fixture(scope='module')
def atari_run(tmp_path_factory):
  """A finished tiny run of Pong, of 7 updates."""
  folder = tmp_path_factory.mktemp('run') / 'pong'
  result = run(*PONG, f'--logdir={folder}')
  assert result.returncode == 0, result.stderr
  return folder, result.stdout


def test_run_folder_is_complete(atari_run):
  folder, output = atari_run
  assert "preset 'tiny'" in output and 'differs from the paper' in output and 'GB' in output
  config = json.loads((folder / 'config.json').read_text())
  assert config['identity']['task'] == 'Pong' and config['config']['weighting']['rule'] == 'harmony'
  metrics = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  trained = [line for line in metrics if 'loss/reward' in line][-1]
  for task in ('observation', 'reward', 'dynamics'):
    assert trained[f'harmony/{task}/sigma'] > 0 and trained[f'harmony/{task}/weight'] > 0
    assert trained[f'loss/{task}'] > 0
  scores = [json.loads(line) for line in (folder / 'scores.jsonl').read_text().splitlines()]
  assert [score['step'] for score in scores] == [100, 200]
  assert all(
    len(score['eval_scores']) == 2 and score['frame'] == 4 * score['step'] for score in scores
  )
  assert len(list((folder / 'checkpoints').glob('[0-9]*'))) == 2
  assert list((folder / 'videos').glob('open_loop_image_*')) and list(
    (folder / 'tensorboard').iterdir()
  )
  assert 'commit' in (folder / 'environment.txt').read_text()


def test_second_time_it_says_complete(atari_run):
  folder, _ = atari_run
  before = (folder / 'scores.jsonl').read_bytes()
  result = run(*PONG, f'--logdir={folder}')
  assert result.returncode == 0 and 'complete' in result.stdout
  assert (folder / 'scores.jsonl').read_bytes() == before


def test_another_configuration_is_refused(atari_run):
  folder, _ = atari_run
  result = run(*PONG, '--seed=1', f'--logdir={folder}')
  assert result.returncode == 2 and 'seed' in result.stderr and 'Traceback' not in result.stderr
  assert json.loads((folder / 'config.json').read_text())['config']['seed'] == 0


def test_a_suite_by_its_name(atari_run, tmp_path):
  folder, _ = atari_run
  again = run('train', *PONG, f'--logdir={folder}')
  assert again.returncode == 0 and 'complete' in again.stdout
  for words in (('train', 'atari100'), ('__main__', 'atari100')):
    result = run(*words)
    assert result.returncode == 2 and "did you mean 'atari100k'?" in result.stderr
  listed = run('__main__', '--help').stdout
  assert all(f'  {name}' in listed for name in ('atari100k', 'evaluate', 'sweep', 'doctor'))


def test_a_file_of_settings_is_part_of_the_run(tmp_path):
  """Flags of the command count for more, also those with a shorter name; then no file is needed."""
  (tmp_path / 'short.yaml').write_text(
    'seed: 5\nsteps: 96\neval_every: 96\nenv: {paddle: 3}\nvideo_every: 0\nbatch_size: 3\n'
  )
  words = ['--method=tests.shooting:METHOD', '--preset=tiny', '--config.batch_size=4']
  words += [f'--logdir={tmp_path}/run', '--config.final_eval_episodes=1', '--seed=0']
  result = run('catch', *words, f'--config_file={tmp_path}/short.yaml')
  assert result.returncode == 0 and 'complete: 96 steps' in result.stdout, result
  made = json.loads((tmp_path / 'run/config.json').read_text())['config']
  assert (made['seed'], made['batch_size'], made['env']['paddle']) == (0, 4, 3)
  (tmp_path / 'short.yaml').unlink()
  values = 'steps=96', 'eval_every=96', 'video_every=0', 'env.paddle=3'
  result = run('catch', *words, *(f'--config.{each}' for each in values))
  assert result.returncode == 0 and 'this run is complete' in result.stdout, result
