"""Several processes, on one machine or on many, that train one run together.

Each steps its share of the environments and draws its share of the batch from what those have seen.
All go through the same updates; what one must know of another they `exchange`, where all come by.
"""

import dataclasses
import json
import os
import sys
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from harmony_jax.errors import UserError

PATIENCE = 300  # seconds to wait for the others to start
# seconds without a sign of life after which a process counts as dead, and the others end
HEARTBEAT = 60


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
  """The processes of a run; of one process nothing here does anything.

  All of them call `exchange` and `concatenate` together: put neither where one may not come by.

  Attributes:
    index: which of them this is; number 0 prints, logs and saves. count: how many there are.
  """

  index: int = 0
  count: int = 1

  @property
  def leads(self) -> bool:
    """Whether this process prints, logs and saves."""
    return not self.index

  def share(self, total: int, name: str = '') -> slice:
    """Return which of `total` things are this process's: as many as every other one's.

    Raises:
      UserError: they cannot be shared equally; `name` is the setting that says how many.
    """
    each, rest = divmod(total, self.count)
    if rest:
      near = max(self.count, round(total / self.count) * self.count)
      raise UserError(
        f'{name} is {total}: {self.count} processes can share {near}: --{name}={near}'
      )
    return slice(self.index * each, (self.index + 1) * each)

  def exchange(self, value: Any = None) -> list:
    """Return what each process passes here, by process: anything that JSON can hold."""
    if self.count == 1:
      return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))
    # few sizes: each one is a program
    padded = np.zeros(2 ** int(sizes.max() - 1).bit_length(), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(row[:size]).decode()) for row, size in zip(rows, sizes)]

  def concatenate(self, tree: Any) -> Any:
    """Return every process's arrays [rows, ...] one after the other, in NumPy."""
    if self.count == 1:
      return tree
    gathered = multihost_utils.process_allgather(tree)  # [processes, rows, ...]
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), gathered)


ALONE = ProcessGroup()


def here() -> ProcessGroup:
  """Return the group that this process has joined; it starts JAX."""
  return ProcessGroup(jax.process_index(), jax.process_count())


def join(
  coordinator: str = '', num_processes: int | None = None, process_id: int | None = None
) -> None:
  """Make this process one of several that train together, before anything uses a device.

  Args:
    coordinator: address host:port at which process 0 listens. '' asks Slurm or the TPU pod, and
      does nothing where there is neither, or this is its only process; 'none' does nothing.
    num_processes, process_id: how many there are, and which one this is, from 0.

  Raises:
    UserError: a part is missing or wrong. Where the others cannot be reached, JAX ends the process
    after a while.
  """
  given = [coordinator not in ('', 'none'), num_processes is not None, process_id is not None]
  if any(given) and not all(given):
    raise UserError(
      '--coordinator=HOST:PORT, --num_processes and --process_id are only of use together'
    )
  where: dict[str, Any] = {}
  if num_processes is not None and process_id is not None:
    _check_place(coordinator, num_processes, process_id)
    if num_processes == 1:
      return
    where = {
      'coordinator_address': coordinator,
      'num_processes': num_processes,
      'process_id': process_id,
    }
    print(
      f'process {process_id} of {num_processes}: waiting for the others at {coordinator}, '
      f'up to {PATIENCE} seconds',
      file=sys.stderr,
      flush=True,
    )
  elif coordinator == 'none' or not on_a_cluster():
    return
  elif devices := os.environ.get('CUDA_VISIBLE_DEVICES'):
    # JAX would take one device, numbered as if it saw its neighbours' too.
    where = {'local_device_ids': list(range(len(devices.split(','))))}
  # it would take SIGTERM from the run, which saves at it
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      **where, initialization_timeout=PATIENCE, heartbeat_timeout_seconds=HEARTBEAT
    )
  except (RuntimeError, ValueError) as error:
    raise UserError(f'the processes cannot find each other: {str(error).splitlines()[0]}') from None


def _check_place(coordinator: str, num_processes: int, process_id: int) -> None:
  host, _, port = coordinator.rpartition(':')
  if not host or not port.isdigit() or int(port) > 65535:
    raise UserError(f'--coordinator={coordinator}: expected HOST:PORT, such as node1:9876')
  if not 0 <= process_id < num_processes:
    raise UserError(
      f'--process_id={process_id}: expected 0 to {num_processes - 1}, by --num_processes'
    )


def on_a_cluster() -> bool:
  """Return whether Slurm or a TPU pod started several processes of this program."""
  # Of the step, which srun begins; a batch script has the variables of the job.
  slurm = (
    int(os.environ.get('SLURM_STEP_NUM_TASKS', '1')) > 1 and 'SLURM_STEP_NODELIST' in os.environ
  )
  return slurm or ',' in os.environ.get('TPU_WORKER_HOSTNAMES', '')
