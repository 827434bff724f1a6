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
  'atari100k dreamerv3': 'd1f83e343a 516223dced f9e3194697 5bebd99611',
  'atari100k dreamerv2': 'ff34dc0ad9 93f88e6114 70c7ff0170 1c549ed6a3',
  'atari100k dreamerpro': 'fa57bb2321 84a6aeec37 ebcb562ff4 422efae396',
  'catch dreamerv3': '36838f89c5 d644a76133 353078a01b caab309f4b',
  'catch dreamerv2': 'e3e6e06d8e 8e1fd0cb89 287d57fad9 88f2865e33',
  'catch dreamerpro': 'd3e14d1185 0ffb371e3a b56e41df34 5ab35de801',
  'crafter dreamerv3': '7568ca2e63 222613c61d 190b94d1ab 2e9ab6dd90',
  'crafter dreamerv2': '52d5ccc0d9 c058ac3b89 cb7687647b a4a4501a59',
  'crafter dreamerpro': 'ff0fc806c4 d423843fe0 1144cb5c2a f000ed678e',
  'dmc dreamerv3': 'ab30d8d501 cd9b5c87d8 c689e219f3 f9c10fd724',
  'dmc dreamerv2': 'aeafa9d3ad 72e4972d12 ba91d4588d 682b779a8b',
  'dmc dreamerpro': 'cf34bf2fc4 63fb2169a2 12f70bf689 97b03f1ca2',
  'dmcr dreamerv3': '22da518186 de336b646a 02a6551595 3010bd1e33',
  'dmcr dreamerv2': '074eff50ed fdf6201644 df18901222 e736ffc8a6',
  'dmcr dreamerpro': '150dfc939d 0b924024c4 57c8a698bd 62fe2e8714',
  'gym dreamerv3': '6997dce56f c0063afc3b 7c4c92115c 03d7071b7f',
  'gym dreamerv2': '29bd8b83a0 453d88fbc2 4483ff81e3 4460aaaf5c',
  'gym dreamerpro': '8051b88755 f91af0bfd0 1d45d72046 d40365d53b',
  'memory_maze dreamerv3': 'f34a07293f d3a63343b6 5060ded9b4 ba36ad566e',
  'memory_maze dreamerv2': '8ab0e3f202 6df61091e2 d77d0a8bf0 cbe7de0249',
  'memory_maze dreamerpro': '51f9e95329 cf56e7d86d 25b07e9058 ec45904d0c',
  'metaworld dreamerv3': '5fbb8978b2 87be7e9b44 a178df85f6 db7165b7fc',
  'metaworld dreamerv2': '9e583093a8 249f2f49c3 420c9a9343 effa4bbda0',
  'metaworld dreamerpro': '6356d60a1e dd313cab9a b58b50ecb4 876d82da2b',
  'minigrid dreamerv3': '6a60f7619f e041e56075 82f5df07d3 78d2771cf4',
  'minigrid dreamerv2': 'b4f91761fa c54bece036 2c6847386f b709e5788c',
  'minigrid dreamerpro': '9cff0913ff b4ef24a721 5b3b5e3b00 2d2b2121f4',
  'rlbench dreamerv3': 'cf0572598e 6b5ccb0523 66bfa128c5 4d40fe81df',
  'rlbench dreamerv2': 'c87c5cc7ce fc0de12f6d 8f463ce9f9 5e386d06f4',
  'rlbench dreamerpro': 'd47c97b21f e6e2a8cf38 31a49b1c77 fac26a255b',
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
