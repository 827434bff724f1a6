"""A configuration: one tree on command line and disk; every suite takes every method."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from configs import common
from harmony_jax import config, config_file, method
from harmony_jax.config import Config, RunSettings, read
from harmony_jax.errors import UserError
from harmony_jax.method import MethodSettings
from tests import small
from tests.damage import assert_one_line

SUITES = common.suites()


def make(suite='catch', name='dreamerv3', preset='tiny', task=None):
  return common.make(SUITES[suite], name, preset, task or SUITES[suite].DEFAULT_TASK)


def digest(suite, name, preset):
  """Return a hash of all settings but the names of the run, and one that changes no number."""
  tree = make(suite, name, preset).to_json()
  for each in ('suite', 'task', 'method', 'preset', 'label', 'eval_in_background'):
    del tree[each]
  return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:10]


def test_a_setting_for_another_kind_of_actions_is_told():
  """Gymnasium's suite says choices; a task may have continuous actions."""
  gym, continuous, choices = SUITES['gym'], small.spec(discrete=False), small.spec(discrete=True)
  config = make('gym', 'dreamerv2')
  (told,) = common.unlike(gym, config, continuous)
  assert told.startswith('config.behavior.entropy is 0.001, as dreamerv2 has it for choices')
  assert told.endswith('for continuous actions, as here, it has 0.0001')
  assert not common.unlike(gym, config.replace({'behavior.entropy': 1e-4}), continuous)
  assert not common.unlike(gym, config, choices)
  assert not common.unlike(gym, make('gym', 'dreamerv3'), continuous)
  assert make('memory_maze', 'dreamerv2').flat()['behavior.entropy'] == 1e-3


def test_every_preset_of_every_method_is_as_it_was():
  """Published numbers and results hang on them: a change of any must be meant."""
  found = {
    f'{suite} {name}': ' '.join(digest(suite, name, preset) for preset in SUITES[suite].PRESETS)
    for suite in SUITES
    for name in method.METHODS
  }
  assert found == GOLDEN


@pytest.mark.parametrize('suite', SUITES)
def test_every_suite_takes_every_method(suite):
  for name in method.METHODS:
    for preset in SUITES[suite].PRESETS:
      found = make(suite, name, preset)
      common.check(found)
      assert (found.run.method, found.run.preset) == (name, preset)
      assert {*SUITES[suite].HOURS} == {*SUITES[suite].PRESETS}
    for field, _ in getattr(SUITES[suite], 'ENV_FLAGS', {}).values():
      assert field in found.flat(), field


@dataclasses.dataclass(frozen=True)
class PlainSettings(MethodSettings):
  pass


PLAIN = method.Entry(PlainSettings(batch_size=7, batch_length=8), make=lambda settings, spec: None)


@pytest.mark.parametrize('suite', SUITES)
def test_a_method_that_no_suite_knows_keeps_its_own_settings(suite):
  """What the authors changed for their methods, and sizes of Dreamers, are not its."""
  for preset in SUITES[suite].PRESETS:
    found = make(suite, f'{__name__}:PLAIN', preset)
    common.check(found)
    assert found.agent.batch_size == 7 and type(found.agent) is PlainSettings
    assert found.run.steps == make(suite, 'dreamerv3', preset).run.steps


def test_names_that_are_not_there_are_one_line():
  for call, text in (
    (lambda: make(name='dreamerv4'), "did you mean 'dreamerv"),
    (lambda: make(name='nowhere:METHOD'), 'cannot be loaded'),
    (lambda: make(name=f'{__name__}:SUITES'), 'expected a method.Entry'),
    (lambda: make(preset='cup'), "did you mean 'cpu'"),
    (lambda: common.suite('cach'), "did you mean 'catch'"),
  ):
    with pytest.raises(UserError) as error:
      call()
    assert_one_line(error.value)
    assert text in str(error.value)


