"""Scores that others have published, to set ours beside: the paper's Table 2, and the authors'
files of single runs.

How they were made differs: only the columns of the HarmonyDream paper itself are evaluations of 100
episodes at the end, as ours are.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import pandas

from harmony_jax.errors import UserError
from harmony_jax.paths import local_path
from harmony_jax.reporting import results_files
from harmony_jax.reporting.schema import COUNTS, DAMAGES, NUMBERS, Record, is_count

# Mean scores as Table 2 of the HarmonyDream paper prints them (arXiv 2310.00344), but random and
# human scores with the decimals with which Atari 100K papers use them (Wang et al. 2016, arXiv
# 1511.06581). The first four columns after these are what the methods' own papers report; the
# last two are the authors' runs, 5 seeds.
TABLE_2 = pandas.read_csv(pathlib.Path(__file__).with_suffix('.csv'), index_col='game').to_dict()
_RANDOM, _HUMAN = TABLE_2.pop('random'), TABLE_2.pop('human')
RANDOM_AND_HUMAN = {game: (_RANDOM[game], _HUMAN[game]) for game in _RANDOM}
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
