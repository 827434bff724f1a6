"""A run that starts from what another one has learned."""

import contextlib
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import pytest

from experiments import folders, launcher
from harmony_jax import config as config_
from harmony_jax import method
from harmony_jax.errors import UserError
from harmony_jax.processes import ALONE
from harmony_jax.reporting import records, results_files
from harmony_jax.training import loop, origin
from harmony_jax.training.checkpoint import Checkpoints
from harmony_jax.training.interruption import Interrupted
from tests import small
from tests.commands import run
from tests.runs import TINY, From, ask, compile_once, config_of, dreamer_of, lines, train

LEARNED = ('params', 'opt_state', 'targets', 'statistics', 'weighting', 'normalizer', 'step')


def opened(stack, folder, config, source):
  """The folder of a run, as its command opens it."""
  ((_, there),) = folders.open_runs(stack, [(config, str(folder))], ALONE, str(source))
  return there


def start(folder, config, source, *more, look=None):
  """Train a run that starts from a source, as the command does; `look(trainer)` before it."""
  with contextlib.ExitStack() as stack:
    there = opened(stack, folder, config, source)
    trainer = loop.Trainer(config, there, more=more, compiler=compile_once)
    if look:
      look(trainer)
    trainer.run()
  return trainer


def tree(folder):
  """{name: bytes} of all files but the lock."""
  return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file() and p.name != '.lock'}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  folder = tmp_path_factory.mktemp('source')
  trainer = train(folder, dreamer_of())
  return folder, trainer


def test_it_begins_with_what_was_learned_and_a_course_of_its_own(source, tmp_path, capsys):
  folder, old = source
  before = tree(folder)

  def look(new):
    learned, key = new.updates.state, jax.random.fold_in(jax.random.key(5), 0)
    fresh = new.updates.compiled.init(key)
    for name in LEARNED:
      chex.assert_trees_all_equal(getattr(learned, name), getattr(old.updates.state, name))
    for name in ('rng', 'nonfinite', 'carry'):
      key = lambda x: jax.random.key_data(x) if name == 'rng' else x
      chex.assert_trees_all_equal(key(getattr(learned, name)), key(getattr(fresh, name)))
    assert (new.replay.steps, new.state.step, new.state.update) == (0, 0, 0)
    # its first update goes on with the slow critic, and does not copy the critic
    compiled, fraction = new.updates.compiled, new.config.agent.critic.slow_fraction
    copy, batch = jax.tree.map(jnp.copy, learned), compiled.put(old.replay.sample(0))
    after, _ = compiled.train_step(copy, batch)
    fast, slow = after.params['critic'], learned.targets['critic']
    slow = jax.tree.map(lambda a, b: (1 - fraction) * a + fraction * b, slow, fast)
    chex.assert_trees_all_close(after.targets['critic'], slow, rtol=1e-6, atol=1e-8)

  new = start(tmp_path / 'new', dreamer_of(seed=5, env__distractors=2), folder, look=look)
  done = int(new.updates.state.step) - int(old.updates.state.step)
  assert new.state.step == 160 and done == new.state.update > 0
  score = lines(folder, 'scores.jsonl')[-1]['eval_mean']
  assert f'starts from {folder} (catch, step 160, score {score:.2f})' in capsys.readouterr().out
  assert tree(folder) == before
  said = config_.saved(tmp_path / 'new')['identity']['from']
  with Checkpoints(folder / 'checkpoints', read_only=True) as checkpoints:
    checksum = checkpoints.checksum(160)
  run = {'run': str(folder), 'task': 'catch', 'method': 'dreamerv3'}
  assert said == run | {'step': 160, 'checksum': checksum}


def test_a_planner_begins_its_schedules_anew():
  """They follow the steps of the run, not those that the source had behind it."""
  spec = small.spec({'state': (3,)}, 2, False)
  entry = method.entry('tdmpc')
  learned = origin._learned(entry.make(entry.settings, spec))
  assert sorted(learned) == ['opt_state', 'params', 'step', 'targets']


def test_once_it_has_a_checkpoint_it_goes_on_without_the_source(source, tmp_path, capsys):
  """Bit for bit, and no other source is taken; before that it begins from the source again."""
  shutil.copytree(source[0], tmp_path / 'source')
  config = dreamer_of(seed=5)
  whole = start(tmp_path / 'whole', config, tmp_path / 'source')
  with pytest.raises(Interrupted):
    start(tmp_path / 'cut', config, tmp_path / 'source', From(120, ask))
  shutil.rmtree(tmp_path / 'source')
  capsys.readouterr()
  again = start(tmp_path / 'cut', config, tmp_path / 'source')
  assert 'starts from' not in capsys.readouterr().out
  for name in LEARNED:
    states = (whole.updates.state, again.updates.state)
    chex.assert_trees_all_equal(*(getattr(state, name) for state in states))
  assert lines(tmp_path / 'whole', 'scores.jsonl') == lines(tmp_path / 'cut', 'scores.jsonl')
  for other in (source[0], None):
    with contextlib.ExitStack() as stack, pytest.raises(UserError) as caught:
      place = [(config, str(tmp_path / 'cut'))]
      folders.open_runs(stack, place, ALONE, other and str(other))
    assert 'holds another run (identity.from.run: folder has' in str(caught.value)
    assert str(caught.value).count('folder has') == 1


