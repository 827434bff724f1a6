"""Replay on a device: whatever is stored, drawn and overwritten, its batches are the host's, bit
for bit.
"""

import types

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harmony_jax import device_replay, method, parallel, tiles
from harmony_jax.device_replay import DeviceReplay, choose, device_nbytes, fits
from harmony_jax.replay import Prefetcher, Replay

SPECS = {
  'image': ((2, 3, 3), np.uint8),
  'action': ((4,), np.float32),
  'torque': ((1,), np.float32),
  'count': ((), np.int32),
  'is_first': ((), bool),
  'is_last': ((), bool),
}


def make(num_envs=2, capacity=40, batch_size=8, length=4, margin=3, **options):
  return Replay(SPECS, num_envs, capacity, batch_size, length, 0, margin, **options)


def step_of(count, num_envs):
  """A step of random numbers: a function of its count."""
  rng = np.random.default_rng(count)
  return {
    'image': rng.integers(0, 256, (num_envs, 2, 3, 3), np.uint8),
    'action': rng.normal(size=(num_envs, 4)).astype(np.float32),
    'torque': rng.normal(size=(num_envs, 1)).astype(np.float32),
    'count': np.full(num_envs, count, np.int32),
    'is_first': np.full(num_envs, count % 6 == 0),
    'is_last': np.full(num_envs, count % 6 == 5),
  }


def fill(replay, first, last):
  for count in range(first, last):
    replay.append(step_of(count, replay.num_envs))


def assert_same(batch, expected):
  """Equal bit for bit, of the same types, and on a device."""
  assert batch.keys() == expected.keys()
  for name, array in expected.items():
    assert isinstance(batch[name], jax.Array) and batch[name].dtype == array.dtype
    ours = jax.device_get(batch[name])  # told explicitly: some tests forbid implicit transfers
    np.testing.assert_array_equal(ours, array, err_msg=name)
    assert ours.tobytes() == array.tobytes()


@pytest.mark.parametrize('num_envs', [1, 3])
@pytest.mark.parametrize(
  'options',
  [
    {},
    {'sampling': 'episodes'},
    {'sampling': 'episodes', 'prioritize_ends': True},
    {'sampling': 'episodes', 'first_action': True},
    {'sampling': 'inside'},
  ],
)
def test_batches_are_the_hosts_while_it_fills_and_wraps(num_envs, options):
  replay = DeviceReplay(host := make(num_envs, 20 * num_envs, **options))
  # also more at once than the ring is long
  for update, more in enumerate((6, 1, 5, 2, 9, 1, 1, 40, 3, 23, 64)):
    fill(replay, replay.steps, replay.steps + more)
    assert_same(replay.sample(update), host.sample(update))
    assert replay.sample(update)['is_first'][:, 0].all() or replay.first_action


@settings(max_examples=40, deadline=None)
@given(
  num_envs=st.integers(1, 2),
  margin=st.integers(0, 5),
  options=st.sampled_from(
    [{}, {'sampling': 'episodes', 'first_action': True}, {'sampling': 'inside'}]
  ),
  actions=st.lists(
    st.tuples(st.sampled_from(['append', 'draw', 'gather']), st.integers(0, 9)), max_size=40
  ),
)
def test_any_order_of_appends_draws_and_gathers(num_envs, margin, options, actions):
  """Also of draws that are gathered late, not in turn, more than once, or too late."""
  replay = DeviceReplay(host := make(num_envs, 12 * num_envs, margin=margin, **options))
  fill(replay, 0, 8)
  draws = [replay.draw(0)]
  for action, number in actions:
    if action == 'append':
      fill(replay, replay.steps, replay.steps + number)
    elif action == 'draw':
      draws.append(replay.draw(number))
    else:
      draw = draws[-1 - number % len(draws)]
      if host.intact(draw):
        assert_same(replay.gather(draw), host.gather(draw))
      else:
        with pytest.raises(RuntimeError, match=f'replay has a margin of {margin}') as ours:
          replay.gather(draw)
        with pytest.raises(RuntimeError) as theirs:
          host.gather(draw)
        assert str(ours.value) == str(theirs.value)