def test_overrides():
  before = make()
  after = before.override(['config.rssm.deter=8', 'steps=1e3', 'steps=2e3', 'env.size=4'])
  assert (after.agent.rssm.deter, after.run.steps, after.env['size']) == (8, 2000, 4)
  assert {*config.difference(before.to_json(), after.to_json())} == {
    'rssm.deter', 'steps', 'env.size'
  }  # fmt: skip
  for text, told in (
    ('seed', 'config.seed needs a value'),
    ('env.sise=4', 'the nearest is config.env.size'),
    ('env.size=large', 'config.env.size: expected a whole number'),
    ('rssm=4', 'config.rssm is a group'),
  ):
    with pytest.raises(UserError, match=told):
      before.override(['batch_size=99', text])


def test_settings_that_do_not_fit_are_one_line():
  for text, told in (
    ('env_processes=maybe', "config.env_processes is 'maybe': it must be one of True, False, auto"),
    ('model_opt.clip=0', 'config.model_opt.clip is 0.0: it must be above 0'),
    ('env.size=7', 'config.env.size is 7: it must be one of 2, 4'),
    ('replay_capacity=30', 'config.replay_capacity is 30: it must be at least'),
  ):
    with pytest.raises(UserError, match=told):
      common.check(make().override([text]))
  with pytest.raises(UserError, match="config.env.background is 'sky'"):
    common.check(make('dmc').override(['env.background=sky']))


def test_flags_are_split_from_the_others():
  rest, texts = config.split_flags(
    [
      '--logdir=x',
      '--config.seed=1',
      'word',
      '--config.rssm.deter',
      '64',
      '-config.lr',
      '-1',
      '--config=file.py',
      '--configs.x=1',
      '--',
      '--config.seed=2',
    ]
  )
  assert texts == ['seed=1', 'rssm.deter=64', 'lr=-1']
  assert rest == [
    '--logdir=x', 'word', '--config=file.py', '--configs.x=1', '--', '--config.seed=2'
  ]  # fmt: skip
  for argv in (['--config.seed'], ['--config.seed', '--logdir=x']):
    with pytest.raises(UserError, match='--config.seed needs a value'):
      config.split_flags(argv)


def test_a_file_says_what_flags_would(tmp_path):
  """Values are read by the setting's type, not as YAML would; flags of the command come later."""
  path = tmp_path / 'some.yaml'
  path.write_text(
    'rssm: {deter: 8}\nrssm.stoch: 4\nsteps: 1e3\nlabel: no\nreward_head:\n  layers: 1\n'
    "env:\n  wrappers: [some_module:A, 'b:C']\n  frameskip: [2, 5]\n  mode: true\nbatch_size: 9\n"
  )
  argv = ['--config.batch_size=7', f'--config_file={path}', '--seed=1', '--config_file', str(path)]
  rest, texts = config.split_flags(argv)
  assert rest == ['--seed=1'] and texts[-1] == 'batch_size=7'
  assert all(isinstance(text, config_file.FromFile) for text in texts[:-1])
  made = make('gym').override(texts)
  assert (made.agent.rssm.deter, made.agent.rssm.stoch, made.run.steps) == (8, 4, 1000)
  assert (made.run.label, made.agent.reward_head.layers, made.agent.batch_size) == ('no', 1, 7)
  assert made.env['wrappers'] == ['some_module:A', 'b:C']
  assert (made.env['frameskip'], made.env['mode']) == ([2, 5], True)


def test_a_file_that_cannot_be_is_one_line(tmp_path):
  path = tmp_path / 'some.yaml'
  for text, told in {
    'a: 1\nb: [1\n': 'is no YAML',
    'batch_size=8': 'line 1: expected lines such as',
    'rssm:\n  deter: 1\n  deter: 2': 'line 3: rssm.deter is there twice',
    'rssm.deter: 1\nrssm:\n  deter: 2': 'line 3: rssm.deter is there twice',
    'steps: [[1]]': 'line 1: steps is a list of lists',
    '[a]: 1': 'line 1: expected the name of a setting',
    'a: &a\n  b: *a': 'is no YAML',
    '\x00': 'is no YAML',
  }.items():
    path.write_text(text)
    with pytest.raises(UserError) as error:
      config.split_flags([f'--config_file={path}'])
    assert_one_line(error.value)
    assert told in str(error.value) and str(path) in str(error.value)
  path.write_text('# nothing\n')
  assert config.split_flags([f'--config_file={path}']) == ([], [])
  for name, told in (('nowhere.yaml', 'cannot be read'), (str(tmp_path), 'cannot be read')):
    with pytest.raises(UserError, match=told):
      config.split_flags(['--config_file', name])


