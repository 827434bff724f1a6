"""Records and run folders made by hand, for the tests of reports."""

import json
import pathlib

from harmony_jax.reporting.schema import Record

ENVIRONMENT = """# 2026-01-02T03:04:05+00:00
command: /home/somebody/venv/bin/python -m experiments.dmcr --seed=3 --dmcr_assets=/data/pictures
commit:  abc (dirty)
python:  3.11.7 on Linux
devices: NVIDIA H100 (gpu)
jax==0.10.2
pip==26.3

# 2026-01-03T00:00:00+00:00
commit:  def
jax==0.11.0
"""


def record(
  method='dreamerv3-harmony-cpu',
  task='Pong',
  seed=0,
  values=(-20.0, 5.0, 15.0),
  suite='atari',
  score='return',
  steps=None,
  config=(),
  **others,
):
  """A run with an evaluation every 1,000 steps, by the return or by its success rate."""
  base, weighting, preset = method.split('-')
  evaluated = [1000 * (i + 1) for i in range(len(values))]
  repeat = 4 if suite == 'atari' else 1
  columns = {
    'step': evaluated,
    'frame': [repeat * step for step in evaluated],
    'hours': [0.1 * (i + 1 + seed) for i in range(len(values))],
    'eval_mean': [value if score == 'return' else 100 * value for value in values],
    'train_mean': [value - 1 for value in values],
    'measures': {} if score == 'return' else {score: list(values)},
  }
  unknown = ('update', 'eval_std', 'eval_episodes', 'train_episodes')
  losses = {'observation': 100.0, 'reward': 0.1, 'dynamics': 10.0}
  metrics = {'step': [100, 200, 300]}
  for name, value in losses.items():
    metrics[f'loss/{name}'] = [value, value / 2, value / 3]
    metrics[f'harmony/{name}/weight'] = [1 / value, 2 / value, 3 / value]
  names = {'suite': suite, 'task': task, 'method': base, 'preset': preset, 'seed': seed}
  names |= {'score': score, 'steps': steps or evaluated[-1], 'weighting': {'rule': weighting}}
  names |= {'eval_every': 1000, 'eval_episodes': 10, 'final_eval_episodes': 100, 'env': {}}
  fields = {
    'complete': True,
    'source': f'runs/{task}/{method}/seed{seed}',
    'evaluations': {**{name: [None] * len(values) for name in unknown}, **columns},
    'frames_per_step': repeat,
    'metrics': metrics,
    'hours': 0.5,
    'steps_per_second': 20.0,
  }
  return Record(config=names | dict(config), **{**fields, **others})


def write_run(
  folder: pathlib.Path, seed=0, steps=(50, 100), complete=True, lines=10, first=1.0, **config
):
  """A run folder with an evaluation at each of `steps`; the score rises by one."""
  folder.mkdir(parents=True)
  names = {'suite': 'atari', 'task': 'Pong', 'method': 'dreamerv3', 'preset': 'cpu', 'seed': seed}
  names |= {'steps': 100, 'score': 'return', 'eval_every': 50, 'eval_episodes': 2}
  names |= {'final_eval_episodes': 2, 'env': {'frame_cap': 0}, 'weighting': {'rule': 'harmony'}}
  (folder / 'config.json').write_text(json.dumps({'config': names | config, 'identity': {}}))
  (folder / 'environment.txt').write_text(ENVIRONMENT)
  for step in range(1, lines + 1):
    line = {'step': step, 'frame': 4 * step, 'time/hours': step / 1000, 'loss/reward': 1 / step}
    more = {'harmony/reward/sigma': 0.123456789, 'harmony/reward/scaled': 9.0, 'actor/entropy': 1.0}
    append(folder / 'metrics.jsonl', line | more)
  for index, step in enumerate(steps):
    scores = [first + index - 0.5, first + index + 0.5]
    line = {'step': step, 'frame': 4 * step, 'update': step, 'time/hours': step / 1000}
    line |= {'eval_mean': first + index, 'eval_scores': scores, 'eval_success': 0.25}
    append(folder / 'scores.jsonl', line | {'train_mean': 3.0 if index else None})
  if complete:
    (folder / '.complete').write_text('{}')
  return folder


def append(path, *lines):
  """Adds lines of JSON to a file."""
  with open(path, 'a', encoding='utf-8') as file:
    file.writelines(json.dumps(line) + '\n' for line in lines)


def change(folder, **fields):
  """Changes fields of a run's configuration; None takes one away."""
  content = json.loads((folder / 'config.json').read_text())
  config = content['config'] | fields
  content['config'] = {key: entry for key, entry in config.items() if entry is not None}
  (folder / 'config.json').write_text(json.dumps(content))
