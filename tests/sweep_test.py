"""Sweeps: the plan, looking after children that fail, hang or lose their parent, the engines, and
whole sweeps.
"""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from experiments import launcher
from harmony_jax.errors import UserError
from harmony_jax.sweeping import board, devices, estimate, follow, job, local, plan, report
from tests import sweeps

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, 'JAX_PLATFORMS': 'cpu'}


def command(*arguments, timeout=300, **environment):
  """Runs `python -m experiments.sweep` to its end."""
  return subprocess.run(
    [sys.executable, '-m', 'experiments.sweep', *arguments],
    cwd=ROOT,
    timeout=timeout,
    capture_output=True,
    text=True,
    env={**ENVIRONMENT, **environment},
  )


# The plan
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'text, seeds',
  [
    ('5', (0, 1, 2, 3, 4)),
    ('1', (0,)),
    ('3,7', (3, 7)),
    ('7,', (7,)),
    ('2', (0, 1)),
    ('5-9', (5, 6, 7, 8, 9)),
    ('0-2,7,1', (0, 1, 2, 7)),
    (' 3, 4 ', (3, 4)),
  ],
)
def test_seeds(text, seeds):
  assert plan.parse_seeds(text) == seeds


@pytest.mark.parametrize(
  'text', ['', '0', 'x', '-1', '3-1', ',', '1,,2', '1.5', '99999', '1-99999', '²']
)
def test_bad_seeds(text):
  with pytest.raises(UserError, match='--seeds is'):
    plan.parse_seeds(text)


def make(root='runs', **changes):
  """A plan of two games, two seeds, two weightings, tiny."""
  return plan.make(
    **{
      **dict(
        suite='atari100k',
        tasks=['pong', 'Breakout', 'PONG'],
        seeds=(0, 1),
        methods=['dreamerv3'],
        weightings=['harmony', 'none'],
        preset='tiny',
        root=root,
      ),
      **changes,
    }
  )


def test_the_plan_is_the_product():
  jobs = make()
  assert [each.runs[0].label for each in jobs[:4]] == [
    'Pong dreamerv3-harmony seed 0',
    'Pong dreamerv3-none seed 0',
    'Breakout dreamerv3-harmony seed 0',
    'Breakout dreamerv3-none seed 0',
  ]
  assert len(jobs) == len({each.name for each in jobs}) == len({each.output for each in jobs}) == 8
  assert jobs[0].runs[0].steps == 200 and jobs[0].runs[0].score == 'return'


def test_folders_and_words_are_those_of_the_single_run():
  only = make(overrides=('batch_size=5', 'steps=1e3'), root='elsewhere')[-1]
  config = launcher.configure(
    plan.benchmark('atari100k'),
    'dreamerv3',
    'tiny',
    'Breakout',
    {'seed': 1, 'weighting.rule': 'none'},
    (),
  )
  folder = os.path.abspath(launcher.default_logdir(config).replace('runs', 'elsewhere', 1))
  assert (
    only.runs[0].folder == folder
    and only.output == f'{folder}/output.txt'
    and only.runs[0].steps == 1000
  )
  assert only.words == (
    '-m',
    'experiments.atari100k',
    '--game=Breakout',
    '--seed=1',
    '--method=dreamerv3',
    '--weighting=none',
    '--preset=tiny',
    f'--logdir={folder}',
    '--config.batch_size=5',
    '--config.steps=1e3',
  )


def test_seeds_together_are_one_job():
  jobs = make(seeds=(3, 4, 5), together=True)
  assert len(jobs) == 4 and [run.seed for run in jobs[0].runs] == [3, 4, 5]
  parent = os.path.dirname(jobs[0].runs[0].folder)
  assert {'--seed=3', '--num_seeds=3', f'--logdir={parent}'} < set(jobs[0].words)
  assert (
    jobs[0].runs[2].folder == f'{parent}/seed5'
    and jobs[0].output == f'{parent}/output-seeds3-5.txt'
  )
  with pytest.raises(UserError, match='contiguous'):
    make(seeds=(3, 5), together=True)


@pytest.mark.parametrize(
  'suite, number, one',
  [
    ('atari100k', 26, 'KungFuMaster'),
    ('catch', 1, 'catch'),
    ('metaworld', 50, 'lever_pull'),
    ('rlbench', 2, 'reach_target'),
    ('dmcr', None, 'cheetah_run'),
    ('dmc', None, 'walker_stand'),
  ],
)
def test_all_tasks_of_a_suite(suite, number, one):
  jobs = plan.make(suite, ['all'], (0,), ['dreamerv3'], ['harmony'], 'tiny')
  assert one in [each.runs[0].task for each in jobs] and (number is None or len(jobs) == number)


