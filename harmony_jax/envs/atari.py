"""Atari 2600 games in the HarmonyDream protocol, on ale-py's own C++ environment (no OpenCV).

RGB 64 x 64 (area resize of the maximum over the last two frames), action
repeat 4, 0 to 29 no-op frames at the start, minimal action set, no sticky
actions, unclipped rewards, no life-loss ends, at most 108,000 frames.

A seeded start costs about 90 ms, as ale-py loads the game anew for it; a step
about 0.5 ms. Both run on a thread per environment.
"""

import concurrent.futures
import dataclasses
from typing import Any

import numpy as np

from harmony_jax.envs import base
from harmony_jax.settings import setting

ATARI_100K = (
  'Alien',
  'Amidar',
  'Assault',
  'Asterix',
  'BankHeist',
  'BattleZone',
  'Boxing',
  'Breakout',
  'ChopperCommand',
  'CrazyClimber',
  'DemonAttack',
  'Freeway',
  'Frostbite',
  'Gopher',
  'Hero',
  'Jamesbond',
  'Kangaroo',
  'Krull',
  'KungFuMaster',
  'MsPacman',
  'Pong',
  'PrivateEye',
  'Qbert',
  'RoadRunner',
  'Seaquest',
  'UpNDown',
)

# The authors shortened this one game: an agent easily gets stuck in it.
FRAME_CAPS = {'ChopperCommand': 5400}
FRAME_CAP = 108_000


def game_name(name: str) -> tuple[str, str]:
  """The canonical name and the ROM's name: 'ms_pacman', 'Ms Pacman' -> ('MsPacman', 'ms_pacman').

  Raises:
    ValueError: no such game; the text names the nearest one.
  """
  games = {''.join(word.capitalize() for word in rom.split('_')): rom for rom in _rom_names()}
  for game, rom in games.items():
    if _fold(game) == _fold(str(name)):
      return game, rom
  choices = ATARI_100K + tuple(game for game in games if game not in ATARI_100K)
  raise base.unknown('Atari game', name, choices, f'26 games: {", ".join(ATARI_100K)}')


@dataclasses.dataclass(frozen=True)
class Options(base.Options):
  """Options of `Atari`."""

  frame_cap: int = setting(
    0, 'emulator frames that end an episode; 0: 108,000, for Chopper Command 5,400'
  )
  truncation_is_terminal: bool = setting(
    True, 'an end by the frame cap counts as terminal, as the authors label it'
  )
  sticky: float = setting(
    0.0, "probability that a frame repeats the previous frame's action", most=1
  )


