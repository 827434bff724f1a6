"""The only file that places the pure functions of a method on devices.

On one device they are compiled by `jax.jit`. On several, `train_step` is mapped over them by
`jax.pmap`: every device has a copy of the parameters and an equal share of the batch, and what must
see the whole batch is reduced across them (`replicas.py`), so that the result does not depend on
their number. Everything else, acting too, runs on one device.

The pmap of today's JAX is a thin layer over `jit(shard_map)`; that it takes and gives arrays of
this process alone is what we want with several (`processes.py`). It hands arrays on without a copy,
but keys only through the host: so they travel as numbers here.
"""

import contextlib
import ctypes
import dataclasses
import errno
import functools
import inspect
import logging
import os
import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from harmony_jax import convolution, processes, replicas, tiles
from harmony_jax.errors import UserError
from harmony_jax.method import Batch, Method, Metrics, TrainState, Variables

# The compiler's first level makes programs as fast as its third, in two thirds of the time
# (benchmarks/NOTES.md).
CPU_OPTIONS = {'xla_backend_optimization_level': 1}
AXIS = 'replicas'
_log = logging.getLogger(__name__)
_STATIC = ('context', 'count', 'length')  # arguments of capabilities, by which shapes are known


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A method's compiled functions.

  Attributes:
    init(key): the state, where `train_step` wants it.
    train_step(state, batch): as the method's; the state is donated, the batch is from `put`, and
      may hold `tiles.Tiles` in place of pictures.
    put(batch): what this process has drawn, [B / processes, T, …], to where `train_step` wants it.
    act(variables, carry, observation, is_first, call, key, mode=False): as the method's, with the
      randomness of call number `call` (uint32) of a player with this key; on one device.
    initial_carry(variables, count): as the method's.
    variables(state): the method's, on this process's first device, without a copy; they go with the
      next update. local(state): likewise the whole state, its carry aside.
    gather(state): a state on one device, as of `Method.init`. All processes call it together.
    spread(state): the way back.
    differing(state): the names of arrays whose bits are not the same on all devices: none, unless
      something is broken. All processes call it together.
    feedback(state): the method's, the rows of this process. All processes call it together.
    look(name): a capability, compiled, on one device; `context`, `count` and `length` are passed by
      name.
  """

  init: Callable[[jax.Array], TrainState]
  train_step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
  put: Callable[[Batch], Batch]
  act: Callable
  initial_carry: Callable[[Variables, int], Any]
  variables: Callable[[TrainState], Variables]
  local: Callable[[TrainState], TrainState]
  gather: Callable[[TrainState], TrainState]
  spread: Callable[[TrainState], TrainState]
  differing: Callable[[TrainState], list[str]]
  feedback: Callable[[TrainState], Any]
  look: Callable[[str], Callable]


def compile_method(method: Method, devices: int = 1) -> Compiled:
  """Return a method's functions compiled for so many of this process's devices."""
  compiled = functools.partial(jit, precision=method.settings.matmul_precision)

  def train_step(state, batch):
    return method.train_step(state, tiles.apart(batch))

  def act(variables, carry, observation, is_first, call, key, mode=False):
    return method.act(variables, carry, observation, is_first, jax.random.fold_in(key, call), mode)

  @functools.cache
  def look(name):
    function = method.capabilities[name]
    static = [each for each in inspect.signature(function).parameters if each in _STATIC]
    return compiled(function, static_argnames=static)

  if devices * processes.here().count > 1:
    shared = Replicas(method, devices)
    alike = {'act', 'initial_carry', 'look'}
    names = {each.name for each in dataclasses.fields(Compiled)} - alike
    placed = {name: getattr(shared, name) for name in names}
  else:
    same = lambda state: state
    placed = {
      'init': compiled(method.init),
      'train_step': compiled(train_step, donate_argnums=0),
      'put': jax.device_put,
      'variables': method.variables,
      **dict.fromkeys(('local', 'gather', 'spread'), same),
      'differing': lambda state: [],
      'feedback': compiled(method.feedback),
    }
  carry = compiled(method.initial_carry, static_argnums=1)
  act = compiled(act, static_argnames='mode')
  return Compiled(act=act, initial_carry=carry, look=look, **placed)


class Replicas:
  """What of `Compiled` is not the same on several devices.

  The state is a `TrainState` of which every device holds a copy, but for `carry` [devices, rows,
  ...], of which each holds its rows. `rng` is the key's numbers.
  """

  def __init__(self, method: Method, devices: int):
    self._method, self._devices, self._group = method, devices, processes.here()
    precision = method.settings.matmul_precision
    self._init = jit(method.init, precision)
    mesh = Mesh(np.array(jax.local_devices()[:devices]), (AXIS,))
    self._copied = NamedSharding(mesh, PartitionSpec())
    self._split = NamedSharding(mesh, PartitionSpec(AXIS))
    everyone = []
    for index in range(self._group.count):
      everyone += jax.local_devices(index)[:devices]
    # On replicas the state comes in two parts, what all have and what each has.
    mapped = functools.partial(jax.pmap, axis_name=AXIS, devices=everyone)
    step, feedback = (
      at_precision(each, precision) for each in (self._replica_step, self._replica_feedback)
    )
    axes = {'in_axes': (None, 0, 0), 'out_axes': (None, 0, None)}
    self._step = mapped(step, **axes, donate_argnums=(0, 1))
    self._feedback = mapped(feedback, in_axes=(None, 0))
    find = lambda state, place: jax.tree.map(_differs, state)  # `place` is there to be mapped
    self._differ = mapped(find, in_axes=(None, 0), out_axes=None)

  def _replica_step(self, state, carry, batch):
    with replicas.mapped(AXIS):
      state, metrics = self._method.train_step(_joined(state, carry), tiles.apart(batch))
    return *_parted(state), metrics

  def _replica_feedback(self, state, carry):
    with replicas.mapped(AXIS):
      return self._method.feedback(_joined(state, carry))

  def init(self, key: jax.Array) -> TrainState:
    """Return a fresh state."""
    return self.spread(self._init(key))

  def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """Do one update; the state is donated."""
    copied, carry, metrics = self._step(state.replace(carry=()), state.carry, batch)
    return copied.replace(carry=carry), metrics

  def feedback(self, state: TrainState) -> Any:
    """Return rows [B / processes, ...] of this process, or None."""
    return _merged(self._feedback(state.replace(carry=()), state.carry))

  def put(self, batch: Batch) -> Batch:
    """Share this process's rows out."""
    return jax.device_put(jax.tree.map(self._by_device, batch), self._split)

  def variables(self, state: TrainState) -> Variables:
    """Return what acting takes, of this process's first device."""
    first = {name: _first_copy(getattr(state, name)) for name in self._method.acting}
    return self._method.variables(types.SimpleNamespace(**first))

  def local(self, state: TrainState) -> TrainState:
    """Return the state of this process's first device, without the carry."""
    return _joined(_first_copy(state.replace(carry=())), ())

  def gather(self, state: TrainState) -> TrainState:
    """Return the state with the whole carry on one device."""
    rows = self._group.concatenate(_merged(jax.device_get(state.carry)))
    return self.local(state).replace(carry=jax.device_put(rows))

  def spread(self, state: TrainState) -> TrainState:
    """Return the state of one device as `train_step` takes it."""
    mine = self._group.share(self._method.settings.batch_size, 'config.batch_size')
    copied, carry = _parted(state)
    carry = jax.tree.map(lambda leaf: self._by_device(np.asarray(leaf)[mine]), carry)
    return jax.device_put(copied, self._copied).replace(carry=jax.device_put(carry, self._split))

  def differing(self, state: TrainState) -> list[str]:
    """Return the names of arrays that are not the same on all devices."""
    place = jax.device_put(np.zeros(self._devices, np.int32), self._split)
    found = jax.device_get(self._differ(state.replace(carry=()), place))
    return [
      jax.tree_util.keystr(path, simple=True, separator='/')
      for path, differs in jax.tree.leaves_with_path(found)
      if differs
    ]

  def _by_device(self, rows):
    """[rows, ...] -> [devices, rows / devices, ...]."""
    return rows.reshape(self._devices, -1, *rows.shape[1:])


