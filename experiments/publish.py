"""Makes a published agent of a run folder: what acting needs, in files that anyone can check.

python -m experiments.publish --logdir=runs/demo/seed0 --output=published/catch-harmony

The agent plays --episodes complete episodes, all of whose scores go along; so does a player that
chooses at random. What the folder holds: harmony_jax/publishing.py. `experiments.verify` plays it
again.
"""

if not __package__:
  import as_file  # noqa: F401

import hashlib
import json
import os
import pathlib
import shlex
from typing import Any

import numpy as np
from absl import flags

from harmony_jax import config as config_
from harmony_jax import model_card, publishing, settings
from harmony_jax.errors import UserError
from harmony_jax.paths import local_path

from . import launcher

launcher.path('logdir', None, 'The run folder.', required=True)
launcher.path('output', None, 'The folder to make; the agent has its name.', required=True)
flags.DEFINE_integer('episodes', 1000, 'How many complete episodes the score is of.', lower_bound=3)
flags.DEFINE_integer('checkpoint', None, 'Of which step; by default the newest one.', lower_bound=0)
flags.DEFINE_bool('allow_import', False, launcher.ALLOW_IMPORT)

LICENCE = 'Apache-2.0'


def main(words: list[str]) -> int:
  """Load, play, write."""
  from harmony_jax import parallel, trained

  options = flags.FLAGS
  launcher.no_words(words, '--logdir=…')
  output = local_path(options.output)
  if output.exists():
    raise UserError(f'{output} exists: choose another --output, nothing was overwritten')
  parallel.use_compilation_cache()
  source = local_path(options.logdir)
  agent = trained.Agent.load(source, options.checkpoint, allow_import=options.allow_import)
  scores = publishing.scores(agent.evaluate(options.episodes))
  low, high, how = publishing.interval(scores, options.episodes)
  random = publishing.scores(agent.evaluate_random(options.episodes), 'a random player')
  files = {
    publishing.PARAMETERS: publishing.pack(agent.saved),
    publishing.SCORES: _text({'scores': scores, 'random': random}).encode(),
  }
  about = {
    'format': publishing.FORMAT,
    'name': output.name,
    'title': agent.title,
    'licence': LICENCE,
    'step': agent.step,
    'ended': agent.ended,
    'run': {'format': config_.FORMAT, 'config': settings.plain(agent.config.to_json())},
    'spec': agent.spec.to_json(),
    'trained': _trained(source),
    'evaluation': _evaluation(agent, scores, random),
    'verify': {
      'episodes': options.episodes,
      'seed': agent.config.run.seed + 1,  # no episode of those that the score is of
      'low': low,
      'high': high,
      'level': publishing.LEVEL,
      'how': how,
    },
    'arrays': publishing.structure(agent.saved),
    'sha256': {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
  }
  files[publishing.MANIFEST] = _text(about).encode()
  files[publishing.CARD] = model_card.card(about).encode()
  unfinished = output.with_name(f'{output.name}.{os.getpid()}{publishing.UNFINISHED}')
  unfinished.mkdir(parents=True)
  for name, data in files.items():
    (unfinished / name).write_bytes(data)
  unfinished.rename(output)
  size = sum(map(len, files.values()))
  print(
    f'{output}: {agent.title}, step {agent.step:,}, {np.mean(scores):,.3f} over '
    f'{options.episodes:,} episodes; {size / 1e6:.1f} MB'
  )
  return 0


def _evaluation(agent, scores, random):
  from harmony_jax.benchmarking.machine import describe_machine
  from harmony_jax.reporting import protocol

  # whatever the run is judged by
  told = protocol.of_evaluation(agent.config.to_json(), len(scores), agent.step, score='return')
  return {
    'mean': float(np.mean(scores)),
    'std': float(np.std(scores)),
    'episodes': len(scores),
    'seed': agent.config.run.seed,
    'policy': agent.config.agent.eval_policy,
    'random_mean': float(np.mean(random)),
    'protocol': told,
    'machine': describe_machine(),
  }


def _trained(source: pathlib.Path) -> dict[str, Any]:
  """Commits and commands of a run's starts, as its environment.txt has them."""
  path, found = source / 'environment.txt', {'commit': [], 'command': []}
  for line in path.read_text(encoding='utf-8').splitlines() if path.exists() else []:
    name, _, value = line.partition(':')
    if name in found:
      # places of an interpreter and a run folder are of no use elsewhere
      words = [word for word in shlex.split(value)[1:] if not word.startswith('--logdir=')]
      told = shlex.join(['python', *words]) if name == 'command' else value.strip()
      found[name] += [told] if told not in found[name] else []
  return {name: '; '.join(values) or 'unknown' for name, values in found.items()}


def _text(tree):
  return json.dumps(tree, indent=1, allow_nan=False, ensure_ascii=False) + '\n'


if __name__ == '__main__':
  launcher.command(main)