class Atari:
  """N environments of one game.

  One `AtariVectorEnv` of size one per environment: only so can an environment
  restart or idle while the others step.

  Args:
    task: a game, in any spelling that `game_name` takes.
    num_envs: N.
    noop_max: the no-op frames at the start are uniform in [0, noop_max); the frame cap counts
      from after them.
    **options: see `Options`.

  Attributes:
    lives: [N] int, as the game counts them.
    frames: [N] int, frames since the episode's begin, no-ops included.

  Raises:
    ValueError: no such game or option.
    RuntimeError: the game's ROM cannot be read.
  """

  def __init__(self, task: str, num_envs: int, *, noop_max: int = 30, **options: Any):
    chosen = Options.of(options)
    self.game, rom = game_name(task)
    self.num_envs = num_envs
    self.frame_cap = chosen.frame_cap or FRAME_CAPS.get(self.game, FRAME_CAP)
    self.truncation_is_terminal = chosen.truncation_is_terminal
    settings = dict(
      grayscale=False,
      stack_num=1,
      img_height=64,
      img_width=64,
      maxpool=True,
      frameskip=4,
      noop_max=noop_max,
      use_fire_reset=False,
      episodic_life=False,
      reward_clipping=False,
      full_action_space=False,
      repeat_action_probability=chosen.sticky,
      max_num_frames_per_episode=self.frame_cap,
    )
    self._slots = [_make_slot(rom, settings) for _ in range(num_envs)]
    self._threads = concurrent.futures.ThreadPoolExecutor(num_envs)
    actions: Any = self._slots[0].single_action_space
    self.spec = base.Spec(
      observation={'image': base.ArraySpec((64, 64, 3), np.uint8)},
      discrete=True,
      num_actions=int(actions.n),
      action_repeat=4,
      episode_limit=-(-self.frame_cap // 4),
    )
    self.lives = np.zeros(num_envs, int)
    self.frames = np.zeros(num_envs, int)
    self._last = base.empty_timestep(self.spec, num_envs)

  @staticmethod
  def tasks() -> list[str]:
    """Names of all tasks."""
    return list(ATARI_100K)

  @staticmethod
  def canonical(task: str) -> str:
    """'ms_pacman' -> 'MsPacman'."""
    return game_name(task)[0]

  def step(
    self,
    actions: np.ndarray,
    restart: np.ndarray,
    seeds: np.ndarray,
    idle: np.ndarray | None = None,
  ) -> base.TimeStep:
    """See `base`. Raises ValueError for an action outside [0, num_actions)."""
    idle = np.zeros(self.num_envs, bool) if idle is None else idle
    resets = np.flatnonzero(restart & ~idle)
    steps = np.flatnonzero(~restart & ~idle)
    actions = self._checked(actions, steps)
    # All begin before any is awaited: they run in parallel outside Python.
    for index in steps:
      self._slots[index].send(actions[index : index + 1])
    begun = [
      self._threads.submit(self._slots[index].reset, seed=np.array([seeds[index]]))
      for index in resets
    ]
    for index in steps:
      image, reward, terminated, truncated, info = self._slots[index].recv()
      self._write(index, image, reward[0], False, terminated[0], truncated[0], info)
    for index, future in zip(resets, begun):
      image, info = future.result()
      self._write(index, image, 0, True, False, False, info)
    return base.copy_timestep(self._last)

  def close(self) -> None:
    self._threads.shutdown()
    self._slots.clear()  # their threads end with them

  def _checked(self, actions, steps):
    actions = np.asarray(actions, np.int32)
    used = actions[steps]
    # ale-py would wait for ever.
    if ((used < 0) | (used >= self.spec.num_actions)).any():
      raise ValueError(f'{self.game} has actions 0 to {self.spec.num_actions - 1}; got {used}')
    return actions

  def _write(self, index, image, reward, first, terminated, truncated, info):
    last = self._last
    last.observation['image'][index] = image[0, 0]
    last.reward[index] = reward
    last.is_first[index] = first
    last.is_last[index] = terminated or truncated
    last.is_terminal[index] = terminated or (truncated and self.truncation_is_terminal)
    self.lives[index] = info['lives'][0]
    self.frames[index] = info['episode_frame_number'][0]


def _fold(name):
  return ''.join(character for character in name.lower() if character.isalnum())


def _rom_names():
  from ale_py import roms  # here, so that other suites need no ale-py

  return roms.get_all_rom_ids()


def _make_slot(rom, options):
  from ale_py.vector_env import AtariVectorEnv

  try:
    return AtariVectorEnv(rom, 1, num_threads=1, **options)
  except OSError as error:
    raise RuntimeError(
      f"the ROM '{rom}.bin' cannot be read ({error}): ale-py brings all ROMs along, so unset "
      'ALE_ROMS_DIR or reinstall ale-py'
    ) from error


def _protocol(config):
  options = base.evaluation_options(config)
  cap = options.get('frame_cap') or FRAME_CAPS.get(config['task'], FRAME_CAP)
  sticky, noops = options.get('sticky', 0.0), max(options.get('noop_max', 30) - 1, 0)
  facts = {
    'action_repeat': 4,
    'sticky_actions': sticky,
    'action_set': 'minimal',
    'no_op_frames': [0, noops],
    'life_loss_ends_episode': False,
    'frame_cap': cap,
    'rewards_clipped': False,
    'observation': '64 x 64 RGB, maximum of the last two of 4 frames',
  }
  return facts, [
    f'sticky actions ({sticky:g})' if sticky else 'no sticky actions',
    f'minimal action set, 0 to {noops} no-op frames at the start',
    f'whole games (a lost life ends nothing) of at most {cap:,} frames',
    'unclipped rewards, action repeat 4, 64 × 64 RGB',
  ]


SUITE = base.Suite(environment=Atari, title='Atari 100K', protocol=_protocol)
