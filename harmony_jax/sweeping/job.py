"""Jobs, and one attempt at a job: a child process that saves when it is told to end."""

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harmony_jax import host
from harmony_jax.errors import InUse
from harmony_jax.sweeping.devices import Place

if TYPE_CHECKING:
  from submitit.helpers import DelayedSubmission

SAVED = 75  # exit code of a command that saved and ended because it was told to
PATIENCE = 120.0  # seconds to wait for a folder in use, such as by a child that still saves
WARNING = 120  # seconds that Slurm gives a job to save
LOOK, AGAIN = 0.2, 5.0  # seconds between two looks at a command; between two tries of such a folder


@dataclasses.dataclass(frozen=True)
class Job:
  """A command that can be stopped and started again, and the folders of the runs that it trains.

  `steps` are those of all its runs together, as are `hours`, the expected time, and `memory`, in
  bytes, None where they are unknown.
  """

  name: str
  command: tuple[str, ...]
  folders: tuple[Path, ...]
  steps: int
  hours: float | None = None
  memory: float | None = None

  @property
  def output(self) -> Path:
    """Return the file that takes what the command prints."""
    return self.folders[0] / 'output.txt'

  def is_complete(self) -> bool:
    """Return whether all runs have reached their ends."""
    from harmony_jax.training import run_folder  # and JAX, for which an attempt has no use

    return all(map(run_folder.is_complete, self.folders))

  def step(self) -> int:
    """Return how many steps the runs have made, by the last lines of their metrics."""
    step = 0
    for folder in self.folders:
      with contextlib.suppress(ValueError, KeyError, TypeError):  # none yet
        step += json.loads(last_line(folder / 'metrics.jsonl'))['step']
    return step


@dataclasses.dataclass
class Attempt:
  """Run a job's command once; executors carry this to where that happens.

  Attributes:
    place: what the command may use. signals: those that ask this process to stop.
  """

  job: Job
  place: Place = Place()
  signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)
  directory: str = dataclasses.field(default_factory=os.getcwd)
  process: subprocess.Popen[bytes] | None = dataclasses.field(default=None, init=False)
  stopping: bool = dataclasses.field(default=False, init=False)

  def __call__(self) -> int:
    """Return the command's exit code."""
    for number in self.signals:
      signal.signal(number, self.stop)
    host.keep_to(self.place.cores or host.cores())
    end = time.monotonic() + PATIENCE
    while (code := self._run()) == InUse.exit_code and time.monotonic() < end and not self.stopping:
      time.sleep(AGAIN)
    if code == SAVED and not self.stopping:
      time.sleep(WARNING)  # Slurm tells all processes to end: this one is next
    return code

  def stop(self, *_: object):
    """Ask the command to save and end; a second time, kill it. Can be a signal's handler."""
    again, self.stopping = self.stopping, True
    if self.process:
      self.process.kill() if again else self.process.terminate()

  def checkpoint(self) -> 'DelayedSubmission':
    """Let the command save, and return what Slurm is to start later.

    submitit calls this, by this name, when a job is preempted or its time is over.
    """
    from submitit.helpers import DelayedSubmission

    self.stop()
    with contextlib.suppress(subprocess.TimeoutExpired):
      if self.process:
        self.process.wait(WARNING - 20)
    return DelayedSubmission(dataclasses.replace(self))

  def _run(self):
    self.job.output.parent.mkdir(parents=True, exist_ok=True)
    with open(self.job.output, 'a', encoding='utf-8') as output:
      print(
        f'\n# {time.strftime("%F %T")}: {shlex.join(self.job.command)}', file=output, flush=True
      )
      # Where this process (to the kernel: this thread) is killed, the command is told to save.
      guard = ('setpriv', '--pdeathsig', 'TERM') if shutil.which('setpriv') else ()
      self.process = subprocess.Popen(
        (*guard, *self.job.command),
        cwd=self.directory,
        env={**os.environ, 'PYTHONUNBUFFERED': '1', **self.place.environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # which no signal of a terminal reaches
      )
    if self.stopping:  # before there was a process
      self.process.terminate()
    while (code := self.process.poll()) is None:  # a signal's handler may wait for it, too
      time.sleep(LOOK)
    return code


def last_line(path: Path) -> str:
  """Return the last whole line of a file that is not blank; '' where there is none."""
  if not path.exists():
    return ''
  with open(path, 'rb') as file:
    file.seek(max(0, file.seek(0, os.SEEK_END) - 65_536))
    lines = file.read().decode(errors='replace').split('\n')[:-1]
  return next((line for line in reversed(lines) if line.strip()), '')
