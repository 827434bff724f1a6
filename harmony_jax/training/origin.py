"""A run that starts from what another one, its source, has learned.

    facts = origin.find('runs/catch/…/seed0', 'dreamerv3')   # for the identity in config.json
    line = origin.begin(trainer)                             # before its own first checkpoint

It takes parameters, optimisers, slow copies, running statistics and the count of updates, by which
slow copies and prototypes know that they are no beginners. Of its own are what belongs to the
course of a run: key, other counts, carries, replay. Nothing that the source names is imported: its
method is that of the command.
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax

from harmony_jax import config as config_
from harmony_jax import method, settings, weighting
from harmony_jax.config import Config
from harmony_jax.envs.base import Spec
from harmony_jax.errors import UserError
from harmony_jax.paths import local_path
from harmony_jax.training import run_folder
from harmony_jax.training.checkpoint import Checkpoints, structure

if TYPE_CHECKING:
  from harmony_jax.training.loop import Trainer

# Fields of a `TrainState` that a run begins with; `run_step`: of TD-MPC, by which it plans.
OWN = ('rng', 'run_step', 'nonfinite', 'carry')
_log = logging.getLogger(__name__)


def facts(source: str, folder: str | os.PathLike, name: str) -> dict[str, Any]:
  """Return what config.json says of a source: what it says already, once the run is recorded.

  The source need not be there any more then.

  Args:
    folder: of the run. name: of its method.

  Raises:
    UserError: as of `find`.
  """
  path = local_path(folder)
  if run_folder.is_recorded(path):
    said = config_.saved(path)['identity'].get('from')
    if said and os.path.abspath(said['run']) == os.path.abspath(source):
      return said
  return find(source, name)


def find(source: str, name: str) -> dict[str, Any]:
  """Return {'run', 'task', 'method', 'step', 'checksum'} of the newest intact checkpoint.

  Raises:
    UserError: no run, one of another method, or no checkpoint.
  """
  config = config_.saved(source)['config']
  if config.get('method') != name:
    raise UserError(f'--from={source} has the method {config.get("method")!r}, this run {name!r}')
  path = local_path(source) / 'checkpoints'
  if not path.is_dir():
    raise UserError(f'{source} holds no checkpoint yet: the run has not come that far')
  with Checkpoints(path, read_only=True) as checkpoints:
    step = checkpoints.newest_intact()
    checksum = checkpoints.checksum(step)
  known = {'task': config['task'], 'method': name, 'step': step, 'checksum': checksum}
  return {'run': str(source), **known}


def begin(trainer: 'Trainer') -> str:
  """Give a run without a checkpoint what its source has learned.

  Returns: the line that says so; '' where the run has a checkpoint, or no source.

  Raises:
    UserError: the source does not fit (names what differs first), or has changed.
  """
  said = config_.saved(trainer.folder.path)['identity'].get('from')
  if not said or run_folder.has_checkpoint(trainer.folder.path):
    return ''
  step, path = said['step'], local_path(said['run'])
  with Checkpoints(path / 'checkpoints', read_only=True) as checkpoints:
    if checkpoints.checksum(step) != said['checksum']:
      raise UserError(f'{path} has another checkpoint {step} than when this run was begun from it')
    meta = checkpoints.meta(step)
    like = _learned(trainer.method)
    misfit = _misfit(checkpoints.structure(step), like, meta, trainer, path)
    if misfit:
      raise UserError(f'--from={path} does not fit this run: {misfit}')
    restored, _ = checkpoints.restore({'train': like}, step, part=True)
  trainer.updates.start_from(restored['train'])
  score = meta.get('last_score')
  kept = _kept(trainer, config_.saved(path)['config'])
  told = 'no score' if score is None else f'score {score:.2f}'
  return f'starts from {path} ({said["task"]}, step {step:,}, {told}{kept})'


def _kept(trainer: 'Trainer', source: Mapping[str, Any]) -> str:
  """What is said of σ, where others would start here, or another rule has learned them there."""
  flat = trainer.config.flat()
  start, rule = flat.get('weighting.start', 1.0), flat.get('weighting.rule', 'none')
  if 'rate' in weighting.idle(rule):  # no harmonizers
    return ''
  theirs = (source.get('weighting') or {}).get('rule', rule)
  told = '; its σ are kept' + (f', which the rule {theirs} has learned' if theirs != rule else '')
  if trainer.method.calibration:
    return f'{told}, and not calibrated'
  if start == 1:
    return told if theirs != rule else ''
  return f'{told}: config.weighting.start={start:g} changes nothing'


def _learned(of: method.Method) -> dict[str, Any]:
  """The shapes of what a method's state takes over; of empty trees nothing is saved."""
  state = jax.eval_shape(of.init, jax.random.key(0))
  fields = {each.name: getattr(state, each.name) for each in dataclasses.fields(state)}
  return {name: x for name, x in fields.items() if name not in OWN and jax.tree.leaves(x)}


def _misfit(there, like, meta, trainer: 'Trainer', path: pathlib.Path) -> str:
  """What differs first, in words: a space, a setting, an array; '' where all fits."""
  spec, config = trainer.env.spec, trainer.config
  if 'spec' in meta:  # older checkpoints lack it
    learned = Spec.from_json(meta['spec']).spaces
    if learned != spec.spaces:
      return f'it has learned with {learned}, here are {spec.spaces}'
  here = structure({'train': like})
  own = tuple(f'train/{name}' for name in OWN)
  taken = {k: v for k, v in there.items() if k.startswith('train/') and not k.startswith(own)}
  differing = config_.difference(taken, here)
  if not differing:
    return ''
  array, (old, new) = next(iter(differing.items()))
  told = f'{array} is {old or "nothing"} there, {new or "nothing"} here'
  return _setting(config_.saved(path)['config'], config, spec, here) or told


def _setting(source: Mapping[str, Any], config: Config, spec: Spec, here: Mapping) -> str:
  """The first setting that alone would change the arrays, in words; '' where there is none."""
  known = settings.flatten(config.agent)
  for name, (theirs, ours) in config_.difference(source, config.to_json()).items():
    if name not in known or theirs is None:
      continue
    try:
      agent = config.replace({name: theirs}).agent
      other = _learned(method.entry(config.run.method).make(agent, spec))
    except (UserError, ValueError):  # not without others
      continue
    if structure({'train': other}) != here:
      return f'config.{name} is {theirs!r} there, {ours!r} here'
  return ''
