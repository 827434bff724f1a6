"""Random environments through whole runs: what reaches an agent is what they gave, or a line says
why not. Nothing hangs, and no traceback is ours.
"""

import dataclasses
import json
import signal
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from configs import common
from harmony_jax import method
from harmony_jax.errors import EnvironmentFault, UserError
from tests import random_environments as drawn
from tests.runs import train

SECONDS = 60  # that no run needs


class Onlooker(method.Method):
  """Acts at random and learns nothing: its runs are about what it gets."""

  def __init__(self, settings, spec):
    self.settings, self.spec = settings, spec

  def init(self, key):
    zero = jnp.zeros((), jnp.int32)
    return method.TrainState({'w': jnp.zeros(())}, {}, (), zero, zero, key)

  def train_step(self, state, batch):
    seen = sum(jnp.mean(jnp.abs(array.astype(jnp.float32))) for array in batch.values())
    return state.replace(step=state.step + 1), {'loss/seen': seen}

  def initial_carry(self, variables, num_envs):
    return jnp.zeros((num_envs, 1))

  def act(self, variables, carry, observation, is_first, key, mode=False):
    sizes = self.spec.factors
    drawn = jax.random.uniform(key, (len(carry), self.spec.num_actions))
    *blocks, rest = jnp.split(drawn, np.cumsum(sizes, dtype=int), -1)
    chosen = [jax.nn.one_hot(block.argmax(-1), block.shape[-1]) for block in blocks]
    return jnp.concatenate([*chosen, 2 * rest - 1], -1), carry


METHOD = method.Entry(method.MethodSettings(), Onlooker)
NAME = f'{__name__}:METHOD'


def config_of(index: int):
  suite = common.suites()['gym']
  sizes = {
    'steps': 80,
    'num_envs': 2,
    'eval_every': 40,
    'checkpoint_every': 40,
    'eval_envs': 4,
  }  # in groups of 2: one program
  sizes |= {'eval_episodes': 2, 'final_eval_episodes': 2, 'batch_size': 2, 'batch_length': 4}
  sizes |= {'train_ratio': 2.0, 'log_every': 20, 'prefill_chunk': 4, 'replay_capacity': 1000}
  sizes |= {'video_every': 0, 'env.plan': index}
  sizes |= {'env.time_limit': drawn.PLANS[index].limit or 0}
  return common.make(suite, NAME, 'paper', drawn.ID).replace(sizes)


class Hangs(BaseException):
  """A run took longer than any may."""


@dataclasses.dataclass
class Run:
  """A plan's run: the error that ended it, what the environments told, what the replay got."""

  error: Exception | None
  told: list
  rows: dict
  scores: list
  names: list


def run(plan) -> Run:
  """Do a plan's run; raise whatever is no line of ours."""
  drawn.PLANS.append(plan)
  kept = {}

  def look(trainer):
    gym = trainer.env
    kept.update(
      replay=trainer.replay,
      told=[each._env.unwrapped.told for each in gym._simulators],
      names=[entry.name for entry in gym._entries],
      actions=gym.spec,
    )

  def alarm(*unused):
    raise Hangs(plan)

  signal.signal(signal.SIGALRM, alarm)
  signal.alarm(SECONDS)
  try:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
      warnings.simplefilter('ignore')
      error = None
      try:
        train(Path(folder, 'run'), config_of(len(drawn.PLANS) - 1), prepare=look)
      except UserError as caught:
        error = caught
      scores = Path(folder, 'run', 'scores.jsonl')
      scores = scores.read_text().splitlines() if scores.exists() else []
  finally:
    signal.alarm(0)
  replay = kept.get('replay')
  rows = {k: array[:, : replay.steps] for k, array in replay._data.items()} if replay else {}
  return Run(error, kept.get('told', []), rows, [*map(json.loads, scores)], kept.get('names', []))


def check(plan):
  """Hold a plan's run against the plan."""
  found = run(plan)
  if plan.fault:
    assert found.error, f'{plan.fault} was taken'
  if found.error:
    assert plan.fault, found.error
    assert isinstance(found.error, EnvironmentFault), found.error
    assert '\n' not in str(found.error) and 'Drawn-v0' in str(found.error)
  else:
    last = found.scores[-1]['eval_scores']
    assert last and np.isfinite(last).all()
  if found.rows:
    for env, told in enumerate(found.told):
      compare(plan, found, env, told)


def compare(plan, found, env, told):
  """Row by row, what an environment gave and got against what was stored."""
  rows = {name: array[env] for name, array in found.rows.items()}
  count = len(rows['reward'])
  assert len(told) - count in (0, 1, 2)  # steps that a fault or the end kept out of the replay
  names = found.names
  for row, (action, observation, reward, terminated, truncated) in enumerate(told[:count]):
    assert rows['is_first'][row] == (action is None)
    assert rows['is_terminal'][row] == terminated
    limited = plan.limit is not None and age(told, row) == plan.limit
    assert rows['is_last'][row] == (terminated or truncated or limited)
    np.testing.assert_allclose(rows['reward'][row], np.float32(np.sum(reward)))
    if row and action is not None:
      expected = drawn.received(plan.action, rows['action'][row - 1])
      same(action, expected)
    arrays = drawn.expected(plan.observation, observation)
    assert len(arrays) == len(names)
    for name, array in zip(names, arrays):
      stored = rows[name][row].astype(np.float64)
      rounded = 1.01 if stored.ndim == 3 else 1e-6  # of a picture the pixels, and then their mean
      np.testing.assert_allclose(stored, array, rtol=1e-6, atol=rounded)


def age(told, row):
  """Steps since the reset."""
  steps = 0
  while told[row - steps][0] is not None:
    steps += 1
  return steps


def same(action, expected):
  if isinstance(expected, dict):
    assert action.keys() == expected.keys()
    action, expected = tuple(action[k] for k in expected), tuple(expected.values())
  if isinstance(expected, tuple):
    for a, b in zip(action, expected, strict=True):
      same(a, b)
  else:
    np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-6)


def many(count):
  """Settings of hypothesis. Plans are not made smaller: each try is a whole run."""
  phases = [Phase.explicit, Phase.generate]
  return settings(
    max_examples=count, deadline=None, phases=phases, suppress_health_check=list(HealthCheck)
  )


@given(drawn.plans())
@many(12)
def test_a_random_environment_is_read_as_it_is(plan):
  check(plan)


@pytest.mark.slow
@given(drawn.plans())
@many(1000)
def test_a_thousand_random_environments_are_read_as_they_are(plan):
  check(plan)
