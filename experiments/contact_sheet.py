"""A sheet of the looks that DMC Remastered gives to an environment: a row per task, a column per
seed.

    python -m experiments.contact_sheet --output=docs/dmcr.png
    python -m experiments.contact_sheet --tasks=hopper_hop,fish_swim --config.env.vary=camera,light
"""

if not __package__:
  import as_file  # noqa: F401

import contextlib

import numpy as np
from absl import flags

from harmony_jax.training import recording

from . import launcher

launcher.path('output', 'dmcr.png', 'PNG file to write.')
flags.DEFINE_list('tasks', 'cheetah_run,walker_run,finger_turn_hard', 'Of the suite.')
flags.DEFINE_integer('seeds', 8, 'Number of episodes of each task.', lower_bound=1)

SCALE, GAP = 2, 4  # pixels of the sheet per pixel of an image, and between two images


def main(words: list[str], texts: list[str]) -> None:
  """Draw the first image of episodes 0, 1, … of each task on white paper."""
  launcher.no_words(words, '--output=…')
  from PIL import Image

  from harmony_jax.envs import base
  from harmony_jax.training import setup

  options, rows = flags.FLAGS, []
  output = recording.writable_file(options.output, '.png')
  for task in options.tasks:
    config = launcher.configuration('dmcr', task, None, 'paper', texts)
    with contextlib.closing(setup.make_env(config.replace({'env_processes': False}), 1)) as env:
      begin = lambda seed, env=env: env.step(base.zero_actions(env.spec, 1), [True], [seed])
      rows.append([begin(seed).observation['image'][0] for seed in range(options.seeds)])
  images = np.array(rows).repeat(SCALE, 2).repeat(SCALE, 3)  # [rows, columns, height, width, 3]
  images = np.pad(images, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
  sheet = np.concatenate([np.concatenate(row, 1) for row in images])[:-GAP, :-GAP]
  Image.fromarray(sheet).save(output, optimize=True)
  print(f'{output}: {len(options.tasks)} tasks x {options.seeds} episodes')


if __name__ == '__main__':
  launcher.command(main, configurable=True)