MISFITS = {
  'size': (dict(rssm__deter=8), 'config.rssm.deter is 64 there, 8 here'),
  'rule': (dict(weighting__rule='none'), "config.weighting.rule is 'harmony' there, 'none' here"),
}


@pytest.mark.parametrize('case', ['size', 'rule'])
def test_what_does_not_fit_is_one_line(case, source, tmp_path):
  changes, told = MISFITS[case]
  with pytest.raises(UserError, match=f'does not fit this run: {told}'):
    start(tmp_path / 'new', dreamer_of(**changes), source[0])
  assert not (tmp_path / 'new').exists()


def test_rules_with_the_same_harmonizers_fit(source, tmp_path):
  config = dreamer_of(weighting__rule='harmony_unrectified', weighting__start=4.0)
  with contextlib.ExitStack() as stack:
    there = opened(stack, tmp_path / 'new', config, source[0])
    trainer = loop.Trainer(config, there, compiler=compile_once)
    stack.callback(trainer._close)
    new, old = (each.updates.state.params for each in (trainer, source[1]))
    chex.assert_trees_all_equal(new, old)
  told = '; its σ are kept, which the rule harmony has learned: config.weighting.start=4 changes '
  assert told in trainer.starts


def test_other_spaces_do_not_fit(source, tmp_path):
  words = ['--preset=tiny', f'--from={source[0]}', f'--logdir={tmp_path}/new']
  done = run('gym', '--env=CartPole-v1', *words)
  assert done.returncode == 2, done
  told = 'it has learned with image [64, 64, 3] and 3 choices, here are state [4] float32'
  assert told in done.stderr and 'Traceback' not in done.stderr
  assert not (tmp_path / 'new').exists()


def test_what_is_no_source(source, tmp_path):
  config = config_.saved(source[0])
  shutil.copy(source[0] / 'config.json', tmp_path)
  with pytest.raises(UserError, match='holds no checkpoint yet'):
    origin.find(str(tmp_path), 'dreamerv3')
  with pytest.raises(UserError, match="has the method 'dreamerv3', this run 'dreamerv2'"):
    origin.find(str(tmp_path), 'dreamerv2')
  with pytest.raises(UserError, match='holds no run'):
    origin.find(str(tmp_path / 'nowhere'), 'dreamerv3')
  # it would be imported only as the command's own
  config['config']['method'] = 'my_package.trap:METHOD'
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(UserError, match='my_package.trap'):
    origin.find(str(tmp_path), 'dreamerv3')


def test_a_damaged_checkpoint_of_the_source_is_passed_over(source, tmp_path, caplog):
  shutil.copytree(source[0], tmp_path / 'source')
  largest = max((tmp_path / 'source/checkpoints/160').rglob('*'), key=lambda p: p.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 255
  largest.write_bytes(data)
  assert origin.find(str(tmp_path / 'source'), 'dreamerv3')['step'] == 80
  assert 'checkpoint 160' in caplog.text


def test_its_folder_and_its_name_in_reports_say_it(source, tmp_path):
  """It is a method of its own there, also in results files."""
  config = dreamer_of(seed=5)
  assert launcher.default_logdir(config, 'ALE/Pong-v5') == (
    'runs/catch/catch/dreamerv3-harmony-tiny-from-ale-pong-v5/seed5'
  )
  start(tmp_path / 'new', config, source[0])
  found, problems = records.collect([source[0], tmp_path / 'new'])
  names = {'dreamerv3-harmony-tiny', 'dreamerv3-harmony-tiny-from-catch'}
  assert {each.method for each in found} == names and not problems
  paths, _ = results_files.write(found, tmp_path / 'results')
  assert {path.stem for path in paths} == names | {'scores'}
  again, problems = records.collect(tmp_path / 'results')
  assert {each.method for each in again} == names and not problems


def test_seeds_start_from_one_source(tmp_path):
  train(tmp_path / 'source', config_of())
  words = [f'--config.{name}={value}' for name, value in TINY.items()]
  words += ['--preset=tiny', '--method=tests.linear:METHOD', '--num_seeds=2']
  done = run('catch', *words, f'--from={tmp_path}/source', f'--logdir={tmp_path}/new')
  assert done.returncode == 0, done.stderr
  for seed in (0, 1):
    assert f'seed {seed}: starts from {tmp_path}/source (catch, step 160' in done.stdout
