"""SIGTERM, its like, and Ctrl-C: a run is asked to save and to end, rather than cut off.

    with Interruption() as interruption:
      ...                        # as usual: a signal raises KeyboardInterrupt
      interruption.arm()         # from here on it only sets `requested`
      while not interruption.requested:
        ...

A second Ctrl-C ends the process at once, even while a program is being compiled: it is not Python's
interpreter that looks for it but a thread, which the system wakes.
"""

import os
import signal
import socket
import sys
import threading

# What ends a job: a scheduler (also before its time is up), a terminal that closes, a person.
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
KILLED = 128 + signal.SIGINT  # exit code after the second Ctrl-C, as shells have it


def heard() -> list[signal.Signals]:
  """Return those of `SIGNALS` that this process was not told to ignore, as by nohup."""
  return [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


class Interrupted(Exception):
  """Ends a run that was asked to end; the text says where it was saved, if it had begun."""

  exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


class Interruption:
  """Whether the run was asked to end. For the main thread; any thread may look.

  Attributes:
    requested: the name of the first signal after `arm`, or '' as long as there was none.
  """

  def __init__(self):
    self.requested = ''
    self._armed = False

  def arm(self) -> None:
    """Have the first signal from now on set `requested`."""
    self._armed = True

  def __enter__(self) -> 'Interruption':
    self._before = {number: signal.signal(number, self._handle) for number in heard()}
    ours, self._theirs = socket.socketpair()
    self._theirs.setblocking(False)
    self._wakeup = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=self._watch, args=(ours,), daemon=True).start()
    return self

  def __exit__(self, *unused) -> None:
    signal.set_wakeup_fd(self._wakeup)
    for number, handler in self._before.items():
      signal.signal(number, handler)
    self._theirs.close()  # ends the thread

  def _handle(self, number, frame):
    """Python's handler, in the main thread as soon as it runs Python again."""
    if not self._armed:
      raise KeyboardInterrupt

  def _watch(self, pipe):
    """The thread: learns of every signal at once."""
    with pipe:
      while received := pipe.recv(1):
        name = signal.Signals(received[0]).name
        if not self._armed or name not in [number.name for number in self._before]:
          continue
        if self.requested and name == 'SIGINT':
          os._exit(KILLED)
        if not self.requested:
          self.requested = name
          print(
            f'\n{name}: saving after this step; Ctrl-C to leave at once',
            file=sys.stderr,
            flush=True,
          )
