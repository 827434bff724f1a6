"""A minute in which something learns from pixels: python -m experiments.demo [--seed=0].

DreamerV3 with harmony learns a small game of catch, 4 × 4 cells with two drifting blobs, by toy
networks: 6,400 steps and 1,549 updates, in about a minute of two CPU cores once it is compiled.
The terminal shows how many of the balls it catches, beside a random player of the same run. What
is left is an ordinary run folder, for `experiments.play`, `evaluate` and `report`.
"""

if not __package__:
  import as_file  # noqa: F401

import contextlib
import gc
import io
import itertools
import json
import math
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags
from rich.console import Console, Group
from rich.text import Text

from harmony_jax.config import Config
from harmony_jax.training import run_folder
from harmony_jax.training.interruption import Interruption
from harmony_jax.training.progress import Progress, format_number, split_tasks

from . import configs, launcher

flags.DEFINE_integer('seed', 0, 'Seed of the whole run.', lower_bound=0)
flags.DEFINE(
  launcher.PATH,
  'logdir',
  None,
  'Run folder; by default runs/demo/seed<seed>, or seed<seed>-2 … where that is complete.',
)
flags.DEFINE(launcher.PATH, 'picture', None, 'Also draw the last screen, as an SVG of this name.')

# Beside the preset `debug` of catch; tried on seeds 0 to 4.
SIZES = {
  'env.size': 4,
  'env.distractors': 2,
  'actor_opt.lr': 1e-3,
  'critic_opt.lr': 1e-3,
  'steps': 6_400,
  'eval_at_start': True,
  'eval_every': 400,
  'eval_episodes': 128,
  'final_eval_episodes': 1_000,
  'checkpoint_every': 3_200,
  'video_every': 0,
  'log_every': 400,
}
RANDOM_GAMES = 1_000
HEIGHT, WIDTH = 8, 3  # of the chart's rows and columns, in characters
OPENING = (
  'An agent learns to catch falling balls from pixels: of 64 × 64 × 3 numbers it is not told which '
  'are ball, paddle or blobs that drift about. It learns a model of the game (DreamerV3), whose '
  'losses are kept in harmony by learned weights, and practises in that model.'
)
PHASES = {
  'starting': 'compiles how to act, and plays untrained',
  'collects experience': 'plays at random, to have something to learn from',
  'compiling': 'compiles how to learn: less than a minute, and kept for the next time',
}


class Point(NamedTuple):
  """One evaluation: after how many steps, of how many games how many were won."""

  step: int
  games: int
  caught: int

  @property
  def share(self) -> float:
    """Return the share of games that were won."""
    return self.caught / self.games


def interval(caught: int, games: int, z: float = 2.576) -> tuple[float, float]:
  """Return Wilson's interval of a share; by default of 99 %."""
  share, scale = caught / games, 1 + z**2 / games
  middle = (share + z**2 / (2 * games)) / scale
  half = z / scale * math.sqrt(share * (1 - share) / games + (z / (2 * games)) ** 2)
  return middle - half, middle + half


def learned(point: Point, random: Point) -> bool:
  """Return whether a player is better than the random one: their 99 % intervals lie apart."""
  return interval(point.caught, point.games)[0] > interval(random.caught, random.games)[1]


