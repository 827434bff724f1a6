"""Where a run can be watched: TensorBoard, Weights & Biases, Trackio.

They show the numbers of the record (`logger`), and beside them every episode of training, videos
and the configuration. A run reads nothing back from them, and none of them can end it or hold it
up: each works in a thread of its own, and is left out from its first failure on.
"""

import dataclasses
import importlib.util
import logging
import os
import pathlib
import queue
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from harmony_jax import config as config_
from harmony_jax.errors import UserError, one_line
from harmony_jax.paths import joined
from harmony_jax.training import video
from harmony_jax.training.run_folder import atomic_write

_log = logging.getLogger(__name__)

DEFAULT = ('tensorboard',)
PROJECT = 'harmony-jax'
PATIENCE = 60  # seconds that the end of a run waits for a tracker
WAITING = 10_000  # calls that may wait for one


class Tracker(Protocol):
  """What a tracker does; all of it may fail."""

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Show finite numbers; no step is below the one before."""
    ...

  def video(self, step: int, name: str, path: pathlib.Path, frames: np.ndarray) -> None:
    """Show a video that lies at `path`; its frames are [T, H, W, 3] uint8."""
    ...

  def image(self, step: int, name: str, path: pathlib.Path) -> None:
    """Show a picture that lies at `path`."""
    ...

  def close(self) -> None:
    """Wait until all of it is where it belongs."""
    ...


@dataclasses.dataclass(frozen=True)
class Start:
  """What a tracker is told of the run.

  Attributes:
    config: the run's configuration. folder: of the run; it exists.
    step: from which the run goes on; 0 where it begins.
  """

  config: config_.Config
  folder: pathlib.Path
  step: int = 0

  @property
  def name(self) -> str:
    """<task>-<method>-<weighting>-<label>-s<seed>."""
    run = self.config.run
    return joined(run.task.lower(), run.method, self._rule, run.label, f's{run.seed}')

  @property
  def group(self) -> str:
    """<suite>-<task>-<method>-<weighting>-<preset>-<label>: what several seeds share."""
    run = self.config.run
    return joined(run.suite, run.task.lower(), run.method, self._rule, run.preset, run.label)

  @property
  def _rule(self):
    return self.config.flat().get('weighting.rule')

  def identity(self, tracker: str) -> str:
    """Return the run's id for a tracker, kept in its folder; a run that begins has a new one."""
    path = self.folder / f'{tracker}_id.txt'
    if self.step and path.exists():
      return path.read_text(encoding='utf-8').strip()
    with atomic_write(path) as file:
      file.write(found := uuid.uuid4().hex)
    return found


class TensorBoard:
  """Event files in <run folder>/tensorboard.

  They are written here and not through `SummaryWriter`, whose thread dies unheard of a full disk.
  """

  def __init__(self, start: Start):
    from tensorboardX import event_file_writer, summary
    from tensorboardX.proto import event_pb2

    proto: Any = event_pb2  # made at its import, unseen by type checkers
    self._summary, self._event = summary, proto.Event
    folder = start.folder / 'tensorboard'
    folder.mkdir(exist_ok=True)
    self._events = event_file_writer.EventsWriter(str(folder / 'events'), f'.{start.step}')
    # The viewer drops what an earlier start wrote from this step on: it comes again.
    begins = proto.SessionLog(status=proto.SessionLog.START)
    self._write(start.step + 1 if start.step else 0, session_log=begins)
    settings = {name: _plain(value) for name, value in start.config.flat().items()}
    for part in summary.hparams(settings, {'return/eval': 0})[:2]:  # the third says that it ended
      self._write(0, summary=part)
    self._events.flush()

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
      self._write(step, summary=self._summary.scalar(name, value))
    self._events.flush()

  def video(self, step: int, name: str, path: pathlib.Path, frames: np.ndarray) -> None:
    # It plays a gif among its pictures, and no other kind of video.
    self._show(step, name, video.gif(frames), *frames.shape[1:3])

  def image(self, step: int, name: str, path: pathlib.Path) -> None:
    from PIL import Image

    with Image.open(path) as opened:
      self._show(step, name, path.read_bytes(), opened.height, opened.width)

  def close(self) -> None:
    self._events.close()

  def _show(self, step, name, data, height, width):
    kind = self._summary.Summary
    image = kind.Image(height=height, width=width, colorspace=3, encoded_image_string=data)
    self._write(step, summary=kind(value=[kind.Value(tag=name, image=image)]))
    self._events.flush()

  def _write(self, step, **what):
    self._events.write_event(self._event(wall_time=time.time(), step=step, **what))


class _Service:
  """A tracker with `run.log`, `run.finish` and classes of media.

  Args:
    module: that has the media. run: of the service.
    begins: the first step that the service does not have yet.
  """

  def __init__(self, module: Any, run: Any, begins: int):
    self._module, self._run, self._begins = module, run, begins

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    if step >= self._begins:
      self._run.log(dict(values), step=step)

  def video(self, step: int, name: str, path: pathlib.Path, frames: np.ndarray) -> None:
    self.scalars(step, {name: self._module.Video(str(path))})

  def image(self, step: int, name: str, path: pathlib.Path) -> None:
    self.scalars(step, {name: self._module.Image(str(path))})

  def close(self) -> None:
    self._run.finish()