def test_a_suite_without_a_list():
  with pytest.raises(UserError, match='no list of all tasks'):
    plan.make('gym', ['all'], (0,), ['dreamerv3'], ['harmony'], 'tiny')
  assert (
    plan.make('gym', ['cartpole'], (0,), ['dreamerv3'], ['harmony'], 'tiny')[0].runs[0].task
    == 'CartPole-v1'
  )


@pytest.mark.parametrize(
  'changes, expected',
  [
    (dict(overrides=('batch_sise=8',)), 'batch_size'),
    (dict(overrides=('seed=3',)), '--seeds'),
    (dict(overrides=('weighting.rule=none',)), '--weighting'),
    (dict(tasks=['Pogn']), 'Pong'),
    (dict(tasks=[]), 'empty'),
  ],
)
def test_what_no_sweep_can_be(changes, expected):
  with pytest.raises(UserError, match=expected):
    make(**changes)


def test_a_folder_with_another_run_is_refused_before_anything_starts(tmp_path):
  only = make(tmp_path, tasks=['Pong'], seeds=(0,), weightings=['none'])[0]
  config = launcher.configure(
    plan.benchmark('atari100k'),
    'dreamerv3',
    'tiny',
    'Pong',
    {'weighting.rule': 'none'},
    ('batch_size=7',),
  )
  folder = pathlib.Path(only.runs[0].folder)
  folder.mkdir(parents=True)
  present = {'config': {**config.to_dict(), 'replay_on': 'host'}}  # the latter changes no number
  (folder / 'config.json').write_text(json.dumps(present))
  (folder / '.complete').touch()
  with pytest.raises(UserError, match='config.batch_size: folder has 7, sweep has 4'):
    make(tmp_path)
  assert len(make(tmp_path, overrides=('batch_size=7',))) == 8


BAD = {
  'suite': (['--suite=atarl'], 'atari100k'),
  'game': (['--games=Pong,Brekout'], 'Breakout'),
  'method': (['--method=dreamerv4'], 'dreamerv'),
  'weighting': (['--weighting=harmony,nome'], 'none'),
  'preset': (['--preset=debgu'], 'debug'),
  'executor': (['--executor=rya'], 'ray'),
  'seeds': (['--seeds=many'], '3,7'),
  'word': (['Pong'], '--games'),
  'flag': (['--sedes=3'], 'seeds'),
  'detach': (['--detach'], 'slurm'),
  'workers': (['--workers=999'], 'cores'),
  'key': (['--config.batch_sise=8'], 'batch_size'),
  'time': (['--executor=slurm', '--slurm_time=soon'], '24:00:00'),
  'srun': (['--executor=slurm'], 'srun'),
  'root': (['--root=/proc/nowhere'], '/proc/nowhere'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_one_line(case, tmp_path):
  arguments, expected = BAD[case]
  result = command(f'--root={tmp_path}', '--games=Pong', *arguments)
  assert result.returncode == 2, result
  lines = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1 and expected in lines[0] and 'Traceback' not in result.stderr, (
    result.stderr
  )


@pytest.mark.parametrize('executor, package', [('ray', 'ray'), ('slurm', 'submitit')])
def test_a_missing_engine_is_one_line(executor, package, tmp_path):
  (tmp_path / f'{package}.py').write_text(f"raise ImportError('No module named {package}')")
  result = command(
    f'--root={tmp_path}/runs', '--games=Pong', f'--executor={executor}', PYTHONPATH=str(tmp_path)
  )
  assert (
    result.returncode == 2
    and f'.[{executor}]' in result.stderr
    and 'Traceback' not in result.stderr
  )


def test_dry_run_is_quick_and_starts_nothing(tmp_path):
  arguments = [
    '--games=all',
    '--seeds=5',
    '--weighting=harmony,none',
    '--preset=paper',
    '--dry_run',
  ]
  result = command(f'--root={tmp_path}', *arguments)
  assert result.returncode == 0, result.stderr
  assert (
    '260 runs: 26 tasks × 2 configurations × 5 seeds' in result.stdout
    and 'not measured' in result.stdout
  )
  assert '--game=UpNDown --seed=4' in result.stdout and not list(tmp_path.iterdir())
  code = (
    'import sys\nfrom experiments import sweep\n'
    "sys.argv[1:] = ['--suite=catch', '--dry_run', '--root=/nowhere']\n"
    "try: sweep.main()\nfinally: print('jax' in sys.modules)"
  )
  result = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT
  )
  assert result.stdout.splitlines()[-1] == 'False', result


# Hours
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'text, hours',
  [
    ('1.6 hours on one core', 1.6),
    ('about two minutes', 2 / 60),
    ('about half a minute', 0.5 / 60),
    ('10 minutes on 2 cores', 1 / 6),
    ('a quarter of an hour on one core', 0.25),
    ('about a minute', 1 / 60),
    ('not measured', None),
  ],
)
def test_hours_of_configurations(text, hours):
  assert estimate.hours_of_text(text) == (hours if hours is None else pytest.approx(hours))


