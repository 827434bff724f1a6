"""The only file that places the pure functions of an agent on devices, and that knows of other
processes.

On one device they are compiled by `jax.jit`. On several, `train_step` is mapped over them by
`jax.pmap`: every device has a copy of the parameters and an equal share of the batch, and what must
see the whole batch is reduced across them (`replicas.py`), so that the result does not depend on
their number. Everything else, acting too, runs on one device.

Several processes, on one machine or on many, train one run together once they have called `join`:
each steps its share of the environments and draws its share of the batch from what those have seen.
All go through the same updates; where one must know what another one does, they `exchange` it.

The pmap of today's JAX is a thin layer over `jit(shard_map)`; that it takes and gives arrays of
this process alone is what we want with several. It hands arrays on without a copy, but keys only
through the host: so they travel as numbers here.
"""

import ctypes
import functools
import json
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from harmony_jax import replicas, viewing
from harmony_jax.agent import Agent
from harmony_jax.errors import UserError

# The compiler's first level makes programs as fast as its third, in two thirds of the time
# (benchmarks/NOTES.md).
CPU_OPTIONS = {'xla_backend_optimization_level': 1}
AXIS = 'replicas'
PATIENCE = 300  # seconds to wait for the others to start
# seconds without a sign of life after which a process counts as dead, and the others end
HEARTBEAT = 60


def compile_agent(agent: Agent, devices: int = 1) -> dict:
  """The agent's compiled functions.

  Args:
    devices: how many of this process's devices to train on.

  Returns: a dict of functions
    init(key): the state, where `train_step` wants it.
    train_step(state, batch): as the agent's; the state is donated, the batch is from `put`.
    put(batch): what this process has drawn, [B / processes, T, …], to where `train_step` wants it.
    act, report, task_losses: as the agent's, on one device, for what `weights` or `local` gives.
    open_loop, dream: as in `viewing`, likewise. assign: as the world model's, for its part of
    `weights`. weights(state): its `weights`, on this process's first device, without a copy; they
    go with the next update. local(state): likewise all of the state but `carry`.
    gather(state): a state on one device, as of `Agent.init`, with the whole `carry`. All processes
    call it together. spread(state): the way back.
    differing(state): the names of arrays whose bits are not the same on all devices: none, unless
      something is broken. All processes call it together.
  """
  on_one = {
    'act': _jit(agent.act, static_argnames='mode'),
    'report': _jit(agent.report, static_argnames='context'),
    'task_losses': _jit(agent.task_losses),
    'open_loop': _jit(functools.partial(viewing.open_loop, agent), static_argnames='context'),
    'dream': _jit(functools.partial(viewing.dream, agent), static_argnames=('count', 'length')),
    'assign': _jit(agent.world_model.assign),
  }
  if devices * jax.process_count() > 1:
    return on_one | Replicas(agent, devices).functions()
  same = lambda state: state
  return on_one | {
    'init': _jit(agent.init),
    'train_step': _jit(agent.train_step, donate_argnums=0),
    'put': jax.device_put,
    'weights': lambda state: state.weights,
    'local': same,
    'gather': same,
    'spread': same,
    'differing': lambda state: [],
  }


