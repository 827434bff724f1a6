"""What the replicas of one training step tell each other, so that their number changes nothing.

Each replica has an equal share of the batch: row i of replica r is row r · (rows of a replica) + i
of the whole batch. While a function that is mapped over replicas is traced, inside
`with mapped(axis)`, what is here spans all of them; elsewhere there is one replica, and `mean` and
`everywhere` return what they are given.

Where gradients flow through `mean`, a replica's gradient contains what its share does to the
others' losses; the mean of the replicas' gradients is then the gradient of the mean loss, whatever
nonlinear function of the mean that is.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar('T')
_axis: contextvars.ContextVar[str | None] = contextvars.ContextVar('axis', default=None)


@contextlib.contextmanager
def mapped(axis: str) -> Iterator[None]:
  """Have what is traced in this block be one of the replicas along an axis of `jax.pmap`."""
  token = _axis.set(axis)
  try:
    yield
  finally:
    _axis.reset(token)


def axis() -> str | None:
  """Return the axis of the replicas, for layers that take its name (batch norms), or None."""
  return _axis.get()


def mean(tree: T) -> T:
  """Return every leaf's mean over replicas: of means over their shares, that of the whole batch."""
  return jax.lax.pmean(tree, axis()) if axis() else tree


def everywhere(x: jax.Array) -> jax.Array:
  """Return the replicas' `x` [...] together, [R, ...] on each; for one replica as it is, [...]."""
  return jax.lax.all_gather(x, axis()) if axis() else x


def rows(count: int) -> jax.Array:
  """Return [count] indices in the whole batch of this replica's rows, by which noise is drawn."""
  first = jax.lax.axis_index(axis()) * count if axis() else 0
  return first + jnp.arange(count)
