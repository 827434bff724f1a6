"""Scores that others have published, to set ours beside: the paper's Table 2, and the authors'
files of single runs.

How they were made differs (see each): only the columns of the HarmonyDream paper itself are
evaluations of 100 episodes at the end, as ours are.
"""

import json
import os
import pathlib

from harmony_jax.errors import UserError
from harmony_jax.reporting import form
from harmony_jax.reporting.atari_scores import RANDOM_AND_HUMAN

# Table 2 of the HarmonyDream paper (arXiv 2310.00344): mean scores, as it prints them. The first
# four columns are what the methods' own papers report; the last two are the authors' runs, 5 seeds.
_METHODS = (
  'SimPLe (2020)',
  'TWM (2023)',
  'IRIS (2023)',
  'DreamerV3 (Original)',
  'DreamerV3 (Reproduced)',
  'Harmony DreamerV3',
)
_ROWS = {
  'Alien': (617, 675, 420, 959, 786, 890),
  'Amidar': (74, 122, 143, 139, 175, 141),
  'Assault': (527, 683, 1524, 706, 680, 1003),
  'Asterix': (1128, 1117, 854, 932, 974, 1140),
  'BankHeist': (34, 467, 53, 649, 894, 1069),
  'BattleZone': (4031, 5068, 13074, 12250, 11314, 16456),
  'Boxing': (8, 78, 70, 78, 78, 80),
  'Breakout': (16, 20, 84, 31, 24, 53),
  'ChopperCommand': (979, 1697, 1565, 420, 1390, 1510),
  'CrazyClimber': (62584, 71820, 59234, 97190, 78969, 82739),
  'DemonAttack': (208, 350, 2034, 303, 241, 203),
  'Freeway': (17, 24, 31, 0, 0, 0),
  'Frostbite': (237, 1476, 259, 909, 939, 679),
  'Gopher': (597, 1675, 2236, 3730, 4936, 13043),
  'Hero': (2657, 7254, 7037, 11161, 12160, 13378),
  'Jamesbond': (101, 362, 463, 445, 318, 317),
  'Kangaroo': (51, 1240, 838, 4098, 2773, 5118),
  'Krull': (2205, 6349, 6616, 7782, 7764, 7754),
  'KungFuMaster': (14862, 24555, 21760, 21420, 23753, 22274),
  'MsPacman': (1480, 1588, 999, 1327, 1696, 1681),
  'Pong': (13, 19, 15, 18, 18, 19),
  'PrivateEye': (35, 87, 100, 882, 1036, 2932),
  'Qbert': (1289, 3331, 746, 3405, 2872, 3933),
  'RoadRunner': (5641, 9109, 9615, 15565, 14248, 14646),
  'Seaquest': (683, 774, 661, 618, 544, 665),
  'UpNDown': (3350, 15982, 3546, 7667, 5636, 10874),
}

TABLE_2 = {
  method: {game: row[column] for game, row in _ROWS.items()}
  for column, method in enumerate(_METHODS)
}

# Its two last rows: human-normalised mean and median in percent, as printed.
TABLE_2_MEAN = dict(zip(_METHODS, (33, 96, 105, 112, 108, 136.5)))
TABLE_2_MEDIAN = dict(zip(_METHODS, (13, 51, 29, 49, 42, 67.1)))

# The authors' files of single runs: (what they are called in reports, weighting).
FILES = {
  'harmony_dreamerv3.json': ('Harmony DreamerV3 (authors)', 'harmony'),
  'dreamerv3_reproduced.json': ('DreamerV3 (authors, reproduced)', 'none'),
}

_GAMES = {game.lower(): game for game in RANDOM_AND_HUMAN}
_FRAMES_PER_STEP = 4


def read_scores(folder) -> list:
  """The authors' scores per seed, as records (`records`), of a folder with one or both of the files
  in `FILES`.

  A file is {'steps': [frames of each evaluation], 'score': {game: [[mean return at each evaluation]
  of each seed]}}: every number the mean over 100 episodes.

  Raises:
    UserError: no such folder, none of the files in it, or one that is not as it should be; names
    the file.
  """
  folder = pathlib.Path(os.path.expanduser(folder))
  if not folder.is_dir():
    raise UserError(f'{folder} is no folder: it should hold {" and ".join(FILES)}')
  present = [name for name in FILES if (folder / name).exists()]
  if not present:
    raise UserError(f'{folder} holds neither {" nor ".join(FILES)}')
  found = []
  for name in present:
    frames, games = _read(folder / name)
    for game, seeds in games.items():
      found += [_record(name, game, seed, frames, scores) for seed, scores in enumerate(seeds)]
  return found


def _read(path):
  """(frames, {game: scores [seeds, evaluations]}) of one file."""
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
    frames, scores = content['steps'], content['score']
    games = {_GAMES.get(game.replace('_', '')): seeds for game, seeds in scores.items()}
    unknown = [game for game in scores if game.replace('_', '') not in _GAMES]
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(
      f"{path} cannot be read as the authors' scores: {type(error).__name__} ({error})"
    ) from None
  if unknown:
    raise UserError(f'{path}: {unknown[0]!r} is none of the 26 games')
  if not frames or not _numbers(frames) or not all(isinstance(frame, int) for frame in frames):
    raise UserError(f"{path}: 'steps' must be a list of numbers of frames")
  for game, seeds in games.items():
    if not isinstance(seeds, list) or not all(
      _numbers(each) and len(each) == len(frames) for each in seeds
    ):
      raise UserError(f'{path}: {game} must have a list of {len(frames)} scores for each seed')
  return frames, games


def _numbers(values):
  return isinstance(values, list) and all(
    isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    for value in values
  )


def _record(name, game, seed, frames, scores):
  method, weighting = FILES[name]
  config = {
    'suite': 'atari',
    'task': game,
    'method': 'dreamerv3',
    'weighting': {'rule': weighting},
    'preset': 'paper',
    'seed': seed,
    'steps': frames[-1] // _FRAMES_PER_STEP,
    'score': 'return',
    'eval_every': 5_000,
    'eval_episodes': 100,
    'final_eval_episodes': 100,
    'eval_policy': 'sample',
    'env': {'frame_cap': 0, 'truncation_is_terminal': True, 'sticky': 0.0},
  }
  unknown = dict.fromkeys(('update', 'hours', 'std', 'train_mean', 'train_episodes', 'scores'))
  evaluations = [
    {
      'step': frame // _FRAMES_PER_STEP,
      'frame': frame,
      'mean': float(score),
      'episodes': 100,
      **unknown,
      'measures': {},
    }
    for frame, score in zip(frames, scores)
  ]
  return {
    'suite': 'atari',
    'task': game,
    'method': method,
    'base': 'dreamerv3',
    'weighting': weighting,
    'preset': 'paper',
    'seed': seed,
    'complete': True,
    'source': name,
    'config': config,
    'planned_steps': config['steps'],
    'action_repeat': _FRAMES_PER_STEP,
    'score': 'return',
    'environment': {**form.NO_ENVIRONMENT, 'versions': {}},
    'evaluations': evaluations,
    'metrics': {},
    'hours': None,
    'steps_per_second': None,
  }
