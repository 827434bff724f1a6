"""Run folders as plain data, and as the files under results/."""

import csv
import json
import pathlib

from harmony_jax.errors import UserError


def read(folder) -> dict:
  """One run folder: {'folder', 'config', 'scores': [lines], 'metrics': [lines], 'environment', 'complete'}.

  A last line that a crash or a running process left unfinished is dropped.

  Raises:
    UserError: `folder` holds no run, or one that is damaged; names the file.
  """
  folder = pathlib.Path(folder)
  try:
    config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))['config']
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise UserError(f'{folder} holds no run: its config.json cannot be read ({error})') from None
  run = {'folder': folder, 'config': config, 'scores': _lines(folder / 'scores.jsonl'),
         'metrics': _lines(folder / 'metrics.jsonl'),
         'environment': _bytes(folder / 'environment.txt').decode(errors='replace'),
         'complete': (folder / '.complete').exists()}
  try:  # is there all that reports are made of?
    label(run), summary(run)
  except (KeyError, TypeError, AttributeError) as error:
    raise UserError(f'{folder} is damaged: its config.json or scores.jsonl lacks something ({error})') from None
  return run


def read_all(folders) -> tuple:
  """`([run], [what is wrong])`: the runs that can be read, and a line for each folder that cannot."""
  found, broken = [], []
  for folder in folders:
    try:
      found.append(read(folder))
    except UserError as error:
      broken.append(str(error))
  return found, broken


def label(run) -> str:
  """What tells a group of seeds from another: suite, task, method, weighting, preset."""
  config = run['config']
  return '-'.join((config['suite'], config['task'].lower(), config['method'], config['weighting']['rule'],
                   config['preset']))


def summary(run) -> dict:
  """One run for results/: per evaluation the step, the mean and training episodes' mean; all scores of the last."""
  scores, environment = run['scores'], _environment(run['environment'])
  score = run['config'].get('score', 'return')
  last = scores[-1] if scores else {}
  return {
      'seed': run['config']['seed'], 'complete': run['complete'],
      'steps': [s['step'] for s in scores], 'frames': [s['frame'] for s in scores],
      'updates': [s['update'] for s in scores], 'eval_return_mean': [s['eval_mean'] for s in scores],
      **({f'eval_{score}_mean': [s[f'eval_{score}'] for s in scores]} if score != 'return' else {}),
      'train_return_mean': [s['train_mean'] for s in scores], 'eval_episodes': [len(s['eval_scores']) for s in scores],
      'final_eval_returns': last.get('eval_scores', []), 'hours': last.get('time/hours'), **environment}


def write(runs, folder):
  """Writes <label>.json for each group of seeds, and scores.csv (method,task,seed,step,return) over all of them.

  Where a benchmark's score is a measure like 'success', it stands in the place of the return.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  groups = {}
  for run in runs:
    groups.setdefault(label(run), []).append(run)
  rows = []
  for name, group in sorted(groups.items()):
    group.sort(key=lambda run: run['config']['seed'])
    config = {k: v for k, v in group[0]['config'].items() if k != 'seed'}
    record = {'config': config, 'runs': [summary(run) for run in group]}
    (folder / f'{name}.json').write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    for run in group:
      method = f"{config['method']}-{config['weighting']['rule']}-{config['preset']}"
      key = 'eval_mean' if config.get('score', 'return') == 'return' else f"eval_{config['score']}"
      rows += [(method, config['task'], run['config']['seed'], s['step'], s[key]) for s in run['scores']]
  with open(folder / 'scores.csv', 'w', newline='', encoding='utf-8') as file:
    csv.writer(file).writerows([('method', 'task', 'seed', 'step', 'return'), *rows])


def _bytes(path):
  """What a file holds; nothing where there is none."""
  try:
    return path.read_bytes() if path.exists() else b''
  except OSError as error:
    raise UserError(f'{path} cannot be read: {error.strerror}') from None


def _lines(path):
  *whole, unfinished = _bytes(path).split(b'\n')
  lines = []
  for number, text in enumerate([*whole, unfinished], 1):
    try:
      line = json.loads(text.decode())
      if not isinstance(line['step'], int):
        raise ValueError
      lines.append(line)
    except (ValueError, KeyError, TypeError, RecursionError):
      if number <= len(whole):
        raise UserError(f'{path} is damaged: line {number} cannot be read') from None
  return lines


def _environment(text):
  """The first section's facts that belong beside a score: command, commit, Python, devices, versions."""
  found, versions = {}, {}
  for line in text.splitlines():
    key, colon, value = line.partition(':')
    if colon and key in ('command', 'commit', 'python', 'devices'):
      found.setdefault(key, value.strip())
    name, equals, version = line.partition('==')
    if equals and name in ('jax', 'flax', 'optax', 'ale-py', 'numpy'):
      versions.setdefault(name, version.strip())
  if 'command' in found:  # without the paths of that machine
    words = [word for word in found['command'].split()[1:] if not word.startswith('--logdir')]
    found['command'] = ' '.join(['python', *words])
  return {**found, 'versions': versions}
