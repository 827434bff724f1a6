"""Looking after one job: its child process, its retries, and how it ended."""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

from harmony_jax.errors import one_line

FINISHED, FAILED, STOPPED, LOCKED = 'finished', 'failed', 'stopped', 'in use'
SAVED, MISTAKE = 75, 2  # exit codes of an entry point (experiments/launcher.py); 0 is complete
CODE = pathlib.Path(__file__).parents[2]  # where experiments/ is
LONGEST = 300  # characters of a reason
# a traceback's last line
EXCEPTION = re.compile(r'[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)(: |$)')


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a job ended: one of the states above, how often it failed before, and why."""

  state: str
  failures: int = 0
  reason: str = ''


class Worker:
  """Runs a job to its end, in as many attempts as it takes; each continues from the run's
  checkpoint.

  Args:
    job: a `plan.Job`. retries: how many failures are tried again.
    environment: variables to set for the child. cores: those that it may use; None for all.
    record: path of a file to which a line is appended when an attempt begins or fails
      (`write_event`); None for none.
    lock_wait: seconds to wait for a run folder in which somebody else works, such as a child whose
      worker was lost and that still saves.
    pause: seconds to wait after a child that saved and ended though it was not told to by us: where
      the system signals all processes (Slurm), this one is about to be ended, too.

  Where there is a record, the worker also stops when a file `stop_file(record)` appears: a request
  that no process and no machine between here and the sweep can lose.
  """

  def __init__(
    self, job, retries=2, environment=None, cores=None, record=None, lock_wait=120.0, pause=0.0
  ):
    self.job, self.retries, self.lock_wait, self.pause = job, retries, lock_wait, pause
    self._environment, self._cores, self._record = environment or {}, cores, record
    self._process, self._stopping = None, False

  def run(self):
    """Returns the `Outcome`. Call it in the thread that stays until the end: with it goes the
    child.
    """
    try:
      return self._run()
    except KeyboardInterrupt:  # Ray's way to cancel a task
      self.stop()
      self._wait()
      return Outcome(FINISHED if self.job.is_complete() else STOPPED)

  def stop(self):
    """Asks the child to save and to end. From any thread, or from a signal's handler."""
    self._stopping = True
    self._send(signal.SIGTERM)

  def kill(self):
    """Ends the child at once; the run keeps its last checkpoint."""
    self._stopping = True
    self._send(signal.SIGKILL)

  def wait_saved(self, seconds):
    """Waits for the child's end after `stop`, and kills it after so many seconds."""
    end = time.monotonic() + seconds
    while self._process is not None and self._process.poll() is None:
      if time.monotonic() > end:
        self.kill()
        return
      time.sleep(0.05)

  def _run(self):
    failures = 0
    while True:
      holder = self._wait_for_locks()
      if self._stopping:
        return Outcome(STOPPED, failures)
      if holder:
        return Outcome(LOCKED, failures, f'in use by {holder}')
      code, reason = self._attempt()
      if code == 0 and self.job.is_complete():
        return Outcome(FINISHED, failures)
      if self._stopping:
        return Outcome(STOPPED, failures)
      if code == MISTAKE:
        locked = ' is in use by ' in reason  # somebody else was quicker
        return (
          Outcome(LOCKED, failures, reason) if locked else Outcome(FAILED, failures + 1, reason)
        )
      if code == SAVED:
        self._sleep(self.pause)
      failures += 1
      write_event(self._record, 'failed', reason=reason)
      if failures > self.retries:
        return Outcome(FAILED, failures, reason)

  def _attempt(self):
    """One child from its start to its end; returns its exit code and its last words."""
    path = pathlib.Path(self.job.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    cores = ','.join(map(str, self._cores)) if self._cores else '-'
    command = [sys.executable, *self.job.words]
    environment = {**os.environ, **self._environment, 'PYTHONUNBUFFERED': '1'}
    environment['PYTHONPATH'] = os.pathsep.join(
      filter(None, [str(CODE), os.environ.get('PYTHONPATH')])
    )
    with open(path, 'ab') as output:
      now = datetime.datetime.now().astimezone().isoformat(timespec='seconds')
      output.write(
        f'\n# {now} on {socket.gethostname()}: {shlex.join(["python", *self.job.words])}\n'.encode()
      )
      output.flush()
      begin = output.tell()
      # A session of its own: Ctrl-C in the terminal reaches the sweep alone, which passes it on
      # once.
      self._process = subprocess.Popen(
        [sys.executable, '-m', 'harmony_jax.sweeping.guard', str(os.getpid()), cores, *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )
    write_event(self._record, 'running', child=self._process.pid)
    if self._stopping:
      self._send(signal.SIGTERM)
    code = self._wait()
    return code, last_words(path, begin, code)

  def _wait(self):
    """Waits for the child, in pieces: a signal's handler runs between two."""
    while self._process is not None:
      self._look()
      with contextlib.suppress(subprocess.TimeoutExpired):
        return self._process.wait(0.2)

  def _wait_for_locks(self):
    """Waits until nobody works in the run folders; returns who still does after `lock_wait`, or ''."""
    end = time.monotonic() + self.lock_wait
    while True:
      self._look()
      holder = next(
        filter(None, (locked_by(run.folder) for run in self.job.runs if not run.is_complete())), ''
      )
      if not holder or self._stopping or time.monotonic() > end:
        return holder
      time.sleep(0.2)

  def _look(self):
    """Stops if the file says so."""
    if not self._stopping and self._record is not None and stop_file(self._record).exists():
      self.stop()

  def _sleep(self, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not self._stopping:
      time.sleep(0.2)

  def _send(self, number):
    if self._process is not None and self._process.returncode is None:
      with contextlib.suppress(ProcessLookupError):
        os.kill(self._process.pid, number)


def locked_by(folder):
  """Who works in a run folder: the text of its lock, or '' where nobody does."""
  try:
    with open(pathlib.Path(folder) / '.lock', encoding='utf-8', errors='replace') as file:
      try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
      except BlockingIOError:
        return one_line(file.read(200)) or 'another process'
  except OSError:
    pass
  return ''


def last_words(path, begin, code):
  """Why a child that did not complete its runs ended: its 'error: …' line, or the last that it
  printed.
  """
  if code == 0:
    return 'it ended without being complete'
  with open(path, 'rb') as file:
    file.seek(max(begin, file.seek(0, os.SEEK_END) - 20_000))
    lines = [
      line.strip() for line in file.read().decode(errors='replace').splitlines() if line.strip()
    ]
  told = [line.removeprefix('error: ') for line in lines if line.startswith('error: ')]
  raised = [line for line in lines if EXCEPTION.match(line)]  # notes may follow it
  text = one_line((told or raised or lines or ['it printed nothing'])[-1])[:LONGEST]
  ended = f'killed by {signal_name(-code)}' if code < 0 else f'exit code {code}'
  return text if code == MISTAKE else ended if code < 0 else f'{ended}: {text}'


def signal_name(number):
  """'SIGKILL' of 9."""
  try:
    return signal.Signals(number).name
  except ValueError:
    return f'signal {number}'


# The record of a job: how processes elsewhere tell the sweep that an attempt began or failed
# --------------------------


def write_event(path, event, **details):
  """Appends a line to a record; a record that cannot be written stops nothing."""
  if path is None:
    return
  line = {
    'event': event,
    'time': time.time(),
    'host': socket.gethostname(),
    'process': os.getpid(),
    **details,
  }
  with contextlib.suppress(OSError), open(path, 'a', encoding='utf-8') as file:
    file.write(json.dumps(line) + '\n')


def clear(record):
  """Forgets what an earlier sweep recorded and asked for."""
  for path in (pathlib.Path(record), stop_file(record)):
    path.unlink(missing_ok=True)


def stop_file(record):
  """The file that asks the worker with this record to stop."""
  return pathlib.Path(f'{record}.stop')


def read_record(path):
  """(whether an attempt was begun, failures, the last reason) of a record; a line that is half
  written is passed over.

  An attempt that begins without the one before it having ended follows a lost worker: that is a
  failure, too.
  """
  begun, failures, reason, running = False, 0, '', False
  with contextlib.suppress(OSError), open(path, encoding='utf-8', errors='replace') as file:
    for text in file:
      try:
        line = json.loads(text)
        failed, why = line['event'] == 'failed', line.get('reason', '')
      except (ValueError, KeyError, TypeError, AttributeError):
        continue
      if failed or running:
        failures, reason = failures + 1, why or 'its worker was lost'
      begun, running = True, not failed
  return begun, failures, reason
