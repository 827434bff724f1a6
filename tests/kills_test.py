"""A run that was killed, any number of times, ends with the numbers of one that was not."""

import functools
import signal
import time

import numpy as np
import pytest

from tests import kills

CATCH = (
  'catch',
  '--preset=tiny',
  '--config.steps=640',
  '--config.checkpoint_every=80',
  '--config.eval_every=320',
  '--config.video_every=0',
  '--config.keep_replay=True',
  '--config.log_every=40',
  '--config.final_eval_episodes=16',
  '--config.eval_episodes=16',
)
ATARI = (
  'atari100k',
  '--game=Pong',
  '--preset=tiny',
  '--config.steps=1000',
  '--config.checkpoint_every=100',
  '--config.eval_every=500',
  '--config.video_every=0',
  '--config.keep_replay=True',
)
DMC = (
  'dmc',
  '--task=cartpole_balance',
  '--preset=tiny',
  '--config.steps=800',
  '--config.checkpoint_every=100',
  '--config.eval_every=400',
  '--config.video_every=0',
  '--config.keep_replay=True',
  '--config.num_envs=2',
)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
  """Return the folder of the undisturbed run of a method, made once."""

  @functools.cache
  def of(method):
    run = kills.Run(tmp_path_factory.mktemp('undisturbed') / 'run', *CATCH, f'--method={method}')
    assert run.start().end() == 0, run.text
    return run.folder

  return of


@pytest.mark.parametrize(
  'method, more',
  [
    ('tests.linear:METHOD', []),
    ('tests.linear:METHOD', ['--config.eval_in_background=True']),
    pytest.param('dreamerv3', [], marks=pytest.mark.slow),
  ],
  ids=['linear', 'in_background', 'dreamerv3'],
)
def test_killed_while_saving_and_asked_to_end(method, more, undisturbed, tmp_path):
  """SIGKILL in the middle of saving, then SIGTERM, which saves and says how to go on; then to the
  end. The other run evaluates in the foreground.
  """
  run = kills.Run(tmp_path / 'killed', *CATCH, f'--method={method}', *more)
  assert run.start().kill('saving', 0.0) == -signal.SIGKILL, run.text
  assert run.start().kill('now', 0.5, signal.SIGTERM) == 75, run.text
  assert 'saved at step' in run.text and 'continue with: python -m experiments.catch' in run.text
  assert run.start().end() == 0, run.text
  assert 'continues from step' in run.text
  assert kills.differences(undisturbed(method), run.folder) == []


@pytest.mark.slow
@pytest.mark.parametrize(
  'command, number',
  [(ATARI, 0), (ATARI, 1), (DMC, 2), (DMC, 3)],
  ids=['atari-0', 'atari-1', 'dmc-0', 'dmc-1'],
)
def test_soak(command, number, tmp_path):
  """Killed up to eight times at random moments, half of them while something is being saved. `make
  soak`.
  """
  whole, run = (kills.Run(tmp_path / name, *command) for name in ('whole', 'killed'))
  whole.start()
  began = time.monotonic()
  assert whole.end() == 0, whole.text
  codes = kills.killed(run, np.random.default_rng(number), 8, (time.monotonic() - began) / 3)
  print(f'\n{command[0]}: {codes.count(-signal.SIGKILL)} times killed, exit codes {codes}')
  assert kills.differences(whole.folder, run.folder) == []
