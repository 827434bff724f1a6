"""Calls timed again and again, and what is told of the times."""

import resource
import time

import numpy as np


def repeat(call, repeats=0, least=5, seconds=10.0, most=200):
  """Wall-clock seconds of each call.

  Args:
    call: takes nothing; must wait for its own result.
    repeats: number of calls. 0: at least `least` and at least `seconds` worth, but no more than
      `most`.
  """
  times, began = [], time.perf_counter()
  while not _enough(len(times), time.perf_counter() - began, repeats, least, seconds, most):
    start = time.perf_counter()
    call()
    times.append(time.perf_counter() - start)
  return times


def _enough(count, elapsed, repeats, least, seconds, most):
  if repeats:
    return count >= repeats
  return count >= most or (count >= least and elapsed >= seconds)


def spread(seconds, unit='seconds', scale=1.0):
  """{'<unit>_median', '_min', '_q1', '_q3', '_max', 'repeats'}; pass unit='ms' with scale 1000 for
  milliseconds.
  """
  low, first, median, third, high = (scale * np.percentile(seconds, (0, 25, 50, 75, 100))).tolist()
  return {
    f'{unit}_median': median,
    f'{unit}_min': low,
    f'{unit}_q1': first,
    f'{unit}_q3': third,
    f'{unit}_max': high,
    'repeats': len(seconds),
  }


def cpu_seconds():
  """User and system seconds of this process so far, all threads together."""
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime
