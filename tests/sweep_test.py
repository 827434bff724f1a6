"""Sweeps: the plan, jobs that fail, hang or are lost, the executors, and whole sweeps."""

import dataclasses
import io
import json
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from absl.testing import flagsaver
from rich.console import Console

from experiments import configs as suites_of
from experiments import launcher, sweep
from harmony_jax import config as config_
from harmony_jax.errors import UserError
from harmony_jax.reporting import results_files, schema
from harmony_jax.sweeping import devices, executors, grid, job
from harmony_jax.sweeping import sweep as sweeps_of
from harmony_jax.sweeping.display import Display
from harmony_jax.sweeping.sweep import Sweep
from harmony_jax.training import measured
from tests import commands, sweeps

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
START = [sys.executable, '-m', 'experiments.sweep']
PIPES = dict(cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(autouse=True)
def looks(monkeypatch):
  """Look at jobs more often than at those that last for hours."""
  monkeypatch.setattr(sweeps_of, 'PAUSE', 0.05)
  monkeypatch.setattr(job, 'LOOK', 0.05)
  monkeypatch.setattr(job, 'AGAIN', 0.1)


def command(*words, **environment):
  """Runs `python -m experiments.sweep` to its end."""
  return commands.run('sweep', *words, timeout=300, **environment)


def planned(root, *words, overrides=()):
  """(configurations, jobs) of a sweep at `tiny`."""
  with flagsaver.flagsaver():
    sweep.FLAGS(['sweep', '--preset=tiny', f'--root={root}', *words])
    module = suites_of().suite(sweep.FLAGS.suite)
    configs = sweep.plan(module, list(overrides))
    return configs, sweep.make_jobs(module, configs, list(overrides), 'cpu')


def test_seeds():
  for text, seeds in {
    '5': [0, 1, 2, 3, 4],
    '1': [0],
    '3,7': [3, 7],
    '7,': [7],
    '5-7': [5, 6, 7],
    '0-2,7,1': [0, 1, 2, 7],
    ' 3, 4 ': [3, 4],
  }.items():
    assert launcher.parse_seeds(text) == seeds
  for text in ('', '0', 'x', '-1', '3-1', ',', '1,,2', '1.5', '99999', '1-99999', '²'):
    with pytest.raises(UserError, match='--seeds is'):
      launcher.parse_seeds(text)


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch):
  """Plans do not depend on what has been run on this machine."""
  monkeypatch.setattr(measured, 'load', lambda config, backend: None)


def test_what_was_measured_here_is_the_plan(tmp_path, monkeypatch):
  """Four runs of 200 steps at 0.1 a second on two workers, one of them half done."""
  found = {'steps_per_second': 0.1, 'memory': 2e9, 'cores': 1, 'date': 'today'}
  monkeypatch.setattr(measured, 'load', lambda config, backend: found)
  runs, jobs = planned(tmp_path, '--games=Pong,Breakout', '--seeds=2')
  assert jobs[0].hours == pytest.approx(200 / 0.1 / 3600)
  jobs[0].folders[0].mkdir(parents=True)
  (jobs[0].folders[0] / 'metrics.jsonl').write_text('{"step": 100}\n')
  told = sweep.describe_need(Sweep(jobs), 2)
  assert told.endswith(
    '1.94 h, 0.97 h with 2 at a time; up to 2.0 GB of memory each, 4.0 GB together'
  )
  jobs[1] = dataclasses.replace(jobs[1], memory=None)
  assert sweep.describe_need(Sweep(jobs), 2).endswith('1.94 h, 0.97 h with 2 at a time')


def test_the_plan_is_the_product(tmp_path):
  words = ['--games=pong,Breakout,PONG', '--seeds=2', '--weighting=harmony,none']
  _, jobs = planned(tmp_path, *words)
  assert len({each.name for each in jobs}) == len({each.output for each in jobs}) == len(jobs) == 8
  assert [each.name for each in jobs[:5]] == [
    'Pong dreamerv3-harmony-tiny seed 0',
    'Pong dreamerv3-none-tiny seed 0',
    'Breakout dreamerv3-harmony-tiny seed 0',
    'Breakout dreamerv3-none-tiny seed 0',
    'Pong dreamerv3-harmony-tiny seed 1',
  ]
  assert jobs[0].steps == 200 and jobs[0].hours == pytest.approx(0.5 / 60)
  _, together = planned(tmp_path, *words, '--seeds=3-5', '--seeds_together')
  parent = together[0].folders[0].parent
  assert len(together) == 4 and together[0].steps == 600
  assert together[0].folders == tuple(parent / f'seed{seed}' for seed in (3, 4, 5))
  assert {'--seed=3', '--num_seeds=3', f'--logdir={parent}'} < set(together[0].command)


def test_a_job_is_the_ordinary_run(tmp_path):
  overrides = ('batch_size=5', 'steps=1e3')
  words = '--games=Pong', '--seeds=7,', '--tracker=none,trackio'
  (config,), (only,) = planned(tmp_path, *words, overrides=overrides)
  folder = tmp_path / pathlib.Path(launcher.default_logdir(config)).relative_to('runs')
  assert only.folders == (folder,) and only.output == folder / 'output.txt'
  assert only.steps == 1000 and only.hours is None  # what was measured had other settings
  assert only.command == (
    *(sys.executable, '-m', 'experiments', 'atari100k', '--game=Pong', '--seed=7'),
    *('--method=dreamerv3', '--weighting=harmony', '--preset=tiny', f'--logdir={folder}'),
    *('--tracker=none,trackio', '--config.batch_size=5', '--config.steps=1e3'),
  )


def test_a_grid_is_every_combination(tmp_path):
  words = ['--games=Pong', '--grid=batch_size=4,8', '--grid=config.model_opt.lr=3e-4,0.0003,1e-3']
  configs, jobs = planned(tmp_path, *words, overrides=['label=a', 'batch_size=5'])
  kind = 'dreamerv3-harmony-tiny-a-batch_size='  # equal values are one point
  labels = [f'{kind}{size}-model_opt.lr={lr}' for size in (4, 8) for lr in (0.0003, 0.001)]
  assert [each.name for each in jobs] == [f'Pong {label} seed 0' for label in labels]
  assert [each.folders[0].parent.name for each in jobs] == labels
  assert [schema.label(each.to_json()) for each in configs] == labels  # as reports tell them apart
  assert {'--config.batch_size=8', '--config.model_opt.lr=0.001'} < set(jobs[3].command)
  assert not any('batch_size=5' in word for word in jobs[3].command)
  of_job = config_.split_flags(list(jobs[3].command))[1]
  assert configs[3] == planned(tmp_path, '--games=Pong', overrides=of_job)[0][0]
  again = grid.parse(['env.keys=[a,b],[a]', 'x=1'])
  assert again == {'env.keys': ['[a,b]', '[a]'], 'x': ['1']}


def test_a_job_gives_a_grid_s_values_their_types(tmp_path):
  """Of options that only the simulator knows: '1' in quotes is a text, (1,2) is of numbers."""
  words = ['--suite=gym', '--tasks=cartpole', "--grid=env.level='1',2", '--grid=env.map=(1,2),a']
  configs, jobs = planned(tmp_path, *words)
  assert [each.env['level'] for each in configs] == ['1', '1', 2, 2]
  assert [each.env['map'] for each in configs] == [[1, 2], 'a'] * 2
  for planned_, made in zip(configs, jobs):
    texts = config_.split_flags(list(made.command))[1]
    again = planned(tmp_path, *words[:2], overrides=texts)[0][0]
    assert again == planned_ and type(again.env['level']) is type(planned_.env['level'])


def test_no_two_runs_of_a_plan_are_in_one_folder(tmp_path, monkeypatch):
  with pytest.raises(UserError, match='config.seed is chosen by a flag of its own'):
    planned(tmp_path, '--games=Pong', '--seeds=3', overrides=['config.seed=7'])
  monkeypatch.setattr(launcher, 'canonical', lambda module, task: task)  # they are registered
  with pytest.raises(UserError, match='own-a-v0/.* would be the folder of two different runs'):
    planned(tmp_path, '--suite=gym', '--tasks=Own/A-v0,own-a-v0')