def test_a_filled_replay_can_be_taken_over_and_64_bits_become_32_as_in_a_transfer():
  host = Replay({'state': ((3,), np.float64), 'is_first': ((), bool)}, 1, 20, 4, 5, 0)
  for count in range(12):
    host.append({'state': np.full((1, 3), count / 3), 'is_first': np.zeros(1, bool)})
  batch, expected = DeviceReplay(host).sample(0), jax.device_put(host.sample(0))
  assert batch['state'].dtype == expected['state'].dtype == np.float32
  np.testing.assert_array_equal(batch['state'], expected['state'])
  assert device_nbytes(host) == (20 + 256) * (3 * 4 + 1)


@pytest.mark.parametrize(
  'shape, dtype, expected',
  [
    ((64, 64, 3), np.uint8, (96, 128)),
    ((64, 64, 1), np.uint8, (32, 128)),  # one tile
    ((84, 84, 3), np.uint8, (166, 128)),  # 80 bytes more
    ((16, 16, 3), np.uint8, (768,)),
    ((64, 64, 3), np.float32, (12288,)),
    ((5,), np.float32, (5,)),
    ((1,), bool, ()),
    ((), bool, ()),
  ],
)
def test_items_are_stored_as_tiles_like_them(shape, dtype, expected):
  assert tiles.stored(shape, dtype) == expected
  array = np.random.default_rng(0).integers(0, 2, (2, 3, *shape)).astype(dtype)
  folded = tiles.fold(array, shape)
  assert folded.shape == (6, *expected) and folded.dtype == dtype
  np.testing.assert_array_equal(tiles.unfold(folded, shape, 1), array.reshape(6, *shape))


class Summing(method.Method):
  """Its update is a sum over the pictures of a batch."""

  acting, settings = (), method.MethodSettings()

  def train_step(self, state, batch):
    """Return the state and the sum."""
    image = batch['image']
    return state, {
      'sum': (image.astype(np.int32) * np.arange(1, 1 + image.shape[2])[:, None, None]).sum()
    }


@pytest.mark.parametrize('side', [40, 64])
@pytest.mark.parametrize('platform', ['cpu', 'tpu'])
def test_pictures_are_taken_apart_in_the_read_or_the_update(monkeypatch, platform, side):
  """Bit for bit, wherever; those of side 40 have zeros behind them."""
  host = Replay({'image': ((side, side, 3), np.uint8), 'is_first': ((), bool)}, 2, 40, 4, 5, 0, 3)
  rng = np.random.default_rng(0)
  for count in range(50):
    image = rng.integers(0, 256, (2, side, side, 3), np.uint8)
    host.append({'image': image, 'is_first': np.full(2, count % 6 == 0)})
  read = device_replay.read_rows
  monkeypatch.setattr(device_replay, '_read', jax.jit(lambda *args: read(*args), static_argnums=3))
  monkeypatch.setattr(jax, 'default_backend', lambda: platform)
  replay, expected = DeviceReplay(host), host.sample(1)
  batch = replay.gather(replay.draw(1))
  assert isinstance(batch['image'], tiles.Tiles) == (platform == 'tpu')
  assert_same(replay.sample(1), expected)
  np.testing.assert_array_equal(tiles.apart(jax.device_get(batch))['image'], expected['image'])
  monkeypatch.undo()
  step = parallel.compile_method(Summing()).train_step
  together = parallel.train_together(Summing())
  state = lambda: np.zeros(())
  found = step(state(), batch)[1]['sum']
  assert found == step(state(), expected)[1]['sum']
  assert together((state(),) * 2, (batch,) * 2)[1][1]['sum'] == found
  shared, rng = parallel.Replicas(Summing(), 1), jax.random.key_data(jax.random.key(0))
  parted = method.TrainState((), (), carry=np.zeros((1, 4)), step=0, nonfinite=0, rng=rng)
  assert shared.train_step(parted, shared.put(batch))[1]['sum'] == found
  assert device_nbytes(host) == 2 * (20 + 3) * (tiles.fold(image, image.shape[1:])[0].nbytes + 1)