def test_a_label_is_part_of_a_name():
  for text in ('a/b', 'a b', '../x', 'x' * 201):
    with pytest.raises(UserError, match='config.label is'):
      common.check(make().override([f'label={text}']))
  common.check(make().override(['label=lr=3e-4-rssm.deter=8']))


def test_difference_tells_both_values():
  assert config.difference({'a': 1, 'c': {'d': [1]}}, {'a': True, 'b': 2, 'c': {'d': [2]}}) == {
    'a': (1, True),
    'b': (None, 2),
    'c.d': ([1], [2]),
  }


def save(folder, tree, **more):
  (folder / 'config.json').write_text(json.dumps({'config': tree, **more}, allow_nan=False))


@pytest.mark.parametrize('name', method.METHODS)
@pytest.mark.parametrize('suite', ['catch', 'dmcr'])
def test_a_run_folder_gives_its_configuration_back(suite, name, tmp_path):
  made = make(suite, name).override(
    ['batch_length=9', 'env_processes=false', 'env.action_repeat=3'][: 2 + (suite == 'dmcr')]
  )
  save(tmp_path, made.to_json(), format=config.FORMAT)
  assert read(tmp_path) == made


def test_a_run_folder_of_another_version(tmp_path, caplog):
  tree = make().to_json()
  del tree['rssm']['deter'], tree['video_every']
  tree['future'] = {'setting': 1}
  save(tmp_path, tree, format=config.FORMAT)
  found = read(tmp_path)
  assert found.agent.rssm.deter == method.entry('dreamerv3').settings.rssm.deter
  assert found.run.video_every == RunSettings().video_every
  assert 'video_every=10000' in caplog.text and 'leaves out future.setting' in caplog.text


@pytest.mark.parametrize('text', ['{', '[]', '{}', '{"config": {}}', '{"config": {"method": 3}}'])
def test_no_run_is_one_line(text, tmp_path):
  with pytest.raises(UserError, match='holds no run'):
    read(tmp_path)
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(UserError) as error:
    read(tmp_path)
  assert_one_line(error.value)
  assert str(tmp_path) in str(error.value)


def test_a_configuration_needs_no_suite():
  made = Config(RunSettings(task='x'), PLAIN.settings, {'length': 3})
  assert made.flat()['env.length'] == 3 and made.replace({'env.length': 4}).env == {'length': 4}


