"""The only file that places the pure functions of an agent on devices."""

import ctypes
import os
import pathlib

import jax
import jax.numpy as jnp

from harmony_jax.agent import Agent

# The compiler's first level makes programs as fast as its third, in two thirds of the time (benchmarks/NOTES.md).
CPU_OPTIONS = {'xla_backend_optimization_level': 1}


def compile_agent(agent: Agent) -> dict:
  """The agent's functions compiled for one device: init, train_step (its state is donated), act, report, task_losses."""
  return {'init': _jit(agent.init), 'train_step': _jit(agent.train_step, donate_argnums=0),
          'act': _jit(agent.act, static_argnames='mode'),
          'report': _jit(agent.report, static_argnames='context'), 'task_losses': _jit(agent.task_losses)}


def _jit(function, **how):
  """`jax.jit` with the compiler options of this backend; those that the user's XLA_FLAGS set are left to them."""
  given = os.environ.get('XLA_FLAGS', '')
  options = {} if has_accelerator() else {name: value for name, value in CPU_OPTIONS.items() if name not in given}
  return jax.jit(function, compiler_options=options or None, **how)


def train_together(agent: Agent):
  """`train_step` of several seeds compiled into one program, for one device.

  Returns: a function of tuples (states, batches), one of each per seed, that returns tuples (states, metrics). The
    states are donated.
  """
  def step(states, batches):
    # Stacked and unstacked in every update, so that each seed's state stays an array of its own for acting and saving.
    # By its memory's 3.3 TB/s that is about 2 ms for 5 seeds of the paper's size on an H100: calculated, not measured.
    states, metrics = jax.vmap(agent.train_step)(_stack(states), _stack(batches))
    return _unstack(states, len(batches)), _unstack(metrics, len(batches))

  return _jit(step, donate_argnums=0)


def _stack(trees):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unstack(tree, count):
  return tuple(jax.tree.map(lambda leaf: leaf[index], tree) for index in range(count))


def seeds_together() -> bool:
  """Whether seeds are updated by `train_together`: on accelerators, which one seed's small products leave half idle.

  A CPU runs products with a matrix of parameters per seed more slowly than one seed after the other.
  """
  return has_accelerator()


def use_compilation_cache():
  """Keeps compiled programs on disk, so that the second run starts at once. JAX's own settings take precedence."""
  if not jax.config.jax_compilation_cache_dir:
    root = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(root / 'harmony_jax' / 'xla'))


def keep_freed_memory():
  """Lets the C library keep large freed blocks instead of returning them to the system: a CPU's updates need them again.

  By default glibc maps every large buffer of a computation anew, and the system clears it page by page: 16,000 page
  faults and a fifth of the CPU time in an update of the small model (benchmarks/NOTES.md). Does nothing elsewhere.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (OSError, AttributeError, TypeError):  # not glibc
    return
  trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
  mallopt(mmap_max, 0)
  mallopt(trim_threshold, -1)
  mallopt(top_pad, 64 * 2 ** 20)


def has_accelerator() -> bool:
  """Whether JAX found anything but a CPU."""
  return jax.default_backend() != 'cpu'
