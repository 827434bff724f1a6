"""Shows an agent and what its world model expects: python -m experiments.play --logdir=RUN_FOLDER
[--dream].

Writes a video, and of an episode a picture with some steps of one window. The agent plays an
episode; beside it stands the world model's open-loop prediction of it, in windows: it sees
--context steps (blue), then knows only the actions for --horizon steps (orange); then the error,
and the predicted against the true rewards. With --dream there is no
environment: the world model makes up episodes, and the policy acts in them. Of DreamerPro it shows
the assignments to prototypes, seen and predicted, and predicted pictures where the run had
--config.decoder.probe=True.
"""

import pathlib
import webbrowser

import numpy as np
from absl import flags

from experiments import launcher
from harmony_jax.errors import UserError

flags.DEFINE_string('logdir', None, 'The run folder; the run may be going on.', required=True)
flags.DEFINE_bool('dream', False, 'Roll the world model out without the environment.')
flags.DEFINE_integer(
  'steps', 500, 'At most so many agent steps; of a dream a tenth.', lower_bound=2
)
flags.DEFINE_integer('context', 5, 'Steps of each window that the world model sees.', lower_bound=1)
flags.DEFINE_integer('horizon', 45, 'Steps of each window that it imagines.', lower_bound=1)
flags.DEFINE_integer('dreams', 4, 'How many dreams.', lower_bound=1)
flags.DEFINE_integer('checkpoint', None, 'Of which step; by default the newest one.', lower_bound=0)
flags.DEFINE_enum(
  'policy',
  'auto',
  ('auto', 'sample', 'mode'),
  "Sampled actions or the most likely ones; 'auto' as the run's own evaluation.",
)
flags.DEFINE_integer(
  'seed', None, 'Of the episode and the draws; by default that of the run.', lower_bound=0
)
flags.DEFINE_integer('fps', 15, 'Steps per second.', lower_bound=1)
flags.DEFINE_bool('show', False, "Open the video with the desktop's viewer.")
flags.DEFINE_string('output', None, 'Folder for the video; by default videos/ in the run folder.')


def main(words, overrides):
  """Loads, plays, draws, writes."""
  options = flags.FLAGS
  launcher.no_words(words, '--logdir=…')
  from harmony_jax import parallel, trained
  from harmony_jax.training import recording, video

  parallel.use_compilation_cache()
  agent = trained.Agent.load(options.logdir, options.checkpoint, options.seed)
  trained.change_environment(agent.config, overrides)
  recording.picture_name(agent.spec)
  if options.dream and not agent.method.world_model.decoder:
    raise UserError(
      f'{agent.config.method} dreams without pictures, as it has no decoder; a run with '
      '--config.decoder.probe=True has one to look at'
    )
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
  """(frames of an episode, pictures of it by what their names end in); prints how well it was
  predicted.
  """
  from harmony_jax import envs
  from harmony_jax.training import assignments, panels, recording

  config = agent.config
  seed = envs.episode_seed(
    config.seed if options.seed is None else options.seed, 'eval', agent.step, 0
  )
  mode = (config.eval_policy if options.policy == 'auto' else options.policy) == 'mode'
  env = agent.make_env()
  try:
    episode = recording.record(agent, env, seed, options.steps, mode)
  finally:
    env.close()
  found = agent.open_loop(episode.latent, episode.action, options.context, options.horizon)
  found['picture'] = found['observation'].get(recording.picture_name(agent.spec))
  tolerance = 0.1 * (np.abs(episode.reward).max() or 1.0)
  error, imagined = np.abs(found['reward'] - episode.reward), ~found['seen']
  print(
    f'{len(episode.reward) - 1} steps{"" if episode.complete else " (not the whole episode)"}, sum of rewards '
    f'{episode.reward.sum():.2f}'
  )
  for name, where in (('of steps seen', ~imagined), ('of steps imagined', imagined)):
    if where.any():
      rewarded = where & (np.abs(episode.reward) > tolerance)
      print(
        f'rewards {name}: {(error[where] <= tolerance).sum()} of {where.sum()} correct (within {tolerance:.2g}), '
        f'{(error[rewarded] <= tolerance).sum()} of {rewarded.sum()} where the true one is not near 0; mean error '
        f'{error[where].mean():.3g}'
      )
  title = f'{config.suite} {config.task}, {config.method}, {config.weighting.rule}, trained for {agent.step:,} steps'
  frames, pictures = None, {}
  if agent.method.world_model.prototypes:
    assigned = agent.assign(episode.observation)
    print('\n'.join(assignments.describe(assigned, found['prototype'], found['seen'])))
    pictures['-prototypes'] = assignments.picture(
      episode.picture, assigned, found['prototype'], found['seen'], title
    )
    frames = assignments.frames(episode, assigned, found, title)
  if found['picture'] is not None:
    pictures[''] = panels.strip(episode, found, tolerance, options.context + options.horizon)
    frames = panels.episode_frames(episode, found, tolerance, title)
  return _stacked(frames, len(episode.reward)), pictures


def _dream(agent, options):
  """(frames of some dreams, no pictures); prints what the model expects of them."""
  from harmony_jax.training import panels, recording

  length = max(2, options.steps // 10)
  found = agent.dream(options.dreams, length)
  ended = (found['continue'] < 0.5).any(1).sum()
  print(
    f'{options.dreams} dreams of {length} steps; in {ended} the model expects an end; expected rewards between '
    f'{found["reward"].min():.3g} and {found["reward"].max():.3g}'
  )
  title = f'dreams of {agent.config.suite} {agent.config.task}, trained for {agent.step:,} steps'
  return _stacked(panels.dream_frames(found, recording.picture_name(agent.spec), title), length), {}


def _stacked(frames, count):
  """`count` frames in one array, without a second copy: those of a long episode are gigabytes."""
  first = next(frames)
  stacked = np.empty((count, *first.shape), first.dtype)
  stacked[0] = first
  for place, frame in enumerate(frames, 1):
    stacked[place] = frame
  return stacked


if __name__ == '__main__':
  launcher.command(main, configurable=True)
