"""DMC Remastered: looks that change, physics that does not."""

import importlib.util

import chex
import numpy as np
import pytest

from harmony_jax.envs import dmcr, dmcr_factors, dmcr_textures
from harmony_jax.envs.check import check
from harmony_jax.envs.dmc import DMC
from harmony_jax.envs.dmcr import DMCR
from tests import commands

if importlib.util.find_spec('dm_control') is None:
  pytest.skip('dm_control is not installed', allow_module_level=True)

NO, YES = np.zeros(1, bool), np.ones(1, bool)
# One per domain; those of the paper are cheetah_run, walker_run and cartpole_balance.
TASKS = [
  'ball_in_cup_catch',
  'cartpole_balance',
  'cheetah_run',
  'finger_turn_hard',
  'fish_swim',
  'hopper_hop',
  'humanoid_walk',
  'pendulum_swingup',
  'reacher_easy',
  'walker_run',
]
# What each factor may change in the compiled model, in a domain where it changes everything it can.
FIELDS = {
  'bg': {'tex_data'},
  'floor': {'tex_data'},
  'body': {'mat_rgba'},
  'target': {'mat_rgba'},
  'reflectance': {'mat_reflectance'},
  'camera': {'cam_pos', 'cam_pos0', 'cam_poscom0'},
  'light': {'light_pos', 'light_pos0', 'light_poscom0', 'light_diffuse', 'light_specular'},
}


def make(task='cheetah_run', **options):
  return DMCR(task, 1, **{'render': 'fast', **options})


def begin(env, seed):
  return env.step(np.zeros((1, env.spec.num_actions)), YES, np.array([seed])).observation['image'][
    0
  ]


def play(env, seed, steps):
  rng = np.random.default_rng(seed)
  begin(env, seed)
  timesteps, states = [], []
  for _ in range(steps):
    timesteps.append(env.step(rng.uniform(-1, 1, (1, env.spec.num_actions)), NO, NO))
    states.append(env._slots[0].physics.get_state())
  return timesteps, np.stack(states)


def fields(env):
  """Copies of all numeric arrays of the compiled model, and of the headlight."""
  model = env._slots[0].physics.model
  arrays = {
    name: np.array(getattr(model, name))
    for name in dir(model.ptr)
    if not name.startswith('_') and isinstance(getattr(model.ptr, name), np.ndarray)
  }
  for name in dmcr_factors.HEADLIGHT:
    arrays[f'headlight_{name}'] = getattr(model.vis.headlight, name).copy()
  return arrays


def changed(before, after):
  return {name for name in before if (before[name] != after[name]).any()}


def test_the_convention():
  env = DMCR('finger_turn_hard', 2, render='fast', time_limit=30)
  check(env, steps=20)
  env.close()


@pytest.mark.parametrize('task', TASKS)
def test_every_domain_looks_new_in_every_episode(task):
  env = make(task)
  images = np.stack([begin(env, seed) for seed in range(4)]).astype(int)
  assert min(abs(a - b).mean() for index, a in enumerate(images) for b in images[:index]) > 5
  env.close()


@pytest.mark.slow
@pytest.mark.parametrize('task', DMCR.tasks())
def test_every_task_steps(task):
  env = make(task)
  check(env, steps=5)
  env.close()


def test_the_tasks_of_the_benchmark():
  assert len(set(DMCR.tasks())) == 22 and set(TASKS) <= set(DMCR.tasks())
  assert set(DMCR.tasks()) <= set(DMC.tasks())
  assert DMCR.canonical('finger-spin') == 'finger_spin'
  with pytest.raises(ValueError, match="'quadruped_run': did you mean 'humanoid_run'"):
    DMCR('quadruped_run', 1)


@pytest.mark.parametrize(
  'task',
  ['cheetah_run']
  + [pytest.param(task, marks=pytest.mark.slow) for task in TASKS if task != 'cheetah_run'],
)
def test_looks_leave_physics_bitwise_as_it_is(task):
  varied, plain = make(task), make(task, visual_seeds='0')
  timesteps, states = play(varied, 3, 40)
  plain_timesteps, plain_states = play(plain, 3, 40)
  np.testing.assert_array_equal(states, plain_states)
  np.testing.assert_array_equal(
    [step.reward for step in timesteps], [step.reward for step in plain_timesteps]
  )
  images, plain_images = (
    step[-1].observation['image'].astype(int) for step in (timesteps, plain_timesteps)
  )
  assert abs(images - plain_images).mean() > 5
  # And as dm_control has it.
  stock = DMC(task, 1, render='fast')
  rng = np.random.default_rng(3)
  stock.step(
    np.zeros((1, stock.spec.num_actions)), YES, [dmcr._choose(3, 1, dmcr.DYNAMICS_SEEDS['train'])]
  )
  for state in states[:20]:
    stock.step(rng.uniform(-1, 1, (1, stock.spec.num_actions)), NO, NO)
    np.testing.assert_array_equal(stock._slots[0].physics.get_state(), state)
  varied.close(), plain.close(), stock.close()


