"""Buffers as datasets of Minari, and back."""

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from harmony_jax.errors import UserError
from harmony_jax.offline import buffer as buffers
from harmony_jax.offline import minari_data
from tests import commands, small

minari = pytest.importorskip('minari')


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
  monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path / 'datasets'))


def buffer_of(state=2, **kinds):
  """Two episodes of 5 and 3 rows: the first ends, the second is cut."""
  rng, spec = np.random.default_rng(0), small.spec({'image': (16, 16, 3), 'joints': (3,)}, **kinds)
  starts, count = np.array([0, 5, 8]), 8
  flags = {name: np.zeros(count, bool) for name in buffers.FLAGS}
  flags['is_first'][starts[:-1]] = flags['is_last'][starts[1:] - 1] = True
  flags['is_terminal'][4] = True
  blocks = [np.eye(size)[rng.integers(size, size=count)] for size in spec.factors]
  rest = rng.uniform(-1, 1, (count, spec.num_actions - sum(spec.factors)))
  action = np.concatenate([*blocks, rest], -1).astype(np.float32)
  reward = np.where(flags['is_first'], 0, rng.normal(size=count)).astype(np.float32)
  observation = {
    'image': rng.integers(256, size=(count, 16, 16, 3)).astype(np.uint8),
    'joints': rng.normal(size=(count, 3)).astype(np.float32),
  }
  names = ['arm.0', 'arm.1'][:state]
  header = {'format': 1, 'suite': 'dmc', 'task': 'x', 'env': {'a': 1}, 'policy': 'p', 'seed': 3}
  header |= {'spec': spec.to_json(), 'state_names': names}
  states = rng.normal(size=(count, state)).astype(np.float32)
  return buffers.Buffer(
    header, observation, {'action': action, 'reward': reward, **flags}, starts, states
  )


@pytest.mark.parametrize(
  'kinds', [{}, {'discrete': False}, {'discrete': False, 'actions': 5, 'choices': (2, 3)}]
)
@pytest.mark.parametrize('state', [0, 2])
def test_a_buffer_comes_back(kinds, state, monkeypatch):
  """All but the actions after an episode's last observation, which are not in a dataset."""
  monkeypatch.setattr(minari_data, 'SIZE', 16)
  buffer = buffer_of(state, **kinds)
  minari_data.save(buffer, 'test/made-v0')
  found = minari_data.load('test/made-v0')
  assert found.spec == buffer.spec and found.starts.tolist() == [0, 5, 8]
  for name, array in buffer.observation.items():
    np.testing.assert_array_equal(found.observation[name], array)
  last = buffer.rows['is_last']
  np.testing.assert_allclose(found.rows['action'][~last], buffer.rows['action'][~last], atol=1e-6)
  assert not found.rows['action'][last].any()
  for name in ('reward', *buffers.FLAGS):
    np.testing.assert_array_equal(found.rows[name], buffer.rows[name])
  np.testing.assert_array_equal(found.state, buffer.state)
  same = 'suite', 'task', 'env', 'policy', 'seed', 'state_names'
  assert {k: found.header[k] for k in same} == {k: buffer.header[k] for k in same}


def dataset(observations, actions, observation_space, action_space, infos=()):
  """A dataset of one episode that nobody here has written."""
  from minari.data_collector import EpisodeBuffer

  steps = len(actions)
  ends = {'terminations': [False] * steps, 'truncations': [False] * (steps - 1) + [True]}
  episode = EpisodeBuffer(
    observations=observations, actions=actions, rewards=[1.0] * steps, infos=dict(infos), **ends
  )
  spaces = {'observation_space': observation_space, 'action_space': action_space}
  minari.create_dataset_from_buffers('test/foreign-v0', [episode], **spaces)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
  'state, names',
  [
    (np.arange(6.0).reshape(3, 2), []),
    ({'hand': np.arange(6.0).reshape(3, 2), 'time': np.arange(3.0)}, ['time']),
  ],
)
def test_a_foreign_state_is_what_has_a_number_for_each_row(state, names):
  space = Box(-9, 9, (3,), np.float32), Discrete(2)
  dataset(np.zeros((3, 3), np.float32), np.array([0, 1]), *space, infos={'state': state})
  found = minari_data.load('test/foreign-v0')
  assert found.header['state_names'] == names
  assert found.state.tolist() == ([[0], [1], [2]] if names else [[], [], []])


@pytest.mark.filterwarnings('ignore')
def test_a_foreign_dataset_is_read_as_an_environment():
  """Nested observations; actions that do not begin at 0, or have other bounds."""
  seen = {'arm': {'angle': np.arange(3.0)[:, None]}, 'mode': np.array([4, 5, 4])}
  space = Dict({'arm': Dict({'angle': Box(-9, 9, (1,), np.float64)}), 'mode': Discrete(2, start=4)})
  dataset(seen, np.array([7, 6]), space, Discrete(3, start=5))
  found = minari_data.load('test/foreign-v0')
  assert found.observation['arm_angle'][:, 0].tolist() == [0, 1, 2]
  assert found.observation['mode'].argmax(-1).tolist() == [0, 1, 0]
  assert found.rows['action'].tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]
  assert found.rows['is_last'].tolist() == [False, False, True]
  assert not found.rows['is_terminal'].any() and found.header['suite'] == 'gym'


@pytest.mark.filterwarnings('ignore')
def test_bounds_are_the_ends_of_an_action():
  space = Box(np.array([0, -4.0]), np.array([2, 4.0]))
  dataset(np.zeros((3, 2), np.float32), np.array([[0, 4], [1.5, -2]]), Box(-1, 1, (2,)), space)
  assert minari_data.load('test/foreign-v0').rows['action'].tolist() == [
    [-1, 1],
    [0.5, -0.5],
    [0, 0],
  ]


@pytest.mark.filterwarnings('ignore')
def test_what_cannot_be_exchanged_is_one_line(monkeypatch):
  with pytest.raises(UserError, match='--minari=not/there-v0: '):
    minari_data.load('not/there-v0')
  with pytest.raises(UserError, match='has both in one'):
    minari_data.save(buffer_of(discrete=False, actions=5, choices=(2,)), 'test/made-v0')
  minari_data.save(buffer_of(), 'test/made-v0')
  with pytest.raises(UserError, match='--minari=test/made-v0: .*test/made-v0'):
    minari_data.save(buffer_of(), 'test/made-v0')
  nested = Dict({'x': MultiDiscrete([2, 2])})
  dataset(np.zeros((2, 2), np.float32), {'x': np.ones((1, 2), int)}, Box(-1, 1, (2,)), nested)
  with pytest.raises(UserError, match='actions of Dict cannot be read'):
    minari_data.load('test/foreign-v0')


def test_commands(tmp_path):
  file = tmp_path / 'buffer.npz'
  buffer_of().save(file)
  for words, told in {
    ('export', f'--buffer={file}', '--minari=test/buffer-v0'): 'the dataset test/buffer-v0',
    ('import', '--minari=test/buffer-v0', f'--output={tmp_path}/again.npz'): '2 episodes, 8 steps',
  }.items():
    done = commands.run('offline', *words)
    assert done.returncode == 0 and told in done.stdout, done.stderr
  done = commands.run('offline', 'import', '--minari=test/buffer-v0')
  assert done.returncode == 2 and done.stderr.startswith('error: import needs --output (')
