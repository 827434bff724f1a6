"""Runs on a Slurm cluster through submitit: one array job, a task of it per job of the sweep.

Not yet run on a real Slurm: tried with submitit's own local executor and with an imitation of
`sbatch`.
"""

import contextlib
import json
import os
import pathlib
import re
import time

from harmony_jax.errors import UserError, one_line
from harmony_jax.sweeping.job import CODE, FAILED, LONGEST, STOPPED, Outcome, Worker, clear
from harmony_jax.training.run_folder import atomic_write

INSTALL = "submitit is not installed: pip install -c constraints/python3.11.txt -e '.[slurm]' (3.12: its file)"
WARNING = 120  # seconds before the end of a job in which its run is to save
TIMEOUTS = 1_000  # each goes on from the checkpoint, so that there may be many
JOBS = 'slurm.json'
# seconds after which a job that Slurm does not know is one that it has forgotten, not a new one
FORGOTTEN = 3600


class Slurm:
  """Executor on Slurm; see `local.Local` for what an executor has.

  Args:
    folder: for submitit's files, shared by all machines. It also remembers which jobs were
      submitted: those that are still there are followed, not submitted twice.
    minutes, partition, gpus, cpus, memory (gigabytes): of a job.
    workers: how many at a time; 0 for as many as there is room for.
    retries, lock_wait: of `Worker`. cluster: submitit's name; 'local' is for trying without Slurm.

  Raises:
    UserError: submitit is not installed, or there is no Slurm.
  """

  def __init__(
    self,
    folder,
    minutes=1440,
    partition=None,
    gpus=1,
    cpus=4,
    memory=None,
    workers=0,
    retries=2,
    lock_wait=120.0,
    cluster='slurm',
  ):
    try:
      import submitit
    except ImportError:
      raise UserError(INSTALL) from None
    self._folder = pathlib.Path(folder).absolute()
    self._folder.mkdir(parents=True, exist_ok=True)
    os.environ['PYTHONPATH'] = os.pathsep.join(
      filter(None, [str(CODE), os.environ.get('PYTHONPATH')])
    )
    try:
      self._executor = submitit.AutoExecutor(
        self._folder / '%j', cluster=cluster, slurm_max_num_timeout=TIMEOUTS
      )
    except RuntimeError as error:  # no srun
      raise UserError(f'--executor=slurm: {error}') from None
    self._executor.update_parameters(
      name='harmony-jax',
      timeout_min=minutes,
      cpus_per_task=cpus,
      gpus_per_node=gpus or None,
      mem_gb=memory,
      slurm_partition=partition,
      slurm_signal_delay_s=WARNING,
      slurm_array_parallelism=workers or 1_000,
      slurm_additional_parameters={'requeue': True},
    )
    self._submitit, self._cluster = submitit, cluster
    self._settings = dict(retries=retries, lock_wait=lock_wait, pause=WARNING)
    self._jobs = {}  # name: submitit's job
    self.text = f'on Slurm, {gpus} GPU{"s" if gpus != 1 else ""} and {cpus} CPUs each'

  def start(self, jobs, records):
    """See `Local`. Jobs that an earlier start submitted and that have not ended are followed."""
    known = self._still_there()
    self._jobs = {job.name: known[job.name] for job in jobs if job.name in known}
    new = [job for job in jobs if job.name not in known]
    for job in new:
      clear(records[job.name])
    if new:
      functions = [
        Requeued(job, dict(self._settings, record=str(records[job.name]))) for job in new
      ]
      with self._executor.batch():
        submitted = [self._executor.submit(function) for function in functions]
      self._jobs |= {job.name: each for job, each in zip(new, submitted)}
    with atomic_write(self._folder / JOBS) as file:
      json.dump({name: each.job_id for name, each in self._jobs.items()}, file, indent=1)

  def ids(self):
    """{job's name: Slurm's id} of what was submitted."""
    return {name: job.job_id for name, job in self._jobs.items()}

  def poll(self):
    """See `Local`."""
    ended = {name: self._outcome(job) for name, job in self._jobs.items() if job.done()}
    for name in ended:
      del self._jobs[name]
    return ended

  def stop(self):
    """See `Local`: cancels the jobs, on which Slurm asks their processes to end, and kills them
    after its KillWait.
    """
    for job in self._jobs.values():
      with contextlib.suppress(OSError, ValueError):
        job.cancel(check=False)

  def kill(self):
    """See `Local`: Slurm sees to it."""

  def close(self):
    """The jobs belong to Slurm."""

  def _still_there(self):
    """{job's name: submitit's job} of those that an earlier sweep submitted and that wait or run."""
    try:
      ids = json.loads((self._folder / JOBS).read_text(encoding='utf-8'))
      kind = self._submitit.SlurmJob if self._cluster == 'slurm' else self._submitit.LocalJob
      jobs = {name: kind(self._executor.folder, job_id, [0]) for name, job_id in ids.items()}
      old = time.time() - (self._folder / JOBS).stat().st_mtime > FORGOTTEN
    except (OSError, ValueError, AttributeError, TypeError):
      return {}
    jobs = {name: job for name, job in jobs.items() if not job.done(force_check=True)}
    return {name: job for name, job in jobs.items() if not (old and job.state == 'UNKNOWN')}

  def _outcome(self, job):
    try:
      return job.result()
    except (
      self._submitit.core.utils.UncompletedJobError,
      self._submitit.core.utils.FailedJobError,
    ) as error:
      state = job.state
      if 'CANCELLED' in state or state == 'INTERRUPTED':
        return Outcome(STOPPED)
      last = (str(error).strip().splitlines() or [''])[-1]
      return Outcome(
        FAILED, 1, f'Slurm job {job.job_id} ended as {state}: {one_line(last)[:LONGEST]}'
      )


