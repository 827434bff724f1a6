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
    ['rssm.deter=24', 'env_processes=false', 'env.action_repeat=3'][: 2 + (suite == 'dmcr')]
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
  'atari100k dreamerv3': '23c788f605 edcee3567c c2f2cbb9f9 b41a3efbbf',
  'atari100k dreamerv2': '5022d24267 22581e4a91 07c5f9a444 02068ee953',
  'atari100k dreamerpro': '34b9e2ff22 0ef0f4220d faee08059d f1fb484bec',
  'catch dreamerv3': '6daeea5d32 9f23f46a63 3dda0c9a48 4def7859c3',
  'catch dreamerv2': 'd5e8706803 3f8769c5cd 069a843f77 25f8c2847e',
  'catch dreamerpro': '4bd2b112cb 7897c0110b c7f1fe776e c2fcd052fc',
  'crafter dreamerv3': 'fd2c798768 2ae6a7533f 72df50181f b3a873f475',
  'crafter dreamerv2': '269a2e8175 7a8ca48ab9 d3a6e81e32 be34ad47ca',
  'crafter dreamerpro': '910383fc19 d1744dcbd9 5167eff98f 783726dfaa',
  'dmc dreamerv3': 'ba6cfd4db0 a89d362ca7 18b6cf94c1 b6dfc3a6b1',
  'dmc dreamerv2': '8b2132cf02 3b48d0e4ac fddc85f54e 29ac1a79f1',
  'dmc dreamerpro': 'a315bc7d27 9ef2c5cdc3 6063515265 4c1429708b',
  'dmcr dreamerv3': '70bbeba9ae d15261d26a 5f701389d1 e740ac1eef',
  'dmcr dreamerv2': '5d4410a39f 6e8abc5912 551f71693d 435ffddc92',
  'dmcr dreamerpro': '1225ed001c 30276260b9 2ad3dd8bb0 0a75b87c52',
  'gym dreamerv3': '79734004e5 337aba6969 c16ad4c4ab e31dd97df0',
  'gym dreamerv2': '207bf5a0d8 d71d03b4ff ba8d8d747d 51b54ef696',
  'gym dreamerpro': '9b7ace7a06 7f3536c2a4 8d55d71a11 63efb70c13',
  'memory_maze dreamerv3': 'eadcbc3f81 277eeb827d 92f8fabfd7 ba06218ac5',
  'memory_maze dreamerv2': 'b99301e249 d98c66da04 5ced83587f 13eaddda49',
  'memory_maze dreamerpro': 'db543f1684 bd923294e7 862d8fc50a 4a4c501f06',
  'metaworld dreamerv3': '96849565bd 2ef2b7fc4f 71870903c1 94d34cfd46',
  'metaworld dreamerv2': 'e3cbce8629 a1cf25305f 4af78b1ce6 ae533b98d1',
  'metaworld dreamerpro': '6c10c43c1d e040b550b2 301fa2e3d3 ac1a516468',
  'minigrid dreamerv3': 'e5a79c49fc f5909765f4 7918d605f1 975e265ee3',
  'minigrid dreamerv2': '1e6873ac43 250bb41fb7 c091c23ec9 0eda9ab384',
  'minigrid dreamerpro': '43666e10ee 0ef140acee 81a068b019 15b7231a3a',
  'rlbench dreamerv3': 'ba491b8a71 c4efaea129 53ddac558d 9e20a0e620',
  'rlbench dreamerv2': 'e2df573da5 f3f72883cf 5467947b67 6931c58a62',
  'rlbench dreamerpro': '948395b759 0c2480db17 0c81d3a073 2154c94067',
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
