"""bfloat16 beside float32: the same updates on the same recorded replay, loss by loss.

    python -m experiments.precision --updates=300 --output=benchmarks/precision

Plays Pong at random (or another --suite), trains one method in each precision from the same
parameters on the same batches and draws, and writes <output>.json and <output>.png.
"""

if not __package__:
  import as_file  # noqa: F401

import json
import pathlib
from typing import Any

import jax
import numpy as np
from absl import flags

from harmony_jax import envs, parallel
from harmony_jax.benchmarking import machine
from harmony_jax.benchmarking.subject import Subject, row
from harmony_jax.envs.base import to_environment
from harmony_jax.training import evaluation, recording, setup

from . import benchmark, launcher

WINDOW = 20  # updates whose mean is compared
PLAYED = 2_000  # steps of random play in the replay
flags.DEFINE_integer('updates', 300, 'In each precision, in twenties.', lower_bound=2 * WINDOW)
PRECISIONS = {'float32': '#0072B2', 'bfloat16': '#D55E00'}


def record(subject: Subject, steps: int) -> Any:
  """Return a replay of so many random steps of one environment."""
  env, seed = setup.make_env(subject.config, 1), subject.config.run.seed
  episodes, replay = envs.Episodes(env, seed, 'train'), subject.replay(steps)
  timestep = episodes.step(None)
  for number in range(steps):
    vector = evaluation.random_actions(env.spec, 1, seed, number)
    replay.append(row(timestep, vector))
    timestep = episodes.step(to_environment(vector, env.spec))
  env.close()
  return replay


def train(subject: Subject, replay: Any, updates: int) -> dict[str, np.ndarray]:
  """Return {loss: [updates]}."""
  state, history = subject.state(), []
  for update in range(updates):
    state, metrics = subject.compiled.train_step(state, replay.sample(update))
    history.append({name: metrics[name] for name in metrics if name.startswith('loss/')})
  return jax.tree.map(lambda *values: np.array(values, np.float64), *jax.device_get(history))


def compare(plain: np.ndarray, short: np.ndarray) -> dict[str, float]:
  """Return the last of means over `WINDOW` updates, and how far the later ones are apart at most.

  The difference is relative to the mean loss.
  """
  a, b = (losses.reshape(-1, WINDOW).mean(1) for losses in (plain, short))
  apart = np.abs(a - b)[1:].max() / np.abs(a).mean()
  return {'final_float32': a[-1], 'final_bfloat16': b[-1], 'largest_difference': apart}


def draw(curves: dict[str, dict[str, np.ndarray]], path: pathlib.Path) -> None:
  """Draw each loss in both precisions."""
  from matplotlib.figure import Figure

  names = list(curves['float32'])
  rows = -(-len(names) // 3)
  figure = Figure((13, 3.25 * rows), layout='constrained')
  for place, name in enumerate(names, 1):
    axis = figure.add_subplot(rows, 3, place, title=name, xlabel='update')
    for precision, color in PRECISIONS.items():
      axis.plot(curves[precision][name], color=color, label=precision, linewidth=1)
  figure.axes[0].legend()
  figure.savefig(path, dpi=100)


def files_of(output: str) -> dict[str, pathlib.Path]:
  """Return {ending: file}; an output may have a dot in its name, such as p-0.5."""
  return {end: recording.writable_file(f'{output}{end}') for end in ('.json', '.png')}


def main(words: list[str], texts: list[str]) -> int:
  """Record, train twice, compare."""
  options = flags.FLAGS
  launcher.no_words(words, '--updates=…')
  config = benchmark.make_config('cpu', texts).replace({'num_envs': 1})
  files = files_of(options.output or 'precision')
  updates = options.updates // WINDOW * WINDOW
  parallel.use_compilation_cache()
  subjects = {each: Subject(config.replace({'compute_dtype': each})) for each in PRECISIONS}
  replay = record(subjects['float32'], PLAYED)
  curves = {each: train(subjects[each], replay, updates) for each in PRECISIONS}
  losses = {
    name: compare(*(curves[each][name] for each in PRECISIONS)) for name in curves['float32']
  }
  about = {'task': config.run.task, 'method': config.run.method, 'preset': config.run.preset}
  sizes = {'updates': updates, 'window': WINDOW, 'played': PLAYED}
  text = json.dumps({**about, **sizes, **machine.describe_machine(), 'losses': losses}, indent=1)
  print(text)
  files['.json'].write_text(text + '\n', encoding='utf-8')
  draw(curves, files['.png'])
  return 0


if __name__ == '__main__':
  launcher.command(main, configurable=True)
