"""Updates whose batch, losses or gradients are not finite: left out, and named."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from harmony_jax import replicas


def guard(update: Callable, state: Any, batch: Any, skip: int) -> tuple[Any, dict]:
  """Do `update(state, batch)` where it is finite; else count it and change nothing.

  Only the batch, losses and gradients decide, no other metric. After more than `skip` updates that
  were not finite nothing changes at all any more, so that the state is the one in which update
  number `state.step` goes wrong.

  Args:
    update: returns (next state, metrics, tree of losses and gradients or their norms).

  Returns: (state, metrics with `nonfinite_updates`).
  """
  after, metrics, checked = update(state, batch)
  # Every replica looks at its own rows; all must come to the same end.
  finite = replicas.mean(all_finite((batch, checked)).astype(jnp.float32)) == 1
  frozen = state.nonfinite > skip
  count = state.nonfinite + (~finite & ~frozen)
  step = state.step + (count <= skip)
  kept = jax.tree.map(
    lambda new, old: jnp.where(finite & ~frozen, new, old),
    *(each.replace(rng=None) for each in (after, state)),
  )
  state = kept.replace(rng=state.rng, nonfinite=count, step=step)
  return state, metrics | {'nonfinite_updates': count}


def all_finite(tree: Any) -> jax.Array:
  """Return whether all floating numbers of a tree are finite."""
  leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
  return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def by_name(stages: dict[str, Any]) -> dict[str, dict[str, jax.Array]]:
  """Return {stage: {name of an array: whether it is finite}} for trees of arrays by stage."""
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator='/')
  return {
    stage: {
      name(path): jnp.isfinite(leaf).all()
      for path, leaf in jax.tree.leaves_with_path(tree)
      if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    for stage, tree in stages.items()
  }
