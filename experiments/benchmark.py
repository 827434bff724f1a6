"""Timings of the parts of a run, with the machine, its ceilings, versions and commit beside them.

    python -m experiments.benchmark --what=train_step --preset=paper --output=benchmark.json
    python -m experiments.benchmark --what=policy,eval --suite=metaworld --config.eval_envs=2

    train_step  one update: time, floor (the work counted from layer shapes at the measured rate of
    matrix products, and
                the ratio to it), compilation without any cache, peak memory
    policy      one step of acting from host to host, batches of 1 and 64
    loop        the training loop at one update per environment step against the training step alone
    eval        complete evaluation episodes, `eval_envs` environments against one
    replay      one batch, drawn and gathered, on the host and on the device; one step stored
    env         every suite with random actions, one environment in one process: median reset and
    step (picture
                included) in wall-clock and in CPU milliseconds. On a shared machine the CPU time is
                the one to compare
    scaling     one update on 1, 2, 4, … devices of this machine, and the bytes that they exchange:
    docs/scaling.md compile     first calls in a new process with an empty cache, and in the next
    one

Every part runs in a process of its own. One part alone writes its fields at the top of the JSON;
several write {part: fields}. Fields are told where they are measured: harmony_jax/benchmarking/.
"""

import difflib
import importlib
import json
import os
import pathlib
import types

from absl import flags, logging

from configs import common
from experiments import launcher
from harmony_jax.configuration import apply_overrides, flatten
from harmony_jax.errors import UserError

PARTS = ('train_step', 'policy', 'loop', 'eval', 'replay', 'env', 'scaling', 'compile')
SUITES = ('atari100k', 'catch', 'dmc', 'dmcr', 'gym', 'metaworld', 'rlbench')

flags.DEFINE_list(
  'what', ['train_step'], f'What to measure: one or more of {", ".join(PARTS)}, with commas.'
)
flags.DEFINE_enum(
  'suite', 'atari100k', SUITES, 'The file in configs/ whose sizes and suite are measured.'
)
flags.DEFINE_enum(
  'preset',
  None,
  [name for name in common.PRESETS if name != 'auto'],
  "Sizes; by default 'paper', and 'cpu' for the loop, to be seen beside a short training step.",
)
flags.DEFINE_enum('method', None, sorted(common.METHODS), "Base method; by default the suite's.")
flags.DEFINE_string('output', '', 'JSON file to write.')
flags.DEFINE_string(
  'profile', '', "Folder for a profiler's trace of 3 training steps (train_step)."
)
flags.DEFINE_integer(
  'actions',
  0,
  "Number of actions where there is no environment; 0 for the suite's: 6 for "
  'atari100k, 4 for metaworld.',
  lower_bound=0,
)
flags.DEFINE_integer(
  'repeats',
  0,
  'Repetitions (train_step, policy, replay) or updates (loop) timed; 0 for a number '
  'that suits the part.',
  lower_bound=0,
)
flags.DEFINE_integer(
  'product_size',
  4096,
  'Rows and columns of the matrix products that the ceiling is taken from.',
  lower_bound=1,
)
flags.DEFINE_integer('episodes', 100, 'Episodes with many environments (eval).', lower_bound=1)
flags.DEFINE_integer('single_episodes', 3, 'Episodes with one environment (eval).', lower_bound=1)
flags.DEFINE_integer('resets', 10, 'Resets of each environment (env).', lower_bound=1)
flags.DEFINE_integer('steps', 60, 'Steps of each environment (env).', lower_bound=1)


def main(words, overrides):
  """Measures the parts one after the other; writes what was measured even if a later one fails."""
  from harmony_jax.benchmarking.machine import in_fresh_process

  options = types.SimpleNamespace(**flags.FLAGS.flag_values_dict())
  records = {}
  try:
    _check(words, options)
    configs = {part: make_config(part, options, overrides) for part in options.what}
    for part, config in configs.items():
      records[part] = in_fresh_process(measure, part, config, options)
      print(table(records[part]), flush=True)
  finally:
    if options.output and records:
      text = json.dumps(records if len(options.what) > 1 else records[options.what[0]], indent=1)
      pathlib.Path(options.output).write_text(text + '\n', encoding='utf-8')
  return 0


