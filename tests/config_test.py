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
  'atari100k dreamerv3': '481e22164e 248cde3b4b 78f1bcbf68 68d85a18eb',
  'atari100k dreamerv2': 'fa1a2d7dd4 f13b3d97ea 0ac0b13f56 957525564d',
  'atari100k dreamerpro': '9ade96c328 a312ac43c1 b20fe4aa68 a25b190511',
  'catch dreamerv3': 'f36d64009e 9ebeacede6 77c90fc9b1 bbeb5d4a20',
  'catch dreamerv2': '19dcf81c7a abc05ddf9c 431fa32181 1ba52dcb47',
  'catch dreamerpro': 'b588401852 8a6f3213f9 0b50bcc8a9 faf95ac53d',
  'crafter dreamerv3': 'e70a50e26a 5fb78aa445 a60d22a776 999dec6513',
  'crafter dreamerv2': '0c32dc243d 4040aac0ef 0b773e5c8d b15973fb57',
  'crafter dreamerpro': '6b62456004 68210b50af c1f136c2af fa0706be3e',
  'dmc dreamerv3': '4d97243a98 813b2b3bcf b2076caaa5 1a00ea1471',
  'dmc dreamerv2': 'f9984b2f7e 11dd02b927 48a79cba0f 85d4c33dc1',
  'dmc dreamerpro': 'b46f611d89 b436d11d26 d2e62057f6 74c014ae62',
  'dmcr dreamerv3': '4a4903cc72 8ff09b0e0b 04990e6ebf 6e05a3b348',
  'dmcr dreamerv2': 'eb3d787d1b fbc10244e9 5b8b5e0b02 c6f9aaf4a2',
  'dmcr dreamerpro': '9f32e2b48f 1140533ed1 d00e6d29c4 9bfb42c3c1',
  'gym dreamerv3': 'b9eade2ed7 2c4108aa70 b533471938 e7fab71445',
  'gym dreamerv2': 'fbda21aa68 d331c8de94 003a1ad4b2 a045280246',
  'gym dreamerpro': '70dbf4e5d1 15b1c40184 e809ec2a50 1584aeb63e',
  'memory_maze dreamerv3': '10e8e27ceb e9a10c89f2 7007a314fa fe3f371123',
  'memory_maze dreamerv2': 'a7ebc828eb a0b53ff2f5 ceaf1de3aa 47a8b5f536',
  'memory_maze dreamerpro': '289dfe63f4 4eb067d125 3761cf56b7 4b2994b4bc',
  'metaworld dreamerv3': '12557440e1 3a6ff2527f 4777b2b544 21a15d9359',
  'metaworld dreamerv2': 'f3a11ba788 c366d8bec6 f948e36a0c d8ece05c0c',
  'metaworld dreamerpro': '1ff9ffb654 157d15868f 63ece107f5 41ccff5acb',
  'minigrid dreamerv3': '0362fd18e4 ac3ff61d84 05ff2219dc 95052af371',
  'minigrid dreamerv2': '91d4cc7a4a 4e55107f9b 06e4e8f137 2e4f8f3aa9',
  'minigrid dreamerpro': 'be3d86c1fb 914eb68830 e709312a29 f8451979d9',
  'rlbench dreamerv3': 'd20f9e33e4 f53614e79a 93e2b1ecfc c2658cdb0c',
  'rlbench dreamerv2': '544f2a22fc ec125d9fe9 266721f6af 337223a459',
  'rlbench dreamerpro': '3bfdc80dd9 a686c131ce 969230d02e 47e107768c',
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
