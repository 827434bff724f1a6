"""A minute in which something learns from pixels: python -m experiments.demo [--seed=0].

DreamerV3 with harmony learns a small game of catch, 4 × 4 cells with two drifting blobs, by toy
networks: 6,400 steps and 1,549 updates, in about a minute of two CPU cores once it is compiled.
The terminal shows how many of the balls it catches, beside a random player of the same run. What
is left is an ordinary run folder, for `experiments.play`, `evaluate` and `report`.
"""

if not __package__:
  import as_file  # noqa: F401

import contextlib
import functools
import gc
import io
import itertools
import os
import pathlib
import time
from collections.abc import Sequence

from absl import flags
from rich.console import Console, Group
from rich.text import Text

from harmony_jax.config import Config
from harmony_jax.errors import UserError
from harmony_jax.training import recording, run_folder
from harmony_jax.training.interruption import Interruption

from . import configs, launcher
from .bars import Point, Screen, Shown, chart, interval, learned

flags.DEFINE_integer('seed', 0, 'Seed of the whole run.', lower_bound=0)
launcher.path('logdir', None, 'By default the first runs/demo/seed<seed>[-N] that is not complete.')
launcher.path('picture', None, 'Also draw the last screen, as an SVG of this name.')

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
OPENING = (
  'An agent learns to catch falling balls from pixels: of 64 × 64 × 3 numbers it is not told which '
  'are ball, paddle or blobs that drift about. It learns a model of the game (DreamerV3), whose '
  'losses are kept in harmony by learned weights, and practises in that model.'
)
NEXT = (
  '\nNext: a video of the game and of what the model expects; all scores; curves and weights; and '
  'the whole game, 8 × 8 cells, in ten minutes:'
)
COMMANDS = """\
  python -m experiments.play --logdir={place}
  python -m experiments.evaluate --logdir={place} --episodes=1000
  python -m experiments.report {place} --output=report
  python -m experiments.catch --preset=cpu"""


def make_config(seed: int, texts: Sequence[str] = ()) -> Config:
  """Return the demonstration's configuration; `texts` as of `Config.override`.

  Raises:
    UserError: a setting that cannot be, or a reward that does not say what is caught.
  """
  suite = configs().suite('catch')
  config = configs().make(suite, 'dreamerv3', 'debug', 'catch')
  config = configs().check(config.replace({**SIZES, 'seed': seed}).override(texts))
  if config.env['rewarded'] != 'end':
    raise UserError(
      'config.env.rewarded: the demonstration tells by the last reward what is caught'
    )
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
  parallel.keep_freed_memory()
  config = make_config(options.seed, texts)
  if options.picture:
    recording.writable(pathlib.Path(options.picture).parent)
    recording.writable_file(options.picture, '.svg', 'picture')
  console = Console(highlight=False)
  with Interruption() as interruption, contextlib.ExitStack() as stack:
    place = options.logdir or _unfinished(options.seed)
    runs = folders.open_runs(stack, [(config, place)], processes.here())
    if not runs:
      return 0
    console.print(Text(OPENING), Text(f'run folder: {place}'), sep='\n', end='\n\n')
    random, run = play_random(config), config.run
    screen = functools.partial(Screen, random=random, columns=run.steps // run.eval_every + 1)
    trainer = Trainer(*runs[0], [], interruption, more=[Shown(run.eval_every)], screen=screen)
    trainer.run()
    shown = trainer.progress
    final = Group(chart(shown.points, random, 0), Text(), *closing(shown, place))
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
  low, high = interval(last.caught, last.games, 0.95)
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
    told = f'The first sign of learning was at step {step:,}, after {seconds:.0f} s: there, and in '
    told += 'each green bar, the 99 % intervals of agent and random player lie apart.'
    lines.append(Text(told))
  if not learned(last, random):
    lines.append(Text('It has not learned to play better than at random: try another --seed.'))
  if weights := screen.weights:
    told = ', '.join(f'{task} {weight}' for task, weight in weights.items())
    lines.append(Text(f'Weights that harmony has learned for the losses (1 at first): {told}.'))
  commands = Text(COMMANDS.format(place=place), no_wrap=True, overflow='ignore')
  return [*lines, Text(NEXT), commands]


def _unfinished(seed):
  """The first folder of this seed that holds no complete run."""
  names = (f'seed{seed}' + (f'-{n}' if n > 1 else '') for n in itertools.count(1))
  paths = (os.path.join('runs', 'demo', name) for name in names)
  return next(path for path in paths if not run_folder.is_complete(path))


def _draw(path, final):
  """Write the last screen as an SVG, as a terminal of 100 columns has it."""
  console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
  console.print(Text('$ make demo'), Text(OPENING), Text(), final, sep='\n')
  with run_folder.atomic_write(path) as file:
    file.write(console.export_svg(title='harmony-jax'))


if __name__ == '__main__':
  launcher.command(main, configurable=True)
