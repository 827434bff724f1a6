"""Environments: reset and step of one environment of every suite, by random actions, picture
included.
"""

import time

import numpy as np

from harmony_jax import envs

# Suite, task, options. The suites on MuJoCo at both qualities.
CASES = [
  ('atari', 'Pong', {}),
  ('catch', 'catch', {}),
  ('gym', 'CartPole-v1', {}),
  ('gym', 'CartPole-v1', {'observe': 'render'}),
]
CASES += [
  (suite, task, {'render': render})
  for suite, task in (
    ('dmc', 'cartpole_balance'),
    ('dmc', 'cheetah_run'),
    ('dmc', 'walker_run'),
    ('dmc', 'quadruped_run'),
    ('dmc', 'finger_turn_hard'),
    ('dmcr', 'cheetah_run'),
    ('dmcr', 'walker_run'),
    ('dmcr', 'cartpole_balance'),
    ('metaworld', 'lever_pull'),
    ('metaworld', 'push'),
  )
  for render in ('stock', 'fast')
]


def measure(resets=10, steps=60) -> dict:
  """{'results': [{'suite', 'task', options, times}, …]}, one environment in this process each;
  prints a table.
  """
  results = []
  print(
    f'{"suite":10} {"task":18} {"options":20} {"reset ms":>9} {"step ms":>9} {"reset CPU":>10} {"step CPU":>9}'
  )
  for suite, task, options in CASES:
    result = measure_environment(suite, task, options, resets, steps)
    results.append({'suite': suite, 'task': task, **options, **result})
    shown = ' '.join(map(str, options.values()))
    if 'missing' in result:
      print(f'{suite:10} {task:18} {shown:20} {result["missing"]}')
    else:
      print(
        f'{suite:10} {task:18} {shown:20} {result["reset_ms"]:9} {result["step_ms"]:9} {result["reset_cpu_ms"]:10} '
        f'{result["step_cpu_ms"]:9}',
        flush=True,
      )
  return {'results': results}


def measure_environment(suite, task, options, num_resets, num_steps) -> dict:
  """{'first_ms', 'reset_ms', 'step_ms', 'reset_cpu_ms', 'step_cpu_ms'} of one environment, or
  {'missing': why}.
  """
  try:
    began = time.perf_counter()
    env = envs.make(suite, task, 1, **options)
  except RuntimeError as error:
    return {'missing': str(error)}
  restart, rng = np.ones(1, bool), np.random.default_rng(0)
  spec = env.spec
  draw = (
    (lambda: rng.integers(spec.num_actions, size=1).astype(np.int32))
    if spec.discrete
    else (lambda: rng.uniform(-1, 1, (1, spec.num_actions)).astype(np.float32))
  )
  env.step(draw(), restart, np.zeros(1, int))
  first = time.perf_counter() - began

  def timed(call):
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)

  resets = [
    timed(lambda: env.step(draw(), restart, np.array([seed]))) for seed in range(num_resets)
  ]
  steps, last = [], np.zeros(1, bool)
  for _ in range(num_steps):
    outcome = []
    times = timed(lambda: outcome.append(env.step(draw(), last, np.zeros(1, int))))
    if not last[0]:
      steps.append(times)
    last = outcome[0].is_last
  env.close()
  (reset, reset_cpu), (step, step_cpu) = np.median(resets, 0), np.median(steps, 0)
  return {
    'first_ms': round(1e3 * first, 1),
    'reset_ms': round(reset, 2),
    'step_ms': round(step, 2),
    'reset_cpu_ms': round(reset_cpu, 2),
    'step_cpu_ms': round(step_cpu, 2),
  }