@pytest.mark.parametrize('options', [{}, {'sampling': 'episodes'}, {'sampling': 'inside'}])
def test_saved_and_loaded_it_goes_on_as_the_host_does(tmp_path, monkeypatch, options):
  # a load of several chunks, the last one not full
  monkeypatch.setattr(device_replay, 'MOST_STEPS', 8)
  replay = DeviceReplay(make(**options))
  fill(replay, 0, 33)
  replay.save(tmp_path)
  expected = replay.sample(1)
  fill(replay, 33, 47)
  replay.save(tmp_path)
  replay.sample(2)
  replay.load(tmp_path, steps=33)  # back, in place: what the device has seen since is gone
  assert replay.steps == 33
  assert_same(replay.sample(1), jax.device_get(expected))
  other = DeviceReplay(plain := make(**options))
  other.load(tmp_path)
  assert_same(other.sample(3), plain.sample(3))
  for count in range(47, 60):
    fill(other, count, count + 1)
    assert_same(other.sample(count), plain.sample(count))
  with pytest.raises(ValueError, match='no replay can be read'):
    other.load(tmp_path / 'nowhere')


def test_nothing_travels_implicitly():
  with jax.transfer_guard('disallow'):
    replay = DeviceReplay(host := make())
    for count in range(40):
      fill(replay, count, count + 1)
      if count >= 10:
        assert_same(replay.sample(count), host.sample(count))


def test_few_programs_are_compiled(monkeypatch):
  monkeypatch.setattr(device_replay, 'MOST_STEPS', 16)
  monkeypatch.setattr(device_replay, 'MOST_BYTES', 10**9)
  # Jitted anew, to count these alone.
  write, read = device_replay.write_rows, device_replay.read_rows
  monkeypatch.setattr(
    device_replay, '_write', jax.jit(lambda *args: write(*args), donate_argnums=0)
  )
  monkeypatch.setattr(device_replay, '_read', jax.jit(lambda *args: read(*args), static_argnums=3))
  replay = DeviceReplay(make(num_envs=1, capacity=100))
  for more in range(5, 45):
    fill(replay, replay.steps, replay.steps + more)
    replay.sample(0)
  assert device_replay._write._cache_size() == 5  # of 1, 2, 4, 8, 16 steps
  assert device_replay._read._cache_size() == 1


def test_a_chunk_of_steps_keeps_to_its_limits():
  for side, num_envs, steps in ((64, 1, 1024), (64, 4, 512), (4096, 1, 1)):  # 13, 25 and 50 MB
    host = Replay(
      {'image': ((side, side, 3), np.uint8), 'is_first': ((), bool)},
      num_envs,
      8 * num_envs,
      4,
      8,
      0,
      0,
    )
    assert device_replay._chunk_steps(host) == steps


def test_rings_are_written_in_place():
  """The compiled write gives back the buffers that it took, and needs no second ring on its way."""
  replay = DeviceReplay(host := make(num_envs=2, capacity=20_000))
  fill(replay, 0, 8)
  values, rows = device_replay._chunk(host, 0, 8)
  memory = device_replay._write.lower(replay._buffers, values, rows).compile().memory_analysis()
  assert memory.alias_size_in_bytes == device_nbytes(host)
  assert memory.temp_size_in_bytes < device_nbytes(host) / 20
  before = replay._buffers
  replay.sample(0)
  assert all(array.is_deleted() for array in before.values())


def test_batches_are_bound_to_a_device_only_if_it_was_named():
  """A step compiled for host batches must not be compiled again: JAX tells bound arrays from free
  ones.
  """
  step = jax.jit(lambda batch: batch['count'] + 1)
  host = make()
  fill(host, 0, 20)
  step(jax.device_put(host.sample(0)))
  step(DeviceReplay(host).sample(0))
  assert step._cache_size() == 1
  device = jax.devices()[0]
  batch = DeviceReplay(host, device).sample(0)
  assert batch['count'].committed and batch['count'].devices() == {device}
  assert_same(batch, host.sample(0))


