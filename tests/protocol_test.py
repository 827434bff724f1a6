"""What is said of how numbers are made, against the environments' own code."""

import inspect
import json

import pytest

from harmony_jax import envs
from harmony_jax.envs import atari
from harmony_jax.reporting import protocol
from tests.damage import assert_one_line
from tests.reports import record

TASKS = {'atari': 'Pong', 'catch': 'catch', 'dmc': 'walker_run', 'dmcr': 'walker_run'}
TASKS |= {
  'metaworld': 'push',
  'rlbench': 'reach_target',
  'gym': 'CartPole-v1',
  'crafter': 'crafter',
  'minigrid': 'DoorKey-8x8',
  'memory_maze': '9x9',
  'reach': 'reach',
  'jax_envs': 'gymnax:Breakout-MinAtar',
}


def config_of(suite, env=(), **changes):
  config = {'suite': suite, 'task': TASKS[suite], 'steps': 1_000, 'env': dict(env)}
  return {**config, 'eval_every': 100, 'eval_episodes': 2, 'final_eval_episodes': 7, **changes}


def test_every_suite_is_found_by_its_module():
  assert set(envs.names()) == set(TASKS)
  for name in envs.names():
    suite = envs.suite(name)
    assert suite.environment.__module__ == f'harmony_jax.envs.{name}' and suite.title
  for wrong in ('atary', 'base', 'processes', '', 'x.y'):
    with pytest.raises(ValueError, match='unknown suite .*did you mean') as caught:
      envs.suite(wrong)
    assert_one_line(caught.value)


@pytest.mark.parametrize('suite', TASKS)
def test_where_a_configuration_says_nothing_is_told_what_the_environment_then_does(suite):
  parameters = inspect.signature(envs.suite(suite).environment).parameters.values()
  defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
  config, explicit = config_of(suite), config_of(suite, defaults)
  text, facts = protocol.describe(config), protocol.facts(config)
  assert_one_line(text)
  assert text == protocol.describe(explicit) and facts == protocol.facts(explicit)
  assert json.loads(json.dumps(facts, allow_nan=False)) == facts
  assert facts['action_repeat'] == defaults.get('action_repeat', facts['action_repeat'])
  assert text.startswith('mean return of 7 complete episodes at the end and 2 every 100 steps (')
  assert f'of 1,000 steps ({facts["frames"]:,} frames) in all; sampled actions; ' in text
  assert text.endswith(protocol.TRAINING) and envs.suite(suite).title in text
  older = {key: config[key] for key in ('suite', 'task', 'steps')}
  assert protocol.describe(older).startswith('mean return of 0 complete episodes at the end')


@pytest.mark.parametrize('game, sticky', [('Pong', 0.0), ('ChopperCommand', 0.25)])
def test_atari_s_facts_are_the_options_of_its_simulator(monkeypatch, game, sticky):
  class Enough(Exception):
    pass

  def capture(rom, options):
    given.update(options)
    raise Enough

  given = {}
  monkeypatch.setattr(atari, '_make_slot', capture)
  config = config_of('atari', {'sticky': sticky, 'frame_cap': 0}, task=game)
  with pytest.raises(Enough):
    atari.Atari(game, 1, **config['env'])
  facts = protocol.facts(config)
  assert facts['sticky_actions'] == given['repeat_action_probability'] == sticky
  assert facts['frame_cap'] == given['max_num_frames_per_episode']
  assert facts['frames_per_step'] == given['frameskip'] and given['maxpool']
  assert facts['no_op_frames'] == [0, given['noop_max'] - 1]  # uniform in [0, noop_max)
  assert facts['life_loss_ends_episode'] == given['episodic_life']
  assert facts['rewards_clipped'] == given['reward_clipping'] and not given['full_action_space']


