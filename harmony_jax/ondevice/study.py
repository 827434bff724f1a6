"""A study: variants of a configuration times seeds, trained in waves and saved after each.

plan.json            everything that its runs are a function of
<label>/seed<seed>/  a run folder of each agent as the ordinary loop writes it, without checkpoints
results/             results files of all that are complete
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harmony_jax import envs, settings
from harmony_jax.config import Config
from harmony_jax.envs.pure import Game
from harmony_jax.errors import UserError
from harmony_jax.ondevice import timetable
from harmony_jax.ondevice.program import Program
from harmony_jax.ondevice.waves import Lot, Recorded
from harmony_jax.paths import local_path
from harmony_jax.training import evaluation, plans, recording, run_folder, setup
from harmony_jax.training.logger import MetricsWriter

FORMAT = 1
FREE = ('together',)  # what a run is does not depend on it
WEIGHTS = ('weighting.w_o', 'weighting.w_r', 'weighting.w_d')
NUMBERS = (*WEIGHTS, 'weighting.rate', 'weighting.start')


@dataclasses.dataclass
class Structure:
  """Variants that one program serves: they differ in numbers alone.

  Attributes:
    config: what they have in common. labels: theirs. numbers: {label: {setting: number}}.
  """

  config: Config
  labels: list[str]
  numbers: dict[str, dict[str, float]]


def is_number(name: str) -> bool:
  """Return whether a program can take a setting as an argument: weights, rates, where σ starts."""
  return name in NUMBERS or name == 'lr' or name.endswith('.lr')


def structures(variants: Mapping[str, Config]) -> list[Structure]:
  """Return the programs that variants need; `none` is `fixed` with DreamerV3's weights.

  A number that all variants of a program share is no argument of it.
  """
  found: dict[str, dict[str, Config]] = {}
  for label, config in variants.items():
    same = _plain(config)
    key = {k: v for k, v in same.flat().items() if not is_number(k)}
    found.setdefault(json.dumps(settings.plain(key), sort_keys=True), {})[label] = same
  made = []
  for group in found.values():
    flats = {label: config.flat() for label, config in group.items()}
    first = next(iter(flats.values()))
    free = [k for k in first if is_number(k) and len({flat[k] for flat in flats.values()}) > 1]
    numbers = {label: {k: float(flat[k]) for k in free} for label, flat in flats.items()}
    made.append(Structure(next(iter(group.values())), list(group), numbers))
  return made


def _plain(config):
  flat = config.flat()
  if flat.get('weighting.rule') != 'none' or WEIGHTS[0] not in flat:
    return config
  losses: Any = config.agent  # of a method that has those weights
  weights = 1.0, 1.0, losses.losses.scale
  return config.replace({'weighting.rule': 'fixed', **dict(zip(WEIGHTS, weights))})


def game_of(config: Config) -> Game:
  """Return what a configuration plays, as pure functions.

  Raises:
    UserError: its environment is no JAX.
  """
  with contextlib.closing(setup.make_env(config, 1)) as env:
    game = getattr(env, 'game', None)
  if game is None:
    known = ', '.join(name for name in envs.names() if envs.is_pure(name))
    raise UserError(f'{config.run.suite} is not written in JAX: a study plays {known}')
  if config.eval_env:
    raise UserError('config.eval_env: on the device evaluation plays what training plays')
  return game


def make_program(structure: Structure, seeds: Sequence[int]) -> Program:
  """Return a structure's program, with the tables of some seeds.

  Raises:
    UserError: it needs what the device does not do.
  """
  config, game = structure.config, game_of(structure.config)
  timetable.check(config, game.length)
  table = timetable.make(config, game.spec, game.length, seeds)
  groups = evaluation.group_sizes(evaluation.at_a_time(config))
  program = Program(config, game, table, groups)
  for numbers in structure.numbers.values():
    program.make({'numbers': numbers})  # as arguments nobody looks at them
  return program


class Study:
  """A study's folder.

  Attributes:
    path: of it. plan: the tree in plan.json.
  """

  def __init__(self, path: str | pathlib.Path, plan: Mapping[str, Any]):
    """Open a folder, or name a new one; nothing is written before `begin`.

    Raises:
      UserError: it has another plan: names what differs first.
    """
    self.path = local_path(path)
    self.plan: dict[str, Any] = settings.plain({'format': FORMAT, **plan})
    self._join()

  def _join(self):
    """Take into the plan the variants and seeds of that in the folder, where there is one."""
    file = self.path / 'plan.json'
    try:
      old = json.loads(file.read_text(encoding='utf-8')) if file.exists() else None
      if old is None and any(self.path.glob('*/seed*/config.json')):
        raise UserError(
          f'{self.path} holds runs, but no plan.json that says of what: choose another --output'
        )
      if old is not None:
        self.plan = plans.grown(self.path, old, self.plan, FREE)
        self.plan['together'] = self.plan['together'] or old['together']
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise UserError(f'{file} is damaged: {type(error).__name__} {error}') from None

  def begin(self, width: int) -> None:
    """Write the plan, with what other calls have added to it since; later calls train as many
    agents at once, as other products round otherwise.

    Raises:
      UserError: another call has begun another study there, or it cannot be written.
    """
    recording.writable(self.path)
    with run_folder.alone_in(self.path):
      self._join()
      self.plan['together'] = width
      with run_folder.atomic_write(self.path / 'plan.json') as opened:
        json.dump(self.plan, opened, indent=1)

  def folder(self, label: str, seed: int) -> pathlib.Path:
    """Return the run folder of an agent."""
    return self.path / label / f'seed{seed}'

  def finished(self, label: str, seed: int) -> bool:
    """Return whether an agent's run is complete."""
    return run_folder.is_complete(self.folder(label, seed))

  def lots(self, structure: Structure, seeds: Sequence[int]) -> list[Lot]:
    """Return the agents of a structure that are not finished; what is compared comes together."""
    return [
      Lot(label, seed, structure.numbers[label])
      for seed in seeds
      for label in structure.labels
      if not self.finished(label, seed)
    ]

  def save(self, lot: Lot, config: Config, recorded: Recorded) -> None:
    """Write an agent's run folder; what a killed process left of it goes."""
    config = config.replace({'seed': lot.seed})
    identity = run_folder.identity(config)
    identity |= {'variant': lot.label} if lot.label != config.flat().get('weighting.rule') else {}
    with run_folder.prepare(self.folder(lot.label, lot.seed), config, identity) as folder:
      if folder.is_complete():  # another process was quicker
        return
      writer = MetricsWriter(folder.path)
      writer.truncate_after(-1)
      for line in recorded.metrics:
        step, frame, update = (line.pop(name) for name in ('step', 'frame', 'update'))
        writer.write(step, frame, update, line)
      for line in recorded.scores:
        writer.write_score(line)
      writer.flush()
      last = recorded.scores[-1]
      done = {name: last[name] for name in ('step', 'update')}
      folder.mark_complete({**done, 'hours': last['time/hours'], 'score': last['eval_mean']})


def waves(lots: Sequence[Lot], count: int) -> Iterator[Sequence[Lot]]:
  """Yield so many agents at a time."""
  for first in range(0, len(lots), count):
    yield lots[first : first + count]