def test_in_a_prefetcher_while_steps_are_appended():
  """The batch of a request is that of its moment, and the main thread may sample beside it."""
  replay, plain = DeviceReplay(make(margin=6)), make(margin=6)
  prefetcher = Prefetcher(replay, jax.device_put, depth=2)
  fill(replay, 0, 20)
  fill(plain, 0, 20)
  expected = []
  try:
    for update in range(150):
      expected.append(plain.sample(update))
      prefetcher.request(update)
      fill(replay, 20 + 2 * update, 22 + 2 * update)  # while the thread gathers
      fill(plain, 20 + 2 * update, 22 + 2 * update)
      if update % 10 == 0:
        assert_same(replay.sample(update + 10**6), plain.sample(update + 10**6))
      if update >= 1:
        assert_same(prefetcher.get(), expected[update - 1])
  finally:
    prefetcher.close()


def test_a_row_that_is_being_written_is_left_for_later():
  replay = DeviceReplay(host := make())
  fill(replay, 0, 20)
  draw = replay.draw(0)
  host._steps += 1  # as `append` does before it writes the row; a thread gathers now
  assert_same(replay.gather(draw), host.gather(draw))
  host._steps -= 1
  fill(replay, 20, 21)
  for update in range(20):
    assert_same(replay.sample(update), host.sample(update))


def test_a_prefetched_batch_that_waited_too_long_is_named():
  replay = DeviceReplay(make(margin=3))
  prefetcher = Prefetcher(replay, jax.device_put, depth=1)
  fill(replay, 0, 30)
  prefetcher.request(0)
  fill(replay, 30, 34)
  with pytest.raises(RuntimeError, match='margin|more than 3'):
    prefetcher.get()
  prefetcher.close()


def test_it_stands_where_a_replay_stands():
  replay = DeviceReplay(host := make())
  assert not replay.filled(0)
  fill(replay, 0, 50)
  for name in (
    'steps',
    'windows',
    'margin',
    'nbytes',
    'num_envs',
    'kept',
    'specs',
    'length',
    'batch_size',
  ):
    assert getattr(replay, name) == getattr(host, name)
  assert replay.filled(20) == host.filled(20)
  assert replay.intact(replay.draw(0))
  assert replay.describe() == 'replay: 40 steps, 0.00 GB, copied to a device (0.00 GB)'
  with pytest.raises(ValueError, match='replay stores'):
    replay.append({})
  with pytest.raises(AttributeError):
    _ = replay._steps


class FakeDevice(types.SimpleNamespace):
  """A device that says how much memory it has, or None."""

  def memory_stats(self):
    return None if self.limit is None else {'bytes_limit': self.limit, 'bytes_in_use': 0}

  def __str__(self):
    return 'fake:0'


def test_fits():
  host = make()
  needed = device_nbytes(host)
  assert needed == host.nbytes
  assert fits(host, FakeDevice(platform='gpu', limit=needed * 5 // 2))
  assert not fits(host, FakeDevice(platform='gpu', limit=needed * 5 // 2 - 1))
  assert not fits(host, FakeDevice(platform='cpu', limit=None))


def test_choose(monkeypatch):
  host = make()
  monkeypatch.setattr(device_replay, 'DeviceReplay', lambda replay, device: ('on', device))
  large, small = (FakeDevice(platform='gpu', limit=limit) for limit in (2 * 10**9, 1000))
  silent, cpu = FakeDevice(platform='gpu', limit=None), FakeDevice(platform='cpu', limit=None)
  for device in (large, small, silent, cpu):
    assert choose('host', host, device) is host
    assert choose('auto', host, device) == (('on', large) if device is large else host)
  for device in (large, silent, cpu, FakeDevice(platform='cpu', limit=1000)):
    assert choose('device', host, device) == ('on', device)
  with pytest.raises(
    ValueError, match=r'fit on fake:0: it needs 0\.00 GB, and it may take 0\.00 GB'
  ) as caught:
    choose('device', host, small)
  assert '\n' not in str(caught.value)
  with pytest.raises(ValueError, match="'disk': it must be one of auto, host, device"):
    choose('disk', host)


def test_choose_on_this_machine():
  host = make()
  replay = choose('device', host)
  assert isinstance(replay, DeviceReplay)
  fill(replay, 0, 20)
  assert_same(replay.sample(0), host.sample(0))
  if jax.default_backend() == 'cpu':
    assert choose('auto', host) is host