@pytest.mark.parametrize('render', ['stock', 'fast'])
def test_a_seed_gives_the_same_frames_whatever_was_before(render):
  env, other = make(render=render), make(render=render)
  first, _ = play(env, 5, 3)
  play(env, 6, 1), play(env, 7, 1)
  chex.assert_trees_all_equal(play(env, 5, 3)[0], first)
  chex.assert_trees_all_equal(play(other, 5, 3)[0], first)
  env.close(), other.close()


@pytest.fixture(scope='module')
def plain_finger():
  """Of the finger in its plain look: the picture of seed 1, what its first episode changes, and
  what changes from one to the next: the target's place, which the task draws.
  """
  env = make('finger_turn_hard', visual_seeds='0')
  found = [fields(env)]
  for seed in (0, 1):
    image = begin(env, seed)
    found.append(fields(env))
  env.close()
  return image, changed(found[0], found[2]) | changed(*found[1:])


@pytest.mark.parametrize('factor', dmcr_factors.FACTORS)
def test_a_factor_changes_what_it_should_and_nothing_else(factor, plain_finger):
  # The finger has a target that can be seen and a light of its own colour, and is drawn from close
  # by.
  plain, task = plain_finger
  env = make('finger_turn_hard', vary=factor)
  blank = fields(env)
  images = [begin(env, seed) for seed in (0, 1)]
  assert (images[1] != plain).any()
  headlight = (
    {f'headlight_{name}' for name in dmcr_factors.HEADLIGHT} if factor == 'light' else set()
  )
  assert changed(blank, fields(env)) - task == FIELDS[factor] | headlight
  env.close()


def test_body_and_target_paint_their_own_materials():
  for factor, materials in (('body', {'self', 'effector'}), ('target', {'target'})):
    env = make('finger_turn_hard', vary=factor)
    model = env._slots[0].physics.model
    before = model.mat_rgba.copy()
    begin(env, 0)
    painted = np.flatnonzero((model.mat_rgba != before).any(1))
    assert {model.id2name(index, 'material') for index in painted} == materials
    env.close()


def test_bg_and_floor_change_pixels_of_their_own():
  plain = make(visual_seeds='0', dynamics_seeds=1)
  images = {'': begin(plain, 0)}
  for vary in ('bg', 'floor'):
    env = make(vary=vary, dynamics_seeds=1)
    images[vary] = begin(env, 0)
    env.close()
  plain.close()
  # The sky is above the horizon and the ground below it, but for the edge of the ground on the
  # left.
  sky, ground = np.s_[:24, 20:], np.s_[48:, 20:]
  different = {vary: (image != images['']).any(-1) for vary, image in images.items()}
  assert different['bg'][sky].mean() > 0.9 and different['floor'][ground].mean() > 0.9
  assert different['floor'][sky].mean() < 0.05


def test_switching_factors_off_leaves_the_others_as_they_were():
  whole = make('finger_turn_hard')
  begin(whole, 4)
  everything = fields(whole)
  for factor in ('body', 'camera', 'light', 'reflectance'):
    env = make('finger_turn_hard', vary=factor)
    begin(env, 4)
    alone = fields(env)
    for name in FIELDS[factor] - {'mat_rgba'}:
      np.testing.assert_array_equal(alone[name], everything[name])
    body = env._slots[0].physics.model.name2id('self', 'material')
    assert (alone['mat_rgba'][body] == everything['mat_rgba'][body]).all() == (factor == 'body')
    env.close()
  whole.close()


def test_a_look_ends_with_its_episode():
  env = make('hopper_hop', visual_seeds='3')
  seeds = {}
  for seed in range(30):  # episodes whose look is the same although their starts differ
    seeds.setdefault(dmcr._choose(seed, 0, (1, 3)), []).append(seed)
  assert set(seeds) == {1, 2, 3}
  looks = {}
  for turn in (0, 1, -1):
    for visual, episodes in seeds.items():
      begin(env, episodes[turn])
      assert env.visual_seed[0] == visual
      painted = set.union({'cam_quat', 'cam_mat0'}, *FIELDS.values())
      look = {
        name: value for name, value in fields(env).items() if name in painted or 'headlight' in name
      }
      chex.assert_trees_all_equal(looks.setdefault(visual, look), look)
  assert (looks[1]['tex_data'] != looks[2]['tex_data']).any() and (
    looks[1]['cam_mat0'] != looks[2]['cam_mat0']
  ).any()
  env.close()


