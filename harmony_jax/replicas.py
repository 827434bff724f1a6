"""What the replicas of one training step tell each other, so that their number does not change the
result.

Each replica has an equal share of the batch: row i of replica r is row r · (rows of a replica) + i
of the whole batch. A function here takes the name of the mapped axis (of `jax.pmap`); with None
there is one replica, and nothing to tell.

Where gradients flow through `mean`, a replica's gradient contains what its share does to the
others' losses; the mean of the replicas' gradients is then the gradient of the mean loss, whatever
nonlinear function of the mean that is.
"""

import jax
import jax.numpy as jnp


def mean(tree, axis_name: str | None):
  """The mean over replicas of every leaf: of means over equal shares, the mean over the whole
  batch.
  """
  return jax.lax.pmean(tree, axis_name) if axis_name else tree


def everywhere(x, axis_name: str | None):
  """The replicas' `x` [...] together, [R, ...] on each of them; for one replica as it is."""
  return jax.lax.all_gather(x, axis_name) if axis_name else x


def rows(count: int, axis_name: str | None):
  """[count] indices in the whole batch of this replica's rows, by which noise is drawn."""
  first = jax.lax.axis_index(axis_name) * count if axis_name else 0
  return first + jnp.arange(count)
