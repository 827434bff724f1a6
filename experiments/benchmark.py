"""Timings of the parts of a run, with the machine, its ceilings, versions and commit beside them.

    python -m experiments.benchmark --what=train_step --preset=paper --output=benchmark.json
    python -m experiments.benchmark --what=policy,eval --suite=metaworld --config.eval_envs=2

    train_step  one update: time, floor (its products at the measured rate of products, and the
                ratio to it), compilation without any cache, peak memory
    policy      one step of acting from host to host, batches of 1 and 64
    loop        a run at one update per step against the update alone
    eval        complete evaluation episodes, `eval_envs` environments against one
    replay      one batch, drawn and gathered, on the host and on the device; one step stored
    env         a reset and a step of an environment, picture included
    scaling     one update on 1, 2, 4, … devices, and the bytes that they exchange: docs/scaling.md
    compile     first calls in a new process with an empty cache, and in the next one

Every part runs in a process of its own. One record is written as it is, several as a list.
"""

import json
import os
import pathlib

from absl import flags

from harmony_jax import config as config_
from harmony_jax import envs
from harmony_jax.benchmarking import parts
from harmony_jax.errors import UserError

from . import configs, launcher

_list = flags.DEFINE_list
_list('what', ['train_step'], f'Some of {", ".join(parts.PARTS)}, with commas between.')
_list('suite', ['atari100k'], 'Some of the suites in configs/, or all.')
flags.DEFINE_string('task', None, "By default the suite's.")
flags.DEFINE_string('method', None, "As for training; by default the suite's.")
flags.DEFINE_string('preset', None, "Sizes: by default 'paper', and 'cpu' for the loop.")
flags.DEFINE_string('output', '', 'JSON file to write.')
flags.DEFINE_string('profile', '', "Folder for a profiler's trace of 3 updates (train_step).")
flags.DEFINE_integer('repeats', 0, 'Calls, updates, episodes or steps; 0 for what suits a part.')
flags.DEFINE_integer('product_size', 4096, 'Rows and columns of the products of the ceiling.')


def main(words: list[str], texts: list[str]) -> int:
  """Measure one part after the other; write what was measured even if a later one fails."""
  options, records = flags.FLAGS, []
  launcher.no_words(words, '--what=…')
  output = pathlib.Path(options.output).absolute()
  if not os.access(output.parent, os.W_OK):
    raise UserError(f'--output: cannot write to the folder of {output}')
  names = list(configs().suites()) if options.suite == ['all'] else options.suite
  jobs = [(part, make_config(part, name, texts)) for part in options.what for name in names]
  try:
    for part, config in jobs:
      how = (options.repeats, options.product_size, options.profile)
      records.append(parts.measure(part, config, *how))
      print(json.dumps(records[-1], indent=1), flush=True)
  finally:
    if options.output and records:
      text = json.dumps(records if len(jobs) > 1 else records[0], indent=1)
      output.write_text(text + '\n', encoding='utf-8')
  return 0


def make_config(part: str, name: str, texts: list[str]) -> config_.Config:
  """Return what a part is measured with.

  Raises:
    UserError: an unknown part, suite, task, method, preset or setting.
  """
  if part not in parts.PARTS:
    near, known = config_.nearest(part, parts.PARTS), ', '.join(parts.PARTS)
    raise UserError(f'--what has {part!r}: did you mean {near!r}? (known: {known})')
  options, suite = flags.FLAGS, configs().suite(name)
  method = options.method or configs().default_method(suite)
  try:
    task = envs.canonical(suite.SUITE, options.task or suite.DEFAULT_TASK)
  except ValueError as error:
    raise UserError(str(error)) from None
  preset = options.preset or ('cpu' if part == 'loop' else 'paper')
  config = configs().make(suite, method, preset, task).override(texts)
  configs().check(config)
  return config


if __name__ == '__main__':
  launcher.command(main, configurable=True)
