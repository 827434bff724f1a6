"""To which prototypes a model assigns what it sees, and what it expects.

T steps, K prototypes; `assigned` [T, K] as of the capability 'assign', `predicted` [T, K] the
'prototype' of 'open_loop'. Both sum to 1 at every step.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from harmony_jax.training.panels import (
  BACKGROUND,
  FAINT,
  FONT,
  GAP,
  GIVEN,
  LINE,
  SIZE,
  TEXT,
  Prediction,
  facts,
)
from harmony_jax.training.recording import Episode
from harmony_jax.training.video import IMAGINED

# pixels: of all steps, of a prototype, left of the steps, of the chart
WIDTH, ROW, LEFT, CHART = 720, 30, 44, 90


def surprise(assigned: np.ndarray, predicted: np.ndarray) -> np.ndarray:
  """Return -Σₖ qₖ log pₖ [T], the loss `temporal` of every step; log K where nothing is known."""
  return -(assigned * np.log(np.maximum(predicted, 1e-12))).sum(-1)


def describe(assigned: np.ndarray, predicted: np.ndarray, seen: np.ndarray) -> list[str]:
  """Return lines that say how well assignments were predicted, of steps `seen` [T] and others."""
  loss, right = surprise(assigned, predicted), assigned.argmax(-1) == predicted.argmax(-1)
  return [
    f'prototypes of steps {name}: cross entropy {loss[where].mean():.2f} (knowing nothing: '
    f'{np.log(assigned.shape[-1]):.2f}), the most likely one is right in '
    f'{right[where].sum()} of {where.sum()}'
    for name, where in (('seen', seen), ('imagined', ~seen))
    if where.any()
  ]


def picture(
  pictures: np.ndarray,
  assigned: np.ndarray,
  predicted: np.ndarray,
  seen: np.ndarray,
  title: str,
  rows: int = 10,
) -> np.ndarray:
  """Draw assignments over time: of what is seen, as predicted, and the surprise of every step.

  A row is a prototype, of those with the largest shares, in the order in which they come; before it
  the step of this sequence that is most its own. Brightness is the root of the probability.
  Predictions of steps that the model has seen are blue, imagined ones orange.

  Args:
    pictures: [T, H, W, 3] uint8. seen: [T] bool. title: a line above. rows: how many prototypes.

  Returns: [height, width, 3] uint8, even sides.
  """
  # a broken model still has its picture
  assigned, predicted = np.nan_to_num(assigned), np.nan_to_num(predicted)
  kinds, length = _kinds(assigned, predicted, rows), len(seen)
  block = ROW * len(kinds)
  tops = (
    LINE + ROW + 8 + LINE,
    LINE + ROW + 8 + 2 * LINE + block,
    LINE + ROW + 8 + 3 * LINE + 2 * block,
  )
  image = Image.new('RGB', (LEFT + WIDTH + GAP, tops[2] + CHART + GAP), BACKGROUND)
  draw = ImageDraw.Draw(image)
  draw.text((GAP, 3), title, TEXT, FONT)
  for place in range(WIDTH // (ROW + 2)):  # what the sequence looks like
    t = min(length - 1, int((place * (ROW + 2) + ROW / 2) / WIDTH * length))
    image.paste(_small(pictures[t]), (LEFT + place * (ROW + 2), LINE))
  colors = np.where(seen[:, None], np.array(GIVEN), np.array(IMAGINED))
  for top, name, shares, ink in (
    (tops[0], 'assigned to what is seen', assigned, np.full((length, 3), 255)),
    (tops[1], 'predicted from the latent state', predicted, colors),
  ):
    draw.text((LEFT, top - LINE + 3), name, TEXT, FONT)
    level = np.sqrt(shares[:, kinds]).T[..., None]  # [rows, T, 1]
    cells = (np.array(BACKGROUND) * (1 - level) + ink * level).astype(np.uint8)
    image.paste(
      Image.fromarray(cells).resize((WIDTH, block), Image.Resampling.NEAREST), (LEFT, top)
    )
    for row, kind in enumerate(kinds):
      image.paste(_small(pictures[assigned[:, kind].argmax()]), (GAP, top + row * ROW))
  for x, text, color in ((230, 'seen', GIVEN), (275, 'imagined', IMAGINED)):
    draw.text((LEFT + x, tops[1] - LINE + 3), text, color, FONT)
  _chart(draw, tops[2], surprise(assigned, predicted), np.log(assigned.shape[-1]), colors)
  return np.asarray(
    image.crop((0, 0, image.width + image.width % 2, image.height + image.height % 2))
  )


def frames(
  episode: Episode, assigned: np.ndarray, prediction: Prediction, title: str
) -> Iterator[np.ndarray]:
  """Yield per step what the agent sees, beside the `picture` with a line at this step.

  Args:
    prediction: of `trained.Agent.open_loop`. title: a line above.

  Yields: [height, width, 3] uint8, even sides.
  """
  still = Image.fromarray(
    picture(episode.picture, assigned, prediction['prototype'], prediction['seen'], title)
  )
  for t in range(len(episode.reward)):
    image = Image.new('RGB', (SIZE + GAP + still.width, still.height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    image.paste(still, (SIZE + GAP, 0))
    seen = Image.fromarray(episode.picture[t]).resize((SIZE, SIZE), Image.Resampling.NEAREST)
    image.paste(seen, (GAP, LINE))
    for row, (text, color) in enumerate(facts(episode, prediction, t)):
      draw.text((GAP, LINE + SIZE + GAP + row * LINE), text, color, FONT)
    x = SIZE + GAP + LEFT + (t + 0.5) * WIDTH / len(episode.reward)
    draw.line((x, LINE + ROW, x, still.height - GAP), TEXT)
    yield np.asarray(image)


def _kinds(assigned, predicted, rows):
  """Return the prototypes with the largest shares, by the mean step at which they are assigned."""
  kinds = np.argsort(-(assigned + predicted).sum(0), kind='stable')[:rows]
  # the latter for those that nothing is assigned to
  shares = assigned[:, kinds] + 1e-6 * predicted[:, kinds]
  middle = (np.arange(len(shares)) @ shares) / np.maximum(shares.sum(0), 1e-12)
  return kinds[np.argsort(middle, kind='stable')]


def _small(image):
  return Image.fromarray(image).resize((ROW, ROW), Image.Resampling.BILINEAR)


def _chart(draw, top, loss, unknown, colors):
  """Draw the surprise of every step, with a line at that of someone who knows nothing."""
  bottom, high = top + CHART, max(unknown, loss.max()) * 1.05
  y = lambda value: bottom - value / high * CHART
  draw.text((LEFT, top - LINE + 3), 'cross entropy of the prediction', TEXT, FONT)
  for value in (0.0, unknown):
    draw.line((LEFT, y(value), LEFT + WIDTH, y(value)), FAINT)
    draw.text((LEFT - 6, y(value)), f'{value:.1f}', FAINT, FONT, anchor='rm')
  for t, value in enumerate(loss):
    x = LEFT + (t + 0.5) * WIDTH / len(loss)
    draw.ellipse((x - 2, y(value) - 2, x + 2, y(value) + 2), tuple(int(c) for c in colors[t]))