class Wandb(_Service):
  """Weights & Biases. Its variables count for more than what we say."""

  def __init__(self, start: Start):
    import wandb  # pyright: ignore[reportMissingImports]

    ours = {
      'project': ('WANDB_PROJECT', PROJECT),
      'name': ('WANDB_NAME', start.name),
      'group': ('WANDB_RUN_GROUP', start.group),
      'dir': ('WANDB_DIR', str(start.folder)),
      'id': ('WANDB_RUN_ID', start.identity('wandb')),
      'resume': ('WANDB_RESUME', 'allow'),
    }
    told = {name: value for name, (variable, value) in ours.items() if variable not in os.environ}
    patience = {} if 'WANDB_FINISH_TIMEOUT' in os.environ else {'finish_timeout': PATIENCE - 5}
    # 'create_new': several seeds of one program have a run each.
    settings = wandb.Settings(reinit='create_new', **patience)
    run = wandb.init(config=start.config.to_json(), settings=settings, **told)
    super().__init__(wandb, run, run.step)


class Trackio(_Service):
  """Trackio, of Hugging Face. It finds a run by its name, which is therefore given only once."""

  def __init__(self, start: Start):
    import trackio  # pyright: ignore[reportMissingImports]

    run = trackio.init(
      PROJECT,
      name=f'{start.name}-{start.identity("trackio")[:6]}',
      group=start.group,
      config=start.config.to_json(),
      resume='allow',
      embed=False,
    )
    super().__init__(trackio, run, run._next_step)  # it has no public name


TRACKERS = {  # {name: (class, the package that it needs)}
  'tensorboard': (TensorBoard, 'tensorboardX'),
  'wandb': (Wandb, 'wandb'),
  'trackio': (Trackio, 'trackio'),
}


def choose(words: Sequence[str]) -> tuple[str, ...]:
  """Return the names of trackers that a flag lists; '' and 'none' are none.

  Raises:
    UserError: an unknown one, or one that is not installed.
  """
  names = tuple(dict.fromkeys(word for word in words if word not in ('', 'none')))
  for name in names:
    if name not in TRACKERS:
      near, known = config_.nearest(name, TRACKERS), ', '.join([*TRACKERS, 'none'])
      raise UserError(f'unknown tracker {name!r}: did you mean {near!r}? (known: {known})')
    package = TRACKERS[name][1]
    found = importlib.util.find_spec(package)
    if not found or not found.origin:  # a folder wandb/ in the working directory has no origin
      raise UserError(f'--tracker={name} is not installed: pip install {package}')
  return names


class Trackers:
  """The trackers of a run, by name; of none nothing here does anything."""

  def __init__(self, names: Sequence[str] = ()):
    self._names, self._begun = choose(names), []

  def begin(self, start: Start) -> None:
    """Begin all of them; UserError where one cannot."""
    for name in self._names:
      try:
        tracker = TRACKERS[name][0](start)
      except Exception as error:
        why = one_line(str(error)) or type(error).__name__
        raise UserError(
          f'--tracker={name} cannot begin: {why} (to train without: --tracker=none)'
        ) from None
      self._begun.append(_Aside(name, tracker))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Show numbers that are finite."""
    self._each('scalars', step, values)

  def video(self, step: int, name: str, path: pathlib.Path, frames: np.ndarray) -> None:
    """Show a video that was written."""
    self._each('video', step, name, path, frames)

  def image(self, step: int, name: str, path: pathlib.Path) -> None:
    """Show a picture that was written."""
    self._each('image', step, name, path)

  def close(self) -> None:
    """End all of them, in a limited time."""
    self._each('close')
    until = time.monotonic() + PATIENCE
    for each in self._begun:
      each.wait(until)

  def _each(self, *call):
    for each in self._begun:
      each.do(*call)


class _Aside:
  """A tracker whose calls are done one after the other in a thread, which nobody waits for."""

  def __init__(self, name: str, tracker: Tracker):
    self._name, self._tracker = name, tracker
    self._calls: queue.Queue = queue.Queue(WAITING)  # (method, arguments)
    self._left = False
    self._thread = threading.Thread(target=self._work, name=f'tracker {name}', daemon=True)
    self._thread.start()

  def do(self, method: str, *args: Any) -> None:
    """Have a method called, unless the tracker was left out."""
    if not self._left:
      try:
        self._calls.put_nowait((method, args))
      except queue.Full:
        self._leave('it does not keep up')

  def wait(self, until: float) -> None:
    """Wait for its `close`, up to a time of `time.monotonic`."""
    if not self._left:
      self._thread.join(max(0, until - time.monotonic()))
      if self._thread.is_alive():
        self._leave(f'its end takes more than {PATIENCE} seconds')

  def _work(self):
    method = ''
    try:
      while method != 'close':
        method, args = self._calls.get()
        getattr(self._tracker, method)(*args)
    except Exception as error:
      self._leave(f'{type(error).__name__}: {error}')

  def _leave(self, why):
    if not self._left:
      self._left = True
      _log.warning(
        'the run goes on without the tracker %s, as metrics.jsonl has all numbers: %s',
        self._name,
        one_line(why),
      )


def _plain(value):
  """A setting as TensorBoard's hyper-parameters can hold it."""
  return value if isinstance(value, (bool, int, float, str)) else str(value)
