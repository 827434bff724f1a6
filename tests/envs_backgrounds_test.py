"""Backgrounds: the mask, the pool (procedural or the user's files), and dm_control's scenes."""

import functools
import sys

import numpy as np
import pytest
from PIL import Image

from harmony_jax.envs import backgrounds
from harmony_jax.envs.backgrounds import Backgrounds
from harmony_jax.envs.check import check
from harmony_jax.training import video


@functools.cache
def procedural():
  return Backgrounds()


def grey_pictures(folder, values, name='frame{}.png', shape=(48, 64)):
  folder.mkdir(exist_ok=True)
  for index, value in enumerate(values):
    Image.fromarray(np.full(shape, value, np.uint8)).save(folder / name.format(index))
  return str(folder)


def levels(pool):
  """The mean grey of each frame, rounded."""
  return pool.frames.mean((1, 2)).round().astype(int).tolist()


def test_only_where_blue_is_strictly_the_largest(tmp_path):
  pool = Backgrounds(grey_pictures(tmp_path, [10, 20, 30]), size=4)
  image = np.zeros((4, 4, 3), np.uint8)
  # blue; no colour; as much red; as much green
  image[0] = [(1, 2, 3), (0, 0, 0), (3, 2, 3), (2, 3, 3)]
  image[1] = [(254, 254, 255), (255, 255, 254), (9, 0, 200), (0, 9, 8)]
  kept = image.copy()
  shown = pool.composite(image, 1)
  expected = image.copy()
  expected[0, 0] = expected[1, 0] = expected[1, 2] = 20
  np.testing.assert_array_equal(shown, expected)
  np.testing.assert_array_equal(image, kept)
  assert shown.dtype == np.uint8
  # it wraps
  assert pool.composite(image, 3)[0, 0, 0] == 10 and pool.composite(image, 302)[0, 0, 0] == 30


def test_the_procedural_video_is_a_function_of_its_seed():
  frames = procedural().frames
  assert frames.shape == (1000, 64, 64) and frames.dtype == np.uint8
  np.testing.assert_array_equal(Backgrounds(frames=300).frames[:250], frames[:250])
  assert (Backgrounds(frames=10, seed=1).frames != frames[:10]).mean() > 0.9
  assert Backgrounds(size=32, frames=7).frames.shape == (7, 32, 32)


def test_the_procedural_video_looks_natural():
  frames = procedural().frames.astype(float)
  assert abs(frames.mean() - backgrounds.MEAN) < 2 and abs(frames.std() - backgrounds.DEVIATION) < 3
  # Amplitudes over spatial frequency, averaged over the frames and over both axes.
  spectrum = np.abs(np.fft.fft2(frames)).mean(0)
  along = (spectrum[1:17, 0] + spectrum[0, 1:17]) / 2
  slope = np.polyfit(np.log(np.arange(1, 17)), np.log(along), 1)[0]
  assert -1.8 < slope < -1.2
  # It moves, but slowly; a cut is another picture.
  change = np.abs(np.diff(frames, axis=0)).mean((1, 2))
  cuts = [249, 499, 749]
  assert (
    5 < np.delete(change, cuts).min()
    and np.delete(change, cuts).max() < 25 < 35 < change[cuts].min()
  )
  assert abs(np.corrcoef(frames[0].ravel(), frames[200].ravel())[0, 1]) < 0.5
  # It drifts: a shifted frame is closer to the one five later than the frame itself is.
  shifts = [(row, column) for row in range(-8, 9) for column in range(-8, 9)]
  errors = [np.abs(np.roll(frames[100], shift, (0, 1)) - frames[105]).mean() for shift in shifts]
  best = shifts[int(np.argmin(errors))]
  assert 2 < np.hypot(*best) < 8.5 and min(errors) < 0.6 * errors[shifts.index((0, 0))]


def test_the_start_belongs_to_the_seed_and_covers_the_pool():
  starts = [procedural().start(seed) for seed in range(2000)]
  assert starts == [procedural().start(seed) for seed in range(2000)]
  assert 0 <= min(starts) < 20 and 980 < max(starts) < 1000 and len(set(starts)) > 800


def test_pictures_come_in_the_order_of_their_numbers_grey_and_square(tmp_path):
  values = list(range(0, 120, 10))
  folder = grey_pictures(tmp_path / 'pool', values)
  (tmp_path / 'pool' / 'notes.txt').write_text('no picture')
  pool = Backgrounds(folder)
  assert pool.frames.shape == (12, 64, 64) and levels(pool) == values
  assert levels(Backgrounds(folder, frames=5)) == values[:5]
  colours = np.zeros((64, 64, 3), np.uint8)
  colours[:, :32] = 255, 0, 0  # left half red: 0.299 of white
  Image.fromarray(colours).save(tmp_path / 'red.jpg', quality=100)
  half = Backgrounds(str(tmp_path / 'red.jpg'), size=2).frames[0]
  assert abs(half.astype(int) - [[76, 0], [76, 0]]).max() <= 2


def test_videos_are_read_in_full_range_and_beside_pictures(tmp_path):
  ramp = np.linspace(0, 255, 12).round().astype(np.uint8)
  path = video.save_video(
    tmp_path / 'b', np.broadcast_to(ramp[:, None, None, None], (12, 64, 96, 3))
  )
  if path.suffix != '.mp4':
    pytest.skip('no ffmpeg here that writes mp4')
  np.testing.assert_allclose(levels(Backgrounds(str(path))), ramp, atol=3)
  grey_pictures(tmp_path, [200], 'a{}.png')
  grey_pictures(tmp_path / 'c', [100])
  both = levels(Backgrounds(str(tmp_path)))
  assert len(both) == 14 and (both[0], both[-1]) == (200, 100)
  assert len(Backgrounds(str(tmp_path), frames=4).frames) == 4
  assert Backgrounds(str(path), size=20, frames=3).frames.shape == (3, 20, 20)