def _joined(state, carry):
  return state.replace(carry=carry, rng=jax.random.wrap_key_data(state.rng))


def _parted(state):
  return state.replace(carry=(), rng=jax.random.key_data(state.rng)), state.carry


def _merged(tree):
  """[devices, rows, ...] -> [devices · rows, ...]."""
  return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), tree)


def _first_copy(tree):
  """Of arrays that all devices have, those of this process's first device."""
  return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)


def _differs(leaf):
  """Whether the largest of the replicas' bits is not the smallest; NaNs are bits, too."""
  if leaf.dtype == bool:
    leaf = leaf.astype(jnp.uint8)
  bits = jax.lax.bitcast_convert_type(leaf, f'uint{8 * leaf.dtype.itemsize}')
  return (jax.lax.pmax(bits, AXIS) != jax.lax.pmin(bits, AXIS)).any()


def choose_devices(wanted: int, batch_size: int) -> int:
  """Return how many of this process's devices share its part of a batch equally.

  Args:
    wanted: a number, or 0 for as many as can.

  Raises:
    UserError: there are fewer, or the batch cannot be shared so.
  """
  group, there = processes.here(), jax.local_device_count()
  share = group.share(batch_size, 'config.batch_size')
  rows = share.stop - share.start
  possible = [count for count in range(1, there + 1) if rows % count == 0]
  if not wanted:
    return possible[-1]
  if wanted > there:
    raise UserError(f'--devices={wanted}: there {"is" if there == 1 else "are"} {there}')
  if wanted not in possible:
    each = 'a batch' if group.count == 1 else "a process's share of the batch"
    nearest = min(possible, key=lambda count: abs(count - wanted))
    raise UserError(
      f'--devices={wanted} cannot share {each} of {rows} sequences equally: take '
      f'--devices={nearest} or another --config.batch_size'
    )
  return wanted


