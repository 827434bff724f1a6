"""Environments of packages that are JAX: their own episodes, pictures by hand, missing packages."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from harmony_jax.envs import canonical, jax_envs, make, require, tasks
from harmony_jax.envs.check import check
from tests import commands, small
from tests.damage import assert_one_line

slow = pytest.mark.slow  # Craftax compiles for 45 s a program, and draws textures when first used
NONE = np.zeros(1, bool)


def of(task):
  """Return a package's module, or skip."""
  package = jax_envs.PACKAGES[task.partition(':')[0]]
  return pytest.importorskip(package.module, reason=f'{package.needs} is not installed')


def bare(task):
  """Return (reset, step) of an environment as its package has it, with raw observations."""
  module, name = of(task), task.partition(':')[2]
  if 'navix' in task:
    environment = module.make(name, observation_fn=module.observations.symbolic)
    reset = lambda key: (lambda now: (now.observation, now))(environment.reset(key))

    def step(key, state, action):
      now = environment.step(state, action)
      return now.observation, now, now.reward, now.step_type > 0, now.step_type == 2

    return reset, step
  if 'craftax' in task:
    environment = module.make_craftax_env_from_name(name, auto_reset=False)
    params, limit, time = environment.default_params, 10_000, 'timestep'
  else:
    environment, params = module.make(name)
    limit, time = params.max_steps_in_episode, 'time'

  def step(key, state, action):
    seen, state, reward, done, _ = environment.step_env(key, state, action, params)
    return seen, state, reward, done, done & (getattr(state, time) != limit)

  return lambda key: environment.reset_env(key, params), step


@pytest.mark.parametrize(
  'task, episodes, least',
  [
    ('gymnax:Breakout-MinAtar', 6, 6),  # all of them terminal
    ('gymnax:Pendulum-v1', 1, 0),  # its limit is its only end
    ('navix:Navix-Empty-Random-5x5-v0', 6, 1),
    pytest.param('craftax:Craftax-Classic-Symbolic-v1', 1, 0, marks=slow),
  ],
)
def test_episodes_are_the_package_s(task, episodes, least):
  """Step by step for the same keys: what is seen, rewards, ends, and whether they are terminal."""
  reset, step = map(small.jit, bare(task))
  env, rng, terminals = make('jax_envs', task, 1, observe='vector'), np.random.default_rng(0), 0
  discrete = env.spec.discrete
  near = 0 if discrete else 1e-3  # 200 steps of physics round otherwise where N are mapped
  for seed in range(episodes):
    now = env.step(np.zeros((1, 1))[:, 0], ~NONE, np.array([seed]))
    begin, key = jax.random.split(jax.random.PRNGKey(seed))
    seen, state = reset(begin)
    assert now.is_first[0] and now.reward[0] == 0
    for _ in range(300):
      np.testing.assert_allclose(now.observation['vector'][0], np.ravel(seen), near, near)
      if now.is_last[0]:
        break
      draw, key = jax.random.split(key)
      action = rng.integers(env.spec.num_actions) if discrete else rng.uniform(-1, 1, 1)
      now = env.step(np.array([action]), NONE, np.array([0]))
      action = jnp.int32(action) if discrete else 2 * jnp.float32(action)  # Pendulum's are to ±2
      seen, state, reward, last, terminal = step(draw, state, action)
      np.testing.assert_allclose(now.reward[0], np.float32(reward), near, near)
      assert (now.is_last[0], now.is_terminal[0]) == (bool(last), bool(terminal))
    terminals += now.is_terminal[0]
    assert now.is_last[0] or 'craftax' in task
  assert terminals >= least


