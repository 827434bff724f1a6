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
  'atari100k dreamerv3': '20970ce177 555ec8f78e f74e7b690a f336ff0d34',
  'atari100k dreamerv2': 'd3de017949 53f52a5b40 8ffbadfc67 78d0801938',
  'atari100k dreamerpro': '79471ccb0a 4b50f9c1c7 37a17a6324 78161556c7',
  'atari100k tdmpc': '3fd0dea6c9 58f8e862ec a1ce794d51 7489dddeea',
  'atari100k denoised_mdp': 'e06ecfa62a 47aac9b6e9 345d24f225 75e7699816',
  'catch dreamerv3': '8ea9e5fe65 cde055fc92 0f1f805796 df21d43888',
  'catch dreamerv2': '060f978375 b0d92547c4 2530fedd6e 499ae2359e',
  'catch dreamerpro': 'f19141541d 04db7a632b 6df0624b89 e159eded08',
  'catch tdmpc': 'f42f50d733 0b64f0670b 2ab128dbba da441ccd7b',
  'catch denoised_mdp': '11ad83a246 d717649c2e 292831f4da 57d8653302',
  'crafter dreamerv3': '576b7eb4ab fbfdafed61 dfecb9b0c4 f1876d2e77',
  'crafter dreamerv2': '699e214357 4e33b74e46 28cee3deed 24726fdebd',
  'crafter dreamerpro': 'ed25d6a29f 6625e9487a 8cb8a86397 c4de967a2a',
  'crafter tdmpc': '2af9aab0f2 66494f4487 c8fd3e09c4 8fd48885dc',
  'crafter denoised_mdp': '57c9fa707a 1ff4a47bc7 ec5207370d 1a6644aded',
  'dmc dreamerv3': 'fecb322cdc d7deffe212 61c3c181b5 9274dd4cd0',
  'dmc dreamerv2': '407c4855dd a2e29f0559 efb6f84758 c1901f67dc',
  'dmc dreamerpro': 'fb297e2218 71ba1e634d 5749c8a045 81d7d132fc',
  'dmc tdmpc': '1d7f3f913b 8bc2b078e2 d5c8460ffe cae4691890',
  'dmc denoised_mdp': 'f664ba370a c769479256 a3a97279d3 a6df57e921',
  'dmcr dreamerv3': '7972b11544 53d8965d1e a731f8cefd ef1ad67d27',
  'dmcr dreamerv2': '23603e976f ec276b77e2 4577dc38dc ff78b05a7d',
  'dmcr dreamerpro': '284a0c5f8d 96574cea20 91a4d35a98 f16daed10a',
  'dmcr tdmpc': 'b0fafc932d fcd1a73107 798cef8277 66668dfb69',
  'dmcr denoised_mdp': '2aac59c914 9ae6e62eac 932e4b328d 0d6719781d',
  'gym dreamerv3': '4c2e5134f6 febdbeee71 98a7b676fc ab79039f64',
  'gym dreamerv2': '29fbe03036 9b159dfe00 c10b8269de f6e73c8276',
  'gym dreamerpro': '3498af1ada 4fcbb6c6d0 3394e58288 d95837b064',
  'gym tdmpc': '4e366cac3e 54590b1a1a 37af676093 2a077c02f5',
  'gym denoised_mdp': '4c980734bc 6a85dc845c 1f897f2b0b 4fd87d691c',
  'jax_envs dreamerv3': '23efda7b73 ef0994c895 fbe37f4d63 38cbf766ac',
  'jax_envs dreamerv2': 'a48ae54f11 0dc426b958 ff2256fba1 f4e2692c14',
  'jax_envs dreamerpro': '21a6d96334 833099681a 2362167a65 62359cccde',
  'jax_envs tdmpc': 'a58f4a673c 1cdf5c5a9c c7f86e900b f970cc6eae',
  'jax_envs denoised_mdp': '8c19e2e552 eb51e1cf7d 6b57ec28a4 e22dd5e8f7',
  'memory_maze dreamerv3': 'ee6703756b f7906fa0a8 d97e2a1bd1 8cb4cb1e1a',
  'memory_maze dreamerv2': 'a7a17060e5 25a8c6921f 1d10648086 3d082813c4',
  'memory_maze dreamerpro': '618bad3c95 87bdb84aff 77f18e26a7 875547e592',
  'memory_maze tdmpc': '8cacfa50da f25f702bd5 02646ba7ef 35baf7418f',
  'memory_maze denoised_mdp': 'b2ae2264ac 65404820f8 9ee32ea01d c068d511ef',
  'metaworld dreamerv3': '5f0fdaa831 5706fc87c8 ad23a65b26 cfac7ef0a8',
  'metaworld dreamerv2': '127e2fe60a 7b2cb42f20 d878ad19b6 454d1f0e4e',
  'metaworld dreamerpro': 'fdd812e48c efc4534137 8fbba65ca8 3c17d19ed6',
  'metaworld tdmpc': 'feed1e73d6 77b0489209 40f6f4c959 074edfe8be',
  'metaworld denoised_mdp': '70a4a60e6a 434017a20f c1e8e12da3 07572e5c44',
  'minigrid dreamerv3': '3f628fccc9 4c7121637d 3c7e07728e e2f978e254',
  'minigrid dreamerv2': '62bd050137 2e2ea5bae6 6ef1c39a69 6040efeeed',
  'minigrid dreamerpro': '305b6d1860 19adebcb47 dbcc7ab48b 08cdd8afdb',
  'minigrid tdmpc': '3ce6b76bb5 b51d84c71f 72985e71c7 e778fe2578',
  'minigrid denoised_mdp': '95bbe2358a c8b53f8104 c692a6e0cf 262ada48e0',
  'reach dreamerv3': 'b9e513c30d 526c7ae165 b473e8b826 4d8b005ca4',
  'reach dreamerv2': 'd79e1734ad 17508e81cc 96a8a13d71 7a834575e8',
  'reach dreamerpro': '1496396bf2 4b8d85b6ce 7f52f735a4 9f4d23c9da',
  'reach tdmpc': '4d36cc0817 7cfa61ca30 7555d3bf3d ab565d899e',
  'reach denoised_mdp': 'e558091940 61577a3b15 9aed86af65 8a5fee934a',
  'rlbench dreamerv3': '0f36e01458 f0fd540e42 5dbc97a66e 37c3c7b9fd',
  'rlbench dreamerv2': '70cdde3945 c66702e149 2272eefd74 164bb4624d',
  'rlbench dreamerpro': 'bae060ea0f 675a4315e5 b150ab0854 81c64a385a',
  'rlbench tdmpc': '1b2dfc3497 e60b47919c 18f38bd8ef ef5fbaed48',
  'rlbench denoised_mdp': '98a1e8a57b 6e4ee54f7b 089f4d55c7 e6e716d40e',
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
  with pytest.raises(UserError, match='can be called .num_envs.; config.num_envs says'):
    make('gym').override(['env.num_envs=5'])