def chart(points: Sequence[Point], random: Point, columns: int) -> Text:
  """Return bars of the share of balls caught, one for each evaluation, and a random player's line.

  Bars are green where the player is better than that. `columns`: evaluations of the whole run.
  """
  rows = []
  for row in reversed(range(HEIGHT)):
    label = {HEIGHT - 1: '100 %', HEIGHT // 2 - 1: '50 %'}.get(row, '')
    line = Text(f'{label:>6} │')
    crossed = row <= random.share * HEIGHT < row + 1
    for point in points:
      eighths = round(8 * min(1, max(0, point.share * HEIGHT - row)))
      bar = ' ▁▂▃▄▅▆▇█'[eighths] * (WIDTH - 1)
      line.append(bar if eighths or not crossed else '┄' * (WIDTH - 1), _style(point, random))
      line.append('┄' if crossed else ' ', 'dim')
    rest = WIDTH * max(0, columns - len(points))
    line.append(('┄' if crossed else ' ') * rest, 'dim')
    line.append(f' random player: {random.share:.0%}' if crossed else '', 'dim')
    rows.append(line)
  last = f'step {points[-1].step:,}' if points else ''
  rows.append(Text(f'{"0 %":>6} └' + '─' * (WIDTH * max(columns, len(points)))))
  rows.append(Text(' ' * 8 + last.rjust(WIDTH * len(points))))
  return Text('\n').join(rows)


def _style(point, random):
  return 'green' if learned(point, random) else 'bright_black'


class Screen(Progress):
  """The chart on a terminal; elsewhere a bar for each evaluation.

  Attributes:
    points: evaluations so far. started, began: when it was made, and when the first update of this
      process was done, in monotonic seconds.
    sign: (step, seconds after `began`) of the first evaluation that shows learning, or None.
  """

  def __init__(self, total: int, start: int = 0, *, random: Point, columns: int, **how: Any):
    self.random, self.columns = random, columns
    self.points: list[Point] = []
    self.began: float | None = None
    self.sign: tuple[int, float] | None = None
    self.started, self._told = time.monotonic(), ''
    super().__init__(total, start, **how)

  def show(self, scores: pathlib.Path) -> None:
    """Show the evaluations that a run has written so far."""
    lines = scores.read_text(encoding='utf-8').splitlines()
    known, self.points = len(self.points), [_point(json.loads(line)) for line in lines]
    for point in self.points[known:]:
      if self.sign is None and self.began is not None and learned(point, self.random):
        self.sign = point.step, time.monotonic() - self.began
      if self._live is None:
        bar = '█' * round(30 * point.share)
        self._print(f'step {point.step:>6,}  {bar:░<30} {point.share:4.0%} caught')

  def line(self, text: str) -> None:
    """Write what went wrong; the rest of a run's lines is not for a minute's look."""
    if text.startswith('warning') or 'left out' in text:
      super().line(text)

  def prepare(self, text: str) -> None:
    """See `Progress`; in words for those who see it for the first time."""
    phase = text.partition(':')[0]
    words = PHASES.get(phase, text)
    if not text and self.began is None:
      self.began, words = time.monotonic(), ''
    if self._live is None and words and words != self._told:
      self._print(f'{words} …')
      self._told = words
    super().prepare(words)

  @property
  def weights(self) -> dict[str, str]:
    """Return harmony's weights as last logged, {task: number}."""
    tasks = split_tasks(dict(self._info))[0]
    return {task: format_number(kinds['weight']) for task, kinds in tasks.items() if kinds}

  def _text(self):
    return self._headline()

  def _render(self):
    """The chart, and what is being done."""
    seconds = time.monotonic() - self.started
    rows = [chart(self.points, self.random, self.columns)]
    rows.append(Text(f'{seconds:4.0f} s  {self._headline()}'))
    if self.weights:
      told = '  '.join(f'{task} {weight}' for task, weight in self.weights.items())
      rows.append(Text(f"harmony's weights 1/σ: {told}"))
    return Group(*rows)


def _point(score):
  """Of a line of scores.jsonl: a game's score is 1 where its ball was caught, else -1."""
  scores = score['eval_scores']
  return Point(score['step'], len(scores), sum(each > 0 for each in scores))


class Shown:
  """A hook that shows evaluations on the run's screen."""

  def __init__(self, every: int):
    self.every = every

  def __call__(self, trainer: Any) -> None:
    """Show those that were made so far."""
    trainer.progress.show(trainer.folder / 'scores.jsonl')


def make_config(seed: int, texts: Sequence[str] = ()) -> Config:
  """Return the demonstration's configuration; `texts` as of `Config.override`."""
  suite = configs().suite('catch')
  config = configs().make(suite, 'dreamerv3', 'debug', 'catch')
  config = config.replace({**SIZES, 'seed': seed}).override(texts)
  configs().check(config)
  return config


def main(words: list[str], texts: list[str]) -> int:
  """Train, show, and tell what was learned."""
  from harmony_jax import parallel, processes
  from harmony_jax.training.loop import Trainer

  from . import folders

  launcher.no_words(words, '--seed=0')
  options = flags.FLAGS
  gc.set_threshold(100_000)
  parallel.use_compilation_cache()
  if not parallel.has_accelerator():
    parallel.keep_freed_memory()
  config = make_config(options.seed, texts)
  console = Console(highlight=False)
  with Interruption() as interruption, contextlib.ExitStack() as stack:
    place = options.logdir or _unfinished(options.seed)
    runs = folders.open_runs(stack, [(config, place)], processes.here())
    if not runs:
      return 0
    console.print(Text(OPENING), Text(f'run folder: {place}'), sep='\n', end='\n\n')
    random, run = play_random(config), config.run
    made: list[Screen] = []

    def screen(*args, **how):
      columns = run.steps // run.eval_every + 1
      made.append(Screen(*args, random=random, columns=columns, **how))
      return made[0]

    Trainer(*runs[0], [], interruption, more=[Shown(run.eval_every)], screen=screen).run()
    final = Group(chart(made[0].points, random, 0), Text(), *closing(made[0], place))
  if not console.is_terminal:
    console.print(final)
  else:
    console.print(*final.renderables[1:], sep='\n')
  if options.picture:
    _draw(pathlib.Path(options.picture), final)
  return 0


def play_random(config: Config) -> Point:
  """Return how a player does that chooses at random, on the run's own environments."""
  from harmony_jax import envs
  from harmony_jax.training import setup

  env = setup.make_env(config, 100)
  with contextlib.closing(env):
    seed = config.run.seed
    seeds = [envs.episode_seed(seed, 'eval', 0, index) for index in range(RANDOM_GAMES)]
    played = envs.run_episodes(env, seeds, envs.random_policy(env.spec, seed))
  return Point(0, RANDOM_GAMES, sum(each.score > 0 for each in played))


def closing(screen: Screen, place: str) -> list[Text]:
  """Return what was learned, in numbers, and what to do next."""
  last, random = screen.points[-1], screen.random
  low, high = interval(last.caught, last.games, 1.96)
  told = (
    f'It catches {last.share:.1%} of {last.games:,} new balls (95 % interval {low:.1%} to '
    f'{high:.1%}) after {last.step:,} steps; a random player of this run {random.share:.1%} of '
    f'{random.games:,}.'
  )
  if screen.began is not None:
    now = time.monotonic()
    told += f' {now - screen.began:.0f} s of learning, {screen.began - screen.started:.0f} s of '
    told += 'compiling and first experience before.'
  lines = [Text(told, 'bold' if learned(last, random) else 'bold red')]
  if screen.sign:
    step, seconds = screen.sign
    lines.append(
      Text(
        f'The first sign of learning was at step {step:,}, after {seconds:.0f} s: there, and in '
        'each green bar, the 99 % intervals of agent and random player lie apart.'
      )
    )
  if not learned(last, random):
    lines.append(Text('It has not learned to play better than at random: try another --seed.'))
  if weights := screen.weights:
    told = ', '.join(f'{task} {weight}' for task, weight in weights.items())
    lines.append(Text(f'Weights that harmony has learned for the losses (1 at first): {told}.'))
  module = 'python -m experiments.'
  return [
    *lines,
    Text(
      '\nNext: a video of the game and of what the model expects; all scores; curves and weights; '
      'and the whole game, 8 × 8 cells, in ten minutes:'
    ),
    *(
      Text(f'  {module}{command}', no_wrap=True, overflow='ignore')
      for command in (
        f'play --logdir={place}',
        f'evaluate --logdir={place} --episodes=1000',
        f'report {place} --output=report',
        'catch --preset=cpu',
      )
    ),
  ]


def _unfinished(seed):
  """The first folder of this seed that holds no complete run."""
  names = (f'seed{seed}' + (f'-{n}' if n > 1 else '') for n in itertools.count(1))
  paths = (os.path.join('runs', 'demo', name) for name in names)
  return next(path for path in paths if not run_folder.is_complete(path))


def _draw(path, final):
  """Write the last screen as an SVG, as a terminal of 100 columns has it."""
  console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
  console.print(Text('$ make demo'), Text(OPENING), Text(), final, sep='\n')
  path.parent.mkdir(parents=True, exist_ok=True)
  with run_folder.atomic_write(path) as file:
    file.write(console.export_svg(title='harmony-jax'))


if __name__ == '__main__':
  launcher.command(main, configurable=True)
