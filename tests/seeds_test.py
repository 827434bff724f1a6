"""Several seeds in one program: the same numbers as alone, and no thread that waits for ever."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
import signal
import threading
import time
import types

import jax
import numpy as np
import pytest

from experiments import folders, launcher
from harmony_jax import parallel, processes
from harmony_jax.envs import catch
from harmony_jax.errors import EnvironmentFault, UserError
from harmony_jax.training import loop, run_folder, seeds
from harmony_jax.training.interruption import Interrupted, Interruption
from harmony_jax.training.run_state import RunState
from tests import small
from tests.runs import From, dreamer_of, lines
from tests.small import close, shaken

SEEDS = (3, 4, 5)  # of the tiny runs
TRAIN_TOGETHER = parallel.train_together  # tests here replace it
SECONDS = 20  # after which something hangs


def tiny(seed, **changes):
  """A run of 12 updates with one evaluation on the way, and the final one."""
  return dreamer_of(
    **{
      'seed': seed,
      'steps': 96,
      'eval_every': 48,
      'checkpoint_every': 56,
      'batch_size': 2,
      'model_opt.eps': 1e-5,  # else Adam makes whole steps of gradients that are noise
      'keep_replay': True,
      **changes,
    }
  )


def train(folder, chosen=SEEDS, interruption=None, together=None, more=(), **changes):
  """Trains seeds side by side, each in a folder of its own; returns their scores."""
  configs = [tiny(seed, **changes) for seed in chosen]
  folders = [
    run_folder.prepare(folder / f'seed{seed}', config, {}) for seed, config in zip(chosen, configs)
  ]
  try:
    return seeds.train(list(zip(configs, folders)), interruption, together, more)
  finally:
    for opened in folders:
      opened.close()


class Programs:
  """What `parallel` compiles, compiled once for all tests here.

  Attributes:
    traced: an entry for every time that `train_step` was traced. met: how many seeds each call of
      the joint program had.
  """

  def __init__(self):
    self.method, self.traced, self.met = None, [], []
    self._compile, self._train_together = parallel.compile_method, parallel.train_together

  def compile_method(self, method):
    if self.method is None:
      self.method = method
      count = lambda *args: self.traced.append(None) or method.train_step(*args)
      quick = functools.partial(jax.jit, donate_argnums=0)
      self.compiled = dataclasses.replace(self._compile(method), train_step=quick(count))
      self.joint = quick(self._train_together(method))
    return self.compiled

  def train_together(self, method):
    return lambda states, batches: self.met.append(len(states)) or self.joint(states, batches)


@pytest.fixture(scope='module')
def programs():
  made = Programs()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(parallel, 'compile_method', made.compile_method)
    patch.setattr(parallel, 'train_together', made.train_together)
    yield made


@pytest.fixture(scope='module')
def one_by_one(programs, tmp_path_factory):
  """The folder of seeds that were trained as on a CPU, and their scores; the threads compile."""
  folder = tmp_path_factory.mktemp('seeds')
  began = time.monotonic()
  scores = train(folder)
  programs.seconds = time.monotonic() - began
  # one program for all threads, and it is not the joint one
  assert len(programs.traced) == 1 and not programs.met
  return folder, scores


# The joint program
# --------------------------------------------------------------------------------------------------


def compare(init, alone, together, batch_of, updates):
  """Updates of 3 seeds, each with its own parameters, draws, batches and harmonizers."""
  single = [shaken(init(jax.random.key(seed)), seed) for seed in range(3)]
  joint = tuple(shaken(init(jax.random.key(seed)), seed) for seed in range(3))
  assert 'harmony' in single[0].params['world_model']
  for update in range(updates):
    batches = [batch_of(10 * update + seed) for seed in range(3)]
    single, expected = zip(*(alone(state, batch) for state, batch in zip(single, batches)))
    joint, metrics = together(joint, tuple(batches))
  close(joint, single)
  for ours, theirs in zip(metrics, expected, strict=True):
    losses = [name for name in theirs if name.startswith('loss/')]
    close({name: ours[name] for name in losses}, {name: theirs[name] for name in losses}, 1e-4)
  assert (
    joint[0].step == updates and metrics[0]['loss/world_model'] != metrics[1]['loss/world_model']
  )


def test_seeds_are_updated_together_as_alone(one_by_one, programs):
  compare(
    programs.compiled.init,
    programs.compiled.train_step,
    programs.joint,
    lambda seed: small.batch({'image': (64, 64, 3)}, size=2, length=8, seed=seed),
    updates=6,
  )
  # these batches are as those of the runs: nothing was compiled for the test
  assert len(programs.traced) == 1


@pytest.mark.slow
def test_seeds_with_continuous_actions_are_updated_together_as_alone():
  agent = small.agent(small.VECTOR, 2, discrete=False)
  compare(
    jax.jit(agent.init),
    jax.jit(agent.train_step),
    TRAIN_TOGETHER(agent),
    lambda seed: small.batch(small.VECTOR, 2, discrete=False, seed=seed),
    updates=20,
  )


# The meeting
# --------------------------------------------------------------------------------------------------


class Fakes:
  """Programs that count: states and batches are numbers, an update adds them."""

  def __init__(self, count, joint=True, failing=False):
    self.singles, self.joints, self.failing = [], [], failing
    self.together = seeds.Together(range(count), self.single, self.joint if joint else None)
    self.finals, self.outcomes = {}, {}

  def single(self, state, batch):
    self.singles.append(batch)
    return state + batch, 'alone'

  def joint(self, states, batches):
    if self.failing:
      raise ValueError('out of memory')
    self.joints.append(batches)
    return tuple(s + b for s, b in zip(states, batches)), ('together',) * len(states)

  def seed(self, seed, updates, error=None, pause=0.0):
    """The life of a seed that does so many updates and then ends, or fails."""
    state = 0
    try:
      for _ in range(updates):
        time.sleep(pause)
        state, _ = self.together.train_step(seed, state, 10**seed)
      if error:
        raise error
      self.finals[seed] = state
    except seeds.Stopped:
      self.outcomes[seed] = 'stopped'
      self.together.leave(seed)
    except Exception as raised:
      self.outcomes[seed] = raised
      self.together.leave(seed, raised)
    else:
      self.together.leave(seed)

  def run(self, *lives):
    """Runs seeds with these arguments to their ends."""
    threads = [
      threading.Thread(target=self.seed, args=(seed, *life), daemon=True)
      for seed, life in enumerate(lives)
    ]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join(SECONDS)
      assert not thread.is_alive(), 'a seed waits for ever'


def test_all_seeds_are_one_call():
  fakes = Fakes(3)
  fakes.run((5,), (5, None, 0.01), (5,))
  assert fakes.joints == [(1, 10, 100)] * 5 and not fakes.singles
  assert fakes.finals == {0: 5, 1: 50, 2: 500}


def test_after_one_has_left_the_others_go_on_alone():
  fakes = Fakes(3)
  fakes.run((2,), (5,), (9, None, 0.001))
  assert fakes.joints == [(1, 10, 100)] * 2
  assert sorted(fakes.singles) == [10] * 3 + [100] * 7
  assert fakes.finals == {0: 2, 1: 50, 2: 900}


def test_a_seed_that_never_trains_holds_nobody_up():
  fakes = Fakes(3)
  fakes.run((0,), (3,), (4,))
  assert fakes.finals == {0: 0, 1: 30, 2: 400} and not fakes.joints


def test_without_a_joint_program_nobody_waits():
  fakes = Fakes(2, joint=False)
  fakes.seed(0, 3)  # alone, and in this thread
  assert fakes.finals == {0: 3} and fakes.singles == [1] * 3


def test_many_seeds_of_different_lengths_end():
  rng = np.random.default_rng(0)
  for _ in range(20):
    updates = rng.integers(0, 30, 8)
    fakes = Fakes(8)
    fakes.run(*((int(number), None, 0.0002 * seed) for seed, number in enumerate(updates)))
    assert fakes.finals == {seed: number * 10**seed for seed, number in enumerate(updates)}
    assert len(fakes.joints) == updates.min()


def test_a_failure_stops_the_others():
  fakes = Fakes(3)
  error = UserError('no such game')
  fakes.run((10**9,), (3, error), (10**9,))
  assert fakes.together.failure == (1, error)
  assert fakes.outcomes == {0: 'stopped', 1: error, 2: 'stopped'} and not fakes.singles


def test_a_failing_joint_program_stops_all():
  fakes = Fakes(3, failing=True)
  fakes.run((5,), (5,), (5,))
  seed, error = fakes.together.failure
  assert str(error) == 'out of memory' and fakes.outcomes.pop(seed) is error
  assert list(fakes.outcomes.values()) == ['stopped'] * 2 and not fakes.singles


def test_stop_frees_those_who_wait():
  fakes = Fakes(2)
  thread = threading.Thread(target=fakes.seed, args=(0, 1), daemon=True)
  thread.start()
  time.sleep(0.05)
  fakes.together.stop()
  thread.join(SECONDS)
  assert fakes.outcomes == {0: 'stopped'} and fakes.together.failure is None


# Whole runs
# --------------------------------------------------------------------------------------------------


def test_seeds_write_what_their_single_runs_write(one_by_one, programs, tmp_path):
  folder, scores = one_by_one
  for seed in SEEDS:
    with run_folder.prepare(tmp_path / f'seed{seed}', tiny(seed), {}) as opened:
      score = loop.Trainer(tiny(seed), opened, compiler=programs.compile_method).run()
    assert score == scores[seed]
    for name in ('metrics.jsonl', 'scores.jsonl'):
      assert lines(folder / f'seed{seed}', name) == lines(tmp_path / f'seed{seed}', name)
    ours, theirs = (
      sorted(path.name for path in (root / f'seed{seed}').iterdir()) for root in (folder, tmp_path)
    )
    assert ours == theirs
    assert json.loads((folder / f'seed{seed}' / '.complete').read_text())['score'] == score
  assert lines(folder / 'seed3', 'metrics.jsonl') != lines(folder / 'seed4', 'metrics.jsonl')


def test_the_hours_of_all_seeds_are_those_of_their_program(one_by_one, programs):
  folder, _ = one_by_one
  texts = [(folder / f'seed{seed}' / 'scores.jsonl').read_text() for seed in SEEDS]
  last = [json.loads(text.splitlines()[-1]) for text in texts]
  assert all(line['time/hours'] > 0 < line['time/eval_seconds'] for line in last)
  assert sum(line['time/hours'] for line in last) <= programs.seconds / 3600
  state = RunState(np.zeros(1), hours_before=1.0, sharing=4, began=time.monotonic() - 4 * 3600)
  assert state.hours == pytest.approx(2.0, abs=1e-3)  # an hour of before, and a quarter of four


def test_updates_together_end_as_alone(one_by_one, programs, tmp_path, monkeypatch):
  """With the joint program, as on accelerators: sums are rounded differently, everything else is
  the same.
  """
  programs.met.clear()
  assert set(train(tmp_path, together=True)) == set(SEEDS)
  for seed in SEEDS:
    ours, alone = (
      lines(root / f'seed{seed}', 'metrics.jsonl') for root in (tmp_path, one_by_one[0])
    )
    assert [(line['step'], line['update']) for line in ours] == [
      (line['step'], line['update']) for line in alone
    ]
    trained = [(a, b) for a, b in zip(ours, alone) if 'loss/world_model' in b]
    for a, b in trained[:2]:
      assert a['loss/world_model'] == pytest.approx(b['loss/world_model'], rel=1e-3)
  assert programs.met == [len(SEEDS)] * alone[-1]['update']


@pytest.mark.parametrize('together', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_seeds_go_on_from_different_checkpoints(
  together, one_by_one, programs, tmp_path, monkeypatch, capsys
):
  """One seed was stopped after its last checkpoint, one after its first, one before: each ends as
  it would have.
  """
  folder, scores = one_by_one
  programs.met.clear()
  last = 56 if together else 96  # one that has no more updates to do would leave the others alone
  for seed, step in ((3, last), (4, 56)):
    shutil.copytree(folder / f'seed{seed}', tmp_path / f'seed{seed}')
    (tmp_path / f'seed{seed}' / '.complete').unlink()
    if step == 56:
      shutil.rmtree(tmp_path / f'seed{seed}' / 'checkpoints' / '96')
  again = train(tmp_path, together=together)
  written = capsys.readouterr().out.splitlines()
  assert all(line.startswith(('seed 3: ', 'seed 4: ', 'seed 5: ')) for line in written)
  for seed, step in ((3, last), (4, 56)):
    assert (
      len([line for line in written if line.startswith(f'seed {seed}: continues from step {step}')])
      == 1
    )
  if together:  # until the first has ended
    assert 1 < len(programs.met) < lines(folder / 'seed5', 'metrics.jsonl')[-1]['update']
    assert [lines(tmp_path / f'seed{seed}', 'metrics.jsonl')[-1]['step'] for seed in SEEDS] == [
      96
    ] * 3
  else:
    assert again == scores
    for seed in SEEDS:
      assert lines(tmp_path / f'seed{seed}', 'metrics.jsonl') == lines(
        folder / f'seed{seed}', 'metrics.jsonl'
      )


@pytest.fixture
def endless(one_by_one, monkeypatch):
  """Settings of runs that do not end by themselves, and a list of environments that were closed."""
  closed = []
  monkeypatch.setattr(catch.Catch, 'close', lambda env: closed.append(env))
  return {'steps': 10**6, 'eval_every': 10**6, 'checkpoint_every': 10**6}, closed


def of_one(seed, do):
  """Return what does something in the run of a seed only."""
  return lambda trainer: do(trainer) if trainer.config.run.seed == seed else None


@pytest.mark.parametrize('together', [False, True])
@pytest.mark.parametrize('kind', [EnvironmentFault, RuntimeError])
def test_the_first_error_names_its_seed(together, kind, endless, tmp_path):
  """One seed fails while the others wait for it or train on: nothing stays locked or open."""
  settings, closed = endless
  error = kind('the simulator is gone')

  def fail(trainer):
    raise error from own

  own = KeyError('its own')
  with pytest.raises(kind, match='the simulator is gone') as caught:
    train(tmp_path, together=together, more=[From(40, of_one(4, fail))], **settings)
  assert caught.value is error and error.__cause__ is own
  if kind is EnvironmentFault:
    assert str(error) == 'seed 4: the simulator is gone'
  else:
    assert 'In the run of seed 4.' in error.__notes__
  assert len(closed) == len(SEEDS)
  run_folder.prepare(tmp_path / 'seed3', tiny(3, **settings), {}).close()


@pytest.mark.parametrize('together', [False, True])
def test_ctrl_c_ends_all(together, endless, tmp_path):
  """KeyboardInterrupt leaves `train` when every seed is closed."""
  settings, closed = endless
  pressed = []

  def press(trainer):
    if not pressed:
      pressed.append(trainer.state.step)
      signal.raise_signal(signal.SIGINT)

  with pytest.raises(KeyboardInterrupt):
    train(tmp_path, together=together, more=[From(60, of_one(4, press))], **settings)
  assert len(closed) == len(SEEDS)


def test_asked_to_end_each_seed_is_saved_and_goes_on(one_by_one, tmp_path):
  folder, scores = one_by_one
  interruption = Interruption()
  asking = From(60, of_one(4, lambda trainer: setattr(interruption, 'requested', 'SIGTERM')))
  with pytest.raises(Interrupted) as caught:
    train(tmp_path, interruption=interruption, more=[asking])
  assert all(f'seed {seed}: SIGTERM: saved at step' in str(caught.value) for seed in SEEDS)
  assert train(tmp_path) == scores
  for seed in SEEDS:
    assert lines(tmp_path / f'seed{seed}', 'metrics.jsonl') == lines(
      folder / f'seed{seed}', 'metrics.jsonl'
    )


# The flag
# --------------------------------------------------------------------------------------------------


def opened(seed, count, logdir=None):
  """The paths of the run folders that a command opens, and whose configurations they hold."""
  options = types.SimpleNamespace(num_seeds=count, logdir=logdir)
  with contextlib.ExitStack() as stack:
    runs = folders.open_runs(stack, launcher._places(tiny(seed), options), processes.here())
    assert all(config == tiny(config.run.seed) for config, _ in runs)
    return [str(folder.path.relative_to(pathlib.Path.cwd())) for _, folder in runs]


def test_folders_are_those_of_the_single_runs(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  root = 'runs/catch/catch/dreamerv3-harmony-tiny'
  assert opened(7, 2) == [f'{root}/seed7', f'{root}/seed8']
  assert opened(8, 1) == [f'{root}/seed8']  # a single run
  assert opened(7, 2, 'mine') == ['mine/seed7', 'mine/seed8']
  assert opened(8, 1, 'alone') == ['alone']
  assert json.loads(pathlib.Path('mine/seed8/config.json').read_text())['config']['seed'] == 8
  assert not capsys.readouterr().out
  for seed, left in ((8, ['mine/seed7']), (7, [])):
    (tmp_path / f'mine/seed{seed}/.complete').touch()
    assert opened(7, 2, 'mine') == left
    assert f'this run is complete: {tmp_path}/mine/seed{seed}' in capsys.readouterr().out