# First ten digits of a SHA-256 by preset: `digest` above.
GOLDEN = {
  'atari100k dreamerv3': 'e2403d0156 a44fff43e7 a757b05d8d 550d767f1c',
  'atari100k dreamerv2': 'ea6bdf6058 92ea1f0a0e 6496290b03 de3f075443',
  'atari100k dreamerpro': '08a596fd56 57097c6bb0 cf8b0d98c7 9d435d4e1f',
  'atari100k tdmpc': '8a81ae1981 8edd5e4514 7b60c11543 81dd82b1b6',
  'atari100k denoised_mdp': '32728d225f b8499fb5e0 e4037742af 45ba32fb5b',
  'catch dreamerv3': '4152532006 a015fafa29 66783b66ed 8e4f272ebe',
  'catch dreamerv2': 'db1e79b61b 64e537718b 1a20c55e3e d8ce7406af',
  'catch dreamerpro': 'ede05ddaf8 2d769f15b6 d8f1a35203 f03c012696',
  'catch tdmpc': '833e8c3368 84bc909549 5a0628bbc1 99496f4c1c',
  'catch denoised_mdp': 'a0e46a88ed 13f2776de4 a4f7715351 9749b67115',
  'crafter dreamerv3': 'fa5a0ac904 4ec8382a21 a95767ec1e 382bed5f51',
  'crafter dreamerv2': '6769f073f0 291f806c0a ed99ce7e58 49cb82c67a',
  'crafter dreamerpro': '99ffa9fa09 fbd175a814 a08cbffa52 efa0dc3f45',
  'crafter tdmpc': '5bb09e32db 1e7f9b4dc3 17346d03c0 2edd18547a',
  'crafter denoised_mdp': '10a221e8a0 041840a3e7 6e34d51eeb bf6a5ca0fb',
  'dmc dreamerv3': '4f6aa51770 3db2fba511 469c1d73fa c1e15a8cde',
  'dmc dreamerv2': '4c72ad2778 e4af7b242c 4bf3a74e26 6abc67e768',
  'dmc dreamerpro': 'b1f73372fc 4210c6e1d6 3b8f46bfcb ec5bf0f0f4',
  'dmc tdmpc': '3568d1cf4f 879e0d4f7b a8fb2a3fce 6ad51bc69c',
  'dmc denoised_mdp': '647b51e78c 2caaee2ddd b5d5b8e67d ea8a44e9f6',
  'dmcr dreamerv3': 'b569e71ad1 b832cb8eb4 1752619792 3a118ff32c',
  'dmcr dreamerv2': '8dc8dbb03c ce4a9e60b2 759137428c f918219230',
  'dmcr dreamerpro': '5b06ed8bd0 1a7c4a931b a09b2629b3 62e7da4325',
  'dmcr tdmpc': '8efc4a8cf2 46d1672dc8 150e9245ac ae62e67f93',
  'dmcr denoised_mdp': '4fdfd266f8 f0c6113591 e85ec90a07 dc7134bfe4',
  'gym dreamerv3': '3657071f8e 99ee847968 99d9718f9d 6363495d69',
  'gym dreamerv2': '46b5784b7b 95fbd48113 562b3ef377 8142319880',
  'gym dreamerpro': '0f1cc37463 5a3072d55a b50b1c8e5b ee3452331e',
  'gym tdmpc': '0c193cbc5f 446cd76dc9 a5b6d92fca 3e719a2c20',
  'gym denoised_mdp': 'dbfaa0b01c 0526ebd930 88b71c2f4f 85563d75b1',
  'jax_envs dreamerv3': 'bc90b1f0e4 14dc491ae7 847eb534c9 c50e9335fc',
  'jax_envs dreamerv2': '1785fdbc91 b024282812 6fbac8ea4a 3404794e47',
  'jax_envs dreamerpro': '8f30068c49 da7c7d08c7 becde43ac9 84f90ef4b4',
  'jax_envs tdmpc': '53a7f32d6a edfacf3e61 abd27b4657 9430a7db41',
  'jax_envs denoised_mdp': '40c32451c2 ba3edb798d 10d858eb2c 2e94dfa739',
  'memory_maze dreamerv3': '404d60ee86 a0c960ab2b f56a4d7469 6289152fd8',
  'memory_maze dreamerv2': '20da0692a0 a85153f9e2 a796700215 37f11728c0',
  'memory_maze dreamerpro': 'ab43b215b0 4877e1f4c4 44d5ae2254 6d4d3856e9',
  'memory_maze tdmpc': '97d5ba56a9 cabd513b09 9123141a2a 6d799129b6',
  'memory_maze denoised_mdp': 'd6ef3e60e3 ec0369794f 8c8eced59d a80de3b8c4',
  'metaworld dreamerv3': 'fb63c271b3 e0b26c2699 4a95232a47 b823afa0db',
  'metaworld dreamerv2': 'e2e8d933a7 e77025bfa4 29dcfa88d1 760a435194',
  'metaworld dreamerpro': '11c369a168 72c0df9690 bcc87d3f2b a0f7466b8a',
  'metaworld tdmpc': '7923e17a69 1c3f1b3508 4cc447b5a5 ebdffbd82c',
  'metaworld denoised_mdp': 'beaa2af584 d505b44233 98eb5f5325 c3e9c22edb',
  'minigrid dreamerv3': 'dcfd141683 d39dca4cb1 9d6d4bccf3 d59d08d22c',
  'minigrid dreamerv2': '463e3cb695 b831d6324f 4b192bf23a 8ba021ddc0',
  'minigrid dreamerpro': 'ba3597b521 49b7a4a3c8 1aed1880b1 d9f621cf24',
  'minigrid tdmpc': 'c009bbd495 58af45ed30 a99dcfc83d 9e44108d5b',
  'minigrid denoised_mdp': '5355d79212 06cd534b4d 7ba5ec5353 94de48ebe5',
  'reach dreamerv3': 'ce0b088441 b7d55bc97e 9377745f46 c2463731c5',
  'reach dreamerv2': 'c1152dc7fd 6e13846ad9 7d86a45bc8 0c6c44496f',
  'reach dreamerpro': '5a683876ff 1f719800b7 35e89fa261 ee61749428',
  'reach tdmpc': '6e1c9eed8f 7d6bd830ea 67cd871166 6862833a36',
  'reach denoised_mdp': '661b6262d2 27b053d359 cb9c69ad1b 219f872ecb',
  'rlbench dreamerv3': 'c04e692b96 6082853365 13154a2f38 04c49744ef',
  'rlbench dreamerv2': 'e9bfa3693a 6a87325e0c a1b3821431 f12696daed',
  'rlbench dreamerpro': '65025c12f4 3b44e8183d 6535f53af5 e37968627d',
  'rlbench tdmpc': '21b216b64c 1bcfe2f6ba c367269df5 9bf48ccba4',
  'rlbench denoised_mdp': 'fef4414787 79941ca440 1dfc43f23b 12ec577d7d',
}


