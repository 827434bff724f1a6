"""A configuration: one tree on command line and disk; every suite takes every method."""

import dataclasses
import hashlib
import json

import pytest

from configs import common
from harmony_jax import config, method
from harmony_jax.config import Config, RunSettings, read
from harmony_jax.errors import UserError
from harmony_jax.method import MethodSettings
from tests.damage import assert_one_line

SUITES = common.suites()


def make(suite='catch', name='dreamerv3', preset='tiny', task=None):
  return common.make(SUITES[suite], name, preset, task or SUITES[suite].DEFAULT_TASK)


def digest(suite, name, preset):
  """Return a hash of all settings but the names of the run."""
  tree = make(suite, name, preset).to_json()
  for each in ('suite', 'task', 'method', 'preset'):
    del tree[each]
  return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:10]


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
  'atari100k dreamerv3': 'bd528da141 252acd3faf 955dbf8113 7890076512',
  'atari100k dreamerv2': 'a2900226d4 f62ae41fb0 9eca083b5b e6806bf337',
  'atari100k dreamerpro': '1fcfa67ecc b4e0b2e954 b8f5d437dd 1c4c6325be',
  'atari100k tdmpc': '0ac0a3deb1 f390c92a2a a21a6d65dd 056db96201',
  'catch dreamerv3': '3fd5a31fb7 0e9416391c 01e47aa719 39291e9aaa',
  'catch dreamerv2': '4c2ae617be 7791526c11 708f74d38c d498cc01d3',
  'catch dreamerpro': '9ce4f67c94 7ff274c375 6b7b9461fb 5e4a09f5e5',
  'catch tdmpc': '358d8d683d 3d591f2855 58ef1a665b 71785e95ba',
  'crafter dreamerv3': 'a1d79503dc 10fcaf5c6f 70735c67c7 90c1df25eb',
  'crafter dreamerv2': '3bb686fc75 bb60a50791 9c21ff6681 1d9bc62a30',
  'crafter dreamerpro': '6f39196869 1fa933566c 2d510a2472 541daee3b1',
  'crafter tdmpc': '0b748fe7b2 c39ac1a438 01ed19161e bd21d399a5',
  'dmc dreamerv3': 'e13e60eba4 00c28f37b3 e97ecb5dff 9c388353d2',
  'dmc dreamerv2': '6e2f168182 d384c4dd79 f5aa10f2c6 a67b4f4c99',
  'dmc dreamerpro': '052d83bf63 cf6ad58c0b cb638e7789 a201634778',
  'dmc tdmpc': '7a9a7abde8 2adab565e4 3351c305d7 0b1b26cb7a',
  'dmcr dreamerv3': 'cc0d635e17 af9f2eeb97 440e2b5264 70db734a37',
  'dmcr dreamerv2': 'b1fd61beb0 ecb1eb5bf8 d8713db89e 235d6b1964',
  'dmcr dreamerpro': '68e68e18ae a4f985dbb5 e8771beb93 8a8e61fb7f',
  'dmcr tdmpc': 'eab964baa9 a086be6273 964ea16a4f d893f5e270',
  'gym dreamerv3': '114b68efb8 1d24b81d39 835878e89c b83526ec16',
  'gym dreamerv2': '5276436270 23e761fcc9 d8d171ca91 b2b38dd5c7',
  'gym dreamerpro': '5c08463b3a 2669667025 8e664667c9 1fa13222cb',
  'gym tdmpc': '67e95e78e9 7533114e10 9056973a04 a5c1c22b6a',
  'memory_maze dreamerv3': 'edbbcfee58 5fb6f79391 202339ab38 d27d566e4f',
  'memory_maze dreamerv2': 'f0b8c8cd1f 990baaf117 8a2db81851 42dd6f426e',
  'memory_maze dreamerpro': 'fe86200147 80ccf00a9f 2717ebad05 b1139e8836',
  'memory_maze tdmpc': '2a08b4de0d e92b8c4642 98f6ee087a 2c6d86e25d',
  'metaworld dreamerv3': '3ece2a51b8 234924da39 9df713a31e e26e15a164',
  'metaworld dreamerv2': 'a0b410eae3 1faaca78bb c4055a9f37 611c0a1127',
  'metaworld dreamerpro': 'abce5d245d 9bbe4c2e40 6ee63086cb eb022508d2',
  'metaworld tdmpc': 'eab109eea4 6de535c90f 490deb0fe0 b9deb92255',
  'minigrid dreamerv3': '43521911ec 51007008b6 2e1e4f6d5f 52728886a4',
  'minigrid dreamerv2': 'a50a68da64 6b96ff099b fdb7f3f046 c9dc62a7cd',
  'minigrid dreamerpro': 'e6f0ac526c 991598523b c821be960f 8a3cbdf515',
  'minigrid tdmpc': 'fd2fefd0e8 1157825438 61e5686c9d 21934d755d',
  'rlbench dreamerv3': '9a33a0c008 34d2a6e492 6e1c7d8fa2 0de5eb086d',
  'rlbench dreamerv2': '0db907f479 0714ac7fc7 b20d8053ec 23127da9e0',
  'rlbench dreamerpro': '2c1949dd4a 4da70988ba a4e094e42b f10eedc90a',
  'rlbench tdmpc': 'a82f26e7fb e8427e4912 319da0dab0 11122a5a0b',
}


def test_options_that_only_the_simulator_knows():
  """Of suites whose simulators have some: numbers, switches and texts, as part of the run."""
  texts = ('env.continuous=True', 'env.g=5.0', 'env.map_name=8x8', 'env.keys=arm_*,image')
  chosen = make('gym').override(texts)
  assert {k: chosen.env[k] for k in ('continuous', 'g', 'map_name', 'keys')} == {
    'continuous': True,
    'g': 5.0,
    'map_name': '8x8',
    'keys': ('arm_*', 'image'),
  }
  saved = {'format': config.FORMAT, 'config': json.loads(json.dumps(chosen.to_json()))}
  assert config.from_json(saved).to_json() == chosen.to_json()
  with pytest.raises(UserError, match='unknown key config.env.g'):
    make('catch').override(['env.g=5'])
