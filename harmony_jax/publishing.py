"""Trained agents as files that anyone can check: what acting needs, without optimisers or pickle.

A published agent is a folder with

    manifest.json     what it is: configuration, spaces, commit, versions, score, hashes, licence
    parameters.npz    arrays by name, as NumPy writes them
    scores.json       the score of every episode that its mean is of
    README.md         the same in words

`trained.Agent.load` takes the folder, or the name of one that comes with the library, and refuses
files whose SHA-256 is not the manifest's. `experiments.publish` makes one of a run folder,
`experiments.verify` plays it again.
"""

import hashlib
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from harmony_jax.config import nearest
from harmony_jax.envs.episodes import EpisodeResult
from harmony_jax.errors import UserError
from harmony_jax.paths import local_path
from harmony_jax.training.checkpoint import structure

FORMAT = 1
LEVEL = 0.999  # of the interval in which a mean of new episodes must lie
PARAMETERS, SCORES, MANIFEST, CARD = 'parameters.npz', 'scores.json', 'manifest.json', 'README.md'
UNFINISHED = '.tmp'  # how the name of a folder ends that is not whole yet
PLACE = pathlib.Path(__file__).parent / 'published'


def names() -> list[str]:
  """Return the names of the agents that come with the library."""
  places = (path.parent for path in PLACE.glob(f'*/{MANIFEST}'))
  return sorted(place.name for place in places if place.suffix != UNFINISHED)


def find(path: str | pathlib.Path) -> pathlib.Path | None:
  """Return the folder of a published agent, by its path or its name; None for any other path.

  Raises:
    UserError: a word that is neither a path nor one of the names; names the nearest.
  """
  place, known = local_path(path), names()
  if place.exists():
    return place if (place / MANIFEST).is_file() else None
  if str(path) in known:
    return PLACE / str(path)
  if len(place.parts) == 1 and known:
    raise UserError(
      f'{path} holds no run: there is no such folder, and no published agent of this name; did you '
      f'mean {nearest(str(path), known)!r}? ({", ".join(known)})'
    )
  return None


def manifest(folder: pathlib.Path) -> dict[str, Any]:
  """Return what a published agent says of itself.

  Raises:
    UserError: it cannot be read, or another version has made it.
  """
  try:
    found = json.loads((folder / MANIFEST).read_text(encoding='utf-8'))
    if found['format'] == FORMAT:
      _check(found)
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise unreadable(folder, error) from None
  if found['format'] != FORMAT:
    raise UserError(f'{folder} has the format {found["format"]!r}: this version reads {FORMAT}')
  return found


def unreadable(folder: pathlib.Path, error: Exception) -> UserError:
  """Return the line for a manifest that something wrong was found in."""
  return UserError(f'{folder / MANIFEST} cannot be read ({type(error).__name__}: {error})')


def _check(about):
  """Raise KeyError or TypeError for a manifest that lacks what is read of it."""
  for name in ('run', 'spec', 'sha256', 'arrays', 'verify', 'evaluation'):
    if not isinstance(about[name], dict):
      raise TypeError(f'{name} is {about[name]!r}')
  verify, result = about['verify'], about['evaluation']
  stated = [verify[k] for k in ('low', 'high', 'level', 'episodes', 'seed')]
  for number in (*stated, result['mean'], result['random_mean'], about['step']):
    if not isinstance(number, int | float):
      raise TypeError(f'{number!r} is no number')


def read(folder: pathlib.Path, name: str, about: Mapping[str, Any]) -> bytes:
  """Return a file of a published agent, whose hash is the one that the manifest `about` states.

  Raises:
    UserError: it is not, or the file cannot be read.
  """
  try:
    data = (folder / name).read_bytes()
  except OSError as error:
    raise UserError(f'{folder / name} cannot be read ({error.strerror})') from None
  found, stated = hashlib.sha256(data).hexdigest(), about['sha256'].get(name)
  if found != stated:
    raise UserError(
      f'{folder / name} is not what was published: its SHA-256 is {found[:16]}…, the manifest '
      f'states {str(stated)[:16]}…; nothing was loaded'
    )
  return data


def parameters(folder: pathlib.Path, about: Mapping[str, Any], like: Any) -> Any:
  """Return the arrays of a published agent as a tree like `like` (as of `jax.eval_shape`).

  Raises:
    UserError: a wrong hash, or arrays of another configuration (names the first that differs).
  """
  data = read(folder, PARAMETERS, about)
  with np.load(io.BytesIO(data), allow_pickle=False) as file:
    arrays = {name: file[name] for name in file.files}
  here, there = structure(like), structure(arrays)
  for name in [*here, *there]:
    if here.get(name) != there.get(name):
      raise UserError(
        f'{folder} is of another configuration: {name} is {there.get(name, "nothing")} there, '
        f'{here.get(name, "nothing")} here'
      )
  return jax.tree.unflatten(jax.tree.structure(like), [jax.device_put(arrays[k]) for k in here])


def pack(tree: Any) -> bytes:
  """Return a tree of arrays as the file that `parameters` reads; equal trees give equal bytes."""
  file = io.BytesIO()
  leaves = map(np.asarray, jax.tree.leaves(jax.device_get(tree)))
  np.savez(file, allow_pickle=False, **dict(zip(structure(tree), leaves, strict=True)))
  return file.getvalue()


def scores(played: Sequence[EpisodeResult], player: str = 'the agent') -> list[float]:
  """Return the scores of complete episodes; `player` says in words whose.

  Raises:
    UserError: some were cut, as they did not end: these have none.
  """
  if cut := sum(each.cut for each in played):
    told = f'{cut} of {len(played)} episodes of {player} did not end'
    raise UserError(f'{told}, and have no score')
  return [each.score for each in played]


def interval(
  scores: Sequence[float], episodes: int, level: float = LEVEL
) -> tuple[float, float, str]:
  """Return (low, high, how): where the mean of so many new episodes of the same agent lies.

  A prediction interval: it knows that the published mean has an error of its own, too. Of scores
  that take two values the number of the larger one among N new episodes is beta-binomial (Jeffreys'
  prior); of others the mean is taken for normal, m ± t · s · √(1/n + 1/N) with Student's t.

  Args:
    scores: n of them, independent. episodes: N. level: how probable it is.

  Raises:
    UserError: no interval can be made of these, as there are few or all of them are equal.
  """
  from scipy import stats  # which takes a second

  values, count = np.unique(scores), len(scores)
  if len(values) < 2:
    raise UserError(
      f'no interval can be made of {count} equal scores: play more episodes (--episodes), or other '
      'ones'
    )
  if len(values) == 2:
    high = int(np.sum(scores == values[1]))
    number = stats.betabinom(episodes, high + 0.5, count - high + 0.5)
    ends = [number.ppf(tail) / episodes for tail in ((1 - level) / 2, (1 + level) / 2)]
    low, high = (float(values[0] + each * (values[1] - values[0])) for each in ends)
    return low, high, 'beta-binomial prediction of the larger of two scores'
  half = stats.t.ppf((1 + level) / 2, count - 1) * np.std(scores, ddof=1)
  half = float(half * np.sqrt(1 / count + 1 / episodes))
  mean = float(np.mean(scores))
  return mean - half, mean + half, "Student's prediction of a mean"


def holds(mean: float, low: float, high: float) -> bool:
  """Return whether a mean lies in an interval: its ends belong to it, and sums are rounded."""
  slack = 1e-9 * max(abs(low), abs(high))
  return low - slack <= mean <= high + slack
