"""Frames of videos that explain themselves: an episode beside what a method expects, and dreams."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from harmony_jax.training.recording import Episode
from harmony_jax.training.video import IMAGINED, to_uint8

# pixels: side of a picture, between them, a line of text, the chart's height
SIZE, GAP, LINE, CHART = 256, 8, 24, 110
BACKGROUND, TEXT, FAINT = (22, 24, 28), (232, 232, 232), (120, 124, 130)
RIGHT, WRONG = (86, 180, 233), (230, 130, 0)  # told apart by colour-blind eyes
GIVEN = RIGHT  # brighter than elsewhere, on this ground
_TOP = 2 * LINE + GAP // 2  # of the pictures
FONT = ImageFont.load_default(15)
Prediction = Mapping[str, Any]  # of `trained.Agent.open_loop` or `dream`, in NumPy
Row = tuple[np.ndarray, np.ndarray | None]  # pictures [T, H, W, 3] uint8, rewards [T]


def episode_frames(
  episode: Episode, prediction: Prediction | None, tolerance: float, title: str
) -> Iterator[np.ndarray]:
  """Yield per step what the agent sees, what its method expects, and the rewards so far.

  Args:
    episode: of T steps. prediction: of `trained.Agent.open_loop`, with 'picture' [T, H, W, 3] in
      [0, 1] or None where no pictures are predicted, and perhaps 'drawn_parts' {part: the same};
      None where nothing is.
    tolerance: how far a predicted reward may be from the true one to count as correct.
    title: a line above.

  Yields: [height, width, 3] uint8, even sides.
  """
  told: dict[str, Any] = {'picture': None, 'reward': episode.reward, 'seen': None} | dict(
    prediction or {}
  )
  drawn, expected = told['picture'], told['reward']
  low, high = min(episode.reward.min(), expected.min()), max(episode.reward.max(), expected.max())
  parts = told.get('drawn_parts', {})
  columns = 2 if drawn is None else 3 + len(parts)
  for t in range(len(episode.reward)):
    image, draw = _canvas(columns, CHART + GAP)
    draw.text((GAP, GAP // 2), f'{title}, step {t}', TEXT, FONT)
    _paste(image, draw, 0, episode.picture[t], 'the agent sees', None)
    _label(draw, 0, f'reward {_number(episode.reward[t])}', TEXT)
    if drawn is None:
      for row, (text, color) in enumerate(facts(episode, prediction, t)):
        draw.text((2 * GAP + SIZE, _TOP + row * LINE), text, color, FONT)
    else:
      color, knows = (GIVEN, 'has seen') if told['seen'][t] else (IMAGINED, 'imagines')
      _paste(image, draw, 1, to_uint8(drawn[t]), f'the model {knows} this', color)
      _paste(image, draw, 2, _error(episode.picture[t], drawn[t]), 'error', None)
      for place, (part, pictures) in enumerate(parts.items(), 3):
        _paste(image, draw, place, to_uint8(pictures[t]), f'{part} alone moves', color)
      right = abs(expected[t] - episode.reward[t]) <= tolerance
      verdict, color = ('correct', RIGHT) if right else ('incorrect', WRONG)
      _label(draw, 1, f'reward {_number(expected[t])} {verdict}', color)
    _chart(draw, t, episode.reward, prediction, low, high, columns * (SIZE + GAP))
    yield np.asarray(image)


def facts(
  episode: Episode, prediction: Prediction | None, t: int
) -> list[tuple[str, tuple[int, int, int]]]:
  """Return lines about a step, with their colours."""
  total = np.cumsum(episode.reward[: t + 1])[-1]
  lines = [(f'step {t}', TEXT), (f'reward {episode.reward[t]:.2f}, in sum {total:.2f}', TEXT)]
  if prediction is None:
    return lines
  knows, color = ('has seen', GIVEN) if prediction['seen'][t] else ('imagines', IMAGINED)
  expects = f'and expects {prediction["reward"][t]:.2f}'
  lines += [(f'the model {knows} this', color), (expects, color)]
  if 'value' in prediction:
    lines.append((f'and later {prediction["value"][t]:.2f}', color))
  return lines


def describe(episode: Episode, prediction: Prediction, tolerance: float) -> list[str]:
  """Return lines that say how well rewards were predicted, of steps seen and of the others."""
  error, seen = np.abs(prediction['reward'] - episode.reward), prediction['seen']
  lines = []
  for name, where in (('seen', seen), ('imagined', ~seen)):
    right, rewarded = error <= tolerance, where & (np.abs(episode.reward) > tolerance)
    if where.any():
      lines.append(
        f'rewards of steps {name}: {right[where].sum()} of {where.sum()} correct (within '
        f'{tolerance:.2g}), {right[rewarded].sum()} of {rewarded.sum()} where the true one is not '
        f'near 0; mean error {error[where].mean():.3g}'
      )
  return lines


def strip(
  episode: Episode, prediction: Prediction, tolerance: float, window: int, columns: int = 8
) -> np.ndarray:
  """Return a picture of one window, as the paper's figure 3: true steps, predictions, errors.

  Args:
    episode, prediction, tolerance: as in `episode_frames`. window: steps of a window; of those that
      are whole, the one with the most reward is shown: its first step, and of each of `columns` - 1
      stretches the one with the largest reward, so that rare rewards are seen.

  Returns: [height, width, 3] uint8.
  """
  reward, expected, seen = episode.reward, prediction['reward'], prediction['seen']
  starts = range(0, max(1, len(reward) - window + 1), window)
  start = max(starts, key=lambda t: np.abs(reward[t : t + window])[~seen[t : t + window]].sum())
  rest = np.arange(start + 1, min(start + window, len(reward)))
  steps = [
    start,
    *(
      part[np.abs(reward[part]).argmax()] for part in np.array_split(rest, columns - 1) if len(part)
    ),
  ]
  drawn = prediction['picture']
  rows: dict[str, Row] = {
    'true': (episode.picture, reward),
    'model': (to_uint8(drawn), expected),
    'error': (_error(episode.picture, drawn), None),
  }
  for part, pictures in prediction.get('drawn_parts', {}).items():
    rows[f'only {part}'] = to_uint8(pictures), None
  return _strip(rows, steps, seen, tolerance)


def compare(
  rows: Mapping[str, Row], context: int, tolerance: float, columns: int = 8
) -> np.ndarray:
  """Return a picture of one window as several models predict it, the paper's figure 3.

  Args:
    rows: {name: (pictures [T, H, W, 3] uint8, rewards [T])}, the true ones first.
    context: steps that the models have seen. tolerance: as in `episode_frames`.
    columns: steps, evenly spaced.

  Returns: [height, width, 3] uint8.
  """
  length = len(next(iter(rows.values()))[0])
  steps = np.linspace(0, length - 1, min(columns, length)).round().astype(int)
  return _strip(rows, steps, np.arange(length) < context, tolerance)


def _strip(rows, steps, seen, tolerance):
  """Rows of pictures at some steps; those with rewards but the first are held against it."""
  side, margin = SIZE // 2, 20 + 8 * max(map(len, rows))
  size = margin + len(steps) * (side + GAP), LINE + len(rows) * (side + GAP + LINE)
  image = Image.new('RGB', size, BACKGROUND)
  draw, (_, truth) = ImageDraw.Draw(image), next(iter(rows.values()))
  for row, (name, (pictures, reward)) in enumerate(rows.items()):
    y = LINE + row * (side + GAP + LINE)
    draw.text((GAP, y + side // 2), name, TEXT, FONT)
    for place, t in enumerate(steps):
      x = margin + place * (side + GAP)
      picture = Image.fromarray(pictures[t]).resize((side, side), Image.Resampling.NEAREST)
      image.paste(picture, (x, y))
      if row == 0:
        draw.text((x, 2), f'step {t}', FAINT, FONT)
      if reward is None:
        continue
      text, color = f'reward {_number(reward[t])}', TEXT
      if row:
        right = abs(reward[t] - truth[t]) <= tolerance
        text = f'{_number(reward[t])} {"correct" if right else "incorrect"}'
        color, border = RIGHT if right else WRONG, GIVEN if seen[t] else IMAGINED
        draw.rectangle((x - 3, y - 3, x + side + 2, y + side + 2), outline=border, width=3)
      draw.text((x + side, y + side + 4), text, color, FONT, anchor='ra')
  return np.asarray(image)


def dream_frames(dreams: Prediction, name: str, title: str) -> Iterator[np.ndarray]:
  """Yield per step N dreams side by side, with the rewards that the model expects in them.

  Args:
    dreams: of `trained.Agent.dream`. name: of the observation to show. title: a line above.

  Yields: [height, width, 3] uint8, even sides. A dream whose episode the model holds for ended is
  shown dark.
  """
  pictures, reward = to_uint8(dreams['observation'][name]), dreams['reward']
  keep = dreams['continue']
  over = np.cumsum(keep < 0.5, 1) - (keep < 0.5) > 0  # after the step that ends it
  total = np.cumsum(np.where(over, 0, reward), 1)
  for t in range(pictures.shape[1]):
    image, draw = _canvas(len(pictures), 0)
    draw.text((GAP, GAP // 2), f'{title}, step {t}', TEXT, FONT)
    for place, picture in enumerate(pictures[:, t]):
      text = 'over' if over[place, t] else f'reward {_number(reward[place, t])}'
      picture = picture // 4 if over[place, t] else picture
      _paste(image, draw, place, picture, f'sum of rewards {_number(total[place, t])}', IMAGINED)
      _label(draw, place, text, TEXT)
    yield np.asarray(image)


def _error(true, drawn):
  return to_uint8((drawn - true.astype(np.float32) / 255 + 1) / 2)


def _canvas(count, below):
  width, height = GAP + count * (SIZE + GAP), _TOP + SIZE + LINE + GAP + below
  image = Image.new('RGB', (width + width % 2, height + height % 2), BACKGROUND)
  return image, ImageDraw.Draw(image)


def _paste(image, draw, place, picture, name, border):
  x, y = GAP + place * (SIZE + GAP), _TOP
  draw.text((x, LINE + 2), name, TEXT, FONT)
  image.paste(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.NEAREST), (x, y))
  if border:
    draw.rectangle((x - 3, y - 3, x + SIZE + 2, y + SIZE + 2), outline=border, width=3)


def _label(draw, place, text, color):
  """Text below a picture, to the right."""
  draw.text(
    (GAP + place * (SIZE + GAP) + SIZE, _TOP + SIZE + GAP // 2), text, color, FONT, anchor='ra'
  )


def _chart(draw, now, reward, prediction, low, high, right, longest=300):
  """Draw true rewards as a line, expected ones as dots in their colours, of steps around now."""
  begin = max(0, min(now - longest // 2, len(reward) - longest))
  steps = np.arange(begin, min(len(reward), begin + longest))
  left, top, bottom = GAP + 52, _TOP + SIZE + 2 * LINE + GAP, _TOP + SIZE + LINE + CHART
  scale = (right - left) / max(1, min(len(reward), longest) - 1)
  x = lambda t: left + (t - begin) * scale
  y = lambda value: bottom - (value - low) / max(high - low, 1e-6) * (bottom - top)
  legend = [(0, 'true reward', TEXT)]
  if prediction is not None:
    legend += [(96, 'predicted, seen', GIVEN), (216, 'predicted, imagined', IMAGINED)]
  for at, text, color in legend:
    draw.text((GAP + at, top - LINE), text, color, FONT)
  for value in {low, high}:
    draw.text((left - 6, y(value)), _number(value), FAINT, FONT, anchor='rm')
  draw.line((x(now), top, x(now), bottom), FAINT)
  past = steps[steps <= now]
  if len(past) > 1:
    draw.line([(x(t), y(reward[t])) for t in past], TEXT, 1)
  if prediction is None:
    return
  for t in past:
    at = x(t), y(prediction['reward'][t])
    color = GIVEN if prediction['seen'][t] else IMAGINED
    draw.ellipse((at[0] - 1.5, at[1] - 1.5, at[0] + 1.5, at[1] + 1.5), color)


def _number(value):
  if abs(value) >= 100:
    return f'{value:.0f}'
  return f'{value + 0.0 if abs(value) >= 0.005 else 0.0:.2f}'  # no -0.00