@pytest.mark.parametrize(
  'name, text',
  [
    ('missing', "there is no '.*missing'"),
    ('empty', 'holds no pictures .*png.* and no videos .*mp4'),
    ('broken.png', 'is no picture that Pillow reads'),
    ('broken.mp4', 'is no video that ffmpeg reads'),
  ],
)
def test_files_that_cannot_be_read_are_one_line(tmp_path, name, text):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'broken.png').write_text('no picture')
  (tmp_path / 'broken.mp4').write_text('no video')
  with pytest.raises(ValueError, match=text) as error:
    Backgrounds(str(tmp_path / name))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'suffix, module, package',
  [('.mp4', 'imageio_ffmpeg', 'imageio-ffmpeg'), ('.png', 'PIL', 'pillow')],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, suffix, module, package):
  (tmp_path / f'a{suffix}').write_text('')
  monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
  with pytest.raises(RuntimeError, match=f'pip install {package}$'):
    Backgrounds(str(tmp_path))


@functools.cache
def suite():
  pytest.importorskip('dm_control')
  from harmony_jax.envs import rendering

  rendering.choose_backend()
  from dm_control import suite

  return suite


def colours(texture):
  packed = np.unique(texture.reshape(-1, 3) @ np.array([65536, 256, 1]))
  return {(colour >> 16, colour >> 8 & 255, colour & 255) for colour in packed.tolist()}


@pytest.mark.parametrize(
  'domain, task, floor',
  [
    ('cheetah', 'run', {(25, 25, 25), (51, 51, 51)}),
    ('walker', 'run', {(25, 25, 25), (51, 51, 51)}),
    ('hopper', 'hop', {(25, 25, 25), (51, 51, 51)}),
    ('cartpole', 'balance', {(25, 51, 76), (51, 76, 102)}),
  ],
)
def test_a_scene_is_readied_for_the_mask(domain, task, floor):
  physics = suite().load(domain, task).physics
  before = backgrounds._texture(physics.model, 'skybox').copy()
  assert (255, 255, 255) in colours(before)
  backgrounds.prepare(domain, physics.model)
  sky = backgrounds._texture(physics.model, 'skybox')
  stars = (before == 255).all(-1)
  assert not sky[stars].any() and (sky[~stars] == before[~stars]).all()
  assert colours(backgrounds._texture(physics.model, 'grid')) == floor
  physics.free()


def play(env, seed, steps=12):
  """Images of one environment, its actions a function of the seed."""
  rng = np.random.default_rng(seed)
  timesteps = [env.step(np.zeros((1, env.spec.num_actions)), np.ones(1, bool), np.array([seed]))]
  for _ in range(steps):
    actions = rng.uniform(-1, 1, (1, env.spec.num_actions))
    timesteps.append(env.step(actions, np.zeros(1, bool), np.zeros(1, int)))
  return np.stack([timestep.observation['image'][0] for timestep in timesteps])


def test_dmc_shows_the_next_frame_with_each_observation_from_the_seeds_start(tmp_path):
  suite()
  from harmony_jax.envs.dmc import DMC

  stock, env = (
    DMC('cheetah_run', 1, render='fast'),
    DMC('cheetah_run', 1, render='fast', background='video'),
  )
  expected, images = play(stock, 5), play(env, 5)
  start = procedural().start(5)
  at = (slice(None), slice(0, 25))  # high above the floor there is nothing but sky
  for count, image in enumerate(images):
    np.testing.assert_array_equal(
      image[at[1]], np.stack(3 * [procedural().frames[start + count][at[1]]], -1)
    )
  blue = expected[..., 2] > expected[..., :2].max(-1)
  assert blue[at].all()
  # Behind the animal and on the grey floor nothing changes but what reflects the sky.
  orange = expected[..., 0] > expected[..., 2] + 60
  assert orange.any((1, 2)).all() and abs(images[orange].astype(int) - expected[orange]).max() <= 12
  assert not (images[..., 2] > images[..., :2].max(-1)).any()  # no blue is left
  play(env, 6)
  np.testing.assert_array_equal(play(env, 5), images)
  folder = DMC(
    'cheetah_run',
    1,
    render='fast',
    background='video',
    background_files=grey_pictures(tmp_path, [70, 80, 90]),
  )
  assert set(play(folder, 5)[:, 0, 0, 0].tolist()) == {70, 80, 90}
  for made in (stock, env, folder):
    made.close()


def test_dmc_with_a_background_follows_the_convention():
  suite()
  from harmony_jax.envs.dmc import DMC

  env = DMC('walker_walk', 2, render='fast', background='video', time_limit=30)
  check(env, steps=25)
  env.close()
  with pytest.raises(ValueError, match="background is 'sky': it must be one of none, video"):
    DMC('walker_walk', 1, background='sky')
  with pytest.raises(ValueError, match="background='video' only"):
    DMC('walker_walk', 1, background_files='/tmp')


def test_every_domain_can_be_readied():
  for domain, task in {
    domain: task for domain, task in suite().ALL_TASKS if domain != 'lqr'
  }.items():
    physics = suite().load(domain, task).physics
    backgrounds.prepare(domain, physics.model)
    physics.free()