def test_every_configuration_s_hours_can_be_read():
  for suite in plan.SUITES:
    for text in plan.benchmark(suite).HOURS.values():
      assert (estimate.hours_of_text(text) is None) == (text == 'not measured'), text


def test_finished_runs_tell_the_hours(tmp_path):
  jobs = [sweeps.job(tmp_path, seed=seed) for seed in range(4)]
  for seed, hours in ((0, 0.1), (1, 0.3), (2, 0.2)):
    folder = pathlib.Path(jobs[seed].runs[0].folder)
    sweeps.write_run(folder, 100, 1.0)
    (folder / '.complete').write_text(json.dumps({'hours': hours, 'step': 100}))
  sweeps.write_run(pathlib.Path(jobs[3].runs[0].folder), 50, None)
  shown = board.Board(jobs, sweeps.records(tmp_path, jobs))
  shown.refresh()
  lines = list(report.plan_lines(jobs, shown, {'tiny': 'not measured'}, False, tmp_path, 1))
  assert '3 finished, 1 to run' in lines[0]
  assert 'at step 50 of 100, about 6 min (median of 3 finished runs)' in lines[4]  # half of 0.2 h
  assert lines[-1] == 'total: about 6 min of runs; wall clock: about 6 min with 1 at a time'
  other = plan.Run(
    'atari100k', 'Pong', 'dreamerv3', 'harmony', 'tiny', 9, jobs[0].runs[0].folder, 999, 'return'
  )
  hours = {'tiny': 'about two minutes'}
  assert estimate.Estimate(tmp_path, hours, False).of(other)[0] == pytest.approx(2 / 60)
  # other steps, other settings
  assert estimate.Estimate(tmp_path, hours, True).of(other) == (None, 'not measured')


def test_wall_clock():
  assert estimate.wall_clock([3, 1, 1, 1], 2) == 3 and estimate.wall_clock([1, 1, 1], 1) == 3
  assert estimate.wall_clock([1], 5) == 1


# Devices
# --------------------------------------------------------------------------------------------------


def test_workers_share_devices_and_cores(monkeypatch):
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  monkeypatch.delenv('XLA_PYTHON_CLIENT_MEM_FRACTION', raising=False)
  show = lambda *args: [place['environment'] for place in devices.places(*args)]
  assert show(0, ('gpu', 2)) == [{'CUDA_VISIBLE_DEVICES': '0'}, {'CUDA_VISIBLE_DEVICES': '1'}]
  assert [each['CUDA_VISIBLE_DEVICES'] for each in show(4, ('gpu', 2))] == ['0', '1', '0', '1']
  assert show(4, ('gpu', 2))[0]['XLA_PYTHON_CLIENT_MEM_FRACTION'] == '0.45'
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
  assert [each['CUDA_VISIBLE_DEVICES'] for each in show(0, ('gpu', 2))] == ['3', '5']
  assert [each['TPU_VISIBLE_CHIPS'] for each in show(0, ('tpu', 4))] == ['0', '1', '2', '3']
  assert devices.places(0, ('cpu', 1)) == [{'environment': {}, 'cores': None}]
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: {0, 2, 4, 6, 7})
  assert [place['cores'] for place in devices.places(2, ('cpu', 1))] == [[0, 2], [4, 6]]
  with pytest.raises(UserError, match='5 cores'):
    devices.places(6, ('cpu', 1))


