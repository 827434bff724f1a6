"""Collectives for data parallelism; where nothing is mapped they are the identity.

Each replica has an equal share of the batch: row i of replica r is row r · (rows of a replica) + i
of the whole batch. The mapped axis is known here alone, while a mapped function is traced.

Where gradients flow through `mean`, a replica's gradient contains what its share does to the
others' losses; the mean of the replicas' gradients is then the gradient of the mean loss, whatever
nonlinear function of the mean that is.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

T = TypeVar('T')
_axis: contextvars.ContextVar[str | None] = contextvars.ContextVar('axis', default=None)


@contextlib.contextmanager
def mapped(axis: str) -> Iterator[None]:
  """Say that what is traced inside is mapped over this axis (of `jax.pmap`)."""
  token = _axis.set(axis)
  try:
    yield
  finally:
    _axis.reset(token)


def axis() -> str | None:
  """Return the mapped axis, for libraries that ask for its name; None where nothing is mapped."""
  return _axis.get()


def mean(tree: T) -> T:
  """Return every leaf's mean over replicas: of means over equal shares, that over the batch."""
  return jax.lax.pmean(tree, _axis.get()) if _axis.get() else tree


def everywhere(x: jax.Array) -> jax.Array:
  """Return the replicas' `x` [...] together, [R, ...] on each of them; one replica's as it is."""
  return jax.lax.all_gather(x, _axis.get()) if _axis.get() else x


def logsumexp(x: jax.Array) -> jax.Array:
  """Return log Σ exp over the first axis, of all replicas' rows."""
  here = jax.nn.logsumexp(x, 0)
  return jax.nn.logsumexp(everywhere(here), 0) if _axis.get() else here


def draw_rows(key: jax.Array, count: int, draw: Callable[[jax.Array], Any]) -> Any:
  """Return `draw(key of a row)` for this replica's `count` rows of the batch, leaves [B, ...].

  A row's key depends on its place in the whole batch, so that a batch that is split over replicas
  draws what the whole one would have drawn.
  """
  first = jax.lax.axis_index(_axis.get()) * count if _axis.get() else 0
  return jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(first + jnp.arange(count))
