"""Set-up of all tests: programs that several tests compile, in this process or another, are
compiled once, and all as the training's are (`parallel.CPU_OPTIONS`). A Ctrl-C is heard even where
a shell that started them in the background ignores it.
"""

import atexit
import os
import shutil
import signal
import tempfile

if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _folder = tempfile.mkdtemp(prefix='harmony-jax-tests-')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _folder  # workers and subprocesses inherit it
  atexit.register(shutil.rmtree, _folder, ignore_errors=True)

if 'xla_backend_optimization_level' not in os.environ.get('XLA_FLAGS', ''):
  os.environ['XLA_FLAGS'] = (
    f'{os.environ.get("XLA_FLAGS", "")} --xla_backend_optimization_level=1'.strip()
  )

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter):
  """Shows what tests recorded as `cases`, whichever process they ran in."""
  for report in terminalreporter.getreports('passed'):
    for name, value in report.user_properties:
      if name == 'cases':
        terminalreporter.write_line(value)