class Requeued:
  """What a Slurm job runs. Before it is preempted or its time is over, the run saves and the job is
  queued again.
  """

  def __init__(self, job, settings):
    self.job, self.settings, self._worker = job, settings, None

  def __call__(self):
    self._worker = Worker(self.job, **self.settings)
    return self._worker.run()

  def checkpoint(self):
    """submitit's name for it: called when the job is to end; returns what to run when it begins
    again.
    """
    from submitit.helpers import DelayedSubmission

    if self._worker is not None:
      self._worker.stop()
      self._worker.wait_saved(WARNING - 20)
    return DelayedSubmission(Requeued(self.job, self.settings))


def parse_minutes(text):
  """Slurm's way to write a time: 'minutes', 'hours:minutes:seconds', 'days-hours',
  'days-hours:minutes' → minutes.

  Raises:
    UserError: anything else.
  """
  days = re.fullmatch(r'(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?', text)
  if not days:
    raise UserError(
      f'--slurm_time is {text!r}: it is written as 90 (minutes), 24:00:00 or 2-12:00:00'
    )
  day, first, second, third = (int(part or 0) for part in days.groups())
  if days[1] is not None:  # days-hours[:minutes[:seconds]]
    minutes = day * 1440 + first * 60 + second
  elif days[4] is not None:  # hours:minutes:seconds
    minutes = first * 60 + second
  else:  # minutes[:seconds]
    minutes = first
  if minutes < 1:
    raise UserError(f'--slurm_time is {text!r}: that is less than a minute')
  return minutes


def parse_gigabytes(text):
  """'16GB', '16G', '500MB' or '16' (gigabytes) → gigabytes; None for None. Raises UserError for
  anything else.
  """
  if text is None:
    return None
  found = re.fullmatch(r'(\d+(?:\.\d+)?)\s*(?:(G|M)B?)?', text.strip(), re.IGNORECASE)
  if not found or not float(found[1]):
    raise UserError(f'--slurm_memory is {text!r}: it is written as 16GB or 500MB')
  return float(found[1]) / (1024 if (found[2] or 'G').upper() == 'M' else 1)
