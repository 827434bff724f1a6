"""Where jobs run: in threads of this process, on Slurm by submitit, or on Ray."""

import concurrent.futures
import json
import logging
import math
import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import submitit
from submitit.core.utils import FailedJobError

from harmony_jax import host
from harmony_jax.errors import UserError
from harmony_jax.sweeping.devices import SHARED, Place
from harmony_jax.sweeping.job import SAVED, WARNING, Attempt, Job
from harmony_jax.training.run_folder import atomic_write

LOST = 256  # in place of an exit code: what looked after the command is gone
TIMEOUTS = 1_000  # of a Slurm job; each goes on from the checkpoint, so that there may be many
LOOK = 5.0  # seconds between two looks at Slurm's queue
GONE = 20.0  # seconds out of the queue without a result, which a shared folder may show late
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
  """This machine, with one job at a time in each place, a thread beside each."""

  def __init__(self, places: Sequence[Place]):
    self.room, self._free = len(places), list(places)
    self._threads = concurrent.futures.ThreadPoolExecutor(self.room)
    self._tasks: dict[str, tuple[Attempt, concurrent.futures.Future]] = {}

  def submit(self, jobs: Sequence[Job]):
    for job in jobs:
      attempt = Attempt(job, self._free.pop(0), signals=())
      self._tasks[job.name] = attempt, self._threads.submit(attempt)

  def exit_code(self, job: Job) -> int | None:
    attempt, task = self._tasks[job.name]
    if not task.done():
      return None
    self._free.append(attempt.place)
    return LOST if task.exception() else task.result()

  def stop(self, job: Job):
    self._tasks[job.name][0].stop()

  def close(self):
    for attempt, task in self._tasks.values():
      if not (task.done() or attempt.stopping):
        attempt.stop()
    self._threads.shutdown()


class Slurm(Executor):
  """A Slurm cluster: one array job.

  It is followed by `squeue` and not, as submitit does, by `sacct`, which many clusters have not.

  Args:
    folder: for submitit's files, shared by all machines. It remembers what was submitted: jobs that
      still wait or run are followed, not submitted again.
    workers: how many at a time; 0 for any number. options: of sbatch, {'account': 'x'}.
    parameters: of submitit's `update_parameters`.

  Raises:
    UserError: there is no Slurm.
  """

  def __init__(self, folder: Path, workers: int, options: Mapping[str, Any], **parameters: Any):
    try:
      self._executor = submitit.AutoExecutor(folder, 'slurm', slurm_max_num_timeout=TIMEOUTS)
    except RuntimeError as error:  # no srun
      raise UserError(f'--executor=slurm: {error}') from None
    self._executor.update_parameters(
      name='harmony-jax',
      slurm_signal_delay_s=WARNING,
      slurm_array_parallelism=workers or 1_000,
      slurm_additional_parameters={'requeue': True, **options},
      # from Slurm 22.05 on srun does not take it from sbatch
      slurm_srun_args=[f'--cpus-per-task={parameters["cpus_per_task"]}'],
      **parameters,
    )
    self._file, self._looked, self._queue = folder / 'jobs.json', -math.inf, set()
    self._look()
    ids = json.loads(self._file.read_text(encoding='utf-8')) if self._file.exists() else {}
    ids = {command: number for command, number in ids.items() if number in self._queue}
    self._tasks = {key: submitit.SlurmJob(self._executor.folder, ids[key]) for key in ids}
    self._seen = dict.fromkeys(ids.values(), self._looked)  # when each was last in the queue

  def _look(self):
    """Learn which jobs wait or run; where the controller does not answer, that is as before."""
    words = ['squeue', '--noheader', '--array', '--format=%i', f'--user={os.getuid()}']
    found = subprocess.run(words, capture_output=True, text=True)
    if not found.returncode:
      self._looked, self._queue = time.monotonic(), {*found.stdout.split()}
    elif self._looked == -math.inf:
      raise UserError(f'--executor=slurm: {found.stderr}')

  def submit(self, jobs: Sequence[Job]):
    new = [job for job in jobs if _key(job) not in self._tasks]
    if not new:
      return
    try:
      with self._executor.batch():
        tasks = [self._executor.submit(Attempt(job, signals=())) for job in new]
    except FailedJobError as error:
      raise UserError(f'--executor=slurm: {error}') from None
    self._tasks |= {_key(job): task for job, task in zip(new, tasks)}
    self._seen |= {task.job_id: time.monotonic() for task in tasks}
    with atomic_write(self._file) as file:
      json.dump({key: task.job_id for key, task in self._tasks.items()}, file, indent=1)

  def exit_code(self, job: Job) -> int | None:
    if not (task := self._tasks.get(_key(job))):
      return SAVED
    if time.monotonic() > self._looked + LOOK:
      self._look()
    if task.job_id in self._queue:
      self._seen[task.job_id] = self._looked
    code = None
    if task.paths.result_pickle.exists():
      code = LOST if task.exception() else task.result()
    elif self._looked > self._seen[task.job_id] + GONE:
      code = LOST
    if code is not None:
      del self._tasks[_key(job)]
    return code

  def stop(self, job: Job):
    if task := self._tasks.pop(_key(job), None):
      task.cancel(check=False)  # Slurm tells its processes to end, and kills them after KillWait


def _key(job):
  return shlex.join(job.command)


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

      # Ray would count all cores, and start a dashboard for a sweep that has a table of its own.
      own = {} if address else {'num_cpus': len(host.cores()), 'include_dashboard': False}
      ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
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
    once = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, max_calls=1)
    self._remote = once(Attempt.__call__)

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