def test_options_that_only_the_simulator_knows():
  """Of suites whose simulators have some: numbers, switches and texts, as part of the run."""
  texts = ('env.continuous=True', 'env.g=5.0', 'env.map_name=8x8', 'env.keys=arm_*,image')
  chosen = make('gym').override(texts)
  assert {k: chosen.env[k] for k in ('continuous', 'g', 'map_name', 'keys')} == {
    'continuous': True,
    'g': 5.0,
    'map_name': '8x8',
    'keys': ['arm_*', 'image'],
  }
  saved = {'format': config.FORMAT, 'config': json.loads(json.dumps(chosen.to_json()))}
  assert config.from_json(saved).to_json() == chosen.to_json()
  given = make('gym').replace({'env.goal': (1, (2, np.int64(3)))}).override(['env.map=(1,)'])
  saved['config'] = json.loads(json.dumps(given.to_json()))
  assert config.from_json(saved).env == given.env  # a tuple is no list, and JSON has lists
  assert given.env['goal'] == [1, [2, 3]] and given.env['map'] == [1]
  for text in ('1e999', '{1: 2}', '[1e999]'):
    with pytest.raises(UserError, match='^config.env.g has .* config.json does not keep'):
      make('gym').override([f'env.g={text}'])
  with pytest.raises(UserError, match='^config.env.g has inf, which'):
    make('gym').replace({'env.g': np.float64('inf')})  # a float, and NumPy's
  # the type is that of what is said last, whatever was said before
  before = make('gym').override(['env.sizes=[1,2]', 'env.goal=None', 'env.g=5', 'env.mode=a'])
  assert before.override(['env.mode={1,2}']).env['mode'] == '{1,2}'  # JSON has no sets
  again = before.override(['env.sizes=[3,4]', 'env.goal=x', 'env.g=2.5', 'env.mode=1']).env
  assert [again[k] for k in ('sizes', 'goal', 'g', 'mode')] == [[3, 4], 'x', 2.5, 1]
  with pytest.raises(UserError, match='unknown key config.env.g'):
    make('catch').override(['env.g=5'])
  with pytest.raises(UserError, match='can be called .num_envs.; config.num_envs says'):
    make('gym').override(['env.num_envs=5'])
