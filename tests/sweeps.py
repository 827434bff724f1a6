"""Children that only look like runs, and jobs of them.

As a program (python tests/sweeps.py FOLDER BEHAVIOUR) it is such a child: it locks the folder and
writes a run's files, without JAX, in a few hundredths of a second.
"""

import fcntl
import json
import os
import pathlib
import signal
import sys
import time

STEPS = 100


def main(folder, behaviour):
  """ok: to the end. fails-N: an exception in the first N attempts. mistake: exit code 2. hangs:
  until it is asked to save. hangs-once: the first attempt does. deaf: cannot be asked."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  lock = open(folder / '.lock', 'a+')
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    print('error: in use')
    sys.exit(73)
  with open(folder / 'attempts', 'a') as file:
    print(os.getpid(), file=file)
  attempts = len((folder / 'attempts').read_text().splitlines())
  kind, _, number = behaviour.partition('-')
  if kind == 'mistake':
    print('error: no such thing; did you mean that?')
    sys.exit(2)
  if kind == 'fails' and attempts <= int(number):
    raise ValueError(f'attempt {attempts} went wrong')
  if kind == 'deaf':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
  if behaviour in ('hangs', 'deaf') or behaviour == 'hangs-once' and attempts == 1:
    asked = []
    if kind == 'hangs':
      signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    write_run(folder, 40, score=None)  # by which tests know that it hangs
    while not asked:
      time.sleep(0.02)
    time.sleep(0.3)  # saving
    (folder / 'saved').touch()
    sys.exit(75)
  write_run(folder, STEPS, 1.5, complete=True)


def write_run(folder, step, score, seed=None, task='Pong', complete=False):
  """The files of a run up to `step`, with a score unless it is None."""
  folder.mkdir(parents=True, exist_ok=True)
  config = {
    'suite': 'atari',
    'task': task,
    'method': 'dreamerv3',
    'weighting': {'rule': 'harmony'},
    'preset': 'tiny',
    'seed': int(folder.name.removeprefix('seed')) if seed is None else seed,
    'score': 'return',
    'steps': STEPS,
  }
  (folder / 'config.json').write_text(json.dumps({'config': config, 'identity': {}}))
  hours = {'step': step, 'time/hours': step / 1000}
  (folder / 'metrics.jsonl').write_text(json.dumps(hours) + '\n')
  scores = {'frame': 4 * step, 'update': 9, 'eval_mean': score, 'eval_scores': [score]}
  if score is not None:
    line = json.dumps({**hours, **scores, 'train_mean': None})
    (folder / 'scores.jsonl').write_text(line + '\n')
  if complete:
    end = {'step': step, 'update': 9, 'hours': step / 1000, 'score': score}
    (folder / '.complete').write_text(json.dumps(end))


def job(root, behaviour='ok', seed=0):
  """A job whose child is this file."""
  from harmony_jax.sweeping.job import Job

  folder = root / f'seed{seed}'
  return Job(f'seed {seed}', (sys.executable, __file__, str(folder), behaviour), (folder,), STEPS)


def pids(job):
  """The processes that have worked at a job."""
  return [int(line) for line in (job.folders[0] / 'attempts').read_text().splitlines()]


def wait_for_pid(job):
  """The process of a job's child, as soon as it hangs."""
  wait_for((job.folders[0] / 'metrics.jsonl').exists)
  return pids(job)[-1]


def wait_for(condition, seconds=120):
  """Waits until `condition()` is true, and returns its value."""
  end = time.monotonic() + seconds
  while not (value := condition()):
    assert time.monotonic() < end, 'waited too long'
    time.sleep(0.02)
  return value


if __name__ == '__main__':
  main(*sys.argv[1:])
