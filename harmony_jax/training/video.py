"""Videos and images that a run leaves behind."""

import io
import logging
import pathlib
import subprocess
from collections.abc import Sequence

import numpy as np

_log = logging.getLogger(__name__)
GIVEN = (0, 114, 178)  # blue: the model has seen this frame
IMAGINED = (230, 159, 0)  # orange: the model has not; told apart by colour-blind eyes


def save_video(
  path: str | pathlib.Path, frames: np.ndarray, fps: int = 20, scale: int = 1
) -> pathlib.Path:
  """Write a video as mp4, or as gif where no ffmpeg is found.

  Args:
    path: file name without suffix.
    frames: [T, H, W, 3] uint8.
    fps: frames per second.
    scale: how many pixels each becomes in width and height.

  Returns:
    The path that was written, with its suffix.

  Raises:
    ValueError: frames of another shape or type, or none.
  """
  frames = np.asarray(frames)
  if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
    raise ValueError(f'frames are [T, H, W, 3] uint8; got {frames.shape} {frames.dtype}')
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  movie = path.with_name(path.name + '.mp4')
  try:
    _save_mp4(movie, frames, fps, scale)
    return movie
  except (ImportError, OSError, RuntimeError) as error:  # no ffmpeg, or one without H.264
    movie.unlink(missing_ok=True)
    _log.warning(
      'no mp4 (%s): a gif instead', (str(error).splitlines() or [type(error).__name__])[0]
    )
  path = path.with_name(path.name + '.gif')
  path.write_bytes(gif(frames, fps, scale))
  return path


def gif(frames: np.ndarray, fps: int = 20, scale: int = 1) -> bytes:
  """Return a video as a gif; arguments as of `save_video`."""
  from PIL import Image

  images = [Image.fromarray(frame.repeat(scale, 0).repeat(scale, 1)) for frame in frames]
  file = io.BytesIO()
  # A gif counts in hundredths of a second, and viewers slow down below two.
  kept = {'save_all': True, 'append_images': images[1:], 'duration': max(20, round(1000 / fps))}
  images[0].save(file, 'gif', loop=0, **kept)
  return file.getvalue()


def save_image(path: str | pathlib.Path, array: np.ndarray) -> pathlib.Path:
  """Write one image; the suffix of `path` gives the format.

  Args:
    path: file name with suffix, such as `.png`.
    array: [H, W] or [H, W, 3]; uint8, or float in [0, 1].

  Returns:
    The path.
  """
  from PIL import Image

  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(to_uint8(array)).save(path)
  return path


def open_loop_grid(
  truth: np.ndarray, prediction: np.ndarray, context: int, parts: Sequence[np.ndarray] = ()
) -> np.ndarray:
  """Return a video of what the model expects, beside what came.

  Rows: truth, prediction, error, further predictions. A prediction has a border
  that is blue in the `context` frames, which the model has seen, and orange
  after them, where it imagines. The error is `(prediction − truth + 1) / 2`: grey is none.

  Args:
    truth: [B, T, H, W, 3]; uint8, or float in [0, 1].
    prediction: [B, T, H, W, 3] float in [0, 1]; clipped to it.
    context: number of frames, 0 … T, that the model has seen.
    parts: further predictions, such as those of a model's parts alone.

  Returns:
    [T, (3 + parts)·H, B·W, 3] uint8.

  Raises:
    ValueError: shapes that differ or are no images of 3 colours.
  """
  truth = to_uint8(truth).astype(np.float32) / 255
  prediction = np.clip(np.asarray(prediction, np.float32), 0, 1)
  if truth.shape != prediction.shape or truth.ndim != 5 or truth.shape[-1] != 3:
    raise ValueError(
      f'truth and prediction are [B, T, H, W, 3]; got {truth.shape} and {prediction.shape}'
    )
  error = (prediction - truth + 1) / 2
  drawn = [to_uint8(each) for each in (prediction, *parts)]
  for framed in drawn:
    _draw_border(framed[:, :context], GIVEN)
    _draw_border(framed[:, context:], IMAGINED)
  rows = [to_uint8(truth), drawn[0], to_uint8(error), *drawn[1:]]
  batch, time, _, width = truth.shape[:4]
  rows = np.stack(rows).transpose(2, 0, 3, 1, 4, 5)  # [T, rows, H, B, W, 3]
  return np.ascontiguousarray(rows.reshape(time, -1, batch * width, 3))


def to_uint8(image: np.ndarray) -> np.ndarray:
  """Return an image of any shape as uint8 in 0 … 255: floats in [0, 1] are rounded."""
  image = np.asarray(image)
  if image.dtype == np.uint8:
    return image
  image = np.nan_to_num(image.astype(np.float32))  # a broken model still has its video
  return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _draw_border(images, colour):
  """Draw a border inside images [..., H, W, 3] uint8, in place."""
  thick = max(1, images.shape[-3] // 32)
  for edge in (slice(None, thick), slice(-thick, None)):
    images[..., edge, :, :] = colour
    images[..., :, edge, :] = colour


def _save_mp4(path, frames, fps, scale):
  """Write H.264 in yuv420p, which every browser shows; that needs even sides.

  ffmpeg is called here and not through imageio's writer, which runs Python code
  between fork and exec: JAX's threads can deadlock there.
  """
  import imageio_ffmpeg

  sides = [(0, 0), *((0, side % 2) for side in frames.shape[1:3]), (0, 0)]
  if np.any(sides):
    frames = np.pad(frames, sides, mode='edge')
  height, width = frames.shape[1:3]
  source = f'-f rawvideo -pix_fmt rgb24 -s {width}x{height} -r {fps} -i -'
  target = f'-vf scale=iw*{scale}:ih*{scale}:flags=neighbor -c:v libx264 -crf 18 -pix_fmt yuv420p'
  words = f'-y -loglevel error {source} {target}'.split()
  done = subprocess.run(
    [imageio_ffmpeg.get_ffmpeg_exe(), *words, str(path)],
    input=np.ascontiguousarray(frames).reshape(-1).data,
    capture_output=True,
    check=False,
  )
  if done.returncode:
    raise RuntimeError(done.stderr.decode(errors='replace').strip() or f'ffmpeg: {done.returncode}')
