"""Programs that a TPU's compiler takes longer over than anyone waits.

Its last stage, which makes machine code, may work on an update for more than ten minutes. Before
that, after one, it has the optimised HLO and a plan of the memory, and writes them down where XLA
is told to. So a program is compiled in a process of its own, and what is written is read when
patience ends.
"""

import multiprocessing
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

PATIENCE = 300.0  # seconds
_TOTAL = re.compile(r'^Total bytes: (\d+)', re.MULTILINE)  # at the end of a report


def outcome(compile: Callable, *arguments: Any, seconds: float = PATIENCE) -> Any:
  """Return `compile(*arguments)` of a new process, after so long a `Plan`; None if it died."""
  context = multiprocessing.get_context('spawn')
  receiver, sender = context.Pipe(duplex=False)
  with tempfile.TemporaryDirectory() as folder:
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_dump_to={folder} --xla_dump_hlo_as_text'
    with mock.patch.dict(os.environ, XLA_FLAGS=flags):
      process = context.Process(target=_send, args=(sender, compile, arguments))
      process.start()
    sender.close()
    end, plan = time.monotonic() + seconds, None
    try:
      while not receiver.poll(1) and not plan:
        plan = Plan.read(folder) if time.monotonic() > end else None
      return plan or receiver.recv()
    except EOFError:
      return None
    finally:
      process.kill()
      process.join()


def _send(sender, compile, arguments):
  sender.send(compile(*arguments))


class Plan(NamedTuple):
  """What a compiler had written: the optimised HLO, bytes of temporaries and in all."""

  text: str
  temp_bytes: int
  peak_bytes: int

  @classmethod
  def read(cls, folder: str) -> 'Plan | None':
    """Return the plan of the largest program in a folder, where there is one."""
    texts = pathlib.Path(folder).glob('*.after_optimizations.txt')  # not those for this CPU
    if not (largest := max(texts, key=lambda path: path.stat().st_size, default=None)):
      return None
    ends = ('', '-buffer-assignment', '-memory-usage-report')
    parts = [largest.with_name(f'{largest.stem}{end}.txt') for end in ends]
    if not all(path.exists() for path in parts):
      return None
    text, buffers, report = (path.read_text(encoding='utf-8') for path in parts)
    # Those of other memories than the large one have a colour.
    sizes = re.findall(r'^allocation \d+: size (\d+), preallocated-temp', buffers, re.MULTILINE)
    total = _TOTAL.search(report)  # as long as it is being written there is none
    return cls(text, sum(map(int, sizes)), int(total[1])) if total else None
