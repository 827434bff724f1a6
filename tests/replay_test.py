"""Replay: windows are true stretches of one environment's past, drawn uniformly and repeatably."""

import itertools
import json
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony_jax import replay_files
from harmony_jax.methods.denoised_mdp_replay import EpisodeReplay
from harmony_jax.methods.tdmpc_replay import PriorityReplay
from harmony_jax.replay import Prefetcher, Replay

SPECS = {
  'image': ((2, 2, 3), np.uint8),
  'action': ((4,), np.float32),
  'env': ((), np.int32),
  'count': ((), np.int32),
  'is_first': ((), bool),
}


def make(num_envs=2, capacity=40, batch_size=8, length=4, seed=0, margin=3, specs=None):
  return Replay(specs or SPECS, num_envs, capacity, batch_size, length, seed, margin)


def step_of(count, num_envs):
  """A step that says where it belongs: environment and count, in every key."""
  envs = np.arange(num_envs)
  return {
    'image': np.broadcast_to(
      ((7 * count + envs) % 256).astype(np.uint8)[:, None, None, None], (num_envs, 2, 2, 3)
    ),
    'action': np.stack([np.full(4, count + 1000 * env, np.float32) for env in envs]),
    'env': envs,
    'count': np.full(num_envs, count),
    'is_first': np.full(num_envs, count % 5 == 0),
  }


def fill(replay, first, last):
  for count in range(first, last):
    replay.append(step_of(count, replay.num_envs))


def files(folder):
  return sorted(path.name for path in folder.glob('steps-*'))


def assert_equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@settings(max_examples=60, deadline=None)
@given(
  num_envs=st.integers(1, 3),
  per_env=st.integers(1, 20),
  length=st.integers(1, 6),
  steps=st.integers(1, 70),
  margin=st.integers(0, 5),
  update=st.integers(0, 10**9),
)
def test_windows_are_contiguous_in_order_of_one_env_and_not_older_than_capacity(
  num_envs, per_env, length, steps, margin, update
):
  per_env = max(per_env, length)
  replay = make(num_envs, per_env * num_envs, 16, length, 0, margin)
  fill(replay, 0, steps)
  stored = min(steps, per_env)
  assert replay.windows == num_envs * max(0, stored - length + 1)
  if not replay.windows:
    with pytest.raises(ValueError, match='a window has'):
      replay.sample(update)
    return
  batch = replay.sample(update)
  first = batch['count'][:, 0]
  assert (first >= steps - stored).all() and (first + length <= steps).all()
  np.testing.assert_array_equal(batch['count'], first[:, None] + np.arange(length))
  assert (batch['env'] == batch['env'][:, :1]).all()
  # The other keys come from the same rows.
  np.testing.assert_array_equal(
    batch['image'][..., 1, 1, 2], (7 * batch['count'] + batch['env']) % 256
  )
  np.testing.assert_array_equal(batch['action'][..., 3], batch['count'] + 1000 * batch['env'])
  assert batch['is_first'][:, 0].all()
  np.testing.assert_array_equal(batch['is_first'][:, 1:], batch['count'][:, 1:] % 5 == 0)


def test_every_window_is_drawn_equally_often():
  replay = make(num_envs=2, capacity=40, batch_size=50, length=4)
  fill(replay, 0, 33)  # the ring has wrapped
  batches = [replay.sample(update) for update in range(400)]
  env = np.concatenate([batch['env'][:, 0] for batch in batches])
  start = np.concatenate([batch['count'][:, 0] for batch in batches]) - 13
  counts = np.bincount(env * 17 + start, minlength=34)
  assert len(counts) == 34 == replay.windows
  expected = 400 * 50 / 34
  chi_square = ((counts - expected) ** 2 / expected).sum()
  assert chi_square < 63.9  # 33 degrees of freedom: exceeded with probability 0.001


