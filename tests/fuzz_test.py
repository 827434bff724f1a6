"""Fuzzing: whatever is typed, and whatever became of a file, gives what was meant or one line that
says what is wrong.

Never a traceback, never other numbers in silence, never code that a file brought along.
"""

import functools
import io
import json
import logging
import pickle
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import common
from harmony_jax import method
from harmony_jax.config import read, split_flags
from harmony_jax.errors import UserError
from harmony_jax.replay import Draw, Replay
from harmony_jax.reporting import records, results_files
from harmony_jax.training import run_folder
from harmony_jax.training.checkpoint import Checkpoints
from harmony_jax.training.logger import MetricsWriter
from tests.damage import OUTCOMES, assert_one_line, at_most, cases, copy_of, damages, files_in

# orbax's reader threads complain of their closed event loop when a file is damaged.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.fixture(scope='module', autouse=True)
def quick_and_quiet():
  """What takes long and is not fuzzed is left out, and orbax's reports of every damage."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(
      run_folder, 'describe_environment', lambda: '# now\ncommand: python -m experiments.catch\n\n'
    )
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


# --------------------------------------------------------------------------------------------------
# Command lines

CONFIGS = {
  (suite, name, preset): common.make(module, name, preset, module.DEFAULT_TASK)
  for suite, module in common.suites().items()
  if suite in ('catch', 'gym')
  for name in method.METHODS
  for preset in ('paper', 'tiny')
}
VALUES = {name: value for config in CONFIGS.values() for name, value in config.flat().items()}
STRANGE = [
  '',
  ' ',
  '0',
  '-1',
  '-0.5',
  '1e400',
  '-1e5',
  '1e18',
  '1e300',
  '9' * 5000,
  'nan',
  '-inf',
  'inf',
  '0x10',
  '1_000',
  '١٢',
  'true',
  'None',
  '()',
  '(1,',
  '[[',
  '{}',
  '1,2,x',
  "'",
  '"',
  '\0',
  'two\nlines',
  '\u2028',
  '\ud800',
  '[' * 5000,
  '-' * 50_000 + '1',
  'a' * 5000,
  '--',
  '--config.seed=1',
  '{1: 2}',
  "b'x'",
  '1j',
]
texts = (
  st.sampled_from(STRANGE)
  | st.integers().map(str)
  | st.floats().map(str)
  | st.text(max_size=20)
  | st.sampled_from([str(value) for value in VALUES.values()])
)


@st.composite
def misspelled(draw):
  """A field with some of its letters gone and others in their place."""
  field = draw(st.sampled_from(sorted(VALUES)))
  at = draw(st.integers(0, len(field) - 1))
  return field[:at] + draw(st.text(max_size=2)) + field[at + draw(st.integers(0, 2)) :]


keys = st.sampled_from(sorted(VALUES)) | (
  misspelled()
  | st.text(max_size=20)
  | st.sampled_from([*STRANGE, 'rssm', 'env', 'config', 'config.seed'])
).map(lambda key: key.replace('=', ''))


@cases(300)
@given(
  of=st.sampled_from(sorted(CONFIGS)),
  pair=st.sampled_from([(key, str(value)) for key, value in VALUES.items()])
  | st.tuples(keys, texts),
  words=st.booleans(),
  others=st.lists(st.sampled_from(['seed=3', 'rssm.deter=64', 'steps=7000']), max_size=2),
)
def test_an_override_is_taken_or_named(of, pair, words, others):
  """`words`: `--config.key value` in place of `--config.key=value`."""
  key, text = pair
  argv = [
    'run',
    *[f'--config.{other}' for other in others],
    *([f'--config.{key}', text] if words else [f'--config.{key}={text}']),
  ]
  try:
    with at_most(10):
      rest, overrides = split_flags(argv)
      config = CONFIGS[of].override(overrides)
      common.check(config)
  except UserError as error:
    assert_one_line(error)
    assert len(str(error)) < 2000
    known = key.strip().removeprefix('config.')
    named = [known, *(each.partition('=')[0] for each in others)] if known in VALUES else ['']
    assert any(f'config.{each}' in str(error) for each in named)
    OUTCOMES['command lines']['refused'] += 1
    return
  assert rest == ['run']
  before, after = CONFIGS[of].flat(), config.flat()
  # A simulator may have options that only it knows.
  changed = {name for name, value in after.items() if name not in before or value != before[name]}
  assert changed <= {key.strip().removeprefix('config.'), *[each.split('=')[0] for each in others]}
  assert json.dumps(config.to_json(), allow_nan=False)
  for field, value in after.items():
    assert field not in before or type(value) is type(before[field])
    if field in before and isinstance(value, (int, float)):
      assert abs(value) < 2**63 and value >= 0
  OUTCOMES['command lines']['taken'] += 1


# --------------------------------------------------------------------------------------------------
# Run folders

CONFIG = CONFIGS['catch', 'dreamerv3', 'tiny'].override(['steps=60'])
IDENTITY = {'suite': 'catch', 'task': 'catch', 'method': 'dreamerv3'}
STEPS = range(10, 70, 10)
LOGS = ('metrics.jsonl', 'scores.jsonl')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder of a run that is complete."""
  path = tmp_path_factory.mktemp('run')
  with run_folder.prepare(path, CONFIG, IDENTITY) as folder:
    writer = MetricsWriter(path)
    for step in STEPS:
      counts = {'step': step, 'frame': 4 * step, 'update': step // 2}
      writer.write(**counts, metrics={'loss/reward': 1 / step, 'harmony/reward/weight': 0.5})
      writer.write_score(
        {
          **counts,
          'eval_mean': 0.25,
          'eval_scores': [0.0, 0.5],
          'train_mean': None,
          'time/hours': 0.1,
        }
      )
    folder.mark_complete({'score': 0.25})
  return path


def contents(folder):
  return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


@cases(200)
@given(
  harm=st.lists(damages(), min_size=1, max_size=2), names=st.sampled_from([('config.json',), None])
)
def test_a_damaged_run_folder_is_reopened_or_refused_and_keeps_its_files(run, harm, names):
  """`names`: of the files that may be harmed; any for None."""
  with copy_of(run) as folder:
    files = [folder / name for name in names] if names else files_in(folder)
    for damage in harm:
      damage.do(files)
    before = contents(folder)
    try:
      with run_folder.prepare(folder, CONFIG, IDENTITY) as opened:
        assert opened.resumed
        assert opened.is_complete() == ('.complete' in before)
        kept, whole = (json.loads((x / 'config.json').read_text()) for x in (folder, run))
        for tree in (kept, whole):
          for name in run_folder.FREE:  # a flipped bit may make it another valid value
            del tree['config'][name]
        assert kept == whole
        assert read(folder).run.suite == 'catch'  # it can still be read
      OUTCOMES['run folders']['reopened'] += 1
    except UserError as error:
      assert_one_line(error)
      OUTCOMES['run folders']['refused'] += 1
    after = contents(folder)
    for name in before.keys() - {'.lock', 'environment.txt'}:  # these are written by every start
      assert after[name] == before[name]
    assert after.keys() <= before.keys() | {'.lock', 'environment.txt'}
    if before.get('environment.txt'):
      assert after['environment.txt'].startswith(before['environment.txt'])


def test_a_lock_that_is_held_is_respected_whatever_is_in_it(run):
  for text in (b'', b'\xff\xfe', b'two\nlines', b'x' * 10_000):
    with copy_of(run) as folder, run_folder.prepare(folder, CONFIG, IDENTITY):
      (folder / '.lock').write_bytes(text)
      with pytest.raises(UserError, match='in use by') as caught:
        run_folder.prepare(folder, CONFIG, IDENTITY)
      assert_one_line(caught.value)
      assert len(str(caught.value)) < 1000


def step_of(line):
  return json.loads(line)['step']


@cases(150)
@given(
  harm=st.lists(damages(), min_size=1, max_size=3),
  step=st.integers(-1, 80),
  counts=st.none() | st.lists(st.integers(0, 7), min_size=2, max_size=2),
)
def test_a_resumed_run_keeps_every_whole_line(run, harm, step, counts):
  whole = {name: (run / name).read_bytes().splitlines() for name in LOGS}
  with copy_of(run) as folder:
    for damage in harm:
      damage.do([folder / name for name in LOGS])
    before = contents(folder)
    writer = MetricsWriter(folder)
    try:
      writer.truncate_after(step, counts)
    except UserError as error:
      assert_one_line(error)
      assert None in (before.get(name, b'') for name in LOGS)  # nothing but a folder is refused
      assert contents(folder).keys() == before.keys()
      OUTCOMES['logs']['refused'] += 1
      return
    writer.write(99, 396, 49, {'x': 1.0})
    writer.write_score({'step': 99})
    for name, count in zip(LOGS, counts or (None, None)):
      *lines, last = (folder / name).read_bytes().splitlines()
      assert step_of(last) == 99 and all(step_of(line) <= step for line in lines)
      present = before.get(name, b'').split(b'\n')[:count]
      expected = [line for line in present if line in whole[name] and step_of(line) <= step]
      assert [line for line in lines if line in whole[name]] == expected
    OUTCOMES['logs']['kept'] += 1


@cases(80)
@given(harm=st.lists(damages(), min_size=1, max_size=2))
def test_a_report_names_a_broken_run_and_takes_the_others(run, tmp_path_factory, harm):
  (whole,), _ = records.collect(run)
  with copy_of(run) as folder:
    for damage in harm:
      damage.do(files_in(folder))
    before = contents(folder)
    found, problems = records.collect([run, folder])
    for text in problems:
      assert_one_line(text)
      assert str(folder) in text
    # the damaged one is the same run, with no more of it than the other
    assert found and found[0] == whole
    try:
      record = records.read(folder)
    except UserError as error:
      assert str(error) in problems or not files_in(folder)
    else:  # only an unfinished last line may be missing
      lines = before.get('scores.jsonl', b'').split(b'\n')
      assert len(record.scores) <= len(lines)
      results_files.write([record], tmp_path_factory.mktemp('reports'))
  OUTCOMES['reports']['named' if problems else 'read'] += 1


# --------------------------------------------------------------------------------------------------
# Checkpoints


@functools.cache
def state_of(n):
  params = {
    'a': jax.random.normal(jax.random.key(n), (30, 10)),
    'h': jnp.full((3,), n, jnp.bfloat16),
  }
  return {
    'params': params,
    'opt_state': optax.adam(1e-3).init(params),
    'step': jnp.int32(n),
    'rng': jax.random.key(n),
  }


def meta_of(n):
  return {'replay_steps': 10 * n, 'recent': [0.5, 1 / 3], 'name': 'é'}


def plain(state):
  """A state as comparable values."""
  state = state | {'rng': jax.random.key_data(state['rng'])}
  return [
    (str(path), leaf.dtype, leaf.shape, np.asarray(leaf).tobytes())
    for path, leaf in jax.tree.leaves_with_path(state)
  ]


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
  """A folder with the checkpoints 1 and 2."""
  folder = tmp_path_factory.mktemp('saved') / 'checkpoints'
  with Checkpoints(folder, keep=2) as opened:
    for n in (1, 2):
      opened.save(n, state_of(n), meta_of(n))
  return folder


def restored(opened, known):
  """Which of the known states a restore gives; it must be all of it."""
  state, meta = opened.restore(jax.eval_shape(lambda state: state, state_of(1)))
  n = meta['replay_steps'] // 10
  assert n in known and meta == meta_of(n) and plain(state) == plain(state_of(n))
  return n


@cases(60)
@given(harm=st.lists(damages(), min_size=1, max_size=2))
def test_a_damaged_newest_checkpoint_costs_at_most_itself(checkpoints, harm):
  with copy_of(checkpoints) as folder, at_most(60):
    for damage in harm:
      damage.do(files_in(folder / '2'))
    with Checkpoints(folder) as opened:
      n = restored(opened, (1, 2))
      opened.save(n + 1, state_of(n + 1), meta_of(n + 1))  # as the resumed run does
      assert restored(opened, (n + 1,)) == n + 1
    with Checkpoints(folder, read_only=True) as opened:
      assert restored(opened, (n + 1,)) == n + 1
  OUTCOMES['checkpoints'][f'went on from the {("second newest", "newest")[n - 1]}'] += 1


@cases(40)
@given(
  older=st.lists(damages(), min_size=1, max_size=2),
  newer=st.lists(damages(), min_size=1, max_size=2),
)
def test_two_damaged_checkpoints_give_a_whole_one_or_one_line(checkpoints, older, newer):
  with copy_of(checkpoints) as folder, at_most(60):
    for step, harm in (('1', older), ('2', newer)):
      for damage in harm:
        damage.do(files_in(folder / step))
    before = files_in(folder)
    try:
      with Checkpoints(folder, read_only=True) as opened:
        n = restored(opened, (1, 2))
      OUTCOMES['checkpoints'][f'went on from the {("second newest", "newest")[n - 1]}'] += 1
    except UserError as error:
      assert_one_line(error)
      OUTCOMES['checkpoints']['refused'] += 1
    assert files_in(folder) == before


# --------------------------------------------------------------------------------------------------
# Replays

SPECS = {
  'image': ((2, 2, 3), np.uint8),
  'action': ((4,), np.float32),
  'is_first': ((), bool),
  'is_last': ((), bool),
}


def make_replay():
  return Replay(
    SPECS, num_envs=2, capacity=60, batch_size=4, length=3, seed=0, margin=2, sampling='episodes'
  )


def everything(replay):
  """All stored steps, and a draw, as bytes."""
  first = max(0, replay.steps - replay.kept)
  starts = np.tile(np.arange(first, replay.steps - replay.length + 1), replay.num_envs)
  envs = np.repeat(np.arange(replay.num_envs), len(starts) // replay.num_envs)
  stored = replay.gather(Draw(0, envs, starts, replay.steps))
  return (
    replay.steps,
    {name: array.tobytes() for name, array in stored.items()},
    str(replay.sample(7)),
  )


@pytest.fixture(scope='module')
def replay(tmp_path_factory):
  """(folder of a replay that was saved after 20 and after 45 steps, {steps: what was stored})."""
  folder, made, rng = tmp_path_factory.mktemp('replay'), make_replay(), np.random.default_rng(0)
  stored = {}
  for count in range(45):
    made.append(
      {
        'image': rng.integers(256, size=(2, 2, 2, 3), dtype=np.uint8),
        'action': rng.normal(size=(2, 4)).astype(np.float32),
        'is_first': np.full(2, count % 7 == 0),
        'is_last': np.full(2, count % 7 == 6),
      }
    )
    if made.steps in (20, 45):
      made.save(folder)
      stored[made.steps] = everything(made)
  return folder, stored


@cases(300)
@given(harm=st.lists(damages(), min_size=1, max_size=2), steps=st.sampled_from([None, 20, 45]))
def test_a_damaged_replay_is_read_whole_or_named(replay, harm, steps):
  saved, stored = replay
  with copy_of(saved) as folder, at_most(20):
    for damage in harm:
      damage.do(files_in(folder))
    loaded = make_replay()
    try:
      loaded.load(folder, steps)
    except ValueError as error:
      assert_one_line(error)
      assert str(folder) in str(error) or any(path.name in str(error) for path in files_in(saved))
      OUTCOMES['replays']['named'] += 1
      return
    assert everything(loaded) == stored[steps or 45]
    OUTCOMES['replays']['read'] += 1


# --------------------------------------------------------------------------------------------------
# Code in files


class Payload:
  """Unpickled, it makes a file."""

  def __init__(self, trace):
    self.trace = trace

  def __reduce__(self):
    return open, (str(self.trace), 'w')


@pytest.fixture
def payload(tmp_path):
  """An object whose pickle makes a file where it is read; nothing in the test may do so."""
  made = Payload(tmp_path / 'executed')
  pickle.loads(pickle.dumps(made)).close()
  made.trace.unlink()  # so it would be seen
  yield made
  assert not made.trace.exists()


def test_no_pickle_in_a_checkpoint_is_executed(checkpoints, payload):
  for file in files_in(checkpoints):
    with copy_of(checkpoints) as folder, at_most(60):
      (folder / file.relative_to(checkpoints)).write_bytes(pickle.dumps(payload))
      with Checkpoints(folder) as opened:
        restored(opened, (1, 2))
      OUTCOMES['pickles']['not executed'] += 1


def test_no_pickle_in_a_run_folder_is_executed(run, payload):
  for name in contents(run):
    with copy_of(run) as folder:
      (folder / name).write_bytes(pickle.dumps(payload))
      records.collect([folder])
      MetricsWriter(folder).truncate_after(100)
      try:
        run_folder.prepare(folder, CONFIG, IDENTITY).close()
      except UserError as error:
        assert_one_line(error)
      OUTCOMES['pickles']['not executed'] += 1


def test_no_pickle_in_a_replay_is_executed(replay, payload):
  arrays = io.BytesIO()
  np.savez(arrays, **{name: np.array([payload], object) for name in SPECS})
  for data in (pickle.dumps(payload), arrays.getvalue()):
    with copy_of(replay[0]) as folder:  # with the checksum that the manifest asks for
      manifest = json.loads((folder / 'manifest.json').read_text())
      name = manifest['files'][-1]
      forged = f'{name.rpartition("-")[0]}-{zlib.crc32(data):08x}.npz'
      (folder / forged).write_bytes(data)
      (folder / 'manifest.json').write_text(json.dumps(manifest).replace(name, forged))
      with pytest.raises(ValueError, match=forged):
        make_replay().load(folder)
      (folder / 'manifest.json').write_bytes(pickle.dumps(payload))
      with pytest.raises(ValueError, match='manifest.json'):
        make_replay().load(folder)
      OUTCOMES['pickles']['not executed'] += 2


def test_the_cases_are_counted(record_property):
  """The last test; tests/conftest.py shows its line at the end of the run."""
  kinds = {'command lines', 'run folders', 'logs', 'reports', 'checkpoints', 'replays', 'pickles'}
  if OUTCOMES.keys() != kinds:
    pytest.skip('only a part of the fuzzing ran')
  total = sum(sum(outcomes.values()) for outcomes in OUTCOMES.values())
  lines = [
    f'{kind}: ' + ', '.join(f'{number} {what}' for what, number in sorted(outcomes.items()))
    for kind, outcomes in OUTCOMES.items()
  ]
  record_property('cases', f'{total} cases of fuzzing: ' + '; '.join(lines))
  assert total >= 800
  assert all(len(outcomes) > 1 for kind, outcomes in OUTCOMES.items() if kind != 'pickles')