def test_seed_ranges():
  chosen = {
    name: [
      dmcr._choose(seed, 0, dmcr._seed_range('visual', name, dmcr.VISUAL_SEEDS))
      for seed in range(1000)
    ]
    for name in ('train', 'test', '5', 5, 0)
  }
  assert 1 <= min(chosen['train']) and 900_000 < max(chosen['train']) <= 1_000_000
  assert 1_000_000 < min(chosen['test']) and max(chosen['test']) <= 2_000_000
  assert len(set(chosen['train'])) > 990
  assert chosen[5] == chosen['5'] and set(chosen[5]) == {1, 2, 3, 4, 5}
  assert set(chosen[0]) == {0}
  assert [dmcr._choose(seed, 1, (1, 5)) for seed in range(1000)] != chosen[5]
  for option in ('tset', '-1', '1.5'):
    with pytest.raises(ValueError, match="it takes 'train', 'test' or a number of seeds"):
      DMCR('cheetah_run', 1, visual_seeds=option)
  with pytest.raises(ValueError, match='dynamics_seeds must be at least 1'):
    DMCR('cheetah_run', 1, dynamics_seeds=0)


def test_vary():
  assert (
    dmcr._factors('all')
    == dmcr_factors.FACTORS
    == ('bg', 'floor', 'body', 'target', 'reflectance', 'camera', 'light')
  )
  assert dmcr._factors('bg, floor') == ('bg', 'floor')
  with pytest.raises(
    ValueError, match="unknown factor of DMC Remastered 'flor': did you mean 'floor'"
  ):
    DMCR('cheetah_run', 1, vary='bg,flor')


@pytest.mark.parametrize('domain', dmcr_factors.DOMAINS)
def test_draws_fill_their_ranges(domain):
  looks = [dmcr_factors.draw(domain, seed) for seed in range(1, 401)]
  ranges = dmcr_factors.DOMAINS[domain]
  fills([look['camera']['position'] for look in looks], *np.transpose(ranges.camera))
  fills([look['reflectance'] for look in looks], *dmcr_factors.REFLECTANCE)
  for colors in ([look['body'] for look in looks], [[look['target']] for look in looks]):
    fills(colors, [0, 0, 0, 0.75], [1, 1, 1, 1])
  for name, ((low, high), tint) in dmcr_factors.HEADLIGHT.items():
    values = np.array([look['light'][name] for look in looks])
    fills(values.mean(1), low, high, slack=tint)
    assert values.min() >= low - tint and values.max() <= high + tint
    assert 0 < np.ptp(values, 1).max() <= 2 * tint
  if ranges.light:
    fills([look['light']['position'] for look in looks], *np.transpose(ranges.light))
  else:
    assert domain in ('walker', 'hopper')  # the original leaves their light in its place
  assert len({look['bg'] for look in looks}) == len({look['floor'] for look in looks}) == 400


def fills(values, low, high, slack=0):
  """All values lie between low and high, and they come within a twentieth of both."""
  values, low, high = np.array(values), np.array(low), np.array(high)
  margin = 0.05 * (high - low) + slack
  assert (values >= low - slack).all() and (values <= high + slack).all()
  assert (values.min(0) <= low + margin).all() and (values.max(0) >= high - margin).all()


def test_factors_are_independent():
  # In the original the camera's place is a function of the sky.
  looks = [dmcr_factors.draw('cheetah', seed) for seed in range(1, 401)]
  values = [
    [
      look['bg'],
      look['floor'],
      look['reflectance'],
      look['body'][0, 0],
      look['target'][0],
      look['camera']['position'][0],
      look['light']['position'][0],
      look['light']['ambient'][0],
    ]
    for look in looks
  ]
  correlation = np.corrcoef(np.array(values, float).T)
  assert abs(correlation - np.eye(len(correlation))).max() < 0.2


@pytest.mark.parametrize(
  'task, quaternion',
  [
    ('hopper_hop', dmcr_factors._from_euler([90, 0, 0])),
    ('pendulum_swingup', dmcr_factors._turn(0, np.arctan2(1, 0.5))),
  ],
)
def test_camera_directions_follow_mujocos_conventions(task, quaternion):
  env = make(task, visual_seeds='0')
  model = env._slots[0].physics.model
  np.testing.assert_allclose(model.cam_quat[0], quaternion, atol=1e-7)
  env.close()


def test_euler_angles_follow_mujocos_conventions():
  import mujoco

  xml = '<mujoco><worldbody><camera euler="87 -4 3"/></worldbody></mujoco>'
  np.testing.assert_allclose(
    mujoco.MjModel.from_xml_string(xml).cam_quat[0], dmcr_factors._from_euler([87, -4, 3])
  )


