"""Scores that others have published, to set ours beside: the paper's Table 2, and the authors'
files of single runs.

How they were made differs: only the columns of the HarmonyDream paper itself are evaluations of 100
episodes at the end, as ours are.
"""

import os
from collections.abc import Mapping, Sequence

from harmony_jax.errors import UserError
from harmony_jax.paths import local_path
from harmony_jax.reporting import results_files
from harmony_jax.reporting.schema import COUNTS, DAMAGES, NUMBERS, Record, is_count

# Mean scores as Table 2 of the HarmonyDream paper prints them (arXiv 2310.00344), but random and
# human scores with the decimals with which Atari 100K papers use them (Wang et al. 2016, arXiv
# 1511.06581). The first four columns after these are what the methods' own papers report; the
# last two are the authors' runs, 5 seeds.
_COLUMNS = (
  'SimPLe (2020)',
  'TWM (2023)',
  'IRIS (2023)',
  'DreamerV3 (Original)',
  'DreamerV3 (Reproduced)',
  'Harmony DreamerV3',
)
_ROWS = {
  'Alien': (227.8, 7127.7, 617, 675, 420, 959, 786, 890),
  'Amidar': (5.8, 1719.5, 74, 122, 143, 139, 175, 141),
  'Assault': (222.4, 742.0, 527, 683, 1524, 706, 680, 1003),
  'Asterix': (210.0, 8503.3, 1128, 1117, 854, 932, 974, 1140),
  'BankHeist': (14.2, 753.1, 34, 467, 53, 649, 894, 1069),
  'BattleZone': (2360.0, 37187.5, 4031, 5068, 13074, 12250, 11314, 16456),
  'Boxing': (0.1, 12.1, 8, 78, 70, 78, 78, 80),
  'Breakout': (1.7, 30.5, 16, 20, 84, 31, 24, 53),
  'ChopperCommand': (811.0, 7387.8, 979, 1697, 1565, 420, 1390, 1510),
  'CrazyClimber': (10780.5, 35829.4, 62584, 71820, 59234, 97190, 78969, 82739),
  'DemonAttack': (152.1, 1971.0, 208, 350, 2034, 303, 241, 203),
  'Freeway': (0.0, 29.6, 17, 24, 31, 0, 0, 0),
  'Frostbite': (65.2, 4334.7, 237, 1476, 259, 909, 939, 679),
  'Gopher': (257.6, 2412.5, 597, 1675, 2236, 3730, 4936, 13043),
  'Hero': (1027.0, 30826.4, 2657, 7254, 7037, 11161, 12160, 13378),
  'Jamesbond': (29.0, 302.8, 101, 362, 463, 445, 318, 317),
  'Kangaroo': (52.0, 3035.0, 51, 1240, 838, 4098, 2773, 5118),
  'Krull': (1598.0, 2665.5, 2205, 6349, 6616, 7782, 7764, 7754),
  'KungFuMaster': (258.5, 22736.3, 14862, 24555, 21760, 21420, 23753, 22274),
  'MsPacman': (307.3, 6951.6, 1480, 1588, 999, 1327, 1696, 1681),
  'Pong': (-20.7, 14.6, 13, 19, 15, 18, 18, 19),
  'PrivateEye': (24.9, 69571.3, 35, 87, 100, 882, 1036, 2932),
  'Qbert': (163.9, 13455.0, 1289, 3331, 746, 3405, 2872, 3933),
  'RoadRunner': (11.5, 7845.0, 5641, 9109, 9615, 15565, 14248, 14646),
  'Seaquest': (68.4, 42054.7, 683, 774, 661, 618, 544, 665),
  'UpNDown': (533.4, 11693.2, 3350, 15982, 3546, 7667, 5636, 10874),
}
RANDOM_AND_HUMAN = {game: row[:2] for game, row in _ROWS.items()}
_BY_COLUMN = zip(_COLUMNS, zip(*(row[2:] for row in _ROWS.values())))
TABLE_2 = {column: dict(zip(_ROWS, scores)) for column, scores in _BY_COLUMN}
# The authors' files of single runs: (what they are called in reports, weighting).
FILES = {
  'harmony_dreamerv3.json': ('Harmony DreamerV3 (authors)', 'harmony'),
  'dreamerv3_reproduced.json': ('DreamerV3 (authors, reproduced)', 'none'),
}
AUTHORS = [method for method, _ in FILES.values()]


def normalized(scores: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
  """Return human-normalised scores, (score − random) / (human − random): 0 is a random player, 1 a
  human one. Games without references, or without runs, are left out."""
  found = {}
  for game in [game for game in scores if game in RANDOM_AND_HUMAN and scores[game]]:
    random, human = RANDOM_AND_HUMAN[game]
    found[game] = [(score - random) / (human - random) for score in scores[game]]
  return found


def read_scores(folder: str | os.PathLike) -> list[Record]:
  """Return the authors' scores per seed as records, of a folder with one or both of `FILES`.

  A file is {'steps': [frames of each evaluation], 'score': {game: [[mean return at each evaluation]
  of each seed]}}: every number the mean over 100 episodes. UserError names one that is not.
  """
  folder, found = local_path(folder), []
  paths = [folder / name for name in FILES if (folder / name).exists()]
  if not paths:
    raise UserError(f'{folder} is no folder with {" or ".join(FILES)}')
  games = {game.lower(): game for game in RANDOM_AND_HUMAN}
  for path in paths:
    content = results_files.read_json(path, f'{path}')
    try:
      frames = content['steps']
      if not frames or not all(map(is_count, frames)):
        raise ValueError("'steps' must be a list of numbers of frames")
      for name, seeds in content['score'].items():
        game = games.get(name.replace('_', ''))
        if game is None:
          raise ValueError(f'{name!r} is none of the 26 games')
        found += [_record(path.name, game, *each, frames) for each in enumerate(seeds)]
    except DAMAGES as error:
      raise results_files.damaged(path, error) from None
  return found


def _record(name, game, seed, scores, frames):
  method, weighting = FILES[name]
  steps = [frame // 4 for frame in frames]
  known = {'step': steps, 'frame': frames, 'eval_mean': scores, 'eval_episodes': [100] * len(steps)}
  unknown = {column: [None] * len(steps) for column in COUNTS + NUMBERS}
  names = {'suite': 'atari', 'task': game, 'method': 'dreamerv3', 'preset': 'paper', 'seed': seed}
  episodes = {'eval_every': 5_000, 'eval_episodes': 100, 'final_eval_episodes': 100}
  return Record(
    config={**names, **episodes, 'steps': steps[-1], 'weighting': {'rule': weighting}},
    complete=True,
    source=name,
    evaluations={**unknown, **known, 'measures': {}},
    frames_per_step=4,
    method=method,
  )
