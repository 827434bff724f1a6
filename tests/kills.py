"""Runs that are killed and started again, and what two runs must have in common."""

import json
import signal
import time

import numpy as np

from harmony_jax import replay_files
from harmony_jax.training.checkpoint import Checkpoints
from tests import commands

LIMIT = 600  # seconds of one process


class Run:
  """One command with a folder of its own, started as often as it takes."""

  def __init__(self, folder, module, *arguments):
    self.folder, self._log = folder, folder.with_suffix('.log')
    self._command = [f'experiments.{module}', f'--logdir={folder}', *arguments]

  def start(self):
    """Starts the command; returns when training begins: what the run prints last before it."""
    self._log.write_text('')
    self._process = commands.Command(*self._command, output=self._log)
    begun = lambda: 'replay: ' in self._log.read_text()
    self._wait(lambda: begun() or self._process.poll() is not None, 0.02)
    return self

  def kill(self, moment, delay, number=signal.SIGKILL):
    """Sends a signal `delay` seconds after a moment: 'now', or 'saving', when something is being
    saved.

    Returns: the exit code, 0 where the run came to its end before.
    """
    if moment == 'saving':
      before = set(self._unfinished())
      self._wait(
        lambda: set(self._unfinished()) - before or self._process.poll() is not None, 0.001
      )
    time.sleep(delay)
    if self._process.poll() is None:
      self._process.send_signal(number)
    return self.end()

  def end(self):
    """Waits for the end; returns the exit code."""
    return self._process.wait(LIMIT)

  @property
  def text(self):
    """What the last process printed."""
    return self._log.read_text()

  def _unfinished(self):
    """Files and folders that a save writes before it names them."""
    return [
      *self.folder.glob('replay/*.tmp'),
      *self.folder.glob('checkpoints/*orbax-checkpoint-tmp*'),
    ]

  def _wait(self, condition, pause):
    deadline = time.monotonic() + LIMIT
    while not condition():
      assert time.monotonic() < deadline, self.text
      time.sleep(pause)


def killed(run, rng, kills, span):
  """Runs to the end; is killed up to `kills` times, at any moment of `span` seconds or while
  saving, and in between sometimes asked to end by SIGTERM.

  Returns: the exit codes.
  """
  codes = []
  while codes.count(-signal.SIGKILL) < kills and 0 not in codes:
    if rng.random() < 0.2:
      codes.append(run.start().kill('now', rng.uniform(0, span), signal.SIGTERM))
      assert codes[-1] in (0, 75, 130), run.text  # 130: before training began
    else:
      saving = rng.random() < 0.5
      codes.append(
        run.start().kill('saving' if saving else 'now', rng.uniform(0, 0.1 if saving else span))
      )
      assert codes[-1] in (0, -signal.SIGKILL), run.text
  if codes[-1]:
    codes.append(run.start().end())
    assert codes[-1] == 0, run.text
  return codes


def differences(one, other):
  """What differs between two finished run folders: parameters, replay, metrics, scores."""
  found = []
  checkpoints = []
  for folder in (one, other):
    with Checkpoints(folder / 'checkpoints', read_only=True) as each:
      checkpoints.append((each.latest(), each.checksums(each.latest())))
  if checkpoints[0][0] != checkpoints[1][0]:
    found.append(f'the last checkpoints, {checkpoints[0][0]} and {checkpoints[1][0]}')
  found += [name for name, sum_ in checkpoints[0][1].items() if checkpoints[1][1].get(name) != sum_]
  a, b = replay(one / 'replay'), replay(other / 'replay')
  found += [f'replay {name}' for name in a if not np.array_equal(a[name], b[name])]
  found += [
    name for name in ('metrics.jsonl', 'scores.jsonl') if lines(one / name) != lines(other / name)
  ]
  return found


def replay(folder):
  """{name: [N, steps, ...]} of what is stored in a folder."""
  manifest = json.loads((folder / 'manifest.json').read_text())
  layout = {name: manifest[name] for name in ('num_envs', 'steps_kept', 'specs')}
  parts = []
  replay_files.load(
    folder,
    layout,
    lambda first, arrays: parts.append(arrays),
    None,
    layout['steps_kept'],
    layout['steps_kept'],
  )
  return {name: np.concatenate([part[name] for part in parts], 1) for name in parts[0]}


def lines(path):
  """The lines of a file, without what depends on the clock."""
  return [
    {k: v for k, v in json.loads(line).items() if not k.startswith(('time/', 'speed/'))}
    for line in path.read_text().splitlines()
  ]
