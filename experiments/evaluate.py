"""Evaluates what a run has learned: python -m experiments.evaluate --logdir=RUN_FOLDER [--video].

Prints the result and writes it, with every episode's score, to evaluation/ in the run folder.
Episodes and actions are those of the run's own evaluation at that step: the same code on the same
kind of device, with as many episodes and environments, comes to the same scores (of a run of
several processes, whose draws are by process, to others). --seed plays others. Options of the
environment can be changed: --config.env.camera=side.
"""

if not __package__:
  import as_file  # noqa: F401

import functools
import json
import pathlib
import time

from absl import flags

from . import launcher

_number = functools.partial(flags.DEFINE_integer, lower_bound=0)
launcher.path('logdir', None, 'The run folder; the run may be going on.', required=True)
_number('episodes', 100, 'How many complete episodes.', lower_bound=1)
_number('num_envs', 0, 'Environments that play at a time; 0 for as many as in the run.')
_number('checkpoint', None, 'Of which step; by default the newest one.')
_number('seed', None, 'Of episodes and actions; by default those of the run.')
flags.DEFINE_enum('policy', 'auto', ('auto', 'sample', 'mode'), 'Of actions; auto: as the run.')
flags.DEFINE_bool('video', False, 'Also write a video of the first episode.')
_number('fps', 20, 'Steps per second of the video.', lower_bound=1)
launcher.path('output', None, 'Folder for the files; by default evaluation/ in the run folder.')
flags.DEFINE_bool('allow_import', False, launcher.ALLOW_IMPORT)


def main(words: list[str], overrides: list[str]) -> int:
  """Load, play, write."""
  options = flags.FLAGS
  launcher.no_words(words, '--logdir=…')
  from harmony_jax import parallel, trained
  from harmony_jax.training import evaluation, recording, run_folder, video

  parallel.use_compilation_cache()
  agent = trained.Agent.load(options.logdir, options.checkpoint, allow_import=options.allow_import)
  learned_in = agent.config.env
  agent.config = trained.change_environment(agent.config, overrides)
  if options.video:
    recording.picture_name(agent.spec)
  output = recording.writable(options.output or pathlib.Path(options.logdir) / 'evaluation')
  policy = agent.config.agent.eval_policy if options.policy == 'auto' else options.policy
  seed = agent.config.run.seed if options.seed is None else options.seed
  started, watched = time.monotonic(), []

  def watch(env):
    watched.append(recording.Recorder(env) if options.video else env)
    return watched[0]

  results = agent.evaluate(options.episodes, seed, policy == 'mode', options.num_envs, watch)
  found = evaluation.summary(results, agent.config.run.suite)
  seconds = time.monotonic() - started
  about = {'episodes': options.episodes, 'policy': policy, 'seed': seed, 'seconds': seconds}
  record = _record(agent, learned_in, about, found, [result.seed for result in results])
  name = f'step_{agent.step:08d}_{options.episodes}_{policy}_seed{seed}'
  path = recording.unused(output, name, '.json')
  with run_folder.atomic_write(path) as file:
    file.write(json.dumps(record, indent=1) + '\n')
  scores = found['scores']
  print(
    f'{agent.title}, seed {record["run_seed"]}, step {agent.step:,}: {found["mean"]:,.2f} ± '
    f'{found["std"]:,.2f} (standard deviation over {len(scores)} episodes, {min(scores):,.2f} to '
    f'{max(scores):,.2f}), actions: {policy}'
  )
  for measure in found.keys() - {'mean', 'std', 'scores', 'lengths'}:
    print(f'{measure}: {found[measure]:.3f}')
  print(f'protocol: {record["protocol"]}')
  print(f'every score: {path}')
  if options.video:
    pictures = watched[0].pictures()
    print(f'video: {video.save_video(path.with_suffix(""), pictures, options.fps, scale=4)}')
  return 0


def _record(agent, learned_in, about, found, seeds):
  """Return what is written of an evaluation; `learned_in`: options of the training environment."""
  from harmony_jax.benchmarking.machine import describe_machine
  from harmony_jax.reporting import protocol

  tree = agent.config.to_json()
  made = {'eval_policy': about['policy'], 'env': learned_in}  # not as those of the run
  made['eval_env'] = {**tree['env'], **tree['eval_env']}
  return {
    **{name: tree[name] for name in ('suite', 'task', 'method', 'preset')},
    'weighting': agent.config.flat().get('weighting.rule', ''),
    'run_seed': tree['seed'],
    'step': agent.step,
    'frame': agent.step * agent.spec.action_repeat,
    **about,
    'protocol': protocol.of_evaluation(tree, about['episodes'], agent.step, **made),
    'env': made['eval_env'],
    **found,
    'seeds': seeds,
    'machine': describe_machine(),
  }


if __name__ == '__main__':
  launcher.command(main, configurable=True)