def test_devices_are_counted_elsewhere(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', '')
  monkeypatch.setattr(devices, 'TRACES', ('/dev/null',))
  backend, number = devices.count()
  assert backend in ('cpu', 'gpu', 'tpu') and number >= 1
  monkeypatch.setattr(devices, 'COUNT', "raise RuntimeError('no driver')")
  with pytest.raises(UserError, match='no driver'):
    devices.count()


def test_a_child_keeps_to_its_cores(tmp_path):
  core = sorted(os.sched_getaffinity(0))[-1]
  code = 'import os; print(sorted(os.sched_getaffinity(0)))'
  only = plan.Job('x', ('-c', code), (sweeps.job(tmp_path).runs), str(tmp_path / 'output.txt'))
  job.Worker(only, retries=0, cores=[core]).run()
  assert f'[{core}]' in (tmp_path / 'output.txt').read_text()


# One job
# --------------------------------------------------------------------------------------------------


def outcome(only, **settings):
  """Runs a job in this thread."""
  return job.Worker(only, **settings).run()


def attempts(only):
  """How often the child was started."""
  return len(pathlib.Path(only.runs[0].folder, 'attempts').read_text().splitlines())


@pytest.mark.parametrize(
  'behaviour, retries, state, failures, starts, reason',
  [
    ('ok', 2, job.FINISHED, 0, 1, ''),
    ('fails-2', 2, job.FINISHED, 2, 3, ''),
    ('fails-3', 2, job.FAILED, 3, 3, 'exit code 1: ValueError: attempt 3 went wrong'),
    ('fails-1', 0, job.FAILED, 1, 1, 'exit code 1: ValueError: attempt 1 went wrong'),
    ('mistake', 2, job.FAILED, 1, 1, 'no such thing; did you mean that?'),
  ],
)
def test_a_job_s_end(behaviour, retries, state, failures, starts, reason, tmp_path):
  only = sweeps.job(tmp_path, behaviour)
  record = tmp_path / 'record'
  assert outcome(only, retries=retries, record=record) == job.Outcome(state, failures, reason)
  assert attempts(only) == starts
  begun, counted, _ = job.read_record(record)
  assert begun and counted == (0 if behaviour == 'mistake' else failures)
  assert pathlib.Path(only.output).read_text().count(': python ') == starts


def test_a_run_that_ends_without_its_marker_has_failed(tmp_path):
  only = sweeps.job(tmp_path)
  nothing = plan.Job('x', ('-c', 'pass'), only.runs, only.output)
  assert outcome(nothing, retries=0) == job.Outcome(
    job.FAILED, 1, 'it ended without being complete'
  )


def test_the_reason_is_the_exception_not_its_notes(tmp_path):
  only = sweeps.job(tmp_path)
  code = "e = ValueError('the point')\ne.add_note('In the run of seed 2.')\nraise e"
  failing = plan.Job('x', ('-c', code), only.runs, only.output)
  assert outcome(failing, retries=0).reason == 'exit code 1: ValueError: the point'
  killed = plan.Job('x', ('-c', 'import os; os.kill(os.getpid(), 9)'), only.runs, only.output)
  assert outcome(killed, retries=0).reason == 'killed by SIGKILL'


def in_thread(worker):
  """Starts a worker in a thread; returns a list that its outcome will be in, and the thread."""
  ended = []
  thread = threading.Thread(target=lambda: ended.append(worker.run()), daemon=True)
  thread.start()
  return ended, thread


def test_a_killed_child_is_tried_again_and_a_stopped_one_saves(tmp_path):
  only = sweeps.job(tmp_path, 'hangs')
  folder = pathlib.Path(only.runs[0].folder)
  worker = job.Worker(only)
  ended, thread = in_thread(worker)
  sweeps.wait_for((folder / 'ready').exists)
  (folder / 'ready').unlink()
  os.kill(int((folder / 'attempts').read_text()), signal.SIGKILL)
  sweeps.wait_for((folder / 'ready').exists)
  worker.stop()
  thread.join(60)
  assert ended == [job.Outcome(job.STOPPED, 1)] and (folder / 'saved').exists()
  assert attempts(only) == 2


def test_a_worker_stops_for_a_file(tmp_path):
  """What a sweep asks for reaches a worker on any machine, whatever lies between."""
  only, record = sweeps.job(tmp_path, 'hangs'), tmp_path / 'record.jsonl'
  folder = pathlib.Path(only.runs[0].folder)
  ended, thread = in_thread(job.Worker(only, record=record))
  sweeps.wait_for((folder / 'ready').exists)
  job.stop_file(record).touch()
  thread.join(60)
  assert ended == [job.Outcome(job.STOPPED, 0)] and (folder / 'saved').exists()
  assert (
    job.Worker(only, record=record).run() == job.Outcome(job.STOPPED, 0) and attempts(only) == 1
  )
  job.clear(record)  # as every executor does at its start
  assert not job.stop_file(record).exists() and not record.exists()


def test_a_deaf_child_is_killed(tmp_path):
  only = sweeps.job(tmp_path, 'deaf')
  worker = job.Worker(only)
  ended, thread = in_thread(worker)
  sweeps.wait_for(pathlib.Path(only.runs[0].folder, 'metrics.jsonl').exists)
  worker.stop()
  worker.wait_saved(0.5)
  thread.join(60)
  assert ended == [job.Outcome(job.STOPPED, 0)]


def test_a_folder_in_use_is_not_waited_for_for_ever(tmp_path):
  only = sweeps.job(tmp_path, 'hangs-once')
  folder = pathlib.Path(only.runs[0].folder)
  somebody = subprocess.Popen([sys.executable, *only.words])
  sweeps.wait_for((folder / 'ready').exists)
  assert outcome(only, lock_wait=0.3) == job.Outcome(
    job.LOCKED, 0, f'in use by process {somebody.pid} on here'
  )
  ended, thread = in_thread(job.Worker(only, lock_wait=60))
  time.sleep(0.3)
  somebody.terminate()  # it saves, and leaves the folder
  thread.join(60)
  assert somebody.wait() == 75 and ended == [job.Outcome(job.FINISHED, 0)] and attempts(only) == 2


def test_a_child_whose_parent_is_killed_saves(tmp_path):
  only = sweeps.job(tmp_path, 'hangs')
  folder = pathlib.Path(only.runs[0].folder)
  code = (
    f'from tests import sweeps; import pathlib; from harmony_jax.sweeping import job\n'
    f'job.Worker(sweeps.job(pathlib.Path({str(tmp_path)!r}), "hangs")).run()'
  )
  parent = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT)
  sweeps.wait_for((folder / 'ready').exists)
  parent.kill()
  parent.wait()
  sweeps.wait_for((folder / 'saved').exists)
  sweeps.wait_for(lambda: sweeps.gone(int((folder / 'attempts').read_text())))


