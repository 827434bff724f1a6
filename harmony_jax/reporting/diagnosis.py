"""Whether a run looks right: its record held against what its own definitions say, and against the
ranges of our runs.

What holds for any task comes from the configuration (free nats, clips, the optimum of a
harmonizer); what our runs had from ranges.py.
"""

import json
import math
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from harmony_jax import weighting
from harmony_jax.config import nested_flat
from harmony_jax.paths import local_path
from harmony_jax.reporting import published, ranges, records
from harmony_jax.reporting.ranges import FACTOR, MODEL, Sign, text
from harmony_jax.reporting.schema import Record

EARLY = 500  # updates before which little can be said


def examine(folder: str) -> tuple[Record, list[Sign], list[tuple[str, str, str]]]:
  """Return (the record of a run, what is to be said of it, (metric, its value, our runs' range)).

  Raises:
    UserError: the folder holds no run, or one that is damaged.
  """
  record = records.read(folder, ranges.READ)
  series = _series(record)
  signs = [*_progress(record, series), *_scores(record)]
  if series.get('update', [0])[-1] and len(series['update']) > 3:
    signs += [*_model(record, series), *_weights(record, series), *_policy(folder, series)]
  told, compared = ranges.compare(record)
  return record, signs + told, compared


# --------------------------------------------------------------------------------------------------
# what holds for any run


def _progress(record, series) -> Iterator[Sign]:
  updates, step = series.get('update', []), record.metrics['step'][-1:]
  if not step:
    yield Sign('there is no line of metrics yet', 'the first comes after config.log_every steps')
    return
  if not updates or not updates[-1]:
    yield Sign(
      f'no update in {step[0]:,} steps',
      'it still collects experience: `prefill`, a first batch, or with replay.sampling=episodes a '
      'whole episode is not there yet; the run’s output says what it waits for',
    )
  elif updates[-1] < EARLY:
    yield Sign(f'{int(updates[-1]):,} updates: too early to say much', unusual=False)
  # of one that ends the run there is no line, but what was written down of it
  written = sum(1 for _ in (pathlib.Path(record.source) / 'nonfinite').glob('[0-9]*'))
  if broken := max(written, series.get('nonfinite_updates', [0])[-1]):
    yield Sign(
      f'{text(broken)} updates were left out or ended the run, as something was not finite',
      'python -m experiments.reproduce --logdir=… names the first bad tensor; usual causes are a '
      'learning rate that is too high and rewards or observations of another scale',
    )
  if failures := series.get('env/failures', [0])[-1]:
    yield Sign(f'{text(failures)} episodes were cut, as the environment failed', 'the simulator')
  speed = series.get('speed/env_steps_per_second', [])
  if len(speed) >= 8 and _median(speed, 0.75) < 0.5 * _median(speed, 0.25, 0.5):
    first, last = _median(speed, 0.25, 0.5), _median(speed, 0.75)
    yield Sign(
      f'it has become slow: {last:.3g} steps/s in the last quarter, {first:.3g} in the second',
      'another process on the same cores or device, a machine that is out of memory, or episodes '
      'that take the environment longer',
    )
  seconds, hours = series.get('time/eval_seconds', [0]), record.hours or 0
  evaluating = float(np.mean(seconds)) * len(record.scores)
  apart = record.config.get('eval_in_background')  # training goes on meanwhile
  if hours and evaluating > 0.3 * 3600 * hours and not apart:
    yield Sign(
      f'{evaluating / 36 / hours:.0f} % of the time is evaluation',
      'a larger config.eval_every, or fewer config.eval_episodes',
      unusual=False,
    )


