"""What tests leave out of tracing and lowering, which is most of what programs cost here that were
compiled before.

Programs share the context that MLIR describes them in. JAX makes one for every program, in 4 ms,
and it stays for as long as the program does, with 1 MB. And a parameter is taken as it is where it
has the shape that its initialiser is asked for: flax would trace the initialiser in every call to
look at what it returns, for a seventh of tracing an update.
"""

import threading

import numpy as np
from flax.core.scope import Scope
from jax._src.interpreters import mlir

PROGRAMS = 200  # of a context, which keeps whatever it has seen

_kept = threading.local()


def quicken():
  """Leave both out, from now on."""
  if Scope.param.__name__ != 'known':
    share_contexts(mlir.make_ir_context)
    trust_shapes(Scope.param)


def share_contexts(make):
  """Give the programs of a thread one context, `PROGRAMS` at a time."""

  def shared():
    count = getattr(_kept, 'count', 0)
    if count % PROGRAMS == 0:
      _kept.context = make()
    _kept.count = count + 1
    return _kept.context

  mlir.make_ir_context = shared


def trust_shapes(look):
  """Look at what an initialiser returns only where a parameter is not as it is asked for."""

  def known(self, name, init_fn, *args, **more):
    if args and self.has_variable('params', name):
      value = self.get_variable('params', name)
      if np.shape(value) == args[0]:
        self.reserve(name, 'params')
        return value
    return look(self, name, init_fn, *args, **more)

  Scope.param = known