def test_a_lost_worker_is_a_failure(tmp_path):
  path = tmp_path / 'record'
  assert job.read_record(path) == (False, 0, '')
  job.write_event(path, 'running')
  assert job.read_record(path) == (True, 0, '')
  job.write_event(path, 'failed', reason='bad luck')
  assert job.read_record(path) == (True, 1, 'bad luck')
  job.write_event(path, 'running')
  job.write_event(path, 'running')
  path.open('a').write('{"event": "fail')
  assert job.read_record(path) == (True, 2, 'its worker was lost')


# The board
# --------------------------------------------------------------------------------------------------


def test_the_board_reads_half_written_folders(tmp_path):
  jobs = [sweeps.job(tmp_path, seed=seed) for seed in range(6)]
  folders = [pathlib.Path(each.runs[0].folder) for each in jobs]
  records = sweeps.records(tmp_path, jobs)
  shown = board.Board(jobs, records)
  sweeps.write_run(folders[0], 60, 2.5)
  # half a line
  (folders[0] / 'metrics.jsonl').open('ab').write(b'{"step": 70, "time/hours": 0.1\xff')
  (folders[0] / 'scores.jsonl').open('ab').write(b'{"step": 70, "eval_mean"')
  job.write_event(records[jobs[0].name], 'running')
  sweeps.write_run(folders[1], 100, 7.0, complete=True)
  sweeps.write_run(folders[2], 30, None)
  job.write_event(records[jobs[2].name], 'running')
  job.write_event(records[jobs[2].name], 'failed', reason='bad luck')
  folders[3].mkdir(parents=True)
  (folders[3] / 'metrics.jsonl').write_bytes(b'\x00\x00\n[]\n"x"\n')
  (folders[3] / '.complete').write_text('')  # its marker is there, empty
  shown.end({jobs[4].name: job.Outcome(job.FAILED, 3, 'exit code 1: boom')})
  changed = {row.run.seed: row for row in shown.refresh()}
  assert sorted(changed) == [0, 1, 2, 3, 4]
  assert (changed[0].state, changed[0].step, changed[0].score) == ('running', 60, 2.5)
  assert (changed[1].state, changed[1].step, changed[1].score) == ('finished', 100, 7.0)
  assert changed[2].text() == 'running (failed once)' and 'bad luck' in shown.describe(changed[2])
  assert changed[3].state == 'finished' and changed[3].score is None
  assert changed[4].text() == 'failed (failed 3 times)' and 'boom' in shown.describe(changed[4])
  assert shown.counts() == {'finished': 2, 'running': 2, 'waiting': 1, 'failed': 1}
  assert shown.refresh() == []
  assert 'Pong dreamerv3-harmony seed 0 60/100' in shown.summary()
  sweeps.write_run(folders[0], 100, 3.5, complete=True)
  assert [row.score for row in shown.refresh()] == [3.5]


def test_the_table_fits_the_terminal(tmp_path):
  jobs = [sweeps.job(tmp_path, seed=seed) for seed in range(50)]
  shown = board.Board(jobs, sweeps.records(tmp_path, jobs))
  shown.end({jobs[40].name: job.Outcome(job.FAILED, 1, 'boom')})
  output = io.StringIO()
  with board.Screen(shown, file=output, live=True) as screen:
    screen.update()
    screen.line('a line [that] stays')
    table = shown.table(10)
  assert table.row_count == 10
  assert (
    'a line [that] stays' in output.getvalue() and '49 waiting, 1 failed of 50' in output.getvalue()
  )


def test_last_line_of_a_long_file(tmp_path):
  path = tmp_path / 'scores.jsonl'
  line = json.dumps({'step': 5, 'eval_scores': [1.5] * 40_000})
  path.write_text(f'{{"step": 1}}\n{line}\n{line[:-9]}')
  assert board.last_line(path)['step'] == 5 and len(line) > board.TAIL
  assert board.last_line(tmp_path / 'nothing') == {}


# Several jobs on this machine
# -----------------------------------------------------------------------------------------


def sweep(tmp_path, jobs, executor):
  """Follows jobs to their end; returns the board, what was printed, and the signal."""
  records = sweeps.records(tmp_path, jobs)
  shown, output = board.Board(jobs, records), io.StringIO()
  stopped = follow.follow(jobs, records, executor, shown, 0.0, file=output)
  return shown, output.getvalue(), stopped


