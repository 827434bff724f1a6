"""Environments that are JAX themselves: one episode as pure functions, and N of them by the
convention of `base`.

What is written so can be stepped on a device, inside the program that learns
(harmony_jax/ondevice); `Environment` lets the ordinary loop have it as it has any other.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harmony_jax.envs import base


@dataclasses.dataclass(frozen=True, eq=False)
class Game:
  """An environment as pure functions of one episode, for jit, vmap and scan.

  Attributes:
    spec: as an environment has it.
    new: `new(seed) -> state`, a tree of arrays, for a seed [] int32.
    step: `step(state, action) -> (state, reward, last, terminal)`; the action is [] int32, or [A].
    observe: `observe(state) -> {name: array}`.
    length: time steps of every episode, the first among them; 0 where they differ.
  """

  spec: base.Spec
  new: Callable[[jax.Array], Any]
  step: Callable[[Any, jax.Array], tuple[Any, jax.Array, jax.Array, jax.Array]]
  observe: Callable[[Any], dict[str, jax.Array]]
  length: int = 0

  def nothing(self, num_envs: int) -> tuple[Any, base.TimeStep]:
    """Return (states, time step) of N environments that have not begun: zeros."""
    state = jax.eval_shape(self.new, jax.ShapeDtypeStruct((), np.int32))
    zeros = lambda each: np.zeros((num_envs, *each.shape), each.dtype)
    return jax.tree.map(zeros, state), base.empty_timestep(self.spec, num_envs)

  def advance(
    self,
    states: Any,
    last: base.TimeStep,
    actions: jax.Array,
    restart: jax.Array,
    seeds: jax.Array,
    idle: jax.Array,
  ) -> tuple[Any, base.TimeStep]:
    """Step N environments, or begin their episodes, or let them idle: see `base`."""
    # Where agents are mapped this is done in every step after all; Craftax draws a world in it.
    begun = jax.lax.cond(restart.any(), jax.vmap(self.new), lambda _: states, seeds)
    return jax.vmap(self._advance)(states, begun, last, actions, restart, idle)

  def _advance(self, state, begun, last, action, restart, idle):
    stepped, reward, over, terminal = self.step(state, action)
    now = _where(restart, begun, stepped)
    shown: Any = self.observe(now), jnp.where(restart, 0.0, reward), restart
    shown = base.TimeStep(*shown, *(flag & ~restart for flag in (over, terminal)))
    return _where(idle, (state, last), (now, shown))


def _where(flag, yes, no):
  return jax.tree.map(lambda a, b: jnp.where(flag, a, b), yes, no)


@functools.cache
def _compiled(game):
  """Once for all instances."""
  return jax.jit(game.advance)


class Environment:
  """N environments of a game, as `base` has them."""

  def __init__(self, game: Game, num_envs: int):
    self.game, self.spec, self.num_envs = game, game.spec, num_envs
    self._states, self._last = game.nothing(num_envs)

  def step(
    self,
    actions: np.ndarray,
    restart: np.ndarray,
    seeds: np.ndarray,
    idle: np.ndarray | None = None,
  ) -> base.TimeStep:
    """See `base`."""
    idle = np.zeros(self.num_envs, bool) if idle is None else idle
    kind = np.int32 if self.spec.discrete else np.float32
    given = np.asarray(actions, kind), np.asarray(restart), np.asarray(seeds, np.int32), idle
    self._states, self._last = _compiled(self.game)(self._states, self._last, *given)
    return jax.tree.map(np.array, self._last)  # the caller's own

  def close(self) -> None:
    pass