def test_suites_are_the_modules_of_configs(tmp_path):
  suites = suites_of().suites()
  assert set(suites) == {
    *('atari100k', 'catch', 'crafter', 'dmc', 'dmcr', 'gym', 'memory_maze', 'metaworld'),
    *('jax_envs', 'minigrid', 'reach', 'rlbench'),
  }
  for module in suites.values():
    assert set(module.HOURS) == {'paper', 'cpu', 'debug', 'tiny'}
    assert all(hours is None or hours > 0 for hours in module.HOURS.values())
  for suite, number in {'atari100k': 26, 'catch': 1, 'crafter': 1, 'metaworld': 50}.items():
    runs, jobs = planned(tmp_path, f'--suite={suite}')
    own = 'dreamerv2' if suite == 'metaworld' else 'dreamerv3'  # as the suite's own command
    assert len(jobs) == number and {run.run.method for run in runs} == {own}
  _, (only,) = planned(tmp_path, '--suite=gym', '--tasks=cartpole')
  assert only.name.startswith('CartPole-v1 ')


MISTAKES = {
  '--games=Pogn': 'Pong',
  '--games=': '--games is empty',
  '--suite=gym --games=all': 'no list',
  '--suite=atarl': 'atari100k',
  '--method=dreamerv4': 'dreamerv3',
  '--weighting=harmony,nome': 'none',
  '--seeds=3,5 --seeds_together': 'without gaps',
  '--detach': 'slurm',
  '--workers=999': 'cores',
  '--root=/proc/nowhere': '/proc/nowhere',
  '--executor=slurm': 'srun',
  '--executor=slurm --run_gpus=0.5': 'whole GPUs',
  '--executor=slurm --slurm=time=5': 'use --slurm_time',
  '--executor=slurm --slurm=array=0-3': 'a sweep sets that itself',
  '--executor=slurm --slurm=account=': 'an option of sbatch',
  '--slurm=account=x': 'goes with --executor=slurm',
  '--tracker=wandv': 'wandb',
  '--grid=batch_sise=4,8': 'the nearest is config.batch_size',
  '--grid=batch_size=4,many': "expected a whole number, got 'many'",
  '--grid=batch_size=4,0': 'config.batch_size is 0: it must be',
  '--grid=batch_size': 'setting=value,value',
  '--grid=batch_size=4,,8': 'setting=value,value',
  '--grid=seed=1,2': 'a flag of its own',
  '--grid=batch_size=4 --grid=config.batch_size=8': 'has values already',
  '--from=/proc/nowhere': 'holds no run',
  '--executor=ray': r"pip install 'harmony-jax\[ray\]'",
}


