"""Becomes a program that is asked to save when the process that started it has gone.

    python -m harmony_jax.sweeping.guard PARENT CORES PROGRAM ARGUMENT…

PARENT is the starting process' id; CORES, such as 0,1, are the cores to use, or '-' for all. A
sweep or a Ray worker that is killed outright can no longer tell its child to end: the kernel does
(Linux), by SIGTERM, on which a run saves.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
GONE = 75


def main(parent, cores, *command):
  """Replaces this process by `command`; the request to the kernel outlives that."""
  try:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
  except (OSError, AttributeError):  # not Linux: a child then outlives a parent that is killed
    pass
  if os.getppid() != int(parent):  # it went before the kernel knew
    sys.exit(GONE)
  if cores != '-':
    os.sched_setaffinity(0, [int(core) for core in cores.split(',')])
  os.execvp(command[0], command)


if __name__ == '__main__':
  main(*sys.argv[1:])
