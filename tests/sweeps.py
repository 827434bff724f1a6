"""What the tests of sweeps share: children that only look like runs, and jobs of them.

As a program (python tests/sweeps.py FOLDER BEHAVIOUR) it is such a child: it takes the folder's
lock and writes a run's files, without JAX, in a few hundredths of a second.
"""

import fcntl
import json
import os
import pathlib
import signal
import sys
import time

STEPS = 100
# Flags that make a real sweep of the built-in game shorter.
SHORT = [
  '--interval=5',
  *(f'--config.{name}=8' for name in ('eval_envs', 'eval_episodes', 'final_eval_episodes')),
]


def main(folder, behaviour, score='1.5'):
  """ok: to the end. fails-N: an exception in the first N attempts. mistake: exit code 2. hangs:
  until it is asked to save. hangs-once: the first attempt does. deaf: asked to save, it takes for
  ever."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  lock = open(folder / '.lock', 'a+')
  fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  lock.truncate(0)
  lock.write(f'process {os.getpid()} on here')
  lock.flush()
  with open(folder / 'attempts', 'a') as file:
    file.write(f'{os.getpid()}\n')
  attempts = len((folder / 'attempts').read_text().splitlines())
  kind, _, number = behaviour.partition('-')
  if kind == 'mistake':
    print('error: no such thing; did you mean that?')
    sys.exit(2)
  if kind == 'fails' and attempts <= int(number):
    raise ValueError(f'attempt {attempts} went wrong')
  write_run(folder, 40, score=None)
  if kind == 'deaf':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
  if behaviour == 'hangs' or behaviour == 'hangs-once' and attempts == 1:
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    (folder / 'ready').touch()
    while not asked:
      time.sleep(0.02)
    time.sleep(0.3)  # saving
    (folder / 'saved').touch()
    sys.exit(75)
  write_run(folder, STEPS, float(score))
  (folder / '.complete').write_text(
    json.dumps({'step': STEPS, 'update': 10, 'hours': 0.5, 'score': float(score)})
  )


def write_run(folder, step, score, seed=None, task='Pong', complete=False):
  """The files of a run up to `step`, with a score unless it is None."""
  folder.mkdir(parents=True, exist_ok=True)
  seed = int(folder.name.removeprefix('seed')) if seed is None else seed
  config = {
    'suite': 'atari',
    'task': task,
    'method': 'dreamerv3',
    'weighting': {'rule': 'harmony'},
    'preset': 'tiny',
    'seed': seed,
    'score': 'return',
    'steps': STEPS,
  }
  (folder / 'config.json').write_text(json.dumps({'config': config, 'identity': {}}))
  (folder / 'metrics.jsonl').write_text(
    json.dumps({'step': step, 'time/hours': step / 1000}) + '\n'
  )
  if score is not None:
    line = {
      'step': step,
      'frame': 4 * step,
      'update': 9,
      'eval_mean': score,
      'eval_scores': [score],
      'train_mean': None,
      'time/hours': step / 1000,
    }
    (folder / 'scores.jsonl').write_text(json.dumps(line) + '\n')
  if complete:
    (folder / '.complete').write_text(
      json.dumps({'step': step, 'update': 9, 'hours': step / 1000, 'score': score})
    )


def job(root, behaviour='ok', seed=0, score=1.5, task='Pong'):
  """A job whose child is this file."""
  from harmony_jax.sweeping import plan

  folder = root / 'atari' / task.lower() / 'dreamerv3-harmony-tiny' / f'seed{seed}'
  run = plan.Run(
    'atari100k', task, 'dreamerv3', 'harmony', 'tiny', seed, str(folder), STEPS, 'return'
  )
  return plan.Job(
    f'{task.lower()}-seed{seed}',
    (__file__, str(folder), behaviour, str(score)),
    (run,),
    str(folder / 'output.txt'),
  )


def records(root, jobs):
  """Where the records of jobs go."""
  (root / 'records').mkdir(parents=True, exist_ok=True)
  return {each.name: root / 'records' / f'{each.name}.jsonl' for each in jobs}


def wait_for(condition, seconds=120):
  """Waits until `condition()` is true, and returns its value."""
  end = time.monotonic() + seconds
  while not (value := condition()):
    assert time.monotonic() < end, 'waited too long'
    time.sleep(0.02)
  return value


def logged(folder):
  """Whether a run has written a line of metrics: it trains, and saves when it is asked to end."""
  path = folder / 'metrics.jsonl'
  return path.exists() and path.read_text()


def gone(pid):
  """Whether a process has ended, be it that nobody has asked for its exit code yet."""
  try:
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'
  except OSError:
    return True


if __name__ == '__main__':
  main(*sys.argv[1:])