def here(workers=2, **settings):
  """The local executor."""
  return local.Local([dict(environment={}, cores=None)] * workers, **settings)


def test_one_that_fails_does_not_stop_the_others(tmp_path):
  jobs = [
    sweeps.job(tmp_path, behaviour, seed, score=seed)
    for seed, behaviour in enumerate(('fails-9', 'ok', 'mistake', 'fails-1', 'ok'))
  ]
  shown, printed, stopped = sweep(tmp_path, jobs, here(retries=1))
  assert not stopped and shown.counts() == {'finished': 3, 'failed': 2}
  assert [row.score for row in shown.rows if row.state == 'finished'] == [1, 3, 4]
  assert 'seed 0: failed (failed 2 times), exit code 1: ValueError: attempt 2 went wrong' in printed
  assert 'seed 2: failed, no such thing; did you mean that?' in printed
  lines = report.finish(shown, tmp_path / 'report')
  assert any('3 of 5 runs' in line for line in lines) and any(
    'seeds 0, 2' in line for line in lines
  )
  result = json.loads((tmp_path / 'report' / 'aggregate.json').read_text())
  task = result['configurations']['dreamerv3-harmony']['tasks']['Pong']
  assert task['mean'] == pytest.approx(8 / 3) and task['missing'] == [0, 2]
  assert result['states']['Pong dreamerv3-harmony 2'] == 'failed'
  assert len((tmp_path / 'report' / 'scores.csv').read_text().splitlines()) == 4


def test_workers_run_side_by_side(tmp_path):
  """Two that wait for each other's file."""
  code = (
    'import pathlib, sys, time\nmine, other = map(pathlib.Path, sys.argv[1:])\nmine.touch()\n'
    "while not other.exists(): time.sleep(0.02)\n(mine.parent / '.complete').touch()"
  )
  jobs = [sweeps.job(tmp_path, seed=seed) for seed in (0, 1)]
  files = [f'{each.runs[0].folder}/met' for each in jobs]
  jobs = [
    plan.Job(each.name, ('-c', code, mine, other), each.runs, each.output)
    for each, mine, other in zip(jobs, files, files[::-1])
  ]
  shown, _, _ = sweep(tmp_path, jobs, here())
  assert shown.counts() == {'finished': 2}


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_and_saves(number, tmp_path):
  jobs = [sweeps.job(tmp_path, 'hangs-once', seed) for seed in range(3)]
  folders = [pathlib.Path(each.runs[0].folder) for each in jobs]

  def send():
    for folder in folders[:2]:
      sweeps.wait_for((folder / 'ready').exists)
    os.kill(os.getpid(), number)

  before = signal.getsignal(number)
  threading.Thread(target=send, daemon=True).start()
  shown, printed, stopped = sweep(tmp_path, jobs, here())
  assert stopped == signal.Signals(number).name and signal.getsignal(number) == before
  assert [row.state for row in shown.rows] == [
    'stopped'
  ] * 3 and 'asking what runs to save' in printed
  assert [(folder / 'saved').exists() for folder in folders] == [True, True, False]
  shown, _, stopped = sweep(
    tmp_path, [sweeps.job(tmp_path, 'ok', seed) for seed in range(3)], here()
  )
  assert not stopped and shown.counts() == {'finished': 3} and attempts(jobs[0]) == 2


def test_the_second_signal_does_not_wait(tmp_path):
  only = sweeps.job(tmp_path, 'deaf')

  def send():
    sweeps.wait_for(pathlib.Path(only.runs[0].folder, 'metrics.jsonl').exists)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=send, daemon=True).start()
  shown, _, stopped = sweep(tmp_path, [only], here())
  assert stopped == 'SIGTERM' and shown.counts() == {'stopped': 1}
  assert sweeps.gone(int(pathlib.Path(only.runs[0].folder, 'attempts').read_text()))


# Ray
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def on_ray(monkeypatch):
  """An executor on a Ray of two CPUs, each of which a run takes one."""
  monkeypatch.setenv('PYTHONPATH', os.environ.get('PYTHONPATH', ''))  # which it changes
  from harmony_jax.sweeping import rays

  before = signal.getsignal(signal.SIGTERM)
  executor = rays.Rays(cpus=1, retries=1, here=2)
  yield executor
  executor.close()
  signal.signal(signal.SIGTERM, before)  # Ray's own else