class Replicas:
  """`compile_agent` for several devices.

  The state is a `TrainState` of which every device holds a copy, but for `carry` [devices, rows,
  ...], of which each holds its rows. `rng` is the key's numbers.
  """

  def __init__(self, agent: Agent, devices: int):
    self._agent, self._init = agent, _jit(agent.init)
    mesh = Mesh(np.array(jax.local_devices()[:devices]), (AXIS,))
    self._copied, self._split = (
      NamedSharding(mesh, PartitionSpec()),
      NamedSharding(mesh, PartitionSpec(AXIS)),
    )
    self._devices = devices
    everyone = [
      device
      for index in range(jax.process_count())
      for device in jax.local_devices(index)[:devices]
    ]

    def step(state, carry, batch):
      state = state.replace(carry=carry, rng=jax.random.wrap_key_data(state.rng))
      with replicas.mapped(AXIS):
        state, metrics = agent.train_step(state, batch)
      return state.replace(carry=None, rng=jax.random.key_data(state.rng)), state.carry, metrics

    self._step = jax.pmap(
      step,
      AXIS,
      in_axes=(None, 0, 0),
      out_axes=(None, 0, None),
      donate_argnums=(0, 1),
      devices=everyone,
    )
    # A leaf whose bits differ anywhere has a largest that is not the smallest. `place` is only
    # there to be mapped.
    self._differ = jax.pmap(
      lambda state, place: jax.tree.map(_differs, state),
      AXIS,
      in_axes=(None, 0),
      out_axes=None,
      devices=everyone,
    )

  def functions(self) -> dict:
    """The part of `compile_agent`'s dict that is not the same on one device."""
    names = ('init', 'train_step', 'put', 'weights', 'local', 'gather', 'spread', 'differing')
    return {name: getattr(self, name) for name in names}

  def init(self, key):
    return self.spread(self._init(key))

  def train_step(self, state, batch):
    copied, carry, metrics = self._step(state.replace(carry=None), state.carry, batch)
    return copied.replace(carry=carry), metrics

  def put(self, batch):
    return jax.device_put(jax.tree.map(self._by_device, batch), self._split)

  def weights(self, state):
    return _first_copy(state.weights)

  def local(self, state):
    mine = _first_copy(state.replace(carry=None))
    return mine.replace(rng=jax.random.wrap_key_data(mine.rng))

  def gather(self, state):
    rows = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.device_get(state.carry))
    return self.local(state).replace(carry=jax.device_put(concatenate(rows)))

  def spread(self, state):
    first, count = share(self._agent.batch_size)
    carry = jax.tree.map(
      lambda leaf: self._by_device(np.asarray(leaf)[first : first + count]), state.carry
    )
    copied = state.replace(carry=None, rng=jax.random.key_data(state.rng))
    return jax.device_put(copied, self._copied).replace(carry=jax.device_put(carry, self._split))

  def differing(self, state):
    place = jax.device_put(np.zeros(self._devices, np.int32), self._split)
    found = jax.device_get(self._differ(state.replace(carry=None), place))
    return [
      jax.tree_util.keystr(path, simple=True, separator='/')
      for path, differs in jax.tree.leaves_with_path(found)
      if differs
    ]

  def _by_device(self, rows):
    """[rows, ...] -> [devices, rows / devices, ...]."""
    return rows.reshape(self._devices, -1, *rows.shape[1:])


def _first_copy(tree):
  """Of arrays that all devices have, those of this process's first device."""
  return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def _differs(leaf):
  """Whether the replicas' bits of a leaf differ; NaNs are bits, too."""
  if leaf.dtype == bool:
    leaf = leaf.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(leaf, f'uint{8 * leaf.dtype.itemsize}')
  return (jax.lax.pmax(bits, AXIS) != jax.lax.pmin(bits, AXIS)).any()


def choose_devices(wanted: int, batch_size: int) -> int:
  """How many of this process's devices to train on, so that all processes' shares of the batch are
  equal.

  Args:
    wanted: a number, or 0 for as many as can share the batch.

  Raises:
    UserError: there are fewer, or the batch cannot be shared so.
  """
  there, (_, rows) = jax.local_device_count(), share(batch_size, 'config.batch_size')
  possible = [count for count in range(1, there + 1) if rows % count == 0]
  if not wanted:
    return possible[-1]
  if wanted > there:
    raise UserError(f'--devices={wanted}: there {"is" if there == 1 else "are"} {there}')
  if wanted not in possible:
    each = 'a batch' if jax.process_count() == 1 else "a process's share of the batch"
    nearest = min(possible, key=lambda count: abs(count - wanted))
    raise UserError(
      f'--devices={wanted} cannot share {each} of {rows} sequences equally: take --devices={nearest} or '
      'another --config.batch_size'
    )
  return wanted


# Processes
# --------------------------------------------------------------------------------------------------


