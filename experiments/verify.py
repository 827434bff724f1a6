"""Plays published agents again: python -m experiments.verify [NAME…] [--episodes=1000].

A name is that of an agent that comes with the library, or a folder that `experiments.publish` has
made; without names all that come with it. Files whose hash is not the stated one are refused. It
passes where the mean score of new episodes lies in the interval that the manifest states: there a
new mean of the same agent lies with a probability of 99.9 %, so that chance fails one correct agent
in a thousand. Episodes are the same each time, so that on one machine the answer is.
"""

if not __package__:
  import as_file  # noqa: F401

import json
import sys

import numpy as np
from absl import flags

from harmony_jax import publishing
from harmony_jax.errors import UserError

from . import launcher

flags.DEFINE_integer('episodes', 0, 'How many complete episodes; 0: as many as stated.', 0)
flags.DEFINE_integer('seed', None, 'Of other episodes than those stated.', lower_bound=0)
flags.DEFINE_bool('allow_import', False, launcher.ALLOW_IMPORT)


def main(words: list[str]) -> int:
  """Verify each; return 0 if all of them pass."""
  from harmony_jax import parallel

  parallel.use_compilation_cache()
  code = 0
  for name in words or publishing.names():
    try:
      passed = verify(name)
    except UserError as error:  # the others are looked at all the same
      print(f'error: {error}', file=sys.stderr)
      passed, code = True, max(code, error.exit_code)
    code = code if passed else max(code, 1)
  return code


def verify(name: str) -> bool:
  """Play a published agent again, say how that went, return whether it is as stated.

  Raises:
    UserError: no such agent, or files that are not those that were published.
  """
  from harmony_jax import trained

  options = flags.FLAGS
  folder = publishing.find(name)
  if folder is None:
    raise UserError(f'{name} holds no published agent: there is no {publishing.MANIFEST} in it')
  about = publishing.manifest(folder)
  stated, scores = about['verify'], json.loads(publishing.read(folder, publishing.SCORES, about))
  agent = trained.Agent.load(folder, allow_import=options.allow_import)
  episodes = options.episodes or stated['episodes']
  low, high = stated['low'], stated['high']
  if episodes != stated['episodes']:
    low, high, _ = publishing.interval(scores['scores'], episodes)
  seed = stated['seed'] if options.seed is None else options.seed
  if seed == agent.config.run.seed and agent.method.eval_seed is None:
    raise UserError(f'--seed={seed}: {name} has its score from these episodes; take another seed')
  mean = float(np.mean(publishing.scores(agent.evaluate(episodes, seed))))
  passed = publishing.holds(mean, low, high)
  print(
    f'{"passed" if passed else "FAILED"}: {name}, {mean:.4f} over {episodes:,} new episodes; '
    f'stated {about["evaluation"]["mean"]:.4f}, {stated["level"]:.1%} interval {low:.4f} to '
    f'{high:.4f}; random {about["evaluation"]["random_mean"]:.4f}; hashes as stated',
    flush=True,
  )
  return passed


if __name__ == '__main__':
  launcher.command(main)