def test_sample_depends_on_seed_update_and_contents_alone():
  one, other = make(), make()
  fill(one, 0, 30)
  one.sample(3)  # what was sampled before leaves no trace
  fill(other, 0, 30)
  assert_equal(one.sample(7), other.sample(7))
  assert_equal(one.sample(7), one.sample(7))
  assert (one.sample(7)['count'] != one.sample(8)['count']).any()
  reseeded = make(seed=1)
  fill(reseeded, 0, 30)
  assert (one.sample(7)['count'] != reseeded.sample(7)['count']).any()
  wide = make(margin=100)  # the margin is storage and no part of the distribution
  fill(wide, 0, 30)
  assert_equal(one.sample(7), wide.sample(7))


def test_a_batch_is_contiguous_and_the_callers_own():
  replay = make()
  fill(replay, 0, 20)
  batch = replay.sample(0)
  for name, (shape, dtype) in SPECS.items():
    assert batch[name].shape == (8, 4, *shape) and batch[name].dtype == dtype
    assert batch[name].flags.c_contiguous
  expected = {name: array.copy() for name, array in batch.items()}
  for array in batch.values():
    array[...] = 0
  assert_equal(replay.sample(0), expected)


def test_append_refuses_what_it_cannot_store():
  replay = make()
  good = step_of(0, 2)
  with pytest.raises(ValueError, match='replay stores'):
    replay.append({**good, 'extra': np.zeros(2)})
  with pytest.raises(ValueError, match='action has shape'):
    replay.append({**good, 'action': np.zeros((2, 5), np.float32)})
  with pytest.raises(TypeError, match='image is float32'):
    replay.append({**good, 'image': good['image'].astype(np.float32)})
  with pytest.raises(ValueError, match='image is uint16 from 256 to 256; replay stores uint8'):
    replay.append({**good, 'image': np.full_like(good['image'], 256, np.uint16)})
  assert replay.steps == 0
  with pytest.raises(ValueError, match='a window has 4'):
    make(capacity=7)
  with pytest.raises(ValueError, match='is_first'):
    make(specs={'reward': ((), np.float32)})


def test_memory_is_what_it_says():
  replay = Replay({'image': ((64, 64, 3), np.uint8), 'is_first': ((), bool)}, 1, 100_000, 16, 64, 0)
  assert replay.nbytes == 100_256 * (64 * 64 * 3 + 1)
  assert replay.describe() == 'replay: 100,000 steps, 1.23 GB'


@pytest.mark.parametrize('num_envs, capacity', [(1, 20), (2, 40), (2, 20000)])
def test_saved_and_loaded_it_draws_the_same_and_goes_on_the_same(tmp_path, num_envs, capacity):
  original, copy = make(num_envs, capacity), make(num_envs, capacity)
  fill(original, 0, 5)
  original.save(tmp_path)  # several saves, within a chunk and across chunks
  for first, last in [(5, 6), (6, 30), (30, 47)]:
    fill(original, first, last)
    original.save(tmp_path)
  copy.load(tmp_path)
  assert copy.steps == original.steps == 47
  for replay in (original, copy):
    fill(replay, 47, 61)
  for update in range(5):
    assert_equal(original.sample(update), copy.sample(update))


def test_load_goes_back_to_a_recorded_count(tmp_path):
  replay, at_30 = make(), make()
  fill(replay, 0, 30)
  replay.save(tmp_path)
  expected = replay.sample(1)
  fill(replay, 30, 44)
  replay.save(tmp_path)
  at_30.load(tmp_path, steps=30)
  assert_equal(at_30.sample(1), expected)
  # Saved from there, the future that was left behind is gone.
  fill(at_30, 30, 32)
  at_30.save(tmp_path)
  assert [name[:31] for name in files(tmp_path)] == [
    'steps-000000000007-000000000030',
    'steps-000000000030-000000000032',
  ]
  again = make()
  for absent in (31, 44):
    with pytest.raises(ValueError, match=f'no save at {absent} steps'):
      again.load(tmp_path, steps=absent)
  again.load(tmp_path)
  assert_equal(again.sample(1), at_30.sample(1))