@pytest.mark.parametrize(
  'suite, changes, told',
  [
    ('atari', {'task': 'ChopperCommand'}, 'at most 5,400 frames'),
    ('atari', {'env': {'frame_cap': 400}}, 'at most 400 frames'),
    ('atari', {'eval_policy': 'mode'}, "; the policy's mode; "),
    ('catch', {'eval_episodes': 7}, 'of 7 complete episodes every 100 steps (100 frames)'),
    ('catch', {'eval_every': 0}, 'of 7 complete episodes at the end'),
    ('dmc', {'task': 'quadruped_run'}, 'camera 2'),
    ('dmc', {'env': {'render': 'fast'}}, 'without shadows'),
    ('dmc', {'env': {'background': 'video'}}, 'moving pictures behind the robot (generated)'),
    ('dmcr', {}, 'floors and skies: painted'),
    ('dmcr', {'env': {'vary': 'camera'}}, '(varied: camera), floors and skies: the plain ones'),
    ('dmcr', {'env': {'visual_seeds': '0'}}, 'the plain look, floors and skies: the plain ones'),
    ('dmcr', {'eval_env': {'visual_seeds': 'test'}}, 'of evaluation: seeds from 1,000,001'),
    ('metaworld', {'score': 'success'}, 'mean success of 7'),
    ('metaworld', {}, 'V3 tasks (the paper ran V2: not directly comparable)'),
    (
      'crafter',
      {'eval_share': 0.1},
      'mean return of at most 7 complete episodes at the end and 2 every 100 steps (100 frames) '
      'before (as many as fit into 10% of the steps of training), of 1,000 steps',
    ),
    ('gym', {'env': {'success': 'won'}}, "success as its info's 'won'"),
    (
      'gym',
      {'env': {'gravity': 5.0, 'wrappers': ['a:B', 'a:C']}},
      'gravity 5.0, wrappers a:B, a:C;',
    ),
    ('reach', {'env': {'drift': 3.0, 'arm': 2.0}}, '64 × 64 RGB, drift 3.0; training returns'),
    ('minigrid', {'env': {'view': 'full'}}, 'a 64 × 64 picture of the whole world'),
    ('jax_envs', {'env': {'observe': 'vector'}}, "limit of steps, the package's numbers"),
    ('memory_maze', {'task': '15x15'}, 'episodes of 4,000 steps'),
  ],
)
def test_what_a_configuration_says_is_told(suite, changes, told):
  assert told in protocol.describe(config_of(suite, **changes))


def test_frames_are_those_of_training():
  """Its steps took two each, whatever an evaluation takes."""
  config = config_of('dmc', {'action_repeat': 2}, eval_env={'action_repeat': 8})
  told, facts = protocol.describe(config), protocol.facts(config)
  assert 'of 1,000 steps (2,000 frames) in all' in told and 'action repeat 8' in told
  assert facts['frames'] == 2_000 and facts['evaluated_every_frames'] == 200
  assert facts['frames_per_step'] == 2 and facts['action_repeat'] == 8


def test_a_suite_of_one_s_own():
  config = {'suite': 'mine', 'task': 'maze', 'steps': 1_000, 'env': {'walls': 3}}
  assert 'mine: walls 3; ' in protocol.describe(config)
  assert protocol.facts({**config, 'env': {'action_repeat': 2}})['frames'] == 2_000


def test_protocols_that_differ_are_told_and_weights_that_a_person_chose():
  fixed = {'weighting': {'rule': 'fixed', 'w_o': 1.0, 'w_r': 1000.0}}
  same = [record(), record(seed=1), record('dreamerv3-fixed-cpu', config=fixed)]
  usual, chosen = protocol.lines(same)
  assert usual[0] == 'Protocol:' and 'at most 108,000 frames' in usual[1]
  told = 'fixed weights of the losses: observation 1.0, reward 1000.0.'
  assert chosen == ('dreamerv3-fixed-cpu:', told)  # they are no other protocol
  some = {'rule': 'fixed', 'w_o': 2.0, 'w_r': 7.0, 'w_d': 1.0, 'tasks': ['reward']}
  assert protocol.weights({'weighting': some}) == 'fixed weights of the losses: reward 7.0'
  tdmpc = {'rule': 'fixed', 'consistency': 2.0, 'reward': 0.5, 'value': 0.1}
  told = 'fixed weights of the losses: consistency 2.0, reward 0.5, value 0.1'
  assert protocol.weights({'weighting': tdmpc}) == told
  short = record(task='Boxing', config={'env': {'frame_cap': 400}})
  _, other, _ = protocol.lines([*same, short])
  games = 'whole games (a lost life ends nothing) of at most'
  told = f'{games} 400 frames (not: {games} 108,000 frames); else as above.'
  assert other == ('Boxing:', told)
  theirs = record('dreamerv3-none-cpu', config={'eval_policy': 'mode'})
  _, other, warning = protocol.lines([record(), record(seed=1), theirs])
  assert other[0] == 'dreamerv3-none-cpu:' and other[1].startswith("the policy's mode (not: samp")
  assert warning[0] == 'Protocols differ'
