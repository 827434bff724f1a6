"""bfloat16 beside float32: the same updates on the same recorded replay, loss by loss.

    python -m experiments.precision --updates=300 --output=benchmarks/precision

Plays Pong at random (or --config.task=…), trains one agent in each precision from the same
parameters on the same batches and draws, and writes <output>.json and <output>.png. Parameters,
losses and optimisers are float32 in both.
"""

import json
import pathlib

import numpy as np
from absl import flags

from configs import atari100k, common
from experiments import launcher
from harmony_jax.configuration import apply_overrides

flags.DEFINE_integer('updates', 300, 'Updates in each precision.', lower_bound=1)
flags.DEFINE_integer('played', 2_000, 'Steps of random play in the replay.', lower_bound=100)
flags.DEFINE_integer(
  'window', 20, 'Updates over which losses are averaged before they are compared.', lower_bound=1
)
flags.DEFINE_enum('preset', 'cpu', ('paper', 'cpu', 'debug', 'tiny'), 'Sizes of the model.')
flags.DEFINE_string('output', 'precision', 'Where the files go, without an ending.')

PRECISIONS = ('float32', 'bfloat16')
LOSSES = (
  'loss/world_model',
  'loss/observation',
  'loss/reward',
  'loss/dynamics',
  'loss/continue',
  'loss/critic',
)


def record(config, steps):
  """A `Replay` of `steps` random steps of the configuration's task."""
  from harmony_jax import envs
  from harmony_jax.replay import Replay

  env = envs.make(config.suite, config.task, 1, **config.env)
  episodes, spec = envs.Episodes(env, config.seed, 'train'), env.spec
  specs = {name: (array.shape, array.dtype) for name, array in spec.observation.items()}
  specs |= {'action': ((spec.num_actions,), np.float32), 'reward': ((), np.float32)}
  specs |= dict.fromkeys(('is_first', 'is_last', 'is_terminal'), ((), bool))
  replay = Replay(specs, 1, steps, config.batch_size, config.batch_length, config.seed)
  choose, timestep = envs.random_policy(spec, config.seed), episodes.step(None)
  for _ in range(steps):
    action = choose(timestep)
    replay.append(
      {
        **timestep.observation,
        'action': np.eye(spec.num_actions, dtype=np.float32)[action],
        'reward': timestep.reward,
        'is_first': timestep.is_first,
        'is_last': timestep.is_last,
        'is_terminal': timestep.is_terminal,
      }
    )
    timestep = episodes.step(action)
  env.close()
  return replay, spec


def train(config, replay, spec, updates, dtype):
  """{loss: [updates]} in one precision."""
  import jax

  from harmony_jax import parallel
  from harmony_jax.agent import Agent

  config.compute_dtype = dtype
  shapes = {name: array.shape for name, array in spec.observation.items()}
  compiled = parallel.compile_agent(
    Agent.from_config(config, shapes, spec.num_actions, spec.discrete)
  )
  state, history = compiled['init'](jax.random.key(config.seed)), []
  for update in range(updates):
    state, metrics = compiled['train_step'](state, replay.sample(update))
    history.append({name: metrics[name] for name in LOSSES})
  history = jax.device_get(history)
  return {name: np.array([float(row[name]) for row in history]) for name in LOSSES}


def compare(curves, window):
  """{loss: {'final_float32', 'final_bfloat16', 'largest_difference'}}: means over windows of
  updates, relative to the mean of float32's curve over the window, in the part after the first
  window."""
  result = {}
  for name in LOSSES:
    means = {
      dtype: curves[dtype][name][: len(curves[dtype][name]) // window * window]
      .reshape(-1, window)
      .mean(1)
      for dtype in PRECISIONS
    }
    plain, short = means['float32'], means['bfloat16']
    result[name] = {
      'final_float32': plain[-1],
      'final_bfloat16': short[-1],
      'largest_difference': float(np.abs(short - plain)[1:].max() / np.abs(plain).mean())
      if len(plain) > 1
      else float(np.abs(short - plain).max() / np.abs(plain).mean()),
    }
  return result


def draw(curves, path):
  """The losses of both precisions, one panel each."""
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(2, 3, figsize=(13, 6.5), layout='constrained')
  for axis, name in zip(axes.flat, LOSSES):
    for dtype, color, style in zip(PRECISIONS, ('#0072B2', '#D55E00'), ('-', '--')):
      axis.plot(
        1 + np.arange(len(curves[dtype][name])),
        curves[dtype][name],
        style,
        color=color,
        label=dtype,
        linewidth=1,
      )
    axis.set(
      title=name, xlabel='update', yscale='log' if (curves['float32'][name] > 0).all() else 'linear'
    )
  axes.flat[0].legend()
  figure.savefig(path, dpi=100)
  plt.close(figure)


def main(words, overrides):
  """Records, trains twice, compares."""
  from harmony_jax import parallel
  from harmony_jax.benchmarking.machine import describe_machine

  options = flags.FLAGS
  launcher.no_words(words, '--updates=…')
  config = apply_overrides(
    launcher.config_for(atari100k, 'dreamerv3', options.preset, atari100k.DEFAULT_TASK), overrides
  )
  common.check(config)
  parallel.use_compilation_cache()
  replay, spec = record(config, options.played)
  curves = {dtype: train(config, replay, spec, options.updates, dtype) for dtype in PRECISIONS}
  found = compare(curves, options.window)
  for name, row in found.items():
    print(
      f'{name:18} float32 {row["final_float32"]:10.4g}  bfloat16 {row["final_bfloat16"]:10.4g}  '
      f'largest difference {100 * row["largest_difference"]:.2f} %'
    )
  output = pathlib.Path(options.output)
  about = {
    'task': config.task,
    'preset': config.preset,
    'updates': options.updates,
    'window': options.window,
    'played': options.played,
    **describe_machine(),
  }
  output.with_suffix('.json').write_text(
    json.dumps({**about, 'losses': found}, indent=1) + '\n', encoding='utf-8'
  )
  draw(curves, output.with_suffix('.png'))
  return 0


if __name__ == '__main__':
  launcher.command(main, configurable=True)
