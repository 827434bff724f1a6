"""The accelerators and cores of this machine, and how its workers share them. The sweep itself
never takes a device.
"""

import glob
import json
import os
import subprocess
import sys

from harmony_jax.errors import UserError

COUNT = 'import jax, json; print(json.dumps([jax.default_backend(), len(jax.local_devices())]))'
# What the drivers of accelerators make; without any of it there is nothing to ask JAX about, which
# takes seconds.
TRACES = ('/dev/nvidia[0-9]*', '/dev/accel*', '/dev/vfio/[0-9]*', '/dev/kfd', '/dev/dxg')


def count():
  """(backend, number of devices) as JAX sees them in a process of its own: ('cpu', 1), ('gpu', 8),
  ('tpu', 4).

  Raises:
    UserError: JAX does not start.
  """
  if os.environ.get('JAX_PLATFORMS') == 'cpu' or not any(glob.glob(pattern) for pattern in TRACES):
    return 'cpu', 1
  result = subprocess.run(
    [sys.executable, '-c', COUNT],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'},
  )
  try:
    backend, number = json.loads(result.stdout.splitlines()[-1])
    return backend, number
  except (ValueError, IndexError):
    last = (result.stderr.strip().splitlines() or ['it printed nothing'])[-1]
    raise UserError(f'JAX cannot count the devices: {last}') from None


def places(workers=0, counted=None):
  """One dict(environment=…, cores=…) per worker: the variables that show it its own device, and its
  cores.

  Args:
    workers: how many; 0 for one per accelerator, or one on a CPU.
    counted: of `count`.

  Raises:
    UserError: more workers than cores, on a CPU.
  """
  backend, number = counted or count()
  workers = workers or (number if backend != 'cpu' else 1)
  if backend == 'cpu':
    return [dict(environment={}, cores=cores) for cores in share_cores(workers)]
  return [
    dict(environment=show(backend, index % number, -(-workers // number)), cores=None)
    for index in range(workers)
  ]


def share_cores(workers):
  """This process' cores in so many equal parts; [None] for one worker. Raises UserError where they
  do not reach.
  """
  if workers == 1:
    return [None]
  cores = sorted(os.sched_getaffinity(0))
  if workers > len(cores):
    raise UserError(f'--workers={workers}: there are {len(cores)} cores, and a worker needs one')
  each = len(cores) // workers
  return [cores[index * each : (index + 1) * each] for index in range(workers)]


def show(backend, index, sharing=1):
  """The variables by which a process sees one device only, of which it takes its share where
  several run on it.

  None of them has been tried on more than one device.
  """
  if backend == 'tpu':
    return {
      'TPU_VISIBLE_CHIPS': str(index),
      'TPU_CHIPS_PER_PROCESS_BOUNDS': '1,1,1',
      'TPU_PROCESS_BOUNDS': '1,1,1',
      'TPU_WORKER_HOSTNAMES': 'localhost',
      'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    }
  name = 'CUDA_VISIBLE_DEVICES'
  if (
    backend == 'rocm'
    or os.environ.get('ROCR_VISIBLE_DEVICES')
    or os.environ.get('HIP_VISIBLE_DEVICES')
  ):
    name = 'HIP_VISIBLE_DEVICES'
  visible = [device for device in os.environ.get(name, '').split(',') if device]
  variables = {name: visible[index] if visible else str(index)}
  if sharing > 1 and 'XLA_PYTHON_CLIENT_MEM_FRACTION' not in os.environ:
    variables['XLA_PYTHON_CLIENT_MEM_FRACTION'] = f'{0.9 / sharing:.2f}'
  return variables
