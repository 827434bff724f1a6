"""A sheet of the looks that DMC Remastered gives to an environment: a row per task, a column per
seed.

    python -m experiments.contact_sheet --output=docs/dmcr.png
    python -m experiments.contact_sheet --tasks=hopper_hop,fish_swim --vary=camera,light
    --output=camera.png
"""

if not __package__:
  import as_file  # noqa: F401

import numpy as np
from absl import flags

from harmony_jax.envs.dmcr import DMCR
from harmony_jax.errors import UserError
from harmony_jax.training import recording

from . import launcher

OUTPUT = launcher.path('output', 'dmcr.png', 'PNG file to write.')
TASKS = flags.DEFINE_list('tasks', 'cheetah_run,walker_run,finger_turn_hard', 'Of the suite.')
SEEDS = flags.DEFINE_integer('seeds', 8, 'Number of episodes of each task.', lower_bound=1)
VARY = flags.DEFINE_string('vary', 'all', "'all', or factors separated by commas.")
RENDER = flags.DEFINE_enum('render', 'stock', ['stock', 'fast'], 'Quality of the pictures.')
ASSETS = launcher.path('assets', '', 'Folder of photographs; empty: painted floors and skies.')

SCALE, GAP = 2, 4  # pixels of the sheet per pixel of an image, and between two images


def first_images(task: str) -> np.ndarray:
  """The first image of episodes 0, 1, ... of a task: uint8 [seeds, 64, 64, 3]."""
  env = DMCR(task, 1, vary=VARY.value, render=RENDER.value, assets=ASSETS.value)
  nothing, restart = np.zeros((1, env.spec.num_actions), np.float32), np.ones(1, bool)
  images = [
    env.step(nothing, restart, np.array([seed])).observation['image'][0]
    for seed in range(SEEDS.value)
  ]
  env.close()
  return np.stack(images)


def sheet(images: np.ndarray) -> np.ndarray:
  """Images [rows, columns, height, width, 3] on white paper: uint8 [height of the sheet, its width,
  3].
  """
  images = images.repeat(SCALE, 2).repeat(SCALE, 3)
  padded = np.pad(images, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
  rows, columns, height, width, _ = padded.shape
  whole = padded.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
  return whole[:-GAP, :-GAP]


def main(words: list[str]) -> None:
  """Draw the sheet."""
  launcher.no_words(words, '--output=…')
  from PIL import Image

  output = recording.writable_file(OUTPUT.value, '.png')
  try:
    picture = sheet(np.stack([first_images(task) for task in TASKS.value]))
  except (ValueError, RuntimeError) as error:  # an unknown task or factor, or no simulator
    raise UserError(str(error)) from None
  Image.fromarray(picture).save(output, optimize=True)
  print(f'{output}: {len(TASKS.value)} tasks x {SEEDS.value} episodes')


if __name__ == '__main__':
  launcher.command(main)