def _scores(record) -> Iterator[Sign]:
  scores = [score for score in record.scores if score is not None]
  last = record.final_scores or []
  if len(scores) > 1 and len(last) > 1 and len({*last}) == 1 and len({*scores}) == 1:
    yield Sign(
      f'every episode of every evaluation has the same return, {text(last[0])}',
      'the reward never comes, or does not depend on what the agent does: nothing can be learned '
      'from it. Look at the reward of the environment',
    )
  known = published.RANDOM_AND_HUMAN if record.suite == 'atari' else {}
  if scores and record.task in known:
    random, human = known[record.task]
    # what is little to people may be many times what chance gives: of Seaquest 665 for 68
    if scores[-1] < random + min(0.02 * (human - random), max(abs(random), 1)):
      yield Sign(
        f'the last score, {text(scores[-1])}, is that of a random player ({text(random)})',
        'of the 26 games Freeway, Private Eye and Pong stay there longest; else see the losses',
      )
  elif len(scores) > 2 and max(scores[1:]) <= scores[0]:
    yield Sign(
      f'no evaluation is better than the first ({text(scores[0])})',
      'nothing that pays has been learned yet: are reward and policy learned at all, below?',
    )


def _model(record, series) -> Iterator[Sign]:
  updates, config = series['update'][-1], record.config
  late = updates >= EARLY
  free = _of(config, 'losses', 'free_nats')
  dynamics = series.get('loss/dynamics')
  if dynamics and free and late and _median(dynamics, 0.5) <= 1.002 * free:
    yield Sign(
      f'the dynamics loss lies at its floor, the {free:g} free nats',
      'the posterior says no more than the prior: it has collapsed, or free nats are so many that '
      'the dynamics are not trained (config.losses.free_nats). Is the observation loss falling?',
    )
  elif dynamics and free == 0 and late and _median(dynamics, 0.5) < 0.01:
    yield Sign(
      f'the dynamics loss is {text(_median(dynamics, 0.5))} nats',
      'the posterior says no more than the prior: it has collapsed, as it does where a small loss '
      'is weighed much and there are no free nats. --config.losses.free_nats=1, or a rule whose '
      'dynamics has the weight of the observation (--weighting=equilibrium)',
    )
  for task in MODEL:
    loss = series.get(f'loss/{task}', [])
    if len(loss) < 8 or task == 'dynamics':
      continue
    lows = [_median(loss, at / 8, (at + 1) / 8) for at in range(8)]
    met = task == 'reward' and _rises(record)  # rewards that it had not met before
    if min(lows) > 1e-2 and lows[-1] > 3 * min(lows) and not met:
      yield Sign(
        f'the {task} loss has risen from {text(min(lows))} to {text(lows[-1])}',
        'the model diverges (a learning rate that is too high: config.model_opt.lr), or the agent '
        'has come to something new',
      )
  reward = series.get('loss/reward', [])
  if late and len(reward) >= 8:
    before, now = _median(reward, 0.25, 0.5), _median(reward, 0.75)
    if now < 1e-2 and {score for score in record.scores if score is not None} <= {0.0}:
      yield Sign(
        'the reward loss is almost 0, and so is every score',
        'the agent has met no reward: a constant prediction is right. More exploration '
        '(config.behavior.entropy), or the environment’s reward is always 0',
      )
    elif now > 0.97 * before and not _rises(record):
      yield Sign(
        f'the reward loss is flat ({text(before)}, then {text(now)}), and scores do not rise',
        'the reward head says no more than the mean: a weight of the reward loss that is too small '
        'for it (--weighting=harmony, or fixed), or too few rewards in the replay',
      )
  for name, of in (('world_model', 'model'), ('actor', 'actor'), ('critic', 'critic')):
    norms, clip = series.get(f'grad_norm/{name}', []), _of(config, f'{of}_opt', 'clip')
    if clip and norms and late:
      half = norms[len(norms) // 2 :]
      share = sum(norm > clip for norm in half) / len(half)
      if share > 0.9:
        yield Sign(
          f'the gradient of {name} is cut in {share:.0%} of the lines of the second half (clip '
          f'{clip:g}, median {text(float(np.median(half)))})',
          'steps are as long as the clip allows, whatever the loss: a larger clip, or rewards or '
          'losses of another scale',
        )


def _weights(record, series) -> Iterator[Sign]:
  if record.weighting not in ('harmony', 'harmony_unrectified'):
    return
  rest = weighting.rest(nested_flat(record.config))
  for task in MODEL:
    sigma, loss = series.get(f'harmony/{task}/sigma', []), _weighed(record, task)
    if len(sigma) < 4 or not loss or series['update'][-1] < EARLY:
      continue
    best = math.exp(rest(max(_median(loss, 0.75), 1e-9), task))
    if not 1 / FACTOR < sigma[-1] / best < FACTOR:
      away, rate = math.log(best / sigma[-1]), _slope(record, f'harmony/{task}/sigma')
      arrives = away / rate if rate and away / rate > 0 else math.inf
      more = (
        f'about {arrives:,.0f} more updates at its pace' if arrives < 1e7 else 'it stands still'
      )
      yield Sign(
        f'σ of {task} is {text(sigma[-1])}, its optimum for this loss {text(best)}: {more}',
        'harmonizers move by their learning rate, not by their gradient: in a short run they do '
        'not arrive. A higher config.weighting.rate, or weighting.beta2=0.99 as the cpu preset',
        unusual=arrives == math.inf or record.complete,
      )


def _weighed(record, task):
  """The loss of a task that its harmonizer sees, (L/σ) σ: TD-MPC's is weighed by priorities before
  it is, and not where it is logged."""
  names = f'harmony/{task}/scaled', f'harmony/{task}/sigma'
  columns = [record.metrics[name] for name in names if name in record.metrics]
  if len(columns) < 2:
    return [value for value in record.metrics.get(f'loss/{task}', []) if value is not None]
  return [scaled * sigma for scaled, sigma in zip(*columns) if None not in (scaled, sigma)]


def _policy(folder, series) -> Iterator[Sign]:
  entropy, choices = series.get('actor/entropy', []), _choices(folder)
  returns = series.get('return/train', [])
  if not (entropy and choices) or series['update'][-1] < EARLY:
    return
  most, now = sum(math.log(count) for count in choices), _median(entropy, 0.75)
  options = ' × '.join(map(str, choices))
  if now > 0.98 * most:
    yield Sign(
      f'the policy is random: entropy {now:.3g} of at most log({options}) = {most:.3g}',
      'its loss is the entropy bonus alone: no return is expected from any action (rewards that '
      'never come, a reward head that says a constant), or config.behavior.entropy is too high',
    )
  elif now < 0.01 * most:
    yield Sign(
      f'the policy is deterministic: entropy {now:.3g} of at most log({options}) = {most:.3g}',
      'fine where the task is solved; else it stopped to explore: config.behavior.entropy, or '
      'returns of a scale that drowns it',
      unusual=len(returns) < 4 or _median(returns, 0.75) <= _median(returns, 0, 0.25),
    )


def _choices(folder):
  """How many choices each part of an action has, by the newest checkpoint; () where unknown, or
  where there are continuous numbers beside them."""
  places = local_path(folder).glob('checkpoints/*/meta/metadata')
  for place in sorted(places, key=lambda each: each.parts[-3].zfill(12), reverse=True):
    found = re.search(r'"spec":\s*(\{.*)', place.read_text(encoding='utf-8', errors='replace'))
    try:
      spec, _ = json.JSONDecoder().raw_decode(found[1]) if found else ({}, 0)
      count = spec['num_actions'] if spec else 0
      choices = [count] if spec.get('discrete') else spec.get('choices') or []
      return choices if sum(choices) == count else ()
    except (ValueError, KeyError):
      continue
  return ()


def _series(record):
  """{metric: its values that are there, in order}."""
  return {
    name: [value for value in column if value is not None]
    for name, column in record.metrics.items()
  }


def _of(config, section, field):
  return (config.get(section) or {}).get(field)


def _median(values, start=0.0, end=1.0):
  """The median of a part of a list, at least one value of it."""
  first = min(int(start * len(values)), len(values) - 1)
  return float(np.median(values[first : max(first + 1, int(end * len(values)))]))


def _rises(record):
  scores = [score for score in record.scores if score is not None]
  return len(scores) < 2 or max(scores[1:]) > scores[0]


def _slope(record, name):
  """Change of log σ per update over the last half."""
  both = zip(record.metrics['update'], record.metrics[name])
  points = [(update, value) for update, value in both if update is not None and value]
  (first, low), (last, high) = points[len(points) // 2 - 1], points[-1]
  return math.log(high / low) / (last - first) if last > first else 0.0
