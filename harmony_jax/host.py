"""What this computer gives a process, cores and memory, which Linux and macOS tell differently."""

import os
import resource
import sys
from collections.abc import Iterable


def cores() -> list[int]:
  """Return the numbers of the cores that this process may use."""
  if sys.platform == 'linux':
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def keep_to(numbers: Iterable[int]) -> None:
  """Use these cores only, where the system has a call for it; the process's children do, too."""
  if sys.platform == 'linux':
    os.sched_setaffinity(0, numbers)


def peak_memory() -> int:
  """Return the most bytes in memory since this process began."""
  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
