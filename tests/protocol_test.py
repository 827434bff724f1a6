"""What is said of how numbers are made, against the environments' own code."""

import copy
import inspect
import json

import pytest

from configs import atari100k, catch, common, dmc, dmcr, gym, metaworld, rlbench
from harmony_jax import configuration
from harmony_jax.envs import atari as atari_environment
from harmony_jax.envs import catch as catch_environment
from harmony_jax.envs import dmc as dmc_environment
from harmony_jax.envs import metaworld as metaworld_environment
from harmony_jax.reporting import protocol
from tests.damage import assert_one_line

SUITES = (atari100k, catch, dmc, dmcr, gym, metaworld, rlbench)


def config_of(suite, method=None, preset='paper', task=None, **changes):
  config = suite.get_config(method or getattr(suite, 'DEFAULT_METHOD', 'dreamerv3'), preset)
  config.task = task or suite.DEFAULT_TASK
  config.update_from_flattened_dict(changes)
  return configuration.to_json_dict(config)


@pytest.mark.parametrize('suite', SUITES, ids=lambda suite: suite.SUITE)
def test_every_preset_is_described(suite):
  for method in common.METHODS:
    for preset in suite.PRESETS:
      config = config_of(suite, method, preset)
      before = copy.deepcopy(config)
      text, facts = protocol.describe(config), protocol.facts(config)
      assert_one_line(text)
      assert json.loads(json.dumps(facts, allow_nan=False)) == facts and config == before
      assert f'of {config["steps"]:,} steps ({facts["frames"]:,} frames)' in text
      assert (
        f'{config["final_eval_episodes"]:,} complete episodes' in text
        and 'training returns' in text
      )
      assert ('sampled actions' if method == 'dreamerv3' else "the policy's mode") in text


def test_weights_that_a_person_chose_are_told():
  config = config_of(dmc, 'dreamerpro', **{'weighting.rule': 'fixed', 'weighting.w_r': 1000.0})
  assert (
    protocol.weights(config)
    == 'fixed weights of the losses: observation 1.0, reward 1000.0, dynamics 1.0'
  )
  for rule in ('harmony', 'none', 'reciprocal'):
    config['weighting']['rule'] = rule
    assert protocol.weights(config) == ''
  assert protocol.weights({}) == ''


def test_the_paper_s_atari_protocol():
  text = protocol.describe(config_of(atari100k))
  assert text.startswith(
    'mean return of 100 complete episodes every 5,000 steps (20,000 frames), of 100,000 steps '
    '(400,000 frames) in all; sampled actions; Atari: no sticky actions, minimal action set, 0 to '
    '29 no-op frames at the start, whole games (a lost life ends nothing) of at most 108,000 '
    'frames'
  )
  assert 'at most 5,400 frames' in protocol.describe(config_of(atari100k, task='ChopperCommand'))
  assert 'at most 400 frames' in protocol.describe(config_of(atari100k, preset='tiny'))
  assert 'sticky actions (0.25)' in protocol.describe(config_of(atari100k, **{'env.sticky': 0.25}))


@pytest.mark.parametrize('game, sticky', [('Pong', 0.0), ('ChopperCommand', 0.25)])
def test_atari_s_facts_are_the_options_of_its_simulator(monkeypatch, game, sticky):
  class Enough(Exception):
    pass

  def capture(rom, options):
    given.update(options)
    raise Enough

  given = {}
  monkeypatch.setattr(atari_environment, '_make_slot', capture)
  config = config_of(atari100k, task=game, **{'env.sticky': sticky})
  with pytest.raises(Enough):
    atari_environment.Atari(game, 1, **config['env'])
  facts = protocol.facts(config)
  assert facts['sticky_actions'] == given['repeat_action_probability'] == sticky
  assert facts['frame_cap'] == given['max_num_frames_per_episode']
  assert facts['frames_per_step'] == given['frameskip'] and given['maxpool']
  assert facts['no_op_frames'] == [0, given['noop_max'] - 1]  # uniform in [0, noop_max)
  assert facts['life_loss_ends_episode'] == given['episodic_life']
  assert facts['rewards_clipped'] == given['reward_clipping'] and not given['full_action_space']


def test_what_the_other_environments_do_by_default():
  """Where a configuration says nothing, the text must say what the environment then does."""
  for suite, environment in (
    ('dmc', dmc_environment.DMC),
    ('metaworld', metaworld_environment.MetaWorld),
  ):
    defaults = {
      name: each.default
      for name, each in inspect.signature(environment).parameters.items()
      if each.default is not inspect.Parameter.empty
    }
    config = {'suite': suite, 'task': 'walker_run', 'steps': 10, 'env': {}}
    explicit = {**config, 'env': defaults}
    assert protocol.describe(config) == protocol.describe(explicit)
    assert protocol.facts(config)['action_repeat'] == defaults['action_repeat']
  size = inspect.signature(catch_environment.Catch).parameters['size'].default
  assert (
    protocol.facts({'suite': 'catch', 'task': 'catch', 'steps': 10})['steps_per_game']
    == size - 1
    == 7
  )


def test_details_of_the_suites():
  assert 'camera 2' in protocol.describe(config_of(dmc, task='quadruped_run'))
  assert 'without shadows' in protocol.describe(config_of(dmc, preset='cpu'))
  assert 'moving pictures' in protocol.describe(config_of(dmc, **{'env.background': 'video'}))
  remastered = protocol.describe(config_of(dmcr, **{'eval_env.visual_seeds': 'test'}))
  assert 'painted floors' in remastered and 'of evaluation: seeds from 1,000,001' in remastered
  manipulation = protocol.describe(config_of(metaworld))
  assert (
    manipulation.startswith('mean success of 10')
    and 'at any step of an episode of 500 steps' in manipulation
  )
  assert 'V3' in manipulation and 'camera corner' in manipulation
  assert 'CartPole-v1' in protocol.describe(config_of(gym))


def test_a_configuration_of_an_older_version_and_a_suite_of_one_s_own():
  config = {'suite': 'mine', 'task': 'maze', 'steps': 1_000, 'env': {'walls': 3}}
  assert 'mine: walls 3' in protocol.describe(config) and 'sampled actions' in protocol.describe(
    config
  )
  assert protocol.facts({**config, 'env': {'action_repeat': 2}})['frames'] == 2_000
