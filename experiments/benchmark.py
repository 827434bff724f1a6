"""Timings of a part of a run, with the machine, its ceilings, versions and commit beside them.

python -m experiments.benchmark --what=train_step --preset=paper --output=benchmark.json
python -m experiments.benchmark --what=eval --suite=metaworld --config.eval_envs=2

train_step  one update: time, floor (its products at the measured rate of products, and the
            ratio to it), compilation without any cache, the memory that its compiler planned,
            peak memory of the process, compiling included
policy      one step of acting from host to host, batches of 1 and 64
loop        a run at one update per step against the update alone
eval        complete evaluation episodes, `eval_envs` environments against one
replay      one batch, drawn and gathered, on the host and on the device; one step stored
env         a reset and a step of an environment, picture included
scaling     one update on 1, 2, 4, … devices, and the bytes that they exchange: docs/scaling.md
precision   bfloat16 beside float32, loss by loss; with --output also a picture of them
compile     the first update of a process with an empty cache, and of the next one
compiled    all programs of a run, compiled for a GPU or TPU that need not be there (--target): do
            they compile, kernels, FLOP, bytes, memory, a floor: benchmarks/README.md
"""

if not __package__:
  import as_file  # noqa: F401

import json
import pathlib
from collections.abc import Mapping, Sequence

from absl import flags

from harmony_jax.benchmarking import chips, compiled, parts
from harmony_jax.errors import UserError
from harmony_jax.training import recording

from . import launcher

flags.DEFINE_enum('what', 'train_step', [*parts.PARTS, 'compiled'], 'What to measure.')
flags.DEFINE_string('suite', 'atari100k', 'One of the suites in configs/.')
flags.DEFINE_string('task', None, "By default the suite's.")
flags.DEFINE_string('method', None, "As for training; by default the suite's.")
flags.DEFINE_string('preset', None, "Sizes: 'paper' by default, 'cpu' for loop and precision.")
launcher.path('output', '', 'JSON file to write.')
flags.DEFINE_integer('repeats', 0, 'Calls, updates, episodes or steps; 0 for what suits a part.')
flags.DEFINE_integer('product_size', 4096, 'Rows and columns of the products of the ceiling.')
flags.DEFINE_enum('target', 'h100', list(chips.CHIPS), 'Of compiled: the chip.')
flags.DEFINE_integer('devices', 1, 'Of compiled: also for so many.', lower_bound=1, upper_bound=8)
flags.DEFINE_list('programs', [], 'Of compiled: these alone, such as train_step,act_1.')
launcher.path('again', '', 'Of compiled: a file of it, to compile anew; 1 where 5 % worse.')


def main(words: list[str], texts: list[str]) -> int:
  """Measure and write."""
  options = flags.FLAGS
  launcher.no_words(words, '--what=…')
  before = _before(options.again, texts) if options.again else {}
  if options.output:
    recording.writable_file(options.output)
  preset = options.preset or ('cpu' if options.what in ('loop', 'precision') else 'paper')
  config = launcher.configuration(options.suite, options.task, options.method, preset, texts)
  if options.what == 'compiled':
    asked = config, options.target, options.devices, options.programs
    record = {'changes': texts} | compiled.measure(*asked) | {'suite': options.suite}
    print('\n'.join(compiled.lines(record)))
  else:
    record = parts.measure(options.what, config, options.repeats, options.product_size)
    curves = record.pop('curves', None)
    if curves and options.output:
      draw(curves, f'{options.output.removesuffix(".json")}.png')
    print(json.dumps(record, indent=1))
  if options.output:
    text = json.dumps(record, indent=1)
    pathlib.Path(options.output).write_text(text + '\n', encoding='utf-8')
  grown = compiled.worse(before, record) if before else []
  for line in grown:
    print(f'worse than {options.again}: {line}')
  return 1 if grown else 0


def _before(path, texts):
  """Return a record of `compiled`, and set the flags by which it was made."""
  options = flags.FLAGS
  try:
    record = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
    for name in ('target', 'devices', 'suite', 'method', 'preset', 'task'):
      options[name].value = record[name]
    options.what, options.programs = 'compiled', list(record['programs'])
    texts[:0] = record['changes']
  except (OSError, ValueError, KeyError) as error:
    raise UserError(f'--again={path}: no file of --what=compiled ({error!r})') from None
  if lacks := chips.missing(options.target):
    raise UserError(f'--again: {options.target} is compiled for after {lacks}')
  return record


def draw(curves: Mapping[str, Mapping[str, Sequence[float]]], path: str) -> None:
  """Draw each loss by update, in both precisions."""
  from matplotlib.figure import Figure

  rows = -(-len(curves) // 3)
  figure = Figure((13, 3.25 * rows), layout='constrained')
  for place, (name, by_precision) in enumerate(curves.items(), 1):
    axis = figure.add_subplot(rows, 3, place, title=name, xlabel='update')
    for color, (precision, values) in zip(('#0072B2', '#D55E00'), by_precision.items()):
      axis.plot(values, color=color, label=precision, linewidth=1)
  figure.axes[0].legend()
  figure.savefig(path, dpi=100)


if __name__ == '__main__':
  launcher.command(main, configurable=True)
