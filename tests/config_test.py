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
  'atari100k dreamerv3': 'b4d0c8b494 20d24fd9d3 43fdde4148 8014a68c51',
  'atari100k dreamerv2': 'e76ed98e3d 6614873fd1 8fe9f05881 0fd5b2b3ff',
  'atari100k dreamerpro': 'e9de22aa2a c84088adaa 4cdaad381e 4ed74952d9',
  'atari100k tdmpc': '5f8e854205 3d320972d9 ce7d2d4fe7 677a863214',
  'catch dreamerv3': 'cb960be218 e83bf4f59d 77d054e25d 8a8f3f77e3',
  'catch dreamerv2': '0c90a4546d 16e89f5c0f df66c9f55d 4ba932a380',
  'catch dreamerpro': '4a831c61ca 0352b08d07 9101c8d365 956b83cc42',
  'catch tdmpc': '0069d6b57e e2bdfda0e3 8e2080178c 7425f5baa8',
  'crafter dreamerv3': '2415dbc7e8 18e301f984 17076af781 1a98a021de',
  'crafter dreamerv2': '5fe2aecaee ee1da05283 b982489b88 53f701960f',
  'crafter dreamerpro': '2285d99e17 6ab9d44dc0 507a99d0e6 76cc9fe21a',
  'crafter tdmpc': '9e2ce1acdf de6e59dbd7 c574d8d298 cfd8a76b72',
  'dmc dreamerv3': '1eba0a5a4b 2cba0839e3 1ae8aff916 6a7114331a',
  'dmc dreamerv2': 'aca216bfa9 34b5dfcd68 46f75d7fd2 2d42c3b9cd',
  'dmc dreamerpro': '5756f15032 141ce64e00 b140215424 d8fdfade46',
  'dmc tdmpc': 'f9f9111c83 ef2886907e 2d72669fdf 72de8afc19',
  'dmcr dreamerv3': 'd97a9073dc 24b8e7bedb 1f2e1ce48c e3c5c0100d',
  'dmcr dreamerv2': 'be24eafa51 8a09534162 4bccd9e3b1 00ae428763',
  'dmcr dreamerpro': 'a1605753a1 717d72c0ac cc4e4d09bf 455cbe8285',
  'dmcr tdmpc': 'f1859ed89a 6a2c2bb467 0fcbcfe20b d3a4e50e08',
  'gym dreamerv3': '555d7eec7f 4134f2a9da 5d3f63b9cb f82a6ad259',
  'gym dreamerv2': '46761fc2e3 ec14f84c79 6e1ad63bb3 0ac664e989',
  'gym dreamerpro': '7e0c99e4d8 35b484bdcc 0f472ea49f 9caedf0abb',
  'gym tdmpc': '471882a90b f501df36d7 ccd8907111 3403965bcb',
  'memory_maze dreamerv3': '43261d2cea 0b2d3f7de0 652a7bb8e0 3595b9f7a0',
  'memory_maze dreamerv2': '79ade2a133 a39edda9b1 102c4bf797 588e5d79d7',
  'memory_maze dreamerpro': '34f7817857 6f4d788ef4 69d64bad67 c7527112f3',
  'memory_maze tdmpc': 'ed40ef9ddf 6e5cdf154f 0011b67996 231a9648dc',
  'metaworld dreamerv3': 'feb0d07f1f 0ae6226c0d aeb3b24785 8f6d63725c',
  'metaworld dreamerv2': 'fac7ee0bc6 12712f770b 70e5866291 b638a820a0',
  'metaworld dreamerpro': '6889a2bb11 5ef265daa0 c6c5d73ddf 615523c779',
  'metaworld tdmpc': '21a3c6e814 4d5f5b1ddb e7e9c012d5 83ada93a73',
  'minigrid dreamerv3': '78961c7605 ea778170cd 3f4b2cfed1 a5ffea0bde',
  'minigrid dreamerv2': '2f3e29a1f2 16b8ed1ae3 ab7fa6047d 46a263d599',
  'minigrid dreamerpro': 'ce79aa24e3 9e6531ec34 9d199ab854 1e9fbd8797',
  'minigrid tdmpc': '3a8282384f 2fe309a31e 395b5141ea 3123556dee',
  'rlbench dreamerv3': '189492fcc1 d1edf5f4af 907c6d0d7c f8e4c89c9d',
  'rlbench dreamerv2': '8a40cd0204 65685edad7 5a77f37c05 263c8aef8d',
  'rlbench dreamerpro': '6fe71c3d70 f0ffd1a503 793bbc7793 98014b93e2',
  'rlbench tdmpc': 'ab72a59f26 81de7bceb1 78ec303d2b d69223e4db',
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
