"""bfloat16 beside float32: the same updates on the same recorded replay, loss by loss.

    python -m experiments.precision --updates=300 --output=benchmarks/precision

Plays Pong at random (or another --suite), trains one method in each precision from the same
parameters on the same batches and draws, and writes <output>.json and <output>.png.
"""

import json
import pathlib
from typing import Any

import jax
import numpy as np
from absl import flags

from harmony_jax import envs, parallel
from harmony_jax.benchmarking import machine
from harmony_jax.benchmarking.subject import Subject, row
from harmony_jax.training import evaluation, setup

from . import configs, launcher

flags.DEFINE_integer('updates', 300, 'Updates in each precision.', lower_bound=1)
flags.DEFINE_integer('played', 2_000, 'Steps of random play in the replay.', lower_bound=100)
flags.DEFINE_integer('window', 20, 'Updates whose mean is compared.', lower_bound=1)
flags.DEFINE_string('suite', 'atari100k', 'A suite of configs/.')
flags.DEFINE_string('method', None, "As for training; by default the suite's.")
flags.DEFINE_string('preset', 'cpu', 'Sizes of the model.')
flags.DEFINE_string('output', 'precision', 'Where the files go, without an ending.')

PRECISIONS = {'float32': '#0072B2', 'bfloat16': '#D55E00'}


def record(subject: Subject, steps: int) -> Any:
  """Return a replay of so many random steps of one environment."""
  env, seed = setup.make_env(subject.config, 1), subject.config.run.seed
  episodes, replay = envs.Episodes(env, seed, 'train'), subject.replay(steps)
  timestep = episodes.step(None)
  for number in range(steps):
    vector = evaluation.random_actions(env.spec, 1, seed, number)
    replay.append(row(timestep, vector))
    timestep = episodes.step(evaluation.to_environment(vector, env.spec.discrete))
  env.close()
  return replay


def train(subject: Subject, replay: Any, updates: int) -> dict[str, np.ndarray]:
  """Return {loss: [updates]}."""
  state, history = subject.state(), []
  for update in range(updates):
    state, metrics = subject.compiled.train_step(state, replay.sample(update))
    history.append({name: metrics[name] for name in metrics if name.startswith('loss/')})
  return jax.tree.map(lambda *values: np.array(values, np.float64), *jax.device_get(history))


def compare(plain: np.ndarray, short: np.ndarray, window: int) -> dict[str, float]:
  """Return means over the last `window` updates, and how far those over any window are apart.

  The difference is relative to the mean loss; of several windows the first is left out.
  """
  if len(plain) >= window:
    plain, short = (x[: len(x) // window * window].reshape(-1, window) for x in (plain, short))
  a, b = (np.atleast_1d(x.mean(-1)) for x in (plain, short))
  apart = np.abs(a - b)[len(a) > 1 :].max() / np.abs(a).mean()
  found = {'final_float32': a[-1], 'final_bfloat16': b[-1], 'largest_difference': apart}
  return {name: float(value) for name, value in found.items()}


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


def main(words: list[str], texts: list[str]) -> int:
  """Record, train twice, compare."""
  options = flags.FLAGS
  launcher.no_words(words, '--updates=…')
  suite = configs().suite(options.suite)
  method = options.method or configs().default_method(suite)
  config = configs().make(suite, method, options.preset, suite.DEFAULT_TASK).override(texts)
  config = config.replace({'num_envs': 1})
  configs().check(config)
  parallel.use_compilation_cache()
  subjects = {each: Subject(config.replace({'compute_dtype': each})) for each in PRECISIONS}
  replay = record(subjects['float32'], options.played)
  curves = {each: train(subjects[each], replay, options.updates) for each in PRECISIONS}
  pairs = zip(*(curves[each].values() for each in PRECISIONS), strict=True)
  losses = [compare(*pair, options.window) for pair in pairs]
  asked = {name: getattr(options, name) for name in ('updates', 'window', 'played')}
  about = {'task': config.run.task, 'method': method, 'preset': options.preset, **asked}
  found = dict(zip(curves['float32'], losses, strict=True))
  text = json.dumps({**about, **machine.describe_machine(), 'losses': found}, indent=1)
  print(text)
  output = pathlib.Path(options.output)
  output.with_suffix('.json').write_text(text + '\n', encoding='utf-8')
  draw(curves, output.with_suffix('.png'))
  return 0


if __name__ == '__main__':
  launcher.command(main, configurable=True)
