"""How long the first call of a program lets one wait, in a new process with an empty cache, and in
the next one.
"""

import os
import tempfile
import time

import jax
import numpy as np

from harmony_jax import parallel
from harmony_jax.benchmarking import subject
from harmony_jax.benchmarking.machine import in_fresh_process
from harmony_jax.training.evaluation import Player

CALLS = 3


def measure(config, actions=0) -> dict:
  """{'first': {…}, 'second': {…}}: `first_calls` in two processes that share a cache folder, new
  and empty at first.

  `compile_seconds` and `compile_seconds_cached` are what the training step takes from its function
  to a program.
  """
  with tempfile.TemporaryDirectory() as folder:
    # for the new processes; this one compiles nothing
    os.environ['JAX_COMPILATION_CACHE_DIR'] = folder
    first, second = (in_fresh_process(first_calls, config, actions) for _ in range(2))
  ready = [
    run['train_step']['trace_seconds'] + run['train_step']['compile_seconds']
    for run in (first, second)
  ]
  return {
    'compile_seconds': ready[0],
    'compile_seconds_cached': ready[1],
    'first': first,
    'second': second,
  }


def first_calls(config, actions=0) -> dict:
  """{'train_step', 'policy': {'trace_seconds', 'compile_seconds', 'first_call_seconds',
  'programs'}} in this process.

  The three times add up: tracing and lowering, then the program from XLA or the cache, then running
  it. `programs` is the number of programs after three calls, which should be 1.
  """
  parallel.use_compilation_cache()
  if not parallel.has_accelerator():
    parallel.keep_freed_memory()
  spec = subject.make_spec(config, actions)
  agent = subject.make_agent(config, spec)
  compiled = parallel.compile_agent(agent)
  state = subject.first_state(compiled)
  timestep = subject.random_timestep(spec, 1)
  act, key, calls = compiled['act'], jax.random.key(1), iter(range(CALLS))
  player = Player(agent, act, state.weights, 1, key)
  # as the player hands it over
  seen = jax.device_put((timestep.observation, timestep.is_first, np.uint32(0)))
  result = {
    'policy': _first_calls(
      act,
      lambda: act.lower(state.weights, player.carry, *seen, key, mode=False),
      lambda: player.act(state.weights, timestep, next(calls)),
    )
  }
  batch, kept = jax.device_put(subject.random_batch(config, spec)), [state]

  def train():
    kept[0] = jax.block_until_ready(compiled['train_step'](kept[0], batch))[0]

  step = compiled['train_step']
  return {'train_step': _first_calls(step, lambda: step.lower(kept[0], batch), train), **result}


def _first_calls(function, lower, call):
  """`lower` gives the lowered program, which a call of `function` then finds compiled."""
  began = time.perf_counter()
  lowered = lower()
  traced = time.perf_counter()
  lowered.compile()
  compiled = time.perf_counter()
  call()
  called = time.perf_counter()
  for _ in range(CALLS - 1):
    call()
  return {
    'trace_seconds': traced - began,
    'compile_seconds': compiled - traced,
    'first_call_seconds': called - compiled,
    'programs': function._cache_size(),
  }
