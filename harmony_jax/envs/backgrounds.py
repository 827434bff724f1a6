"""Grey moving pictures behind a simulated scene: DeepMind Control with natural backgrounds.

The protocol: in a picture of the stock scene every pixel that is bluer than
red and green (sky, and floors where `prepare` leaves them blue) shows a video
instead, one frame further with each observation. Training and evaluation draw
from the same pool of at most 1000 frames.

The authors' pool is of driving-car videos of Kinetics-400, which nobody may
pass on. Here it is either your own files or a procedural video with the
statistics of natural ones. Scores over different pools do not compare.
"""

import pathlib
import re
from typing import Any

import numpy as np

from harmony_jax.paths import local_path

PICTURES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp', '.tif', '.tiff')
VIDEOS = ('.mp4', '.avi', '.mkv', '.mov', '.webm', '.m4v', '.mpg', '.mpeg', '.gif')

# domains; in all others the floor shows the video too
GREY_FLOORS = ('cheetah', 'walker', 'hopper')

CLIP = 250  # frames between two cuts of the procedural video
MEAN, DEVIATION = 110, 50  # of its pixels, before they are clipped to [0, 255]


class Backgrounds:
  """A pool of T grey frames, and how a picture takes one as its background.

  Args:
    files: a folder with videos or pictures (and folders of them), or a single
      video; taken in the order of their names, 'frame10' after 'frame9'. Empty
      for a procedural video.
    size: side of the pictures, in pixels.
    frames: T at most: what the files hold beyond it is left out.
    seed: of the procedural video; its own and not the run's, so that all runs
      share one pool.

  Attributes:
    frames: [T, size, size] uint8.

  Raises:
    ValueError: no such files, or none that can be read.
    RuntimeError: a package that reads them is missing.
  """

  def __init__(
    self, files: str | pathlib.Path = '', size: int = 64, frames: int = 1000, seed: int = 0
  ):
    self.frames = (
      read_frames(files, size, frames) if files else procedural_video(size, frames, seed)
    )

  def start(self, seed: int) -> int:
    """The number of the frame that an episode begins with.

    The authors draw it once per run and let the video run on from episode to
    episode. Here it belongs to the episode's seed, so that an episode is the
    same whatever was played before.
    """
    # The second number sets these draws apart from those that a simulator makes of the same seed.
    return int(np.random.default_rng((seed, 0xB6)).integers(len(self.frames)))

  def composite(self, image: np.ndarray, index: int) -> np.ndarray:
    """The picture with frame `index` (modulo T) wherever blue is the strictly largest colour.

    Args:
      image: [size, size, 3] uint8; stays as it is.
      index: frame of the pool, any integer >= 0.
    """
    red, green, blue = np.moveaxis(image, -1, 0)
    shown = (blue > red) & (blue > green)
    return np.where(shown[..., None], self.frames[index % len(self.frames), ..., None], image)


def prepare(domain: str, model: Any) -> None:
  """Readies a scene of dm_control's suite, in place and before its first picture.

  The stars of the blue sky become black (white ones would stand in front of
  the video), and the blue floors of `GREY_FLOORS` a dark grey checker.

  Args:
    domain: e.g. 'cheetah'.
    model: its mjModel, MuJoCo's own or dm_control's.
  """
  sky = _texture(model, 'skybox')
  sky[(sky == 255).all(-1)] = 0
  if domain in GREY_FLOORS:
    floor = _texture(model, 'grid')
    # of (.1, .2, .3) and (.2, .3, .4), red alone is the authors' .1 and .2
    floor[:] = floor[..., :1]


def _texture(model: Any, name: str) -> np.ndarray:
  """The pixels [height, width, 3] of a texture, as a view into the model."""
  model = getattr(model, 'ptr', model)
  index = model.texture(name).id
  height, width, channels = (
    model.tex_height[index],
    model.tex_width[index],
    model.tex_nchannel[index],
  )
  start = model.tex_adr[index]
  return model.tex_data[start : start + height * width * channels].reshape(height, width, channels)


