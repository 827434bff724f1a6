"""Runs on a Ray cluster: a task per job, which starts the same child in a folder that all machines
share.
"""

import contextlib
import os

from harmony_jax.errors import UserError, one_line
from harmony_jax.sweeping.job import (
  CODE,
  FAILED,
  LONGEST,
  STOPPED,
  Outcome,
  Worker,
  clear,
  stop_file,
)

INSTALL = (
  "Ray is not installed: pip install -c constraints/python3.11.txt -e '.[ray]' (3.12: its file)"
)
OBJECTS = 100 * 2**20  # bytes for Ray's own objects, of which a sweep has hardly any


class Rays:
  """Executor on Ray; see `local.Local` for what an executor has.

  A task that loses its worker or its machine is started again by Ray, as often as `retries`. The
  lost worker's child is told by the kernel to save (`guard`), the new one waits for it, and
  continues from the checkpoint.

  Args:
    address: of a cluster, or 'auto'; None to start a Ray of one's own, which ends with `close`.
    cpus, gpus: resources of each run. retries, lock_wait: of `Worker`.
    here: CPUs of a Ray that is started here; None for all that there are.

  Raises:
    UserError: Ray is not installed, does not answer, or cannot hold such a run.
  """

  def __init__(self, address=None, cpus=2.0, gpus=0.0, retries=2, lock_wait=120.0, here=None):
    try:
      os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
      os.environ.setdefault('RAY_COLOR_PREFIX', '0')
      # What Ray will do about a variable in future versions; it says so at length.
      os.environ.setdefault('RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO', '0')
      import ray
    except ImportError:
      raise UserError(INSTALL) from None
    self._ray, self._retries, self._lock_wait = ray, retries, lock_wait
    self._connect(address, here)
    total = ray.cluster_resources()
    if address is None:  # a cluster may grow
      cpus = min(cpus, total.get('CPU', 0))
      if gpus > total.get('GPU', 0):
        self.close()
        raise UserError(
          f'--run_gpus={gpus:g}: Ray sees {total.get("GPU", 0):g} GPUs on this machine'
        )
    self._cpus, self._gpus = cpus, gpus
    self.text = (
      f'on Ray with {total.get("CPU", 0):g} CPUs and {total.get("GPU", 0):g} GPUs, of which each takes '
      f'{cpus:g} and {gpus:g}'
    )
    self._tasks = {}  # reference: job's name
    self._records = {}

  def _connect(self, address, here):
    quiet = dict(logging_level='error', log_to_driver=False)
    try:
      if address is None:
        # Its workers take over these variables.
        path = os.pathsep.join(filter(None, [str(CODE), os.environ.get('PYTHONPATH')]))
        os.environ['PYTHONPATH'] = path
        self._ray.init(
          address='local',
          num_cpus=here,
          include_dashboard=False,
          object_store_memory=OBJECTS,
          **quiet,
        )
      else:
        self._ray.init(address=address, **quiet)
    except Exception as error:  # of many kinds: Ray's, gRPC's, the system's
      place = f'at {address!r}' if address else 'on this machine'
      raise UserError(f'Ray {place} cannot be used: {one_line(str(error))[:LONGEST]}') from None

  def start(self, jobs, records):
    """See `Local`."""
    remote = self._ray.remote(
      num_cpus=self._cpus, num_gpus=self._gpus, max_retries=self._retries, max_calls=1
    )(work)
    environment = {}  # Ray shows a task the GPUs that it has
    if not self._gpus:  # and all of them to one that has none
      environment = {'CUDA_VISIBLE_DEVICES': ''}
    elif self._gpus < 1:
      environment = {'XLA_PYTHON_CLIENT_MEM_FRACTION': f'{0.9 * self._gpus:.2f}'}
    self._records = records
    for job in jobs:
      clear(records[job.name])
      settings = dict(
        retries=self._retries,
        lock_wait=self._lock_wait,
        record=str(records[job.name]),
        environment=environment,
      )
      self._tasks[remote.options(name=job.name).remote(job, settings)] = job.name

  def poll(self):
    """See `Local`."""
    if not self._tasks:
      return {}
    try:
      done, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
    except (self._ray.exceptions.RayError, ConnectionError) as error:
      raise UserError(
        f'the Ray cluster is lost: {one_line(str(error))[:LONGEST]}; the same command goes on'
      ) from None
    return {self._tasks.pop(task): self._outcome(task) for task in done}

  def stop(self):
    """See `Local`. A task that waits ends at once, one that runs when its child has saved."""
    for task, name in self._tasks.items():
      with contextlib.suppress(OSError):
        # Ray's cancelling was seen to be lost by a task that had just begun
        stop_file(self._records[name]).touch()
      self._ray.cancel(task)

  def kill(self):
    """See `Local`. The children still save, as their workers are gone."""
    for task in self._tasks:
      with contextlib.suppress(Exception):
        self._ray.cancel(task, force=True)

  def close(self):
    """Ends the Ray that was started here, or leaves the cluster."""
    self._ray.shutdown()

  def _outcome(self, task):
    errors = self._ray.exceptions
    try:
      return self._ray.get(task)
    except errors.TaskCancelledError:
      return Outcome(STOPPED)
    except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
      lost = f'its worker was lost {self._retries + 1} times'
      return Outcome(FAILED, self._retries + 1, f'{lost}: {one_line(str(error))[:LONGEST]}')
    except errors.RayError as error:
      last = (str(error).strip().splitlines() or [''])[-1]
      return Outcome(FAILED, 1, f'{type(error).__name__}: {one_line(last)[:LONGEST]}')


def work(job, settings):
  """The task: what runs on a Ray worker."""
  return Worker(job, **settings).run()
