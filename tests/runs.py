"""Tiny runs of the catch game, for tests of what is around a method."""

import dataclasses
import json

from harmony_jax import parallel
from harmony_jax.training import loop, run_folder
from tests import small

TINY = {
  'steps': 160,
  'num_envs': 4,
  'eval_envs': 4,
  'eval_every': 80,
  'checkpoint_every': 80,
  'video_every': 0,
  'eval_episodes': 4,
  'final_eval_episodes': 4,
  'log_every': 16,
  'batch_length': 8,
  'replay_capacity': 1000,
}


# Of a Dreamer's run the updates take longest: one in two steps of the loop. Tests share these
# settings, and so the programs of `compile_once`.
DREAMER = {'train_ratio': 4.0}


def dreamer_of(name='dreamerv3', **changes):
  """Return the configuration of a run of 160 steps, with changes as `rssm__deter=8`."""
  few = DREAMER if name.startswith('dreamer') else {}
  return small.run_config(name, **{**TINY, **few, **changes})


def config_of(**changes):
  """Return the same of a method that is traced in a moment: what is around a method is tested."""
  return dreamer_of('tests.linear:METHOD', **changes)


@dataclasses.dataclass
class From:
  """A hook that does something from a step on."""

  step: int
  do: object
  every: int = 1

  def __call__(self, trainer):
    if trainer.state.step >= self.step:
      self.do(trainer)


_COMPILED = {}


def compile_once(of):
  """`parallel.compile_method`, one for all runs of equal methods: tracing takes longest."""
  key = type(of), repr(of.settings), json.dumps(of.spec.to_json())
  if key not in _COMPILED:
    _COMPILED[key] = parallel.compile_method(of)
  return _COMPILED[key]


def train(folder, config, *more, prepare=None, compiler=compile_once, **how):
  """Do a whole run with more hooks; `prepare(trainer)` may change it first. Return the trainer."""
  with run_folder.prepare(folder, config, {}) as opened:
    trainer = loop.Trainer(config, opened, more=more, compiler=compiler, **how)
    if prepare:
      prepare(trainer)
    trainer.run()
  return trainer


class Killed(Exception):
  """Ends a run as a crash would."""


def die(trainer):
  """End a run without saving it."""
  raise Killed


def ask(trainer):
  """Ask a run to save and end."""
  trainer.interruption.requested = 'SIGTERM'


def lines(folder, name):
  """Return the lines of a file, without what depends on the clock."""
  return [
    {k: v for k, v in json.loads(line).items() if not k.startswith(('time/', 'speed/'))}
    for line in (folder / name).read_text().splitlines()
  ]
