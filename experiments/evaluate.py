"""Evaluates what a run has learned: python -m experiments.evaluate --logdir=RUN_FOLDER
--episodes=100 [--video].

Prints the result and writes it, with every episode's score, to evaluation/ in the run folder.
Episodes and actions are those of the run's own evaluation at that step: the same code on the same
kind of device, with as many episodes and environments, comes to the same scores. --seed plays
others. Options of the environment can be changed: --config.env.camera=side,
--config.eval_env.visual_seeds=test.
"""

import json
import pathlib
import time

from absl import flags

from experiments import launcher

flags.DEFINE_string('logdir', None, 'The run folder; the run may be going on.', required=True)
flags.DEFINE_integer('episodes', 100, 'How many complete episodes.', lower_bound=1)
flags.DEFINE_bool('video', False, 'Also write a video of the first episode.')
flags.DEFINE_integer('checkpoint', None, 'Of which step; by default the newest one.', lower_bound=0)
flags.DEFINE_enum(
  'policy',
  'auto',
  ('auto', 'sample', 'mode'),
  "Sampled actions or the most likely ones; 'auto' as the run's own evaluation.",
)
flags.DEFINE_integer(
  'seed', None, 'Of episodes and actions; by default those of the run.', lower_bound=0
)
flags.DEFINE_integer(
  'num_envs', 0, 'Environments that play at a time; 0 for as many as in the run.', lower_bound=0
)
flags.DEFINE_integer('fps', 20, 'Steps per second of the video.', lower_bound=1)
flags.DEFINE_string('output', None, 'Where the files go; by default evaluation/ in the run folder.')


def main(words, overrides):
  """Loads, plays, writes."""
  options = flags.FLAGS
  launcher.no_words(words, '--logdir=…')
  from harmony_jax import parallel, trained
  from harmony_jax.training import recording

  parallel.use_compilation_cache()
  agent = trained.Agent.load(options.logdir, options.checkpoint)
  trained.change_environment(agent.config, overrides)
  if options.video:
    recording.picture_name(agent.spec)
  output = recording.writable(options.output or pathlib.Path(options.logdir) / 'evaluation')
  mode = agent.config.eval_policy if options.policy == 'auto' else options.policy
  seed = agent.config.seed if options.seed is None else options.seed
  started = time.monotonic()
  results, pictures = _play(agent, options, seed, mode)
  _write(
    agent,
    results,
    pictures,
    output,
    {
      'episodes': options.episodes,
      'policy': mode,
      'seed': seed,
      'seconds': time.monotonic() - started,
    },
    options.fps,
  )
  return 0


def _play(agent, options, seed, mode):
  """(results of the episodes, pictures of the first one or None)."""
  from harmony_jax.training import evaluation, recording

  sizes = evaluation.group_sizes(min(options.num_envs or agent.config.eval_envs, options.episodes))
  groups = [agent.make_env(size) for size in sizes]
  if options.video:
    groups[0] = recording.Recorder(groups[0])
  try:
    results = evaluation.evaluate(
      agent.method,
      agent.act,
      agent.weights,
      groups,
      seed,
      agent.step,
      options.episodes,
      mode == 'mode',
    )
  finally:
    for group in groups:
      group.close()
  return results, groups[0].pictures() if options.video else None


def _write(agent, results, pictures, output, about, fps):
  """Prints the result; writes it, and the video, to the folder `output`."""
  from harmony_jax.benchmarking.machine import describe_machine
  from harmony_jax.reporting import protocol
  from harmony_jax.training import evaluation, recording, run_folder, video

  config, found = agent.config, evaluation.summary(results)
  # How this evaluation was made, not those of the run.
  config.update(
    final_eval_episodes=about['episodes'],
    eval_policy=about['policy'],
    eval_every=0,
    steps=agent.step,
  )
  how = protocol.describe(config.to_dict()).removesuffix(f'; {protocol.TRAINING}')
  record = {
    'suite': config.suite,
    'task': config.task,
    'method': config.method,
    'weighting': config.weighting.rule,
    'preset': config.preset,
    'run_seed': config.seed,
    'step': agent.step,
    'frame': agent.step * agent.spec.action_repeat,
    **about,
    'protocol': how,
    'env': {**config.env.to_dict(), **config.eval_env.to_dict()},
    **found,
    'seeds': [result.seed for result in results],
    'machine': describe_machine(),
  }
  name = f'step_{agent.step:08d}_{about["episodes"]}_{about["policy"]}_seed{about["seed"]}'
  path = recording.unused(output, name, '.json')
  with run_folder.atomic_write(path) as file:
    file.write(json.dumps(record, indent=1) + '\n')
  scores = found['scores']
  print(
    f'{config.suite} {config.task}, {config.method}, weighting {config.weighting.rule}, seed {config.seed}, step '
    f'{agent.step:,}: {found["mean"]:,.2f} ± {found["std"]:,.2f} (standard deviation over {len(scores)} episodes, '
    f'{min(scores):,.2f} to {max(scores):,.2f}), actions: {about["policy"]}'
  )
  for measure in set(found) - {'mean', 'std', 'scores', 'lengths'}:
    print(f'{measure}: {found[measure]:.3f}')
  print(f'protocol: {how}')
  print(f'every score: {path}')
  if pictures is not None:
    print(f'video: {video.save_video(path.with_suffix(""), pictures, fps, scale=4)}')


if __name__ == '__main__':
  launcher.command(main, configurable=True)
