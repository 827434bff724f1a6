"""Batches prepared in the background, while the device is busy with the last one."""

import collections
import concurrent.futures
from collections.abc import Callable
from typing import Any


class Prefetcher:
  """Prepares batches in a background thread, each as it was at its request.

      prefetcher.request(update)       # right after the appends before it
      batch = prefetcher.get()         # the oldest request

  `request` chooses the windows at once; only the copying and `put` run in the background. What
  comes out therefore does not depend on the thread's timing.

  Args:
    replay: a `Replay`; its margin covers the steps appended while `depth` requests wait.
    put: called with each batch, such as `jax.device_put`; its result is given.
    depth: requests that may be outstanding.
  """

  def __init__(self, replay: Any, put: Callable, depth: int = 2):
    self._replay, self._put, self._depth = replay, put, depth
    self._waiting = collections.deque()  # (draw, future)
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'prefetch')

  def __len__(self) -> int:
    """Return how many requests are outstanding."""
    return len(self._waiting)

  @property
  def draws(self) -> list:
    """The draws of the outstanding requests, oldest first: for a checkpoint."""
    return [draw for draw, _ in self._waiting]

  def request(self, update: int) -> None:
    """Choose the windows of an update now and have them copied.

    Raises:
      RuntimeError: `depth` requests are outstanding already.
    """
    if len(self._waiting) >= self._depth:
      raise RuntimeError(f'{self._depth} batches are requested already: get one first')
    self.take_up(self._replay.draw(update))

  def take_up(self, draw: Any) -> None:
    """Have windows copied that were chosen before: what a run that goes on had requested."""
    batch = lambda: {**self._replay.gather(draw), **draw.more}
    self._waiting.append((draw, self._thread.submit(lambda: self._put(batch()))))

  def get(self) -> Any:
    """Return the batch of the oldest request; wait for it.

    Raises:
      RuntimeError: nothing was requested, or more than the replay's margin of steps were appended
        since (whether or not the copy was quick enough).
      Exception: whatever the thread raised.
    """
    if not self._waiting:
      raise RuntimeError('no batch was requested')
    draw, future = self._waiting.popleft()
    batch = future.result()
    if not self._replay.intact(draw):
      raise RuntimeError(
        f'more than {self._replay.margin} steps were appended since the batch of '
        f'update {draw.update} was requested'
      )
    return batch

  def close(self) -> None:
    """End the thread; batches not got are dropped."""
    self._thread.shutdown(wait=True, cancel_futures=True)
    self._waiting.clear()
