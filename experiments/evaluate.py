"""Evaluates what a run has learned: python -m experiments.evaluate --logdir=RUN_FOLDER --episodes=100 [--video].

Prints the result and writes it, with every episode's score, to evaluation/ in the run folder. Episodes and actions are
those of the run's own evaluation at that step: the same code on the same kind of device, with as many episodes and
environments, comes to the same scores. --seed plays others.
Options of the environment can be changed: --config.env.camera=side, --config.eval_env.visual_seeds=test.
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
flags.DEFINE_enum('policy', 'auto', ('auto', 'sample', 'mode'), "Sampled actions or the most likely ones; 'auto' as the "
                  "run's own evaluation.")
flags.DEFINE_integer('seed', None, 'Of episodes and actions; by default those of the run.', lower_bound=0)
flags.DEFINE_integer('num_envs', 0, 'Environments that play at a time; 0 for as many as in the run.', lower_bound=0)
flags.DEFINE_integer('fps', 20, 'Steps per second of the video.', lower_bound=1)
flags.DEFINE_string('output', None, 'Where the files go; by default evaluation/ in the run folder.')


def main(words, overrides):
  """Loads, plays, writes."""
  options = flags.FLAGS
  launcher.no_words(words, '--logdir=…')
  from harmony_jax import parallel, trained
  from harmony_jax.benchmarking.machine import describe_machine
  from harmony_jax.reporting import protocol
  from harmony_jax.training import evaluation, recording, run_folder, video
  parallel.use_compilation_cache()
  agent = trained.Agent.load(options.logdir, options.checkpoint)
  trained.change_environment(agent.config, overrides)
  config = agent.config
  output = recording.writable(options.output or pathlib.Path(options.logdir) / 'evaluation')
  mode = {'auto': config.eval_policy, 'sample': 'sample', 'mode': 'mode'}[options.policy]
  seed = config.seed if options.seed is None else options.seed
  if options.video:
    recording.picture_name(agent.spec)
  sizes = evaluation.group_sizes(min(options.num_envs or config.eval_envs, options.episodes))
  groups = [agent.make_env(size) for size in sizes]
  if options.video:
    groups[0] = recording.Recorder(groups[0])
  started = time.monotonic()
  try:
    results = evaluation.evaluate(agent.method, agent.act, agent.weights, groups, seed, agent.step, options.episodes,
                                  mode == 'mode')
  finally:
    for group in groups:
      group.close()
  found = evaluation.summary(results)
  # This evaluation's, not those of the run.
  config.update(final_eval_episodes=options.episodes, eval_policy=mode, eval_every=0, steps=agent.step)
  how = protocol.describe(config.to_dict()).removesuffix(f'; {protocol.TRAINING}')
  record = {
      'suite': config.suite, 'task': config.task, 'method': config.method, 'weighting': config.weighting.rule,
      'preset': config.preset, 'run_seed': config.seed, 'step': agent.step,
      'frame': agent.step * agent.spec.action_repeat, 'episodes': options.episodes, 'policy': mode, 'seed': seed,
      'protocol': how, 'env': {**config.env.to_dict(), **config.eval_env.to_dict()},
      **found, 'seeds': [result.seed for result in results], 'seconds': time.monotonic() - started,
      'machine': describe_machine()}
  path = recording.unused(output, f'step_{agent.step:08d}_{options.episodes}_{mode}_seed{seed}', '.json')
  with run_folder.atomic_write(path) as file:
    file.write(json.dumps(record, indent=1) + '\n')
  print(f'{config.suite} {config.task}, {config.method}, weighting {config.weighting.rule}, seed {config.seed}, step '
        f'{agent.step:,}: {found["mean"]:,.2f} ± {found["std"]:,.2f} (standard deviation over {options.episodes} episodes, '
        f'{min(found["scores"]):,.2f} to {max(found["scores"]):,.2f}), actions: {mode}')
  for name, value in found.items():
    if name not in ('mean', 'std', 'scores', 'lengths'):
      print(f'{name}: {value:.3f}')
  print(f'protocol: {how}')
  print(f'every score: {path}')
  if options.video:
    print(f'video: {video.save_video(path.with_suffix(""), groups[0].pictures(), options.fps, scale=4)}')
  return 0


if __name__ == '__main__':
  launcher.command(main, configurable=True)