@settings(max_examples=40, deadline=None)
@given(saves=st.lists(st.integers(1, 60), min_size=2, max_size=6), margin=st.integers(0, 5))
def test_every_save_that_is_recent_enough_can_be_gone_back_to(tmp_path_factory, saves, margin):
  """However far apart the saves are: also further than the ring is long."""
  folder = tmp_path_factory.mktemp('replay')
  replay, seen = make(margin=margin), {}
  for more in saves:
    fill(replay, replay.steps, replay.steps + more)
    replay.save(folder)
    seen[replay.steps] = replay.sample(0) if replay.windows else None
  for steps, expected in list(seen.items())[-replay_files.SAVES :]:
    if expected is not None:
      copy = make(margin=margin)
      copy.load(folder, steps)
      assert copy.steps == steps
      assert_equal(copy.sample(0), expected)


def test_a_save_writes_only_what_is_new_and_drops_what_is_old(tmp_path):
  replay = make(num_envs=1, capacity=10, length=4)  # 13 steps are stored
  for first in range(0, 100, 5):
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)}
    fill(replay, first, first + 5)
    replay.save(tmp_path)
    after = {name: (tmp_path / name).stat().st_mtime_ns for name in files(tmp_path)}
    assert [name[:31] for name in after if after[name] != before.get(name)] == [
      f'steps-{first:012d}-{first + 5:012d}'
    ]
  # the saves at 90, 95 and 100 need them
  assert [int(name[6:18]) for name in files(tmp_path)] == [75, 80, 85, 90, 95]
  assert not list(tmp_path.glob('*.tmp'))


def test_large_saves_are_several_files(tmp_path, monkeypatch):
  monkeypatch.setattr(replay_files, 'MOST_STEPS', 16)  # 8 of each environment
  replay, copy = make(), make()
  fill(replay, 0, 30)
  replay.save(tmp_path)
  assert [int(name[6:18]) for name in files(tmp_path)] == [7, 15, 23]  # 23 are stored
  copy.load(tmp_path)
  assert_equal(copy.sample(0), replay.sample(0))


def test_a_manifest_that_was_harmed_meanwhile_is_written_again(tmp_path):
  replay, copy = make(), make()
  fill(replay, 0, 15)
  replay.save(tmp_path)
  (tmp_path / 'manifest.json').write_text('{')
  fill(replay, 15, 18)
  replay.save(tmp_path)
  copy.load(tmp_path)
  assert_equal(copy.sample(0), replay.sample(0))


def test_a_draw_from_before_a_save_can_be_gathered_after_it(tmp_path):
  """The rows of the margin are saved, too: the oldest window may lie in them."""
  replay, copy = make(length=4, margin=3), make(length=4, margin=3)
  fill(replay, 0, 30)
  draws = [replay.draw(update) for update in range(20)]
  fill(replay, 30, 33)
  replay.save(tmp_path)
  copy.load(tmp_path)
  assert min(draw.starts.min() for draw in draws) < 33 - replay.kept
  for draw in draws:
    assert_equal(copy.gather(draw), replay.gather(draw))


def test_a_save_that_was_cut_off_leaves_the_earlier_one(tmp_path, monkeypatch):
  replay, copy = make(), make()
  fill(replay, 0, 15)
  replay.save(tmp_path)
  expected = replay.sample(0)
  fill(replay, 15, 30)
  monkeypatch.setattr(json, 'dumps', lambda *a, **k: (_ for _ in ()).throw(OSError('disk full')))
  with pytest.raises(OSError):
    replay.save(tmp_path)
  monkeypatch.undo()
  copy.load(tmp_path)
  assert copy.steps == 15
  assert_equal(copy.sample(0), expected)


def test_load_refuses_another_layout_and_damage(tmp_path):
  replay = make()
  with pytest.raises(ValueError, match='no replay can be read'):
    replay.load(tmp_path)
  fill(replay, 0, 30)
  replay.save(tmp_path)
  with pytest.raises(ValueError, match='specs'):
    make(specs=SPECS | {'image': ((8, 8, 3), np.uint8)}).load(tmp_path)
  with pytest.raises(ValueError, match='num_envs 2; this run has 1'):
    make(num_envs=1, capacity=20).load(tmp_path)
  with pytest.raises(ValueError, match='steps_kept'):
    make(capacity=80).load(tmp_path)
  path = tmp_path / files(tmp_path)[-1]
  whole = path.read_bytes()
  for harmed in (whole[:100], whole[:-50] + b'x' + whole[-49:]):
    path.write_bytes(harmed)
    with pytest.raises(ValueError, match=f'{path.name} is damaged') as caught:
      make().load(tmp_path)
    assert '\n' not in str(caught.value)
  path.unlink()
  with pytest.raises(ValueError, match=f'{path.name} cannot be read'):
    make().load(tmp_path)