def procedural_video(size: int, frames: int, seed: int) -> np.ndarray:
  """A grey video with the statistics of natural ones: [frames, size, size] uint8, a function of the
  arguments.

  Amplitudes fall with 1 / k^1.5 over the spatial frequency k (cycles per
  picture): about 1 / k is usual of photographs, and videos are less sharp.
  Every Fourier coefficient is a complex AR(1) process in time,

      cₜ₊₁ = a cₜ + √(1 − a²) ε,   a = exp(−k / 500),

  so that small things change sooner than large ones, under a drift of the
  whole picture. Clips of `CLIP` frames follow each other, as in a pool of short
  videos: each has a pattern and a drift of its own.
  """
  clips = [
    _clip(size, min(CLIP, frames - start), np.random.default_rng((seed, start)))
    for start in range(0, frames, CLIP)
  ]
  return np.concatenate(clips)


def _clip(size: int, frames: int, rng: np.random.Generator) -> np.ndarray:
  rows, columns = np.fft.fftfreq(size, 1 / size)[:, None], np.fft.rfftfreq(size, 1 / size)
  k = np.hypot(rows, columns)
  amplitude = np.power(k, -1.5, out=np.zeros_like(k), where=k > 0)
  memory = np.exp(-k / 500)
  angle = rng.uniform(0, 2 * np.pi)
  speed = rng.uniform(0.5, 1.5) * size / 64  # pixels per frame
  shift = np.exp(-2j * np.pi * speed * (np.sin(angle) * rows + np.cos(angle) * columns) / size)
  noise = lambda: rng.standard_normal(k.shape) + 1j * rng.standard_normal(k.shape)
  spectra = np.empty((frames, *k.shape), complex)
  state = noise()
  for time in range(frames):
    spectra[time] = amplitude * state
    state = shift * (memory * state + np.sqrt(1 - memory**2) * noise())
  video = np.fft.irfft2(spectra, (size, size))
  return np.clip(MEAN + DEVIATION * video / video.std(), 0, 255).round().astype(np.uint8)


def read_frames(files: str | pathlib.Path, size: int, frames: int) -> np.ndarray:
  """The first `frames` frames of a folder or a video: [T, size, size] uint8, grey, squeezed to a
  square.

  Raises: as `Backgrounds`.
  """
  path = local_path(files)
  if not path.exists():
    raise ValueError(f'background files: there is no {files!r}')
  found = sorted(path.rglob('*'), key=_natural_order) if path.is_dir() else [path]
  found = [file for file in found if file.suffix.lower() in PICTURES + VIDEOS]
  if not found:
    raise ValueError(
      f'background files: {files!r} holds no pictures ({" ".join(PICTURES)}) and no videos '
      f'({" ".join(VIDEOS)})'
    )
  read, count = [], 0
  for file in found:
    if count == frames:
      break
    is_video = file.suffix.lower() in VIDEOS
    read.append(_read_video(file, size, frames - count) if is_video else _read_picture(file, size))
    count += len(read[-1])
  return np.concatenate(read)


def _natural_order(path):
  """Sorts 'frame9' before 'frame10'."""
  return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', str(path))]


def _read_picture(file: pathlib.Path, size: int) -> np.ndarray:
  """[1, size, size]"""
  try:
    from PIL import Image
  except ImportError as error:
    raise RuntimeError(
      f'{file.name!r}: reading pictures needs Pillow: pip install pillow'
    ) from error
  try:
    with Image.open(file) as image:
      return np.array(image.convert('L').resize((size, size), Image.Resampling.BOX))[None]
  except OSError as error:
    raise ValueError(
      f'background files: {str(file)!r} is no picture that Pillow reads ({error})'
    ) from error


def _read_video(file: pathlib.Path, size: int, frames: int) -> np.ndarray:
  """[T, size, size], by ffmpeg itself, which comes with imageio-ffmpeg."""
  import subprocess

  try:
    import imageio_ffmpeg
  except ImportError as error:
    raise RuntimeError(
      f'{file.name!r}: reading videos needs imageio-ffmpeg: pip install imageio-ffmpeg'
    ) from error
  done = subprocess.run(
    [
      imageio_ffmpeg.get_ffmpeg_exe(),
      '-nostdin',
      '-loglevel',
      'error',
      '-i',
      str(file),
      '-frames:v',
      str(frames),
      '-vf',
      f'scale={size}:{size}:flags=area,format=gray',
      '-f',
      'rawvideo',
      '-',
    ],
    capture_output=True,
    check=False,
  )
  if done.returncode or not done.stdout:
    reason = (done.stderr.decode(errors='replace').strip().splitlines() or ['no frames'])[-1]
    raise ValueError(f'background files: {str(file)!r} is no video that ffmpeg reads ({reason})')
  return np.frombuffer(done.stdout, np.uint8).reshape(-1, size, size)
