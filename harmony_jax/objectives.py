"""What a world model learns its representation from: an objective, and reconstruction.

An objective says in how many views a batch is seen, which tasks are weighed in the place of
`observation`, and what they lose. `prototypes.py` has another one. Its parameters are entries of
the world model's. B rows, V views, T steps, E embedding, F feature.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from harmony_jax.encoders import Decoder

Params = Mapping[str, Any]
Losses = dict[str, jax.Array]


class Objective:
  """The interface, with what most objectives have in common.

  Attributes:
    tasks: those that stand for `observation` in the weighting. views: V.
  """

  tasks: tuple[str, ...] = ('observation',)
  views: int = 1

  def init(self, key: jax.Array) -> tuple[dict, dict]:
    """Return (parameters by entry of the world model, running statistics by entry)."""
    raise NotImplementedError

  def losses(
    self,
    params: Params,
    slow: Params,
    statistics: Params,
    batch: Params,
    embed: jax.Array,
    feature: jax.Array,
  ) -> tuple[Losses, dict]:
    """Return (means by name, running statistics by entry).

    Args:
      params: the world model's. slow: as `slow` gave it. batch: as the model saw it.
      embed: [V B, T, E]. feature: [V B, T, F].
    """
    raise NotImplementedError

  def elements(self) -> dict[str, int]:
    """Return over how many numbers the loss of each task is summed, where it is not one."""
    return {}

  def predict(self, params: Params, statistics: Params, feature: jax.Array) -> dict[str, Any]:
    """Return what the model makes of features [..., F], for looking at."""
    return {}

  def noise(self, key: jax.Array) -> Any:
    """Draw what `view` needs for one row; None if nothing."""
    return None

  def view(self, batch: Params, noise: Any) -> Params:
    """Return a batch [V B, ...] in its V views as the model sees it; noise leaves [V B, ...]."""
    return batch

  def slow(self, params: Params) -> dict:
    """Return the parameters of which slow copies are kept."""
    return {}

  def update_slow(self, slow: Params, params: Params, step: jax.Array) -> dict:
    """Return the slow copies after update number `step`."""
    return {}

  def project(self, params: Params) -> Params:
    """Return the parameters as an update begins with them."""
    return params

  def mask(self, gradient: Params, step: jax.Array) -> Params:
    """Return the gradient of those parameters that learn in update number `step`."""
    return gradient


@dataclasses.dataclass(frozen=True)
class Reconstruction(Objective):
  """-log p(observation | state), by a decoder.

  Vectors are a loss of their own, `vector`, with weight 1 as the authors ran it, or part of
  `observation` (`harmonize_vector`).
  """

  decoder: Decoder
  harmonize_vector: bool = False

  @property
  def tasks(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
    """`observation`, unless there are vectors only and they are a loss of their own."""
    return ('observation',) if self.decoder.images or self.harmonize_vector else ()

  def elements(self) -> dict[str, int]:
    """Return the numbers of an observation: H·W·C of pictures."""
    counted = {**self.decoder.images, **(self.decoder.vectors if self.harmonize_vector else {})}
    return dict.fromkeys(self.tasks, sum(math.prod(shape) for shape in counted.values()))

  def init(self, key: jax.Array) -> tuple[dict, dict]:
    """Return the decoder's."""
    made = self.decoder.init(key)
    statistics = {'decoder': made['batch_stats']} if 'batch_stats' in made else {}
    return {'decoder': made['params']}, statistics

  def losses(
    self,
    params: Params,
    slow: Params,
    statistics: Params,
    batch: Params,
    embed: jax.Array,
    feature: jax.Array,
  ) -> tuple[Losses, dict]:
    """Return `observation` and `vector`."""
    found, after = self.decoder.losses(params['decoder'], statistics.get('decoder'), feature, batch)
    if self.harmonize_vector or 'vector' not in found:
      losses = {'observation': sum(found.values(), jnp.float32(0))}
    else:
      losses = {'observation' if k == 'image' else k: v for k, v in found.items()}
    return losses, {} if after is None else {'decoder': after}

  def predict(self, params: Params, statistics: Params, feature: jax.Array) -> dict[str, Any]:
    """Return {'observation': {name: [..., *shape]}}, images in [0, 1]."""
    decoded = self.decoder.predict(params['decoder'], statistics.get('decoder'), feature)
    return {'observation': decoded}
