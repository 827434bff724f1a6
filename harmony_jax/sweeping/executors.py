"""Where jobs run: on this machine and on Slurm by submitit, or on Ray."""

import contextlib
import json
import logging
import os
import shlex
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import submitit

from harmony_jax.errors import UserError
from harmony_jax.sweeping.devices import SHARED, Place
from harmony_jax.sweeping.job import SAVED, WARNING, Attempt, Job
from harmony_jax.training.run_folder import atomic_write

LOST = 256  # in place of an exit code: what looked after the command is gone
FOREVER = 10 * 365 * 24 * 60  # minutes; submitit's default for local jobs is 2
TIMEOUTS = 1_000  # of a Slurm job; each goes on from the checkpoint, so that there may be many
RAY = {
  'RAY_USAGE_STATS_ENABLED': '0',
  'RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO': '0',  # or else Ray warns about its future
}


class Executor(Protocol):
  """A place to run jobs. `room`: how many at a time; None where it has a queue of its own."""

  room: int | None = None

  def submit(self, jobs: Sequence[Job]):
    """Start jobs, or queue them."""

  def exit_code(self, job: Job) -> int | None:
    """Return None while a job waits or runs, then its command's exit code, or `LOST`."""

  def stop(self, job: Job):
    """Ask a job to save and end; a second time, end it at once."""

  def close(self):
    """Let go of what the executor holds."""


class Local(Executor):
  """This machine, with one job at a time in each place; `folder` is for submitit's files."""

  def __init__(self, folder: Path, places: Sequence[Place]):
    self.room, self._folder = len(places), folder
    self._free, self._tasks = list(places), {}

  def submit(self, jobs: Sequence[Job]):
    # Processes inherit the mask: a Ctrl-C in the terminal, which goes to all, is the sweep's.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    for job in jobs:
      place = self._free.pop(0)
      # submitit names files by process ids, which come again.
      executor = submitit.LocalExecutor(self._folder / str(time.time_ns()))
      executor.update_parameters(timeout_min=FOREVER)
      task = executor.submit(Attempt(job, place, owner=os.getpid()))
      self._tasks[job.name] = task, place
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)

  def exit_code(self, job: Job) -> int | None:
    task, place = self._tasks[job.name]
    code = _exit_code(task)
    if code is not None:
      self._free.append(place)
    return code

  def stop(self, job: Job):
    with contextlib.suppress(ProcessLookupError):  # submitit's `cancel` would leave it a second
      os.kill(int(self._tasks[job.name][0].job_id), signal.SIGTERM)


class Slurm(Executor):
  """A Slurm cluster: one array job. Not run on a real one yet, but on an imitation.

  Args:
    folder: for submitit's files, shared by all machines. It remembers what was submitted: jobs that
      still wait or run are followed, not submitted again.
    workers: how many at a time; 0 for any number. parameters: of submitit's `update_parameters`.

  Raises:
    UserError: there is no Slurm.
  """

  def __init__(self, folder: Path, workers: int, **parameters: Any):
    try:
      self._executor = submitit.AutoExecutor(folder, 'slurm', slurm_max_num_timeout=TIMEOUTS)
    except RuntimeError as error:  # no srun
      raise UserError(f'--executor=slurm: {error}') from None
    self._executor.update_parameters(
      name='harmony-jax',
      slurm_signal_delay_s=WARNING,
      slurm_array_parallelism=workers or 1_000,
      slurm_additional_parameters={'requeue': True},
      **parameters,
    )
    self._file = folder / 'jobs.json'
    ids = json.loads(self._file.read_text(encoding='utf-8')) if self._file.exists() else {}
    earlier = {key: submitit.SlurmJob(self._executor.folder, ids[key]) for key in ids}
    alive = lambda task: not task.done(force_check=True) and task.state != 'UNKNOWN'
    self._tasks = {key: task for key, task in earlier.items() if alive(task)}  # by command

  def submit(self, jobs: Sequence[Job]):
    new = [job for job in jobs if _key(job) not in self._tasks]
    with self._executor.batch() if new else contextlib.nullcontext():
      tasks = [self._executor.submit(Attempt(job, signals=())) for job in new]
    self._tasks |= {_key(job): task for job, task in zip(new, tasks)}
    with atomic_write(self._file) as file:
      json.dump({key: task.job_id for key, task in self._tasks.items()}, file, indent=1)

  def exit_code(self, job: Job) -> int | None:
    code = _exit_code(self._tasks[_key(job)]) if _key(job) in self._tasks else SAVED
    if code is not None:
      self._tasks.pop(_key(job), None)
    return code

  def stop(self, job: Job):
    if task := self._tasks.pop(_key(job), None):
      task.cancel(check=False)  # Slurm tells its processes to end, and kills them after KillWait


def _key(job):
  return shlex.join(job.command)


def _exit_code(task):
  """Return the exit code of one of submitit's jobs; None before its end."""
  if not task.done():
    return None
  if not task.paths.result_pickle.exists() or task.exception():
    return LOST
  return task.result()


class Ray(Executor):
  """A Ray cluster, whose machines share the folders.

  Args:
    address: of a cluster, or 'auto'; None to start a Ray that ends with `close`.
    cpus, gpus: of each job.

  Raises:
    UserError: Ray is not installed, does not answer, or cannot hold such a job.
  """

  def __init__(self, address: str | None, cpus: float, gpus: float):
    os.environ.update(RAY)
    try:
      import ray

      cores = None if address else len(os.sched_getaffinity(0))  # Ray would count all
      ray.init(address, num_cpus=cores, log_to_driver=False, logging_level=logging.ERROR)
    except ImportError:
      raise UserError("Ray is not installed: pip install 'harmony-jax[ray]'") from None
    except (ConnectionError, RuntimeError, ValueError) as error:
      raise UserError(f'--executor=ray: {error}') from None
    self._ray, self._tasks, here = ray, {}, ray.cluster_resources()
    if not address and (cpus > here['CPU'] or gpus > here.get('GPU', 0)):  # a cluster may grow
      ray.shutdown()
      raise UserError(
        f'--run_cpus={cpus:g} --run_gpus={gpus:g}: Ray sees {here["CPU"]:g} CPUs and '
        f'{here.get("GPU", 0):g} GPUs here'
      )
    # Ray shows a task its GPUs, and all of them to one that asked for none.
    self._place = Place({} if gpus >= 1 else SHARED if gpus else {'CUDA_VISIBLE_DEVICES': ''})
    self._remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=1)(_call)

  def submit(self, jobs: Sequence[Job]):
    for job in jobs:
      self._tasks[job.name] = self._remote.remote(Attempt(job, self._place))

  def exit_code(self, job: Job) -> int | None:
    try:
      return self._ray.get(self._tasks[job.name], timeout=0)
    except self._ray.exceptions.GetTimeoutError:
      return None
    except self._ray.exceptions.RayError:
      return LOST

  def stop(self, job: Job):
    self._ray.cancel(self._tasks[job.name])

  def close(self):
    self._ray.shutdown()


def _call(attempt):
  return attempt()