@pytest.mark.parametrize('words', MISTAKES)
def test_what_no_sweep_can_be(words, tmp_path, monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.setitem(sys.modules, 'ray', None)
  monkeypatch.setenv('PATH', '')  # Slurm may be here
  with flagsaver.flagsaver(), pytest.raises(UserError, match=MISTAKES[words]):
    sweep.FLAGS(['sweep', '--games=Pong', '--preset=tiny', f'--root={tmp_path}', *words.split()])
    sweep.main([], [])


def test_a_mistake_is_one_line(tmp_path):
  for word, expected in {
    '--sedes=3': 'seeds',
    'Pong': '--games',
    '--config.seed=3': 'seed',
  }.items():
    result = command(f'--root={tmp_path}', word)
    assert result.returncode == 2 and expected in result.stderr, result
    assert result.stderr.startswith('error: ') and result.stderr.count('\n') == 1, result.stderr


def test_a_folder_with_another_run_is_refused(tmp_path):
  (config,), (only,) = planned(tmp_path, '--games=Pong')
  present = {'config': {**config.to_json(), 'batch_size': 7, 'replay_on': 'host'}}
  present['identity'] = {'suite': 'atari', 'task': 'Pong', 'method': 'dreamerv3'}
  only.folders[0].mkdir(parents=True)
  (only.folders[0] / 'config.json').write_text(json.dumps(present))
  (only.folders[0] / '.complete').touch()
  with pytest.raises(UserError, match='config.batch_size: folder has 7, command has 4'):
    planned(tmp_path, '--games=Pong')
  assert planned(tmp_path, '--games=Pong', overrides=['batch_size=7'])[1][0].is_complete()


def test_what_is_done_is_not_left(tmp_path):
  assert 'hours not measured of 1' in sweep.describe_need(Sweep([sweeps.job(tmp_path)]), 1)
  _, (only,) = planned(tmp_path, '--games=Pong')
  only = dataclasses.replace(only, hours=0.4)
  only.folders[0].mkdir(parents=True)
  (only.folders[0] / 'metrics.jsonl').write_text('{"step": 50}\n{"step": 9')
  assert only.step() == 50  # of 200
  told = sweep.describe_need(Sweep([only]), 1)
  assert told == '1 waiting of 1, 0.30 h, 0.30 h with 1 at a time'


def test_hours_are_told_once_they_are_known(capsys, monkeypatch):
  """Ten seconds between two looks, and none after that."""
  clock, lines = iter(range(0, 999, 4)), iter(['', '', '1 h', '2 h'])
  monkeypatch.setattr(sweep.time, 'monotonic', lambda: next(clock))
  ahead = sweep.forecast(lambda: next(lines))
  for _ in range(9):
    next(ahead)
  assert capsys.readouterr().out == '1 h\n' and next(lines) == '2 h'


def test_dry_run_starts_nothing(tmp_path, capsys, monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  words = ['--seeds=5', '--weighting=harmony,none', '--preset=paper', '--dry_run']
  with flagsaver.flagsaver():
    sweep.FLAGS(['sweep', '--games=all', f'--root={tmp_path}', *words])
    assert sweep.main([], []) == 0
  printed = capsys.readouterr().out
  assert '260 waiting of 260, hours not measured of 260' in printed
  assert '--game=UpNDown --seed=4' in printed and not list(tmp_path.iterdir())


def test_workers_share_devices_and_cores(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', '')
  assert devices.count()[1] >= 1
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  show = lambda *words: [place.environment for place in devices.share(*words)]
  assert show('gpu', 2) == [{'CUDA_VISIBLE_DEVICES': '0'}, {'CUDA_VISIBLE_DEVICES': '1'}]
  assert [each['CUDA_VISIBLE_DEVICES'] for each in show('gpu', 2, 4)] == ['0', '1', '0', '1']
  assert show('gpu', 2, 4)[3]['XLA_PYTHON_CLIENT_PREALLOCATE'] == 'false'
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
  assert [each['CUDA_VISIBLE_DEVICES'] for each in show('gpu', 2)] == ['3', '5']
  assert [each['TPU_VISIBLE_CHIPS'] for each in show('tpu', 4)] == ['0', '1', '2', '3']
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 2, 4, 6, 7})
  assert [place.cores for place in devices.share('cpu', 1, 2)] == [(0, 2), (4, 6)]
  with pytest.raises(UserError, match='5 cores'):
    devices.share('cpu', 1, 6)


def run(jobs, executor, retries=2, meanwhile=None, close=True):
  """(states with failures, what was printed, signal) of jobs, while a function runs in a thread."""
  made, output = Sweep(jobs), io.StringIO()
  threading.Thread(target=meanwhile, daemon=True).start()
  with Display(made, Console(file=output)) as display:
    stopped = made.run(executor, retries, display.tell)
  if close:
    executor.close()
  return [(row.state, row.failures) for row in made.rows], output.getvalue(), stopped


def here(*places):
  """An executor on this machine."""
  return executors.Local(places or [devices.Place()] * 2)


def kill(process, *numbers):
  """Sends signals to a process."""
  for number in numbers or [signal.SIGKILL]:
    os.kill(process, number)


def parent(process):
  """The process that started another one."""
  return int(pathlib.Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[1])


def test_what_fails_is_tried_again(tmp_path):
  behaviours = ('fails-9', 'fails-1', 'mistake', 'ok')
  jobs = [sweeps.job(tmp_path, each, seed) for seed, each in enumerate(behaviours)]
  states, printed, stopped = run(jobs, here(), retries=1)
  assert not stopped
  assert states == [('failed', 2), ('finished', 1), ('failed', 0), ('finished', 0)]
  assert [len(sweeps.pids(each)) for each in jobs] == [2, 2, 1, 1]
  assert 'failed 2 times (exit code 1, ValueError: attempt 2 went wrong)' in printed
  assert 'seed 2: failed, step 0/100; error: no such thing; did you mean that?' in printed
  assert 'seed 3: finished, step 100/100' in printed


def test_what_looks_after_a_run_takes_no_jax():
  """There is one beside each run, for as long as that lasts."""
  code = "import sys, harmony_jax.sweeping.job; assert 'jax' not in sys.modules"
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_two_run_side_by_side_on_their_cores_and_go_on_when_killed(tmp_path):
  jobs = [sweeps.job(tmp_path, 'hangs-once', seed) for seed in range(2)]
  core, found = max(os.sched_getaffinity(0)), []
  places = [devices.Place({'CUDA_VISIBLE_DEVICES': '5'}, (core,)), devices.Place()]

  def meanwhile():
    child, other = map(sweeps.wait_for_pid, jobs)
    found.append(os.sched_getaffinity(child))
    found.append(pathlib.Path(f'/proc/{child}/environ').read_text())
    kill(child)
    kill(other)

  states, printed, _ = run(jobs, here(*places), meanwhile=meanwhile)
  assert states == [('finished', 1)] * 2
  assert found[0] == {core} and 'CUDA_VISIBLE_DEVICES=5\0' in found[1]
  assert 'seed 0: waiting, step 40/100; failed 1 times (exit code -9' in printed
  assert 'seed 1: waiting, step 40/100; failed 1 times (exit code -9' in printed


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_runs_save(number, tmp_path):
  jobs = [sweeps.job(tmp_path, 'hangs-once', seed) for seed in range(3)]
  before = signal.getsignal(number)
  meanwhile = lambda: [*map(sweeps.wait_for_pid, jobs[:2]), kill(os.getpid(), number)]
  states, printed, stopped = run(jobs, here(), meanwhile=meanwhile)
  assert f'seed 1: running, step 40/100; {signal.Signals(number).name}: saving' in printed
  assert stopped == signal.Signals(number).name and signal.getsignal(number) == before
  assert states == [('stopped', 0)] * 3
  assert [(each.folders[0] / 'saved').exists() for each in jobs] == [True, True, False]
  states, _, stopped = run(jobs[:1], here())
  assert not stopped and states == [('finished', 0)] and len(sweeps.pids(jobs[0])) == 2


def test_the_second_signal_does_not_wait(tmp_path):
  only, pids = sweeps.job(tmp_path, 'deaf'), []

  def meanwhile():
    pids.append(sweeps.wait_for_pid(only))
    kill(os.getpid(), signal.SIGTERM, signal.SIGINT)

  assert run([only], here(), meanwhile=meanwhile)[0] == [('stopped', 0)]
  with pytest.raises(ProcessLookupError):
    kill(pids[0], 0)


def test_a_child_whose_sweep_is_killed_saves(tmp_path):
  code = (
    'import pathlib, sys\nfrom tests import sweeps, sweep_test\nroot = pathlib.Path(sys.argv[1])\n'
    'sweep_test.run([sweeps.job(root, "hangs")], sweep_test.here())'
  )
  process = commands.Command('-c', code, tmp_path)
  only = sweeps.job(tmp_path, 'hangs')
  sweeps.wait_for_pid(only)
  process.kill()
  process.wait()
  sweeps.wait_for((only.folders[0] / 'saved').exists)


class Immediate(executors.Executor):
  """Runs an attempt as soon as somebody asks for its exit code."""

  def exit_code(self, job_):
    return job.Attempt(job_, signals=())()


def test_a_folder_in_use_is_no_failure(tmp_path, monkeypatch):
  monkeypatch.setattr(job, 'PATIENCE', 0.0)
  only = sweeps.job(tmp_path, 'hangs-once')
  somebody = subprocess.Popen(only.command)
  sweeps.wait_for_pid(only)
  states, printed, _ = run([only], Immediate())
  assert states == [('in use', 0)] and 'error: in use' in printed
  somebody.terminate()  # it saves, and leaves the folder
  monkeypatch.setattr(job, 'PATIENCE', 60.0)
  assert run([only], Immediate())[0] == [('finished', 0)] and somebody.wait() == 75


def test_the_table_of_a_terminal(tmp_path):
  jobs = [sweeps.job(tmp_path, seed=seed) for seed in range(9)]
  sweeps.write_run(jobs[7].folders[0], 100, 2.0, complete=True)
  made, output = Sweep(jobs), io.StringIO()
  made.rows[4].state, made.rows[4].reason = 'failed', 'boom [of it]'
  with Display(made, Console(file=output, force_terminal=True, color_system=None)):
    pass
  lines = [' '.join(line.split()) for line in output.getvalue().splitlines()]
  assert '1 failed, 1 finished, 7 waiting of 9' in output.getvalue()
  begin = lines.index('run state step')
  assert lines[begin + 1 :][:2] == ['seed 4 failed 0/100 boom [of it]', 'seed 7 finished 100/100']


def test_ray_survives_a_lost_worker_and_stops(tmp_path):
  """A killed worker's run goes on in another. Then a sweep is stopped while a job waits."""
  pytest.importorskip('ray')
  before, ray = signal.getsignal(signal.SIGTERM), executors.Ray(None, cpus=1, gpus=0)
  jobs = [sweeps.job(tmp_path, each, seed) for seed, each in enumerate(('hangs-once', 'mistake'))]
  meanwhile = lambda: kill(parent(sweeps.wait_for_pid(jobs[0])))
  states, printed, _ = run(jobs, ray, meanwhile=meanwhile, close=False)
  assert states == [('finished', 1), ('failed', 0)] and 'failed 1 times (lost)' in printed
  count = len(os.sched_getaffinity(0))
  jobs = [sweeps.job(tmp_path / 'more', 'hangs', seed) for seed in range(count + 1)]
  meanwhile = lambda: [*map(sweeps.wait_for_pid, jobs[:count]), kill(os.getpid(), signal.SIGTERM)]
  states, _, stopped = run(jobs, ray, meanwhile=meanwhile)
  assert stopped == 'SIGTERM' and states == [('stopped', 0)] * (count + 1)
  assert len(list(tmp_path.glob('more/*/saved'))) == count
  signal.signal(signal.SIGTERM, before)  # Ray's own else


def test_ray_refuses_a_job_that_it_cannot_hold(monkeypatch):
  ray = pytest.importorskip('ray')
  monkeypatch.setattr(ray, 'init', lambda *_, **__: None)  # which takes seconds
  monkeypatch.setattr(ray, 'cluster_resources', lambda: {'CPU': 2.0})
  with pytest.raises(UserError, match='--run_gpus=64: Ray sees 2 CPUs and 0 GPUs here'):
    executors.Ray(None, cpus=1, gpus=64)


def test_a_slurm_job_is_preempted_and_goes_on(tmp_path):
  attempt = job.Attempt(sweeps.job(tmp_path, 'hangs-once'), signals=())
  threading.Thread(target=attempt, daemon=True).start()
  sweeps.wait_for_pid(attempt.job)
  later = pickle.loads(pickle.dumps(attempt.checkpoint()))
  assert (attempt.job.folders[0] / 'saved').exists()
  assert later.result() == 0 and attempt.job.is_complete()


FAKE_SLURM = {
  'sbatch': 'cp "$1" "$FAKE/script.sh"; echo x >> "$FAKE/submitted"; echo Submitted batch job 1234',
  'srun': 'exit 1',
  'scancel': 'echo "$@" >> "$FAKE/cancelled"',
  'squeue': 'for i in 0 1 2 3; do echo 1234_$i; done',
}


def imitate(folder, **changes):
  """Make programs of Slurm."""
  for name, text in (FAKE_SLURM | changes).items():
    (folder / name).write_text(f'#!/bin/bash\n{text}\n')
    (folder / name).chmod(0o755)


def test_slurm_is_followed_by_its_queue(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
  monkeypatch.setenv('FAKE', str(tmp_path))
  monkeypatch.setattr(executors, 'LOOK', 0.0)
  monkeypatch.setattr(executors, 'GONE', 0.0)
  make = lambda: executors.Slurm(tmp_path / 'slurm', 0, {}, cpus_per_task=1)
  imitate(tmp_path, squeue='echo it does not answer >&2; exit 1')
  with pytest.raises(UserError, match='--executor=slurm: it does not answer'):
    make()
  imitate(tmp_path)
  made, jobs = make(), [sweeps.job(tmp_path, seed=seed) for seed in range(3)]
  made.submit(jobs)
  codes = lambda of: [of.exit_code(each) for each in jobs]
  assert codes(made) == [None] * 3
  imitate(tmp_path, squeue='exit 1')
  assert codes(made) == [None] * 3  # as before
  result = tmp_path / 'slurm' / '1234_2_0_result.pkl'
  result.write_bytes(pickle.dumps(('success', 2)))
  imitate(tmp_path, squeue='echo 1234_1')
  later = make()
  later.submit(jobs[1:2])
  assert later.exit_code(jobs[1]) is None
  assert codes(made) == [executors.LOST, None, 2]
  assert (tmp_path / 'submitted').read_text().count('x') == 1
  imitate(tmp_path, sbatch='echo sbatch: no such account >&2; exit 1')
  with pytest.raises(UserError, match='no such account'):
    later.submit(jobs[:1])


def test_what_slurm_is_given(tmp_path):
  """`sbatch` and its kind are imitated: one array job, which is followed, not submitted again."""
  imitate(tmp_path)
  words = ['--games=Pong,Boxing', '--seeds=2', f'--root={tmp_path}/runs', '--executor=slurm']
  words += ['--slurm_partition=long', '--slurm_time=2880', '--slurm_memory=20', '--workers=3']
  words += ['--run_gpus=2', '--run_cpus=6', '--preset=tiny']
  words += ['--slurm=account=physics', '--slurm=constraint=a&b', '--slurm=mail-type=END,FAIL']
  environment = dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', FAKE=str(tmp_path))
  environment['XDG_CACHE_HOME'] = str(tmp_path)  # nothing has been measured
  for _ in range(2):
    result = command(*words, '--detach', **environment)
    assert result.returncode == 0 and '4 waiting of 4, submitted' in result.stdout, result
  assert (tmp_path / 'submitted').read_text().count('x') == 1
  given = (tmp_path / 'script.sh').read_text()
  for line in ('array=0-3%3', 'partition=long', 'time=2880', 'gpus-per-node=2', 'cpus-per-task=6'):
    assert f'#SBATCH --{line}\n' in given, given
  for line in ('mem=20GB', 'requeue', 'signal=USR2@120', 'open-mode=append'):
    assert f'#SBATCH --{line}\n' in given, given
  for line in ('account=physics', "constraint='a&b'", 'mail-type=END,FAIL'):
    assert f'#SBATCH --{line}\n' in given, given
  assert ' --cpus-per-task=6 ' in given.splitlines()[-1]  # of srun
  process = commands.Command('experiments.sweep', *words, **environment)
  while process.text().count('\n') < 2:
    assert process.poll() is None, process.text()
    time.sleep(0.05)
  first, second, *_ = process.text().splitlines()
  assert first.startswith('4 waiting of 4, ') and '4 waiting of 4' in second
  process.send_signal(signal.SIGTERM)
  assert process.wait(60) == 75
  cancelled = sorted((tmp_path / 'cancelled').read_text().split())
  assert cancelled == [f'1234_{index}' for index in range(4)]


@pytest.mark.slow
def test_a_real_slurm(tmp_path):
  """Four runs, where there is one (tests/slurm.sh): a killed run and a cancelled job go on, those
  of a killed sweep are followed, and none is done twice."""
  if subprocess.run('sinfo -h', shell=True, capture_output=True).returncode:
    pytest.skip('Slurm does not answer here')
  words = ['--suite=catch', '--method=tests.linear:METHOD', '--preset=tiny', '--seeds=2']
  words += ['--grid=lr=0.01,0.02', '--executor=slurm', '--run_cpus=1', '--slurm_time=10']
  words += ['--slurm=comment=tests', '--config.steps=3000', '--config.eval_every=1500', *SHORT]
  words += [f'--root={tmp_path}', '--config.checkpoint_every=100']
  kind = tmp_path / 'catch/catch/tests.linear-METHOD-tiny-lr='
  first, second = (pathlib.Path(f'{kind}{lr}', 'seed0') for lr in ('0.01', '0.02'))
  begun = lambda folder: len(list((folder / 'checkpoints').glob('[0-9]*'))) > 1
  process = subprocess.Popen([*START, *words], env=ENVIRONMENT, **PIPES)
  sweeps.wait_for(lambda: begun(first))
  kill(int(re.search(r'\d+', (first / '.lock').read_text())[0]))
  sweeps.wait_for(lambda: begun(second))
  (jobs,) = tmp_path.glob('sweeps/*/slurm/jobs.json')
  (number,) = (n for key, n in json.loads(jobs.read_text()).items() if str(second) in key)
  subprocess.run(['scancel', number], check=True)
  attempts = lambda folder: (folder / 'output.txt').read_text().count('\n# ')
  sweeps.wait_for(lambda: attempts(first) == 2, 400)  # it waits for the others
  process.kill()
  process.communicate()
  result = subprocess.run(
    [*START, *words], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True
  )
  assert result.returncode == 0 and '4 of 4 runs are complete' in result.stdout, result
  for folder in tmp_path.glob('catch/catch/*/seed*'):
    printed, expected = (folder / 'output.txt').read_text(), 1 + (folder in (first, second))
    assert attempts(folder) == expected and printed.count('complete: 3,000 steps') == 1, printed
    assert printed.count('continues from step') == expected - 1, printed


METHOD = 'tests.linear:METHOD'  # a small one: it is the sweep that is tested
LABEL = 'tests.linear-METHOD-tiny'
SHORT = [f'--config.{name}=8' for name in ('eval_envs', 'eval_episodes', 'final_eval_episodes')]


@pytest.mark.parametrize('executor', ['local', pytest.param('ray', marks=pytest.mark.slow)])
def test_a_sweep_loses_a_run_is_stopped_and_completes(executor, tmp_path):
  """The built-in game, two seeds: the first is killed, then stopped; the same command goes on."""
  words = ['--suite=catch', f'--method={METHOD}', '--seeds=2', '--preset=tiny', *SHORT]
  words += [f'--root={tmp_path}', f'--executor={executor}']
  process = subprocess.Popen([*START, *words], env=ENVIRONMENT, **PIPES)
  folder = tmp_path / 'catch' / 'catch' / LABEL / 'seed0'
  size = lambda: (folder / 'metrics.jsonl').exists() and (folder / 'metrics.jsonl').stat().st_size
  before = sweeps.wait_for(size)
  kill(int(re.search(r'\d+', (folder / '.lock').read_text())[0]))
  sweeps.wait_for(lambda: size() > before)
  process.terminate()
  printed, errors = process.communicate(timeout=120)
  assert process.returncode == 75 and 'failed 1 times (exit code -9' in printed, (printed, errors)
  assert 'are complete; the others are in no mean' in printed
  assert f'catch {LABEL} seed 0: stopped, step ' in errors
  assert f'continue with: python -m experiments.sweep --suite=catch --method={METHOD}' in errors
  result = command(*words)
  assert result.returncode == 0 and '2 of 2 runs are complete' in result.stdout, result
  assert 'continues from step' in (folder / 'output.txt').read_text()
  (report,) = (tmp_path / 'sweeps').iterdir()
  scores = {each.seed: each.final for each in results_files.read(report / f'{LABEL}.json')}
  ends = [json.loads((folder.parent / f'seed{seed}/.complete').read_text()) for seed in (0, 1)]
  assert scores == {seed: end['score'] for seed, end in enumerate(ends)}
  assert (report / 'scores.csv').exists()
  attempts = (folder / 'output.txt').read_text().count('\n# ')
  again = command(*words, '--seeds=3', '--dry_run')
  assert '2 finished, 1 waiting of 3' in again.stdout
  assert attempts == 3 == (folder / 'output.txt').read_text().count('\n# ')
  if executor == 'local':
    check_a_start_from(folder, words)


def check_a_start_from(source, words):
  """A sweep of runs that start from a trained agent: its names, and a method that does not fit."""
  words = [*words, '--seeds=1', '--grid=lr=0.5', f'--from={source}']
  result = command(*words)
  assert result.returncode == 0 and '1 of 1 runs are complete' in result.stdout, result
  name = f'{LABEL}-from-catch-lr=0.5'
  assert name in result.stdout, result
  folder = source.parents[1] / name / 'seed0'
  assert f'starts from {source} (catch, step 480' in (folder / 'output.txt').read_text()
  assert '1 finished of 1' in command(*words, '--dry_run').stdout
  other = command(*words, '--method=tests.shooting:METHOD', '--dry_run')
  assert other.returncode == 2 and "has the method 'tests.linear:METHOD'" in other.stderr, other
