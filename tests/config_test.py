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
    ['rssm.deter=24', 'env.action_repeat=3'][: 1 + (suite == 'dmcr')]
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
  'atari100k dreamerv3': '556ebe7857 0d7b1ea1c3 b9454425a3 dd2d7ce7d1',
  'atari100k dreamerv2': '51bf15bb9f f1fd5ca596 4b09bcd9c7 afdc57e610',
  'atari100k dreamerpro': 'cc73855b21 59779af4eb b2443ea1c7 adb4af9354',
  'catch dreamerv3': 'ed00ee6cbd d8929a6eaa b032826403 72f6330c47',
  'catch dreamerv2': 'caf40d1db5 df3895c245 93afa04085 71f09d07ba',
  'catch dreamerpro': '4675ffe122 fc38cd221b 73187c6155 a745f9676a',
  'dmc dreamerv3': 'e217e0298c 35968bb4af 0e46e3eb39 19fa3be5ec',
  'dmc dreamerv2': 'cda095557b ef5066e054 b109aaed19 b2c7294fbf',
  'dmc dreamerpro': '7f7bf39e28 85b4713999 d10059ffea a6e59cfe4d',
  'dmcr dreamerv3': '72664a107c 29235143d3 76d78696e8 f699c8f07f',
  'dmcr dreamerv2': '49be91353f 68cbf1d669 e38f5a7def 5c4710fddc',
  'dmcr dreamerpro': 'f974d70cb6 74ee0da0a3 363e209511 7ab31d7741',
  'gym dreamerv3': 'dd3a6d4a2a cd667c37c0 3588bd1e4d 410a678756',
  'gym dreamerv2': '5aa2e95a9d 705b0e481f ccb89869b4 0ca5fb82ef',
  'gym dreamerpro': '90219ca8dc aa755fb762 fddc4f96d1 080b4391ae',
  'metaworld dreamerv3': '1f94316406 e6c4cb4345 e98b8e14d1 cee6bcb263',
  'metaworld dreamerv2': 'b7f9564bc7 b730e6b820 a48893daf4 e6f70e178d',
  'metaworld dreamerpro': '8312cbbd2b 7dfde562ca 9af4f7df1c 0962fafe0b',
  'rlbench dreamerv3': 'defba565ad 0075da4042 cc1bfe362a 07849d66c3',
  'rlbench dreamerv2': 'fdaafa3dc8 a2df8fac12 433869da71 244ff89a89',
  'rlbench dreamerpro': '3ca300c3c1 49daca56c3 88d62fa63a ac94db37af',
}