def train_together(method: Method) -> Callable[[tuple, tuple], tuple[tuple, tuple]]:
  """Return `train_step` of several seeds as one program: (states, batches) -> (states, metrics).

  All are tuples with one of each seed's; the states are donated.
  """

  def step(states, batches):
    # Stacked and unstacked in every update, so that each seed's state stays an array of its own for
    # acting and saving. By its memory's 3.3 TB/s that is about 2 ms for 5 seeds of the paper's size
    # on an H100: calculated, not measured.
    one = lambda state, batch: method.train_step(state, tiles.apart(batch))
    states, metrics = jax.vmap(one)(_stack(states), _stack(batches))
    return _unstack(states, len(batches)), _unstack(metrics, len(batches))

  return jit(step, method.settings.matmul_precision, donate_argnums=0)


def over_agents(
  function: Callable, devices: int, width: int, mapped: int, precision: str, donate: bool = False
) -> Any:
  """Return a function of one agent compiled for [devices, width] of them: pmap over vmap.

  They do not communicate. One agent on a device is not mapped: its products stay what they are.

  Args:
    mapped: how many arguments, the first ones, are an agent's own, with these two axes in front;
      so are all results. The other arguments all agents share.
    donate: whether the first argument goes.
  """

  def on_one(*args):
    own, shared = args[:mapped], args[mapped:]
    if width > 1:
      with convolution.in_form('matmul'):
        return jax.vmap(lambda *own: function(*own, *shared))(*own)
    found = function(*jax.tree.map(lambda leaf: leaf[0], own), *shared)
    return jax.tree.map(lambda leaf: leaf[None], found)

  donated: dict[str, Any] = {'donate_argnums': 0} if donate else {}
  if devices == 1:
    strip = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
    alone = lambda *args: jax.tree.map(
      lambda leaf: leaf[None], on_one(*strip(args[:mapped]), *args[mapped:])
    )
    return jit(alone, precision, **donated)
  shared = len(inspect.signature(function).parameters) - mapped
  axes = (0,) * mapped + (None,) * shared
  on_one = at_precision(on_one, precision)
  return jax.pmap(on_one, in_axes=axes, devices=jax.local_devices()[:devices], **donated)


def _stack(trees):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unstack(tree, count):
  one = lambda index: jax.tree.map(lambda leaf: leaf[index], tree)
  return tuple(map(one, range(count)))


def jit(function: Callable, precision: str = 'default', **how: Any) -> Callable:
  """Return `jax.jit` with this backend's compiler options; those in XLA_FLAGS are left to them.

  Args:
    precision: of products of float32, as in the settings.
  """
  given = os.environ.get('XLA_FLAGS', '')
  options = {} if has_accelerator() else {k: v for k, v in CPU_OPTIONS.items() if k not in given}
  return jax.jit(at_precision(function, precision), compiler_options=options or None, **how)


def at_precision(function: Callable, precision: str) -> Callable:
  """Return a function whose products of float32 are traced at a precision; 'default' is JAX's."""
  return function if precision == 'default' else jax.default_matmul_precision(precision)(function)


def no_transfer() -> contextlib.AbstractContextManager:
  """Return a context in which a copy to a device that nobody asked for is an error.

  Not where JAX is told to compile nothing: each operation copies its constants then.
  """
  disabled = jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
  return contextlib.nullcontext() if disabled else jax.transfer_guard('disallow')


def use_compilation_cache() -> None:
  """Keep compiled programs on disk, so that the second run starts at once.

  They go where JAX is told to keep them, or to the user's cache; where nothing can be written, a
  warning says so.
  """
  place = getattr(jax.config, 'jax_compilation_cache_dir', None)
  if not place:
    root = os.path.expanduser(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
    place = os.path.join(root, 'harmony_jax', 'xla')
  if '://' not in place:  # JAX itself reaches buckets
    try:
      if place.startswith('~'):  # nobody's home
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
      os.makedirs(place, exist_ok=True)
      if not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)
    except OSError as error:
      told = 'compiled programs are not kept for the next start: %s cannot be written (%s)'
      _log.warning(told, place, error.strerror)
      place = None
  jax.config.update('jax_compilation_cache_dir', place)


def keep_freed_memory() -> None:
  """Let the C library keep large freed blocks: a CPU's updates need them again.

  By default glibc maps every large buffer of a computation anew, and the system clears it page by
  page: 16,000 page faults and a fifth of the CPU time in an update of the small model
  (benchmarks/NOTES.md). Does nothing elsewhere.
  """
  if has_accelerator():
    return
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (OSError, AttributeError, TypeError):  # not glibc
    return
  trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
  for option, value in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 64 * 2**20)):
    mallopt(option, value)


def has_accelerator() -> bool:
  """Return whether JAX found anything but a CPU."""
  return jax.default_backend() != 'cpu'
