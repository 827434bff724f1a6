"""Videos and images: what is written can be read back."""

import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from harmony_jax.training import video


def clip(time=6, height=32, width=48):
  frames = np.zeros((time, height, width, 3), np.uint8)
  for t in range(time):
    frames[t, :, : width // 2] = 40 * t
  return frames


@pytest.mark.parametrize('height, width', [(32, 48), (33, 49)])
def test_mp4_holds_the_frames(tmp_path, height, width):
  ffmpeg = pytest.importorskip('imageio_ffmpeg').get_ffmpeg_exe()
  path = video.save_video(tmp_path / 'sub' / 'game.5', clip(6, height, width), fps=10)
  assert path == tmp_path / 'sub' / 'game.5.mp4'
  raw = subprocess.run(
    [ffmpeg, '-loglevel', 'error', '-i', path, '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-'],
    capture_output=True,
    check=True,
  ).stdout
  about = subprocess.run([ffmpeg, '-i', path], capture_output=True, text=True, check=False).stderr
  assert '10 fps' in about and 'yuv420p' in about
  # H.264 needs even sides.
  frames = np.frombuffer(raw, np.uint8).reshape(6, height + height % 2, width + width % 2, 3)
  error = frames[:, :32, :48].astype(int) - clip(6, 32, 48)
  assert np.abs(error).mean() < 8  # lossy


def test_gif_where_ffmpeg_is_missing(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
  path = video.save_video(tmp_path / 'game', clip(), fps=10)
  assert path == tmp_path / 'game.gif' and not (tmp_path / 'game.mp4').exists()
  with Image.open(path) as gif:
    assert gif.n_frames == 6 and gif.size == (48, 32) and gif.info['duration'] == 100


def test_gif_where_ffmpeg_fails(tmp_path, monkeypatch, caplog):
  fake = types.SimpleNamespace(get_ffmpeg_exe=lambda: 'false')  # a program that fails
  monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', fake)
  assert video.save_video(tmp_path / 'game', clip()).suffix == '.gif'
  assert 'a gif instead' in caplog.text


def test_frames_of_another_form_are_refused(tmp_path):
  for frames in (clip().astype(np.float32), clip()[0], clip()[:0], clip()[..., :1]):
    with pytest.raises(ValueError, match='uint8'):
      video.save_video(tmp_path / 'game', frames)


def test_grid_rows_are_truth_prediction_error():
  batch, time, height, width, context = 2, 5, 32, 32, 2
  truth = np.zeros((batch, time, height, width, 3), np.uint8)
  truth[0], truth[1] = 255, 51
  prediction = np.full(truth.shape, 0.2, np.float32)
  grid = video.open_loop_grid(truth, prediction, context)
  assert grid.shape == (time, 3 * height, batch * width, 3) and grid.dtype == np.uint8
  middle = grid[:, 16::height, 16::width]  # [T, 3, B, 3]: the middle of every tile
  np.testing.assert_array_equal(middle[0, 0, :, 0], [255, 51])
  np.testing.assert_array_equal(middle[0, 1, :, 0], [51, 51])
  # (0.2 - 1 + 1)/2 in float32, and grey
  np.testing.assert_array_equal(middle[0, 2, :, 0], [25, 128])
  # The border of the prediction, inside the picture, changes after the context.
  for t in range(time):
    colour = video.GIVEN if t < context else video.IMAGINED
    for row, column in [
      (height, 0),
      (2 * height - 1, width - 1),
      (height + 5, width),
      (height + 5, 2 * width - 1),
    ]:
      np.testing.assert_array_equal(grid[t, row, column], colour)
  assert (grid[:, 0] == grid[:, 16]).all()  # the truth has no border


def test_grid_refuses_shapes_that_differ():
  with pytest.raises(ValueError, match='truth and prediction'):
    video.open_loop_grid(np.zeros((1, 2, 8, 8, 3)), np.zeros((1, 2, 8, 4, 3)), 1)


def test_images_of_floats_are_clipped_and_rounded(tmp_path):
  image = np.array([[-1.0, 0.0, 0.5], [1.0, 2.0, np.nan]])
  path = video.save_image(tmp_path / 'new' / 'image.png', image)
  np.testing.assert_array_equal(np.asarray(Image.open(path)), [[0, 0, 128], [255, 255, 0]])
  colours = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
  np.testing.assert_array_equal(
    np.asarray(Image.open(video.save_image(tmp_path / 'c.png', colours))), colours
  )