def _check(words, options):
  """Refuses what would only be noticed after some minutes of measuring."""
  launcher.no_words(words, '--what=…')
  if not options.what:
    raise UserError(f'--what is empty: name some of {", ".join(PARTS)}')
  for part in options.what:
    if part not in PARTS:
      near = difflib.get_close_matches(part, PARTS, n=1, cutoff=0.0)[0]
      raise UserError(f'--what has {part!r}: did you mean {near!r}? (known: {", ".join(PARTS)})')
  if options.profile and 'train_step' not in options.what:
    raise UserError('--profile is of training steps: it needs --what=train_step')
  if options.output and not os.access(pathlib.Path(options.output).absolute().parent, os.W_OK):
    raise UserError(f'--output: cannot write to the folder of {options.output}')


def make_config(part, options, overrides):
  """The configuration that a part is measured with. Raises UserError for a bad override."""
  benchmark = importlib.import_module(f'configs.{options.suite}')
  method = options.method or getattr(benchmark, 'DEFAULT_METHOD', 'dreamerv3')
  preset = options.preset or ('cpu' if part == 'loop' else 'paper')
  config = apply_overrides(
    launcher.config_for(benchmark, method, preset, benchmark.DEFAULT_TASK), overrides
  )
  common.check(config)
  return config


def measure(part, config, options) -> dict:
  """One part's record; for a process that has done nothing else."""
  import jax

  from harmony_jax import parallel
  from harmony_jax.benchmarking import (
    acting,
    compilation,
    environments,
    loops,
    machine,
    replays,
    scaling,
    training_step,
  )

  logging.set_verbosity(logging.ERROR)  # dm_control warns about its own models
  described = {
    'suite': config.suite,
    'task': config.task,
    'method': config.method,
    'preset': config.preset,
    'compute_dtype': config.compute_dtype,
    'batch_size': config.batch_size,
    'batch_length': config.batch_length,
  }
  run = {
    'train_step': lambda: training_step.measure(
      config, options.actions, options.repeats, options.profile
    ),
    'policy': lambda: acting.measure_policy(config, options.actions, options.repeats),
    'loop': lambda: loops.measure(config, options.repeats),
    'eval': lambda: acting.measure_evaluation(config, options.episodes, options.single_episodes),
    'replay': lambda: replays.measure(config, options.actions, options.repeats),
    'env': lambda: environments.measure(options.resets, options.steps),
    'scaling': lambda: scaling.measure(config, options.actions, options.repeats),
    'compile': lambda: compilation.measure(config, options.actions),
  }[part]
  if part == 'env':
    described = {}  # it goes through suites of its own
  elif part == 'train_step':
    jax.config.update('jax_enable_compilation_cache', False)  # its compilation is measured
  elif part != 'compile':  # which has processes of its own, and must not take their accelerator
    parallel.use_compilation_cache()
  found = (
    run() if part in ('env', 'compile') else _between_ceilings(run, config, options.product_size)
  )
  return {'what': part, **machine.describe_machine(), **described, **found}


def _between_ceilings(run, config, size):
  """A part's record with the machine's ceilings, measured before and after it, and the floor that
  follows from them.
  """
  from harmony_jax import parallel
  from harmony_jax.benchmarking import ceilings, training_step

  before = ceilings.measure(size)
  # As a training run does; only now, or the freed arrays of the ceilings would stay and count as
  # the part's memory.
  if not parallel.has_accelerator():
    parallel.keep_freed_memory()
  record = run()
  found = ceilings.larger(before, ceilings.measure(size))
  if 'flops' in record:
    record = training_step.with_floor(record, found, config.compute_dtype)
  return {**record, **found, 'product_size': size}


def table(record) -> str:
  """A record as lines of name and value, without the versions; lists have been printed as they
  came.
  """
  rows = {
    name: value
    for name, value in flatten(record).items()
    if not isinstance(value, list) and not name.startswith('versions.') and value != ''
  }
  width = max(map(len, rows))
  return '\n'.join(f'{name:{width}}  {_shown(value)}' for name, value in rows.items()) + '\n'


def _shown(value):
  if isinstance(value, float):
    return f'{value:,.4g}' if abs(value) < 1e4 else f'{value:,.0f}'
  return f'{value:,}' if isinstance(value, int) else value


if __name__ == '__main__':
  launcher.command(main, configurable=True)