def test_a_camera_that_follows_is_where_its_range_says():
  import mujoco

  env, plain = make('hopper_hop', vary='camera'), make('hopper_hop', visual_seeds='0')
  default = plain._slots[0].physics.model.cam_pos[0]

  def offset(one):
    """From the centre of mass to the camera: 'trackcom' keeps that of the model's own pose."""
    physics = one._slots[0].physics
    return physics.data.cam_xpos[0] - physics.data.subtree_com[physics.model.cam_bodyid[0]]

  for seed in range(3):
    begin(env, seed), begin(plain, seed)
    look = dmcr_factors.draw('hopper', int(env.visual_seed[0]))['camera']
    np.testing.assert_allclose(offset(env) - offset(plain), look['position'] - default, atol=1e-9)
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, look['quaternion'])
    np.testing.assert_allclose(env._slots[0].physics.data.cam_xmat[0], rotation, atol=1e-12)
    assert rotation.reshape(3, 3)[1, 2] < -0.98  # across the track, as without a turn
  env.close(), plain.close()


def test_painted_pictures_are_many_and_reproducible():
  for paint, size in (
    (dmcr_textures.floor, dmcr_textures.FLOOR_SIZE),
    (dmcr_textures.sky, dmcr_textures.SKY_SIZE),
  ):
    pictures = [paint(seed) for seed in range(12)]
    assert all(
      picture.shape == (size, size, 3) and picture.dtype == np.uint8 for picture in pictures
    )
    np.testing.assert_array_equal(pictures[3], paint(3))
    assert len({picture.tobytes() for picture in pictures}) == 12
    assert all(picture.std() > 2 for picture in pictures)  # no plain areas
    means = np.array([picture.mean((0, 1)) for picture in pictures])
    assert (np.ptp(means, 0) > 60).all()


@pytest.mark.parametrize('kind', dmcr_textures.FLOOR_KINDS)
def test_floors_continue_over_their_borders(kind):
  for seed in range(5):
    picture = dmcr_textures._FLOORS[kind](np.random.default_rng(seed), 64).astype(float)
    for axis in (0, 1):
      steps = (
        abs(np.diff(picture, axis=axis, append=picture.take([0], axis))).mean(2).mean(1 - axis)
      )
      assert steps[-1] <= 1.3 * steps[:-1].max()


def test_photographs_of_the_user(tmp_path):
  from PIL import Image

  colors = {
    'assets/floors/b.png': (255, 0, 0),
    'assets/floors/a.png': (0, 255, 0),
    'assets/skies/x/1.jpg': (0, 0, 255),
  }
  for name, color in colors.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (300, 200), color).save(tmp_path / name)
  photos = dmcr_textures.Photos(tmp_path)
  assert photos.floor(0).shape == (dmcr_textures.FLOOR_SIZE, dmcr_textures.FLOOR_SIZE, 3)
  assert photos.sky(7).shape == (dmcr_textures.SKY_SIZE, dmcr_textures.SKY_SIZE, 3)
  # alphabetical
  assert tuple(photos.floor(0)[5, 5]) == (0, 255, 0) and tuple(photos.floor(3)[5, 5]) == (255, 0, 0)
  env = make(vary='bg,floor', assets=str(tmp_path))
  image = begin(env, 0)
  assert image[2, 30].argmax() == 2 and image[2, 30, 2] > 200  # the sky is blue
  assert image[60, 30, 2] < 100 and image[60, 30, :2].max() > 60  # the floor is red or green
  env.close()


def test_a_folder_without_photographs_is_one_line(tmp_path):
  (tmp_path / 'floors').mkdir()
  with pytest.raises(
    ValueError, match='has 0 floors and 0 skies among 0 pictures: expected are'
  ) as error:
    DMCR('cheetah_run', 1, assets=str(tmp_path))
  assert '\n' not in str(error.value)


def test_a_contact_sheet(tmp_path):
  from PIL import Image

  path = tmp_path / 'sheet.png'
  words = f'--output={path}', '--seeds=3', '--tasks=cheetah_run,fish_swim'
  done = commands.run('contact_sheet', *words, '--config.env.render=fast')
  assert done.returncode == 0, done.stderr
  picture = np.asarray(Image.open(path))
  assert picture.shape == (2 * 128 + 4, 3 * 128 + 2 * 4, 3)
  assert (picture[128:132] == 255).all() and (picture[:, 128:132] == 255).all()
  env = make()
  np.testing.assert_array_equal(picture[:128:2, 132:260:2], begin(env, 1))
  env.close()
