"""The robotic suites and gymnasium: the paper's settings, and complete tiny runs by the commands
that users type.
"""

import json
from importlib.util import find_spec

import pytest

from configs import common
from tests import commands


def paper(suite, name, task=''):
  return common.make(common.suite(suite), name, 'paper', task)


def test_the_papers_table():
  """Table 1 and appendix C, HarmonyDream on DreamerV2."""
  of = [paper(suite, 'dreamerv2') for suite in ('metaworld', 'dmcr', 'rlbench')]
  for agent in (each.agent for each in of):
    behavior, optimizers = agent.behavior, (agent.model_opt, agent.actor_opt, agent.critic_opt)
    assert (agent.batch_length, behavior.horizon, behavior.discount) == (50, 15, 0.99)
    assert (behavior.lam, behavior.entropy, agent.rssm.units) == (0.95, 1e-4, 1024)
    assert [each.lr for each in optimizers] == [3e-4, 8e-5, 8e-5]
    # One update every five steps.
    assert agent.train_ratio / (agent.batch_size * agent.batch_length) == pytest.approx(1 / 5)
    assert (agent.eval_policy, agent.replay.sampling) == ('mode', 'episodes')
  assert [each.agent.batch_size for each in of] == [50, 16, 50]
  assert [each.agent.prefill for each in of] == [5000, 1000, 5000]
  assert [each.env['action_repeat'] for each in of] == [1, 2, 2]
  assert [each.agent.losses.free_nats for each in of] == [0, 1, 1]
  # RLBench's are the defaults of the authors' code.
  assert [each.agent.replay.prioritize_ends for each in of] == [True, False, True]
  assert [each.agent.pretrain for each in of] == [100, 100, 1]
  assert [each.env['time_limit'] for each in of] == [500, 0, 200]
  rlbench = of[2].agent
  assert rlbench.continue_head.enabled
  assert rlbench.encoder.kind == rlbench.decoder.kind == 'residual'


@pytest.mark.parametrize(
  'task,steps', [('lever_pull', 255_000), ('sweep_into', 505_000), ('push', 1_005_000)]
)
def test_steps_of_meta_worlds_tasks(task, steps):
  assert paper('metaworld', 'dreamerv2', task).run.steps == steps
  assert common.make(common.suite('metaworld'), 'dreamerv2', 'debug', task).run.steps == 600


def test_dreamerv3_on_meta_world():
  config = paper('metaworld', 'dreamerv3')
  agent = config.agent
  assert (agent.rssm.deter, agent.encoder.depth) == (1024, 48)
  assert (agent.actor.units, agent.critic.layers) == (640, 3)
  assert (agent.batch_size, agent.batch_length, agent.train_ratio) == (50, 50, 500)
  assert config.run.num_envs == 5 and not agent.continue_head.gradient


def test_rlbench_without_the_simulator(tmp_path):
  """One line that says what is missing first, a non-zero exit, and no run folder that would be in
  the way later.
  """
  result = commands.run('rlbench', '--task=reach_target', f'--logdir={tmp_path}/run')
  assert not (tmp_path / 'run').exists()
  assert result.returncode == 2, result
  lines = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1 and 'COPPELIASIM_ROOT' in lines[0] and 'Traceback' not in result.stderr, (
    result.stderr
  )


RUNS = {
  'dmc_linear': (
    *('dmc', '--task=cartpole_balance', '--method=tests.linear:METHOD', '--config.steps=160'),
    *('--config.eval_every=80', '--config.checkpoint_every=80', '--config.eval_envs=1'),
  ),
  'dmc': ('dmc', '--task=cartpole_balance'),
  'dmc_video': ('dmc', '--task=walker_run', '--background=video', '--method=dreamerv3'),
  'dmcr': ('dmcr', '--task=cheetah_run', '--visual_seeds=test'),
  'metaworld': ('metaworld', '--task=lever_pull'),
  'metaworld_v3': ('metaworld', '--task=push', '--method=dreamerv3'),
  'gym': ('gym', '--env=CartPole-v1'),
  'minigrid': ('minigrid', '--task=Empty-5x5'),
  'memory_maze': ('memory_maze', '--task=9x9'),
  'reach': ('reach',),
  'gym_pixels': ('gym', '--env=CartPole-v1', '--observe=render', '--method=dreamerv2'),
}


@pytest.mark.parametrize(
  'name',
  # Dreamers by commands: `launcher_test.py` by default
  [pytest.param(name, marks=() if name == 'dmc_linear' else pytest.mark.slow) for name in RUNS],
)
def test_a_tiny_run(name, tmp_path):
  """A complete run leaves a complete run folder; the second time it says so."""
  if name.startswith(('metaworld', 'minigrid', 'memory_maze')) and not find_spec(RUNS[name][0]):
    pytest.skip('its package is not installed')
  if name == 'gym_pixels':
    pytest.importorskip('pygame')
  arguments = (*RUNS[name], '--preset=tiny', f'--logdir={tmp_path}/run')
  result = commands.run(*arguments)
  assert result.returncode == 0, result.stderr
  assert 'complete: ' in result.stdout
  scores = [
    json.loads(line) for line in (tmp_path / 'run' / 'scores.jsonl').read_text().splitlines()
  ]
  assert scores[-1]['update'] > 0 and len(scores[-1]['eval_scores']) > 0
  assert ('eval_success' in scores[-1]) == name.startswith(('metaworld', 'minigrid'))
  metrics = [
    json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  ]
  trained = [line for line in metrics if 'loss/reward' in line][-1]
  if name != 'dmc_linear':  # which has one loss
    assert trained['harmony/reward/sigma'] > 0 and trained['harmony/dynamics/sigma'] > 0
  again = commands.run(*arguments)
  assert again.returncode == 0 and 'this run is complete' in again.stdout