def test_ray_survives_a_lost_worker_and_stops(on_ray, tmp_path):
  """A worker is killed: its child saves, and the run goes on elsewhere. Then a sweep is stopped
  while a job waits.
  """
  jobs = [
    sweeps.job(tmp_path, behaviour, seed)
    for seed, behaviour in enumerate(('hangs-once', 'fails-1', 'mistake', 'ok'))
  ]
  records = sweeps.records(tmp_path, jobs)
  folder = pathlib.Path(jobs[0].runs[0].folder)

  def kill():
    sweeps.wait_for((folder / 'ready').exists)
    os.kill(json.loads(records[jobs[0].name].read_text())['process'], signal.SIGKILL)

  threading.Thread(target=kill, daemon=True).start()
  shown, printed, _ = sweep(tmp_path, jobs, on_ray)
  assert [(row.state, row.failures) for row in shown.rows] == [
    ('finished', 1),
    ('finished', 1),
    ('failed', 1),
    ('finished', 0),
  ]
  assert (folder / 'saved').exists() and attempts(jobs[0]) == 2 and 'its worker was lost' in printed

  jobs = [sweeps.job(tmp_path / 'more', 'hangs', seed) for seed in range(3)]

  def send():
    sweeps.wait_for(lambda: len(list(tmp_path.glob('more/**/ready'))) == 2)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=send, daemon=True).start()
  shown, _, stopped = sweep(tmp_path / 'more', jobs, on_ray)
  assert stopped == 'SIGTERM' and shown.counts() == {'stopped': 3}
  assert len(list(tmp_path.glob('more/**/saved'))) == 2


def test_ray_tells_what_it_cannot(monkeypatch):
  monkeypatch.setenv('PYTHONPATH', os.environ.get('PYTHONPATH', ''))
  from harmony_jax.sweeping import rays

  with pytest.raises(UserError, match='--run_gpus=64: Ray sees'):
    rays.Rays(gpus=64)


@pytest.mark.slow
def test_a_sweep_on_ray_with_a_killed_worker(tmp_path):
  """The built-in game, two seeds; the worker of the first is killed when it has trained."""
  words = [
    '--suite=catch',
    '--seeds=2',
    '--preset=tiny',
    f'--root={tmp_path}',
    '--executor=ray',
    *sweeps.SHORT,
  ]
  process = subprocess.Popen(
    [sys.executable, '-m', 'experiments.sweep', *words],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env=ENVIRONMENT,
  )
  output = tmp_path / 'catch' / 'catch' / 'dreamerv3-harmony-tiny' / 'seed0' / 'output.txt'
  sweeps.wait_for(lambda: sweeps.logged(output.parent) or process.poll() is not None)
  record = next(tmp_path.glob('sweeps/*/records/*seed0.jsonl'))
  os.kill(json.loads(record.read_text().splitlines()[0])['process'], signal.SIGKILL)
  printed, _ = process.communicate(timeout=300)
  assert process.returncode == 0, printed
  assert '2 of 2 runs' in printed and 'finished (failed once)' in printed
  assert 'continues from step' in output.read_text()


# Slurm
# --------------------------------------------------------------------------------------------------


def test_slurm_s_jobs_are_preempted_and_go_on(tmp_path, monkeypatch):
  """With submitit's local executor in the place of Slurm: a signal that the job will end, and it
  begins again.
  """
  monkeypatch.setenv('PYTHONPATH', os.environ.get('PYTHONPATH', ''))
  from harmony_jax.sweeping import slurm

  jobs = [
    sweeps.job(tmp_path, behaviour, seed)
    for seed, behaviour in enumerate(('hangs-once', 'fails-1', 'mistake'))
  ]
  records = sweeps.records(tmp_path, jobs)
  folder = pathlib.Path(jobs[0].runs[0].folder)

  def preempt():
    sweeps.wait_for((folder / 'ready').exists)
    os.kill(json.loads(records[jobs[0].name].read_text())['process'], signal.SIGUSR2)

  threading.Thread(target=preempt, daemon=True).start()
  shown, _, _ = sweep(
    tmp_path, jobs, slurm.Slurm(tmp_path / 'slurm', minutes=60, gpus=0, cluster='local')
  )
  assert [row.state for row in shown.rows] == ['finished', 'finished', 'failed']
  assert (folder / 'saved').exists() and attempts(jobs[0]) == 2
  assert shown.rows[2].reason == 'no such thing; did you mean that?'


FAKE_SLURM = {
  'sbatch': 'cp "$1" "$FAKE/script.sh"; echo x >> "$FAKE/submitted"; echo Submitted batch job 1234',
  'srun': 'exit 1',
  'scancel': 'echo "$@" >> "$FAKE/cancelled"',
  'sacct': 'echo "JobID|State|NodeList"; echo "1234_[0-3]|PENDING|"',
}


