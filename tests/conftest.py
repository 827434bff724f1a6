"""Set-up of all tests: programs that several tests compile, in this process or another, are compiled once."""

import atexit
import os
import shutil
import tempfile

if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _folder = tempfile.mkdtemp(prefix='harmony-jax-tests-')
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _folder  # workers and subprocesses inherit it
  atexit.register(shutil.rmtree, _folder, ignore_errors=True)