def test_prefetched_batches_are_those_of_their_request():
  """While steps are appended and the thread is late, each batch is as at its request."""
  replay, plain = make(margin=6), make(margin=6)
  prefetcher = Prefetcher(replay, lambda batch: time.sleep(0.001) or batch, depth=2)
  fill(replay, 0, 20)
  fill(plain, 0, 20)
  expected = []
  try:
    for update in range(60):
      count = 20 + 2 * update
      fill(replay, count, count + 2)
      fill(plain, count, count + 2)
      expected.append(plain.sample(update))
      prefetcher.request(update)
      if update >= 1:
        assert_equal(prefetcher.get(), expected[update - 1])
    assert len(prefetcher) == 1
  finally:
    prefetcher.close()


def test_prefetching_names_an_overwritten_window_whatever_the_timing():
  for late in (False, True):
    replay = make(margin=3)
    gate = threading.Event()
    prefetcher = Prefetcher(replay, lambda batch: gate.wait(10) and batch, depth=1)
    fill(replay, 0, 30)
    prefetcher.request(0)
    if not late:
      gate.set()
      time.sleep(0.02)
    fill(replay, 30, 34)
    gate.set()
    with pytest.raises(RuntimeError, match='margin|more than 3'):
      prefetcher.get()
    prefetcher.close()


def test_prefetcher_raises_what_its_thread_raised():
  replay = make()
  fill(replay, 0, 20)

  def put(batch):
    raise OverflowError('no room on the device')

  prefetcher = Prefetcher(replay, put, depth=1)
  with pytest.raises(RuntimeError, match='no batch was requested'):
    prefetcher.get()
  prefetcher.request(0)
  with pytest.raises(RuntimeError, match='requested already'):
    prefetcher.request(1)
  with pytest.raises(OverflowError, match='no room'):
    prefetcher.get()
  prefetcher.request(1)
  prefetcher.close()


EPISODES = (7, 3, 12, 4, 9)  # lengths, over and over


def make_episodes(
  steps=200, capacity=1000, num_envs=1, length=5, batch_size=4000, sampling='episodes', **options
):
  """A replay of episodes of known lengths; a step tells its episode and its place in it, and acts
  by both.
  """
  specs = {
    'episode': ((), np.int32),
    'place': ((), np.int32),
    'is_first': ((), bool),
    'is_last': ((), bool),
    'action': ((2,), np.float32),
  }
  replay = Replay(
    specs, num_envs, capacity, batch_size, length, seed=0, sampling=sampling, **options
  )
  places = [
    (number, place, place == 0, place == size - 1, (number + 1, place))
    for number, size in enumerate(EPISODES * 100)
    for place in range(size)
  ]
  for row in places[:steps]:
    replay.append({name: np.array([value] * num_envs) for name, value in zip(specs, row)})
  return replay


def test_episodes_are_drawn_equally_often_and_starts_within_them():
  replay = make_episodes(steps=35 * 4)  # twenty complete episodes
  batch = replay.sample(0)
  episodes, counts = np.unique(batch['episode'][:, 0], return_counts=True)
  assert episodes.tolist() == list(range(20)) and (abs(counts - 200) < 5 * np.sqrt(200)).all()
  long = np.isin(batch['episode'][:, 0] % 5, (0, 2, 4))  # those that hold a window
  assert (batch['episode'][long] == batch['episode'][long, :1]).all()
  assert (np.diff(batch['place'][long], axis=1) == 1).all()
  twelve = batch['place'][batch['episode'][:, 0] % 5 == 2, 0]
  starts, counts = np.unique(twelve, return_counts=True)
  assert starts.tolist() == list(range(8)) and (abs(counts - 100) < 50).all()


def test_short_episodes_go_on_with_what_came_after():
  replay = make_episodes(steps=35 * 4)
  batch = replay.sample(0)
  short = (batch['episode'][:, 0] % 5 == 1) & (batch['episode'][:, 0] < 19)
  assert (batch['place'][short] == [0, 1, 2, 0, 1]).all() and batch['is_first'][short][:, 3].all()