def join(coordinator: str = '', num_processes: int | None = None, process_id: int | None = None):
  """Makes this process one of several that train together. Call it before anything that uses a
  device.

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
  if all(given):
    host, _, port = coordinator.rpartition(':')
    if not host or not port.isdigit() or int(port) > 65535:
      raise UserError(f'--coordinator={coordinator}: expected HOST:PORT, such as node1:9876')
    if not 0 <= process_id < num_processes:
      raise UserError(
        f'--process_id={process_id}: expected 0 to {num_processes - 1}, by --num_processes'
      )
    if num_processes == 1:
      return
  elif coordinator == 'none' or not _on_a_cluster():
    return
  where = {}
  if all(given):
    where = dict(
      coordinator_address=coordinator, num_processes=num_processes, process_id=process_id
    )
    print(
      f'process {process_id} of {num_processes}: waiting for the others at {coordinator}, up to {PATIENCE} seconds',
      file=sys.stderr,
      flush=True,
    )
  elif os.environ.get(
    'CUDA_VISIBLE_DEVICES'
  ):  # JAX would take one device, numbered as if it saw its neighbours' too
    where = dict(local_device_ids=list(range(len(os.environ['CUDA_VISIBLE_DEVICES'].split(',')))))
  # it would take SIGTERM from the run, which saves at it
  jax.config.update('jax_enable_preemption_service', False)
  try:
    jax.distributed.initialize(
      **where, initialization_timeout=PATIENCE, heartbeat_timeout_seconds=HEARTBEAT
    )
  except (RuntimeError, ValueError) as error:
    raise UserError(f'the processes cannot find each other: {str(error).splitlines()[0]}') from None


def _on_a_cluster():
  """Whether Slurm or a TPU pod started several processes of this program."""
  # Of the step, which srun begins; a batch script has the variables of the job.
  slurm = (
    int(os.environ.get('SLURM_STEP_NUM_TASKS', '1')) > 1 and 'SLURM_STEP_NODELIST' in os.environ
  )
  return slurm or ',' in os.environ.get('TPU_WORKER_HOSTNAMES', '')


def process_index() -> int:
  """Which of the processes this is. Process 0 prints, logs and saves."""
  return jax.process_index()


def process_count() -> int:
  """How many processes train together."""
  return jax.process_count()


def share(total: int, name: str = '') -> tuple[int, int]:
  """(first, count): the equal share of `total` things that is this process's. UserError where it
  cannot be equal.
  """
  processes = jax.process_count()
  if total % processes:
    near = max(processes, round(total / processes) * processes)
    raise UserError(f'{name} is {total}: {processes} processes can share {near}: --{name}={near}')
  return jax.process_index() * (total // processes), total // processes


def exchange(value) -> list:
  """What each process passes here, by process. Anything that JSON can hold; all processes call it
  together.
  """
  if jax.process_count() == 1:
    return [value]
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(len(data), np.int32))
  # few sizes: each one is a program
  padded = np.zeros(2 ** int(sizes.max() - 1).bit_length(), np.uint8)
  padded[: len(data)] = data
  rows = multihost_utils.process_allgather(padded)
  return [json.loads(bytes(row[:size]).decode()) for row, size in zip(rows, sizes)]


def concatenate(tree):
  """Every process's arrays [rows, ...] one after the other, in NumPy; all processes call it
  together.
  """
  if jax.process_count() == 1:
    return tree
  gathered = multihost_utils.process_allgather(tree)  # [processes, rows, ...]
  return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), gathered)


# One device
# --------------------------------------------------------------------------------------------------


def _jit(function, **how):
  """`jax.jit` with the compiler options of this backend; those that the user's XLA_FLAGS set are
  left to them.
  """
  given = os.environ.get('XLA_FLAGS', '')
  options = (
    {}
    if has_accelerator()
    else {name: value for name, value in CPU_OPTIONS.items() if name not in given}
  )
  return jax.jit(function, compiler_options=options or None, **how)


def train_together(agent: Agent):
  """`train_step` of several seeds compiled into one program, for one device.

  Returns: a function of tuples (states, batches), one of each per seed, that returns tuples
    (states, metrics). The states are donated.
  """

  def step(states, batches):
    # Stacked and unstacked in every update, so that each seed's state stays an array of its own for
    # acting and saving. By its memory's 3.3 TB/s that is about 2 ms for 5 seeds of the paper's size
    # on an H100: calculated, not measured.
    states, metrics = jax.vmap(agent.train_step)(_stack(states), _stack(batches))
    return _unstack(states, len(batches)), _unstack(metrics, len(batches))

  return _jit(step, donate_argnums=0)


def _stack(trees):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unstack(tree, count):
  return tuple(jax.tree.map(lambda leaf: leaf[index], tree) for index in range(count))


def seeds_together() -> bool:
  """Whether seeds are updated by `train_together`: on accelerators, which one seed's small products
  leave half idle.

  A CPU runs products with a matrix of parameters per seed more slowly than one seed after the
  other.
  """
  return has_accelerator()


def use_compilation_cache():
  """Keeps compiled programs on disk, so that the second run starts at once. JAX's own settings take
  precedence.
  """
  if not jax.config.jax_compilation_cache_dir:
    root = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(root / 'harmony_jax' / 'xla'))


def keep_freed_memory():
  """Lets the C library keep large freed blocks instead of returning them to the system: a CPU's
  updates need them again.

  By default glibc maps every large buffer of a computation anew, and the system clears it page by
  page: 16,000 page faults and a fifth of the CPU time in an update of the small model
    (benchmarks/NOTES.md). Does nothing elsewhere.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (OSError, AttributeError, TypeError):  # not glibc
    return
  trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
  mallopt(mmap_max, 0)
  mallopt(trim_threshold, -1)
  mallopt(top_pad, 64 * 2**20)


def has_accelerator() -> bool:
  """Whether JAX found anything but a CPU."""
  return jax.default_backend() != 'cpu'
