"""Shows what an agent expects: python -m experiments.play --logdir=RUN_FOLDER [--dream].

Writes a video, and of an episode a picture with some steps of one window. The agent plays an
episode; beside it stands its model's open-loop prediction of it, in windows: it sees --context
steps (blue), then knows only the actions for --horizon steps (orange); then the error, and the
predicted against the true rewards; of a model in parts also what each part alone moves. With
--dream there is no environment: the model makes up episodes, and the policy acts in them. What a
method cannot predict is left out; of DreamerPro it shows the assignments to prototypes, and
pictures where the run had --config.decoder.probe=True.
"""

if not __package__:
  import as_file  # noqa: F401

import contextlib
import functools
import itertools
import pathlib
import webbrowser

import numpy as np
from absl import flags

from harmony_jax.errors import UserError

from . import launcher

_number = functools.partial(flags.DEFINE_integer, lower_bound=1)
launcher.path('logdir', None, 'The run folder; the run may be going on.', required=True)
flags.DEFINE_bool('dream', False, 'Roll the model out without the environment.')
_number('steps', 500, 'At most so many agent steps; of a dream a tenth.', lower_bound=2)
_number('context', 5, 'Steps of each window that the model sees.')
_number('horizon', 45, 'Steps of each window that it imagines.')
_number('dreams', 4, 'How many dreams.')
_number('checkpoint', None, 'Of which step; by default the newest one.', lower_bound=0)
_number('seed', None, 'Of the episode and the draws; by default that of the run.', lower_bound=0)
flags.DEFINE_enum('policy', 'auto', ('auto', 'sample', 'mode'), 'Of actions; auto: as the run.')
_number('fps', 15, 'Steps per second.')
flags.DEFINE_bool('show', False, "Open the video with the desktop's viewer.")
launcher.path('output', None, 'Folder for the video; by default videos/ in the run folder.')
flags.DEFINE_bool('allow_import', False, launcher.ALLOW_IMPORT)


def main(words: list[str], overrides: list[str]) -> int:
  """Load, play, draw, write."""
  options = flags.FLAGS
  launcher.no_words(words, '--logdir=…')
  from harmony_jax import parallel, trained
  from harmony_jax.training import recording, video

  parallel.use_compilation_cache()
  agent = trained.Agent.load(options.logdir, options.checkpoint, options.seed, options.allow_import)
  agent.config = trained.change_environment(agent.config, overrides)
  recording.picture_name(agent.spec)
  output = recording.writable(options.output or pathlib.Path(options.logdir) / 'videos')
  frames, pictures = _dream(agent, options) if options.dream else _play(agent, options)
  path = recording.unused(output, f'{"dream" if options.dream else "play"}_{agent.step:08d}', '')
  for name, picture in pictures.items():
    print(f'picture: {video.save_image(path.with_name(f"{path.name}{name}.png"), picture)}')
  path = video.save_video(path, frames, options.fps)
  print(f'video: {path}')
  if options.show:
    webbrowser.open(path.absolute().as_uri())
  return 0


def _play(agent, options):
  """Return (frames of an episode, pictures of it by what their names end in)."""
  from harmony_jax import envs
  from harmony_jax.training import assignments, panels, recording

  seed = agent.config.run.seed if options.seed is None else options.seed
  policy = agent.config.agent.eval_policy if options.policy == 'auto' else options.policy
  first = envs.episode_seed(seed, 'eval', agent.step, 0)
  with contextlib.closing(agent.make_env()) as env:
    episode = recording.record(agent, env, first, options.steps, policy == 'mode')
  length, tolerance = len(episode.reward), 0.1 * (np.abs(episode.reward).max() or 1.0)
  whole = '' if episode.complete else ' (not the whole episode)'
  print(f'{length - 1} steps{whole}, sum of rewards {episode.reward.sum():.2f}')
  title = f'{agent.title}, trained for {agent.step:,} steps'
  if not agent.can('open_loop'):
    return _stacked(panels.episode_frames(episode, None, tolerance, title), length), {}
  found = agent.open_loop(episode.carry, episode.action, options.context, options.horizon)
  name = recording.picture_name(agent.spec)
  found['picture'] = found['observation'].get(name)
  found['drawn_parts'] = found.get('parts', {}).get(name, {})
  print('\n'.join(panels.describe(episode, found, tolerance)))
  frames, pictures = panels.episode_frames(episode, found, tolerance, title), {}
  if agent.can('assign') and 'prototype' in found:
    shares = agent.assign(episode.observation), found['prototype'], found['seen']
    print('\n'.join(assignments.describe(*shares)))
    pictures['-prototypes'] = assignments.picture(episode.picture, *shares, title)
    if found['picture'] is None:
      frames = assignments.frames(episode, shares[0], found, title)
  if found['picture'] is not None:
    pictures[''] = panels.strip(episode, found, tolerance, options.context + options.horizon)
  return _stacked(frames, length), pictures


def _dream(agent, options):
  """Return (frames of some dreams, no pictures)."""
  from harmony_jax.training import panels, recording

  run, name = agent.config.run, recording.picture_name(agent.spec)
  length = max(2, options.steps // 10)
  found = agent.dream(options.dreams, length)
  if name not in found['observation']:
    raise UserError(f'{run.method} dreams without pictures: there is nothing to show')
  ended, reward = (found['continue'] < 0.5).any(1).sum(), found['reward']
  print(
    f'{options.dreams} dreams of {length} steps; in {ended} the model expects an end; expected '
    f'rewards between {reward.min():.3g} and {reward.max():.3g}'
  )
  title = f'dreams of {run.suite} {run.task}, trained for {agent.step:,} steps'
  return _stacked(panels.dream_frames(found, name, title), length), {}


def _stacked(frames, count):
  """Return `count` frames in one array, without a second copy: a long episode has gigabytes."""
  first = next(frames)
  kind = np.dtype((first.dtype, first.shape))
  return np.fromiter(itertools.chain([first], frames), kind, count)


if __name__ == '__main__':
  launcher.command(main, configurable=True)
