"""The robotic suites and gymnasium: the paper's settings, and complete tiny runs by the commands
that users type.
"""

import importlib
import json

import pytest

from configs import common
from experiments import launcher
from tests.launcher_test import command

SUITES = ('atari100k', 'catch', 'dmc', 'dmcr', 'metaworld', 'rlbench', 'gym')


def config_of(suite, method, preset, task=''):
  return launcher.config_for(importlib.import_module(f'configs.{suite}'), method, preset, task)


@pytest.mark.parametrize('method', common.METHODS)
@pytest.mark.parametrize('suite', SUITES)
def test_every_preset_of_every_method(suite, method):
  for preset in common.PRESETS[1:]:
    config = config_of(suite, method, preset)
    common.check(config)
    assert (config.method, config.preset) == (method, preset)
    benchmark = importlib.import_module(f'configs.{suite}')
    for field, _ in getattr(benchmark, 'ENV_FLAGS', {}).values():
      section, name = field.split('.')
      assert name in config[section], field


def test_the_papers_table():
  """Table 1 and appendix C, HarmonyDream on DreamerV2."""
  metaworld, dmcr, rlbench = (
    config_of(suite, 'dreamerv2', 'paper') for suite in ('metaworld', 'dmcr', 'rlbench')
  )
  for config in (metaworld, dmcr, rlbench):
    assert (config.batch_length, config.behavior.horizon, config.behavior.discount) == (
      50,
      15,
      0.99,
    )
    assert (config.behavior.lam, config.behavior.entropy, config.rssm.units) == (0.95, 1e-4, 1024)
    assert (config.model_opt.lr, config.actor_opt.lr, config.critic_opt.lr) == (3e-4, 8e-5, 8e-5)
    # One update every five steps.
    assert config.train_ratio / (config.batch_size * config.batch_length) == pytest.approx(1 / 5)
    assert (
      config.pretrain == 100
      and config.eval_policy == 'mode'
      and config.replay.sampling == 'episodes'
    )
  assert [c.batch_size for c in (metaworld, dmcr, rlbench)] == [50, 16, 50]
  assert [c.prefill for c in (metaworld, dmcr, rlbench)] == [5000, 1000, 5000]
  assert [c.env.action_repeat for c in (metaworld, dmcr, rlbench)] == [1, 2, 2]
  assert [c.losses.free_nats for c in (metaworld, dmcr, rlbench)] == [0, 1, 1]
  assert metaworld.replay.prioritize_ends and not dmcr.replay.prioritize_ends
  assert (metaworld.env.time_limit, rlbench.env.time_limit) == (500, 200)
  assert (
    rlbench.continue_head.enabled and rlbench.encoder.kind == rlbench.decoder.kind == 'residual'
  )


@pytest.mark.parametrize(
  'task,steps', [('lever_pull', 255_000), ('sweep_into', 505_000), ('push', 1_005_000)]
)
def test_steps_of_meta_worlds_tasks(task, steps):
  assert config_of('metaworld', 'dreamerv2', 'paper', task).steps == steps
  assert config_of('metaworld', 'dreamerv2', 'debug', task).steps == 600


def test_dreamerv3_on_meta_world():
  config = config_of('metaworld', 'dreamerv3', 'paper')
  assert (config.rssm.deter, config.encoder.depth, config.actor.units, config.critic.layers) == (
    1024,
    48,
    640,
    3,
  )
  assert (config.batch_size, config.batch_length, config.train_ratio, config.num_envs) == (
    50,
    50,
    500,
    5,
  )
  assert not config.continue_head.gradient


def test_rlbench_without_the_simulator(tmp_path):
  """One line that says what is missing first, a non-zero exit, and no run folder that would be in
  the way later.
  """
  result = command('rlbench', '--task=reach_target', f'--logdir={tmp_path}/run')
  assert not (tmp_path / 'run').exists()
  assert result.returncode == 2, result
  lines = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1 and 'COPPELIASIM_ROOT' in lines[0] and 'Traceback' not in result.stderr, (
    result.stderr
  )


RUNS = {
  'dmc': ('dmc', '--task=cartpole_balance'),
  'dmc_video': ('dmc', '--task=walker_run', '--background=video', '--method=dreamerv3'),
  'dmcr': ('dmcr', '--task=cheetah_run', '--visual_seeds=test'),
  'metaworld': ('metaworld', '--task=lever_pull'),
  'metaworld_v3': ('metaworld', '--task=push', '--method=dreamerv3'),
  'gym': ('gym', '--env=CartPole-v1'),
  'gym_pixels': ('gym', '--env=CartPole-v1', '--observe=render', '--method=dreamerv2'),
}


@pytest.mark.parametrize(
  'name', [pytest.param(name, marks=() if name == 'dmc' else pytest.mark.slow) for name in RUNS]
)
def test_a_tiny_run(name, tmp_path):
  """A complete run leaves a complete run folder; the second time it says so."""
  if name.startswith('metaworld'):
    pytest.importorskip('metaworld')
  if name == 'gym_pixels':
    pytest.importorskip('pygame')
  arguments = (*RUNS[name], '--preset=tiny', f'--logdir={tmp_path}/run')
  result = command(*arguments)
  assert result.returncode == 0, result.stderr
  assert 'complete: ' in result.stdout
  scores = [
    json.loads(line) for line in (tmp_path / 'run' / 'scores.jsonl').read_text().splitlines()
  ]
  assert scores[-1]['update'] > 0 and len(scores[-1]['eval_scores']) > 0
  assert ('eval_success' in scores[-1]) == name.startswith('metaworld')
  metrics = [
    json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  ]
  trained = [line for line in metrics if 'loss/reward' in line][-1]
  assert trained['harmony/reward/sigma'] > 0 and trained['harmony/dynamics/sigma'] > 0
  again = command(*arguments)
  assert again.returncode == 0 and 'this run is complete' in again.stdout
