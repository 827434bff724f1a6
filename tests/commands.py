"""Commands as users type them, forked from a process that has imported what they import.

To import all of it takes longer than most of these commands do. The forked process has its own
arguments, variables, folder and streams; variables that are read at an import (JAX_PLATFORMS,
PYTHONIOENCODING) are those of the tests, so what tests them starts Python anew.
"""

import atexit
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback

from tests import lowering

ROOT = pathlib.Path(__file__).parents[1]
_IMPORTED = ('harmony_jax.training.loop', 'harmony_jax.training.seeds', 'experiments.launcher')
_IMPORTED += ('harmony_jax.reporting.report',)  # pandas and matplotlib: a second


class Command:
  """`python -m <module> …` that runs, as `subprocess.Popen` has it.

  Args:
    module: e.g. 'experiments.catch'; or '-c' before code.
    output: a path for what it prints, errors among it; by default `end` returns it.
    folder: where it starts.
  """

  def __init__(self, module, *arguments, output=None, folder=ROOT, **variables):
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(list(_IMPORTED))
    self._folder = tempfile.TemporaryDirectory()
    self._paths = [str(output or pathlib.Path(self._folder.name) / name) for name in ('out', 'err')]
    variables = {**os.environ, 'JAX_PLATFORMS': 'cpu', **variables}
    words = [module, *map(str, arguments)]
    self._process = context.Process(target=_main, args=(words, str(folder), self._paths, variables))
    self._process.start()
    self.args, self.pid = words, self._process.pid

  def poll(self):
    """Return the exit code, or None; -N where signal N ended it."""
    return self._process.exitcode

  def wait(self, timeout=None):
    """Return the exit code at the end."""
    self._process.join(timeout)
    if self._process.exitcode is None:
      raise subprocess.TimeoutExpired(self.args, timeout or 0)
    return self._process.exitcode

  def send_signal(self, number):
    """Send a signal, unless it has ended."""
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self):
    """End it at once."""
    self.send_signal(signal.SIGKILL)

  def text(self):
    """Return what it has printed so far."""
    path = pathlib.Path(self._paths[0])
    return path.read_text(encoding='utf-8') if path.exists() else ''

  def end(self, timeout=400):
    """Return how it ended, as `subprocess.run` does."""
    try:
      code = self.wait(timeout)
    finally:
      self.kill()
    texts = [pathlib.Path(path).read_text(encoding='utf-8') for path in self._paths]
    return subprocess.CompletedProcess(self.args, code, *texts)


def run(module, *arguments, timeout=400, **how):
  """Run `python -m experiments.<module> …` to its end; return what `subprocess.run` does."""
  return Command(f'experiments.{module}', *arguments, **how).end(timeout)


def _main(words, folder, paths, variables):
  """Be a process of Python's that was started with these words."""
  for path, stream in zip(paths, (sys.stdout, sys.stderr), strict=True):
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(opened, stream.fileno())
    os.close(opened)
  for name in os.environ.keys() - variables.keys():
    del os.environ[name]
  os.environ.update(variables)
  time.tzset()
  os.chdir(folder)
  sys.argv, sys.orig_argv = list(words), [sys.executable, '-m', *words]
  lowering.quicken()
  sys.path.insert(0, folder)
  try:
    if words[0] == '-c':
      sys.argv = ['-c', *words[2:]]
      exec(words[1], {'__name__': '__main__'})
    else:
      runpy.run_module(words[0], run_name='__main__', alter_sys=True)
  except Exception:
    traceback.print_exc()
    sys.exit(1)
  finally:
    atexit._run_exitfuncs()