def test_what_slurm_is_given(tmp_path):
  """`sbatch` and its kind are imitated: one array job with a task per run, which is not submitted
  again.
  """
  for name, text in FAKE_SLURM.items():
    (tmp_path / name).write_text(f'#!/bin/bash\n{text}\n')
    (tmp_path / name).chmod(0o755)
  words = [
    '--games=Pong,Boxing',
    '--seeds=2',
    '--preset=tiny',
    f'--root={tmp_path}/runs',
    '--executor=slurm',
    '--slurm_partition=long',
    '--slurm_time=2-00:00:00',
    '--slurm_gpus=2',
    '--slurm_cpus=6',
    '--slurm_memory=20GB',
    '--workers=3',
    '--detach',
  ]
  environment = dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', FAKE=str(tmp_path))
  result = command(*words, **environment)
  assert (
    result.returncode == 0 and '4 jobs submitted' in result.stdout and '1234_3' in result.stdout
  ), result
  script = (tmp_path / 'script.sh').read_text()
  for line in (
    '--array=0-3%3',
    '--partition=long',
    '--time=2880',
    '--gpus-per-node=2',
    '--cpus-per-task=6',
    '--mem=20GB',
    '--requeue',
    '--signal=USR2@120',
    '--open-mode=append',
  ):
    assert f'#SBATCH {line}\n' in script, script
  result = command(*words, **environment)
  assert result.returncode == 0 and '4 jobs submitted or still there' in result.stdout, result
  assert (tmp_path / 'submitted').read_text().count('x') == 1
  words.remove('--detach')
  process = subprocess.Popen(
    [sys.executable, '-m', 'experiments.sweep', *words, '--interval=0'],
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    env={**ENVIRONMENT, **environment},
  )
  for line in process.stdout:
    if '4 waiting' in line:
      break
  process.terminate()
  wanted = [f'1234_{index}' for index in range(4)]
  cancelled = tmp_path / 'cancelled'
  sweeps.wait_for(lambda: cancelled.exists() and sorted(cancelled.read_text().split()) == wanted)
  process.terminate()  # Slurm would end them now; this one does not
  process.communicate(timeout=60)
  assert process.returncode == 75


@pytest.mark.parametrize(
  'text, minutes',
  [
    ('90', 90),
    ('90:30', 90),
    ('24:00:00', 1440),
    ('1:30:00', 90),
    ('2-0', 2880),
    ('1-12:30', 2190),
    ('1-12:30:00', 2190),
  ],
)
def test_slurm_s_times(text, minutes):
  from harmony_jax.sweeping import slurm

  assert slurm.parse_minutes(text) == minutes


def test_slurm_s_memory():
  from harmony_jax.sweeping import slurm

  assert [slurm.parse_gigabytes(text) for text in (None, '16GB', '16', '1.5g', '512MB')] == [
    None,
    16,
    16,
    1.5,
    0.5,
  ]
  for bad in ('', '0', 'much', '3TB'):
    with pytest.raises(UserError, match='16GB'):
      slurm.parse_gigabytes(bad)
  for bad in ('', '0', '0:30', '1-2-3', 'x'):
    with pytest.raises(UserError, match='--slurm_time is'):
      slurm.parse_minutes(bad)


# A whole sweep
# --------------------------------------------------------------------------------------------------


def test_a_sweep_is_stopped_continued_and_complete(tmp_path):
  """The built-in game, two seeds: SIGTERM in the first, then the same command again, and again."""
  words = ['--suite=catch', '--seeds=2', '--preset=tiny', f'--root={tmp_path}', *sweeps.SHORT]
  process = subprocess.Popen(
    [sys.executable, '-m', 'experiments.sweep', *words],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=ENVIRONMENT,
  )
  output = tmp_path / 'catch' / 'catch' / 'dreamerv3-harmony-tiny' / 'seed0' / 'output.txt'
  sweeps.wait_for(lambda: sweeps.logged(output.parent) or process.poll() is not None)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate(timeout=120)
  assert (
    process.returncode == 75
    and 'continue with: python -m experiments.sweep --suite=catch --seeds=2' in errors
  )
  result = command(*words)
  assert result.returncode == 0, result
  assert '2 of 2 runs' in result.stdout and 'continues from step' in output.read_text()
  report_folder = tmp_path / 'sweeps' / 'catch-dreamerv3-harmony-tiny'
  result = json.loads((report_folder / 'aggregate.json').read_text())
  task = result['configurations']['dreamerv3-harmony']['tasks']['catch']
  final = [
    json.loads((output.parents[1] / f'seed{seed}' / '.complete').read_text())['score']
    for seed in (0, 1)
  ]
  assert task['scores'] == {'0': final[0], '1': final[1]} and task['mean'] == pytest.approx(
    sum(final) / 2
  )
  assert (report_folder / 'scores.csv').exists()
  again = command(*words)
  assert (
    again.returncode == 0
    and '2 finished, 0 to run' in again.stdout
    and output.read_text().count('\n# ') == 2
  )
  more = command(*words, '--seeds=3', '--dry_run')
  assert '2 finished, 1 to run' in more.stdout and 'median of 2 finished runs' in more.stdout
