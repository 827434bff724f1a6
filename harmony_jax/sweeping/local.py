"""Runs on this machine: one process at a time per accelerator, or per share of the cores."""

import collections
import threading

from harmony_jax.sweeping.job import FAILED, STOPPED, Outcome, Worker, clear


class Local:
  """Executor with a thread per worker, each looking after one child.

  An executor has `start(jobs, records)`, `poll()`, `stop()`, `kill()` and `close()`.

  Args:
    places: of `devices.places`, one per worker. retries, lock_wait: of `Worker`.
  """

  def __init__(self, places, retries=2, lock_wait=120.0):
    self.places = places
    self.text = f'{len(places)} process{"es" if len(places) > 1 else ""} at a time on this machine'
    self._settings = dict(retries=retries, lock_wait=lock_wait)
    self._lock = threading.Lock()  # guards what follows
    self._waiting, self._active, self._ended = collections.deque(), {}, {}
    self._stopping = False

  def start(self, jobs, records):
    """Begins to work on jobs. `records` are {job's name: path of its record}."""
    for job in jobs:
      clear(records[job.name])
    self._waiting.extend(jobs)
    for place in self.places:
      threading.Thread(target=self._work, args=(place, records), daemon=True).start()

  def poll(self):
    """{job's name: Outcome} of those that have ended since the last call."""
    with self._lock:
      ended, self._ended = self._ended, {}
      return ended

  def stop(self):
    """Asks all children to save, and begins no other job."""
    with self._lock:
      self._stopping = True
      self._ended |= {job.name: Outcome(STOPPED) for job in self._waiting}
      self._waiting.clear()
      workers = list(self._active.values())
    for worker in workers:
      worker.stop()

  def kill(self):
    """Ends all children at once, after `stop`."""
    with self._lock:
      workers = list(self._active.values())
    for worker in workers:
      worker.kill()

  def close(self):
    """Nothing is left when all jobs have ended."""

  def _work(self, place, records):
    """The life of a worker's thread."""
    while True:
      with self._lock:
        if not self._waiting or self._stopping:
          return
        job = self._waiting.popleft()
        worker = self._active[job.name] = Worker(
          job, record=records[job.name], **place, **self._settings
        )
      try:
        outcome = worker.run()
      except Exception as error:  # such as a disk that is full: the other jobs go on
        outcome = Outcome(FAILED, 1, str(error))
      with self._lock:
        del self._active[job.name]
        self._ended[job.name] = outcome
