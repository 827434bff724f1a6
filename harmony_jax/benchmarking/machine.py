"""What a measurement depends on beside the code: machine, versions, commit; and processes of its
own for measuring.
"""

import concurrent.futures
import concurrent.futures.process
import importlib.metadata
import multiprocessing
import os
import pathlib
import platform

import jax

from harmony_jax.errors import UserError
from harmony_jax.training.run_folder import git_commit

PACKAGES = (
  'ale-py',
  'dm_control',
  'flax',
  'gymnasium',
  'jax',
  'jaxlib',
  'metaworld',
  'mujoco',
  'numpy',
  'optax',
)


def describe_machine():
  """Processor, cores, load, devices, XLA's flags, commit (' (dirty)' where files differ from it)
  and versions.
  """
  cpuinfo = pathlib.Path('/proc/cpuinfo')
  models = (
    [
      line.partition(':')[2].strip()
      for line in cpuinfo.read_text().splitlines()
      if 'model name' in line
    ]
    if cpuinfo.exists()
    else []
  )
  versions = {}
  for name in PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      pass
  devices = jax.devices()
  return {
    'processor': models[0] if models else platform.processor(),
    'cores': len(os.sched_getaffinity(0)),
    'load': os.getloadavg()[0],
    'device_kind': devices[0].device_kind,
    'platform': jax.default_backend(),
    'devices': len(devices),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'python': platform.python_version(),
    'commit': git_commit(),
    'versions': versions,
    'opengl': os.environ.get('MUJOCO_GL', ''),
  }


def in_fresh_process(function, *arguments):
  """`function(*arguments)` in a new Python process: its memory and its compiled programs are its
  own.

  Function, arguments and result must be picklable; exceptions come through.

  Raises:
    UserError: the process died.
  """
  with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
    try:
      return pool.submit(function, *arguments).result()
    except concurrent.futures.process.BrokenProcessPool:
      raise UserError('the measuring process died (out of memory?)') from None