@pytest.mark.parametrize(
  'task, actions',
  [
    ('gymnax:Breakout-MinAtar', 3),
    ('navix:Navix-Empty-5x5-v0', 7),
    pytest.param('craftax:Craftax-Classic-Pixels-v1', 17, marks=slow),
  ],
)
def test_the_convention(task, actions):
  of(task)
  env = make('jax_envs', task, 2)
  seen = {name: (each.shape, each.dtype) for name, each in env.spec.observation.items()}
  assert seen == {'image': ((64, 64, 3), np.uint8)} and env.spec.num_actions == actions
  check(env, steps=12)
  assert env.step(np.zeros(2), np.ones(2, bool), np.arange(2)).observation['image'].max() == 255


def test_pictures_of_planes():
  """Enlarged by a whole number in the middle of black; colours of planes, the brightest wins."""
  planes = np.zeros((10, 10, 4), np.float32)
  planes[0, 0, [0, 3]] = planes[9, 5, 1] = 1
  shown = np.asarray(jax_envs.picture(jnp.array(planes)))
  wanted = np.zeros((64, 64, 3), np.uint8)
  wanted[2:8, 2:8], wanted[56:62, 32:38] = (255, 128, 0), (0, 255, 0)
  np.testing.assert_array_equal(shown, wanted)
  whole = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  np.testing.assert_array_equal(jax_envs.picture(jnp.array(whole)), whole)
  large = np.full((130, 110, 3), 0.4, np.float32)
  np.testing.assert_array_equal(jax_envs.picture(jnp.array(large)), np.full((64, 64, 3), 102))


def test_names_and_missing_packages(monkeypatch):
  """One line each, with the nearest name, or with what pip installs, as setup.py has it."""
  setup = (pathlib.Path(__file__).parents[1] / 'setup.py').read_text()
  for name, package in jax_envs.PACKAGES.items():
    assert f"'{name}': {[*package.needs]}" in setup
  with pytest.raises(ValueError, match="unknown package 'navi': did you mean 'navix'") as caught:
    canonical('jax_envs', 'navi:Navix-Empty-5x5-v0')
  assert_one_line(caught.value)
  with monkeypatch.context() as changed:
    changed.setattr(jax_envs.importlib.util, 'find_spec', lambda name: None)
    assert not tasks('jax_envs')
    for missing in (lambda: canonical('jax_envs', 'craftax:x'), lambda: require('jax_envs')):
      with pytest.raises(
        RuntimeError, match=r"is not installed: pip install '.*harmony-jax\["
      ) as no:
        missing()
      assert_one_line(no.value)
  of('gymnax:')
  with monkeypatch.context() as changed:
    broken = jax_envs.PACKAGES['gymnax']._replace(module='not_there')
    changed.setitem(jax_envs.PACKAGES, 'gymnax', broken)
    with pytest.raises(RuntimeError, match="be imported .*not_there.*install .*'six>=") as no:
      canonical('jax_envs', 'gymnax:Breakout-MinAtar')
    assert_one_line(no.value)
  assert canonical('jax_envs', 'gymnax:breakout-minatar') == 'gymnax:Breakout-MinAtar'
  with pytest.raises(ValueError, match="did you mean 'Breakout-MinAtar'"):
    canonical('jax_envs', 'gymnax:Breakuot')
  assert 'gymnax:SimpleBandit-bsuite' not in tasks('jax_envs')


def test_a_study(tmp_path):
  """Other packages and the numbers of the ordinary loop: tests/ondevice_test.py."""
  task = 'gymnax:Breakout-MinAtar'
  of(task)
  made = commands.run(
    *('study', f'--env={task}', '--method=tests.linear:METHOD', '--preset=tiny', '--seeds=1'),
    *('--config.steps=160', '--config.eval_every=160', '--config.eval_envs=2'),
    *('--config.final_eval_episodes=2', '--config.batch_length=8', f'--output={tmp_path}/study'),
  )
  assert made.returncode == 0, made.stderr
  (run,) = (tmp_path / 'study').glob('*/seed0')
  done = json.loads((run / '.complete').read_text())
  assert done['step'] == 160 and done['update'] > 0
  assert json.loads((run / 'config.json').read_text())['config']['task'] == task