def test_prioritized_ends():
  """A start is min(randint(L - T + 1 + T), L - T): the last of 8 windows of a 12-step episode has 6
  chances of 13.
  """
  batch = make_episodes(steps=35 * 4, prioritize_ends=True, batch_size=20_000).sample(0)
  starts = batch['place'][batch['episode'][:, 0] % 5 == 2, 0]
  assert abs((starts == 7).mean() - 6 / 13) < 0.03
  assert abs((starts == 0).mean() - 1 / 13) < 0.03


@pytest.mark.parametrize('capacity', (1000, 40, 5))
def test_the_action_before_a_window(capacity):
  """That of the step before where the episode goes on; none, and a true beginning, where the window
  begins with it.
  """
  replay = make_episodes(steps=131, capacity=capacity, batch_size=500, first_action=True)
  draw = replay.draw(0)
  batch = replay.gather(draw)
  place, episode = batch['place'][:, 0], batch['episode'][:, 0]
  np.testing.assert_array_equal(batch['is_first'][:, 0], place == 0)
  # with capacity 5 a window begins where the ring does
  stored = (place > 0) & (draw.starts > replay.steps - replay.kept)
  np.testing.assert_array_equal(
    batch['before'], np.where(stored[:, None], np.stack([episode + 1, place - 1], 1), 0)
  )
  assert stored.any() == (capacity > 5) and (place == 0).any() == (capacity > 5)


def test_the_action_before_is_for_episodes():
  with pytest.raises(
    ValueError, match="sampling is 'windows': with replay.first_action it must be 'episodes'"
  ):
    Replay({'is_first': ((), bool)}, 1, 10, 2, 3, 0, first_action=True)
  with pytest.raises(ValueError, match='first_action needs action among the specs'):
    Replay({'is_first': ((), bool)}, 1, 10, 2, 3, 0, sampling='episodes', first_action=True)


def test_only_complete_episodes_that_are_stored_whole():
  replay = make_episodes(steps=0)
  assert not replay.filled(0)
  with pytest.raises(ValueError, match='no complete episode'):
    replay.draw(0)
  replay = make_episodes(steps=35 * 4 + 6, capacity=40)  # the 21st is running
  numbers = set(replay.sample(0)['episode'][:, 0])
  # 40 of 146 steps are kept, from number 106 on: the third round's first episode began at 105.
  assert numbers == {16, 17, 18, 19}


def test_a_loaded_replay_of_episodes_draws_the_same(tmp_path):
  replay = make_episodes(steps=150, capacity=60)
  replay.save(tmp_path)
  other = make_episodes(steps=0, capacity=60)
  other.load(tmp_path)
  assert_equal(replay.sample(3), other.sample(3))
  step = {
    'episode': np.zeros(1),
    'place': np.zeros(1),
    'is_first': np.zeros(1, bool),
    'is_last': np.ones(1, bool),
    'action': np.zeros((1, 2)),
  }
  for one in (replay, other):
    one.append({k: v.astype(one.specs[k][1]) for k, v in step.items()})
  assert_equal(replay.sample(4), other.sample(4))


def test_prefill_of_episodes():
  assert not make_episodes(steps=6, batch_size=8).filled(5)  # no episode has ended
  assert make_episodes(steps=7, batch_size=8).filled(5)
  assert not make_episodes(steps=7, batch_size=8).filled(20)


