"""Checkpoints: exact, typed keys among them, and of use after damage."""

import logging
import os
import shutil
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from harmony_jax.errors import UserError
from harmony_jax.training.checkpoint import Checkpoints

# orbax's reader threads complain of their closed event loop when a file is damaged.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@flax.struct.dataclass
class State:
  params: dict
  opt_state: Any
  weighting: dict
  step: jax.Array
  rng: jax.Array


def make(n, size=300):
  params = {
    'a': jax.random.normal(jax.random.key(n), (size, 100)),
    'h': jnp.full((3,), n, jnp.bfloat16),
  }
  return State(params, optax.adam(1e-3).init(params), {}, jnp.int32(n), jax.random.key(n))


def assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    assert x.dtype == y.dtype
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """A folder into which checkpoints 1, 2, 3 were saved; 2 and 3 were kept."""
  folder = tmp_path_factory.mktemp('saved') / 'checkpoints'
  with Checkpoints(folder, keep=2) as checkpoints:
    assert checkpoints.latest() is None
    for n in (1, 2, 3):
      checkpoints.save(n, make(n), {'replay_steps': 10 * n, 'name': 'x'})
  return folder


@pytest.fixture
def folder(saved, tmp_path):
  """A copy of it to do harm to."""
  return shutil.copytree(saved, tmp_path / 'checkpoints')


def test_state_and_meta_come_back_as_they_were(saved):
  with Checkpoints(saved, read_only=True) as checkpoints:
    assert checkpoints.latest() == 3
    state, meta = checkpoints.restore(make(0))
    assert isinstance(state, State) and meta == {'replay_steps': 30, 'name': 'x'}
    assert_equal(state, make(3))
    assert jax.random.uniform(state.rng) == jax.random.uniform(jax.random.key(3))
    # From shapes alone, as a reader without a state has them; an earlier step.
    assert_equal(checkpoints.restore(jax.eval_shape(lambda: make(0)), step=2)[0], make(2))


def test_two_are_kept(saved):
  assert sorted(name for name in os.listdir(saved) if name.isdigit()) == ['2', '3']


def test_a_reader_changes_nothing(folder):
  (folder / '4.orbax-checkpoint-tmp').mkdir()
  before = sorted(map(str, folder.rglob('*')))
  with Checkpoints(folder, read_only=True) as checkpoints:
    checkpoints.restore(make(0))
  assert sorted(map(str, folder.rglob('*'))) == before
  with pytest.raises(UserError, match='does not exist'):
    Checkpoints(folder / 'nowhere', read_only=True)


def flip_bit(folder):
  path = max(
    (path for path in folder.rglob('*') if path.is_file()), key=lambda path: path.stat().st_size
  )
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 16
  path.write_bytes(data)


def truncate(folder):
  for path in folder.glob('state/**/d/*'):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
  'damage',
  [
    flip_bit,
    truncate,
    lambda folder: shutil.rmtree(folder / 'state'),
    lambda folder: (folder / 'meta' / 'metadata').unlink(),
  ],
)
def test_a_damaged_newest_is_named_and_the_one_before_it_used(folder, damage, caplog):
  damage(folder / '3')
  with Checkpoints(folder) as checkpoints:
    with caplog.at_level(logging.WARNING):
      state, meta = checkpoints.restore(make(0))
    assert_equal(state, make(2))
    assert meta['replay_steps'] == 20 and checkpoints.latest() == 2
    assert any(
      'checkpoint 3' in record.getMessage() and 'is damaged' in record.getMessage()
      for record in caplog.records
    )
    # The resumed run reaches step 3 again.
    checkpoints.save(3, make(33), {})
    assert_equal(checkpoints.restore(make(0))[0], make(33))
  assert (folder / 'damaged' / '3').is_dir()


def test_nothing_intact_is_one_line_and_nothing_is_moved(folder):
  truncate(folder / '2')
  truncate(folder / '3')
  with Checkpoints(folder) as checkpoints:
    with pytest.raises(UserError, match='no checkpoint .* can be read') as caught:
      checkpoints.restore(make(0))
  assert '\n' not in str(caught.value) and (folder / '3').is_dir()


def test_another_configuration_is_no_damage(folder, caplog):
  with Checkpoints(folder) as checkpoints:
    with pytest.raises(
      UserError, match=r'params/a is float32\[300,100\] there, float32\[7,100\] here'
    ):
      checkpoints.restore(make(0, size=7))
    with pytest.raises(UserError, match='no checkpoint 9'):
      checkpoints.restore(make(0), step=9)
    assert checkpoints.latest() == 3


def test_a_step_is_saved_once(folder):
  with Checkpoints(folder) as checkpoints:
    with pytest.raises(ValueError, match='not newer than 3'):
      checkpoints.save(3, make(3), {})


def test_the_state_may_be_donated_at_once(tmp_path):
  step = jax.jit(lambda x: x + 1, donate_argnums=0)
  with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
    x = jnp.zeros((1000, 1000))
    for n in range(1, 4):
      checkpoints.save(n, {'x': x}, {})
      x = jax.block_until_ready(step(step(x)))
      restored, _ = checkpoints.restore({'x': x})
      np.testing.assert_array_equal(np.asarray(restored['x']), 2 * (n - 1))


def test_orbax_is_silent(tmp_path, caplog):
  with caplog.at_level(logging.INFO):
    with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
      checkpoints.save(1, make(1), {})
      checkpoints.restore(make(0))
  assert not [record.getMessage() for record in caplog.records if 'orbax' in record.pathname]
