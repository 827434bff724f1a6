"""A configuration: one tree on command line and disk; every suite takes every method."""

import dataclasses
import hashlib
import json

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
  assert made.env['wrappers'] == ('some_module:A', 'b:C')
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
  'atari100k dreamerv3': '73816e4c50 a4fd7c19f4 f6d5ba8a66 eac591be8d',
  'atari100k dreamerv2': '62b5e9a0fd 0b5e24b1b5 8fb9175c42 f00a255e8e',
  'atari100k dreamerpro': '2c1ea79204 4ac5736c03 18cafa6808 de975acfe9',
  'atari100k tdmpc': '0ac0a3deb1 f390c92a2a a21a6d65dd 056db96201',
  'atari100k denoised_mdp': 'f4d25bf72b de7e4519a2 48afebf78d bac7b051c7',
  'catch dreamerv3': 'c8ef6210d1 dafd8b939e eba26d5274 889484d78b',
  'catch dreamerv2': '18d5ce59de 627bbee591 7cab8e833f 8d2a85ac20',
  'catch dreamerpro': '03aa13f080 1bde077023 3948d3f879 87b1bc6172',
  'catch tdmpc': 'af7ac7d076 ebddca3ba1 88da902d17 1d10065524',
  'catch denoised_mdp': 'f2d1cb801c 478e79ae72 05d080e0a7 24501b1113',
  'crafter dreamerv3': '3b76cbf627 b6dc54eaef 357bf1c06d c1b5613a01',
  'crafter dreamerv2': 'a3a06fa216 2f6d16a099 eee106ab7b 0ac0cb35f2',
  'crafter dreamerpro': 'c1ab76990f 4ad131657c 173f1dbfc0 002b152ce4',
  'crafter tdmpc': '0b748fe7b2 c39ac1a438 01ed19161e bd21d399a5',
  'crafter denoised_mdp': 'aa4ba1332c 8b81e5c6bb d86e41d1b3 d33dff7ec5',
  'dmc dreamerv3': 'd6dc4f5cf6 8741b3afc9 d053914e29 ba37c719fb',
  'dmc dreamerv2': '275808cac6 58cb0b2ffc 1901cf971b 7d7bd197ef',
  'dmc dreamerpro': '09adf52a99 79f3a95233 ecfb3e44ad 01f37efa5a',
  'dmc tdmpc': '7a9a7abde8 2adab565e4 3351c305d7 0b1b26cb7a',
  'dmc denoised_mdp': '21eae9e93c 9be42dfc66 e052ff4414 90e17d39f7',
  'dmcr dreamerv3': '0c23cc1769 46078aea00 0b1de7c06b 8ba5ba51ba',
  'dmcr dreamerv2': '8c31249066 cbd9213f35 2ceb52ecdb 1abf860488',
  'dmcr dreamerpro': '69b0f5f15f aa472ca5c5 6d4601f403 53fd07cdc2',
  'dmcr tdmpc': 'eab964baa9 a086be6273 964ea16a4f d893f5e270',
  'dmcr denoised_mdp': 'fe1ae6e547 76fef12537 79c6fe42a3 9e3d7b0673',
  'gym dreamerv3': '04340a6a59 338b800aab 5e127dec2a 5271802e8c',
  'gym dreamerv2': '845a46032e 719f7652af 73881e506f 6590a75604',
  'gym dreamerpro': '55935b0337 6b9b261682 6e36057c29 8b52ea7bcc',
  'gym tdmpc': '67e95e78e9 7533114e10 9056973a04 a5c1c22b6a',
  'gym denoised_mdp': '3bffe3d79d f1cdfff9df b0801693f5 1ee62ca9fd',
  'jax_envs dreamerv3': 'a3083601ef 170884be52 45a0459a84 6830c2fa3b',
  'jax_envs dreamerv2': '35c6343d2b 3eae75a836 54bf15b4d9 4735088528',
  'jax_envs dreamerpro': '4eededeba2 164a2961b7 8513edd5f5 662580194d',
  'jax_envs tdmpc': '50bf98a151 2957466e11 246320a890 b1091a1406',
  'jax_envs denoised_mdp': 'f110525a2a b479dd033b 92a4fe13f7 d72222b6e3',
  'memory_maze dreamerv3': '92bf90fb64 fa34c1d7a7 ff1e93ae2f e9ca681b83',
  'memory_maze dreamerv2': '6ab49eadf0 2b88a3196d b339fb3af9 0b0d65bfd1',
  'memory_maze dreamerpro': '6f4155585c fb92e968a8 1252304f93 412eb8ed9b',
  'memory_maze tdmpc': '2a08b4de0d e92b8c4642 98f6ee087a 2c6d86e25d',
  'memory_maze denoised_mdp': '3cd3287b8f c17e0ca820 b41c004dc0 76d13ccb9c',
  'metaworld dreamerv3': 'b47b05952e ce6db3ee95 7caf2d77be 4a7f856470',
  'metaworld dreamerv2': '1ce171c3ad 0560b5c202 7e0e91f4e5 efa44e93d4',
  'metaworld dreamerpro': '55e6335304 0a038545f4 c1926bdd96 d7452ba658',
  'metaworld tdmpc': 'eab109eea4 6de535c90f 490deb0fe0 b9deb92255',
  'metaworld denoised_mdp': '0669722507 098d44abbd b264ab78c6 49aa799891',
  'minigrid dreamerv3': '4321abf89a b5963a90af 1a5bd76769 0d001bd6f1',
  'minigrid dreamerv2': '9cff78c702 13a741440b 788acbd516 149451e9e9',
  'minigrid dreamerpro': '9de8e09c08 39952a75e4 f3f44ac051 81f98fcbe5',
  'minigrid tdmpc': 'fd2fefd0e8 1157825438 61e5686c9d 21934d755d',
  'minigrid denoised_mdp': '6424da5795 dcc07c1eca 43e703b73b 9d6ccf022b',
  'reach dreamerv3': '4b6b8b1fb4 5fa0b0b900 6deb2fe48d d6d15ce0d3',
  'reach dreamerv2': 'ccb6f0dcd1 e4362de0bf 6168d92246 1023feefaf',
  'reach dreamerpro': 'ba9019b3c1 fd8d4aebd5 026d226e62 76c842fd82',
  'reach tdmpc': 'cde3b001bd 150e4ce305 164c1936d8 2b70a1e742',
  'reach denoised_mdp': '5b53b23f81 9f6e9152d4 6baafe2431 429eb12894',
  'rlbench dreamerv3': '84d84c8063 5ffdf907dd d0d1711f5a 5c2d84f63a',
  'rlbench dreamerv2': '2572c5a544 2a19f3755f 5645656f17 bb765e5803',
  'rlbench dreamerpro': '199c180d7e 9baa837cee c41a69674e 1984a4de92',
  'rlbench tdmpc': 'a82f26e7fb e8427e4912 319da0dab0 11122a5a0b',
  'rlbench denoised_mdp': 'ae7468d24e e98e01384d 5b5af1d13c 59c10cec90',
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
  # the type is that of what is said last, whatever was said before
  before = make('gym').override(['env.sizes=[1,2]', 'env.goal=None', 'env.g=5', 'env.mode=a'])
  again = before.override(['env.sizes=[3,4]', 'env.goal=x', 'env.g=2.5', 'env.mode=1']).env
  assert [again[k] for k in ('sizes', 'goal', 'g', 'mode')] == [[3, 4], 'x', 2.5, 1]
  with pytest.raises(UserError, match='unknown key config.env.g'):
    make('catch').override(['env.g=5'])
