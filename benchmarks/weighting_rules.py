"""What each weighting rule adds to an update: python benchmarks/weighting_rules.py.

The programs of all rules are held in one process and called in turn, round by round, so that what
else the machine does meets all of them alike; for each the CPU time of an update is printed, and
its ratio to that of `none`. DreamerV2, Walker Stand at `cpu`; arguments are further settings, such
as `batch_size=8`. Compiling takes minutes the first time.
"""

import pathlib
import sys
import time

import jax
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from experiments import launcher  # noqa: E402
from harmony_jax import harmony, parallel  # noqa: E402
from harmony_jax.benchmarking import machine, parts, subject  # noqa: E402

ROUNDS = 30


def main(texts):
  """Measure and print."""
  parallel.use_compilation_cache()
  calls = {}
  for rule in harmony.RULES:
    named = [*texts, f'weighting.rule={rule}']
    config = launcher.configuration('dmc', 'walker_stand', 'dreamerv2', 'cpu', named)
    measured = subject.Subject(config)
    step, state = measured.compiled.train_step, measured.state()
    calls[rule] = parts.updates(step, state, measured.compiled.put(measured.batch()))
    jax.block_until_ready(calls[rule]())
    print(f'{rule} is compiled', file=sys.stderr, flush=True)
  seconds = {rule: [] for rule in calls}
  for _ in range(ROUNDS):
    for rule, call in calls.items():
      began = time.process_time()
      jax.block_until_ready(call())
      seconds[rule].append(time.process_time() - began)
  about = machine.describe_machine()
  print(f'{about["processor"]}, {about["cores"]} cores, commit {about["commit"]}')
  for rule, own in seconds.items():
    ratio = np.divide(own, seconds['none'])  # of the same round
    best, median = 1e3 * np.min(own), 1e3 * np.median(own)
    print(f'| `{rule}` | {best:.0f}, {median:.0f} | {np.median(ratio):.2f} |')


if __name__ == '__main__':
  main(sys.argv[1:])