@pytest.mark.parametrize('capacity', (1000, 40))
def test_windows_inside_are_all_those_that_lie_in_one_episode(capacity):
  """Each equally often, of the running episode and the rest of the oldest one, too."""
  replay = make_episodes(steps=35 + 9, capacity=capacity, sampling='inside', batch_size=30_000)
  batch = replay.sample(0)
  assert (batch['episode'] == batch['episode'][:, :1]).all()
  assert (np.diff(batch['place'], axis=1) == 1).all() and batch['is_first'][:, 0].all()
  rows = [(number, place) for number, size in enumerate(EPISODES * 2) for place in range(size)]
  stored = rows[max(0, 44 - capacity) : 44]
  whole = {row for row in stored if (row[0], row[1] + 4) in stored}
  found, counts = np.unique(
    np.stack([batch['episode'][:, 0], batch['place'][:, 0]], 1), axis=0, return_counts=True
  )
  assert set(map(tuple, found.tolist())) == whole and len(whole) == replay.windows
  expected = 30_000 / len(whole)
  assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_a_loaded_replay_draws_the_same_windows_inside(tmp_path):
  """The ring has come round, and what it overwrites goes on to be forgotten."""
  whole = make_episodes(steps=350, capacity=60, sampling='inside', margin=3)
  first = make_episodes(steps=300, capacity=60, sampling='inside', margin=3)
  first.save(tmp_path)
  other = make_episodes(steps=0, capacity=60, sampling='inside', margin=3)
  other.load(tmp_path)
  assert_equal(first.sample(3), other.sample(3))
  rows = [
    (number, place, size) for number, size in enumerate(EPISODES * 100) for place in range(size)
  ]
  for number, place, size in rows[300:350]:
    values = (number, place, place == 0, place == size - 1, (number + 1, place))
    other.append({name: np.array([value]) for name, value in zip(other.specs, values)})
  assert_equal(whole.sample(4), other.sample(4))


def test_no_window_inside_yet():
  replay = make_episodes(steps=4, sampling='inside')
  assert not replay.filled(0) and replay.windows == 0
  with pytest.raises(ValueError, match='no episode of 5 steps'):
    replay.draw(0)
  assert make_episodes(steps=5, sampling='inside').filled(5)
  assert not make_episodes(steps=5, sampling='inside').filled(6)


@pytest.mark.parametrize('capacity', [10**12, 10**18])
def test_a_capacity_that_no_memory_holds_is_named(capacity):
  with pytest.raises(ValueError, match=f'replay_capacity {capacity:,} takes [0-9,.]+ GB of memory'):
    make(capacity=capacity, specs=SPECS | {'picture': ((64, 64, 3), np.uint8)})


def test_episodes_that_outgrow_it_are_drawn_in_parts(tmp_path, caplog):
  """Likewise in a run that goes on."""
  specs = SPECS | {'is_last': ((), bool)}
  make_one = lambda: Replay(specs, 2, 40, 8, 4, 0, 3, 'episodes', True)
  replay = make_one()
  ends = {5, 9, 70}  # steps that end an episode

  def append(count):
    flags = {'is_first': np.full(2, count == 0 or count - 1 in ends)}
    replay.append({**step_of(count, 2), **flags, 'is_last': np.full(2, count in ends)})

  for count in range(60):
    append(count)
  batch = replay.sample(3)
  assert set(batch['env'].ravel()) == {0, 1} and batch['count'].min() >= 40
  assert (np.diff(batch['count'], axis=1) == 1).all()
  assert [r.getMessage() for r in caplog.records if 'longer than the 20 steps' in r.getMessage()]
  replay.save(tmp_path)
  other = make_one()
  other.load(tmp_path)
  for name, array in other.sample(3).items():
    np.testing.assert_array_equal(array, batch[name])
  for count in range(60, 90):
    append(count)
  assert replay.filled(0) is False and replay.lacks(0).startswith('a whole episode')
  with pytest.raises(ValueError, match='no complete episode yet'):
    make_one().sample(0)


@pytest.mark.parametrize(
  'kind, options',
  [
    (Replay, {'sampling': 'windows'}),
    (Replay, {'sampling': 'episodes'}),
    (Replay, {'sampling': 'inside'}),
    *itertools.product((PriorityReplay, EpisodeReplay), ({'ends': True}, {'ends': False})),
  ],
)
def test_nothing_of_a_shorter_episode_is_ever_drawn(kind, options):
  """One episode of so many steps, and the first of many more: is a window of it drawn?"""
  specs = {'is_first': ((), bool), 'is_last': ((), bool)}
  for length in range(2, 9):
    replay = kind(specs, 1, 100, 64, 5, 0, **options)
    for step in range(40 + length):
      replay.append(
        {'is_first': np.array([step in (0, length)]), 'is_last': np.array([step == length - 1])}
      )
    assert (replay.draw(0).starts < length).any() == (length >= replay.shortest)
