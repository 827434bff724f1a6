"""Records made by hand, of the form of `harmony_jax.reporting.form`, for the tests of reports."""


def record(
  method='dreamerv3-harmony-cpu',
  task='Pong',
  seed=0,
  values=(-20.0, 5.0, 15.0),
  suite='atari',
  complete=True,
  metrics=True,
  **others,
):
  """A run with an evaluation every 1,000 steps; `others` are fields of the record."""
  base, weighting, preset = method.split('-') if method.count('-') == 2 else (method, None, None)
  steps, repeat = 1000 * len(values), {'atari': 4}.get(suite, 1)
  config = {
    'suite': suite,
    'task': task,
    'method': base,
    'weighting': {'rule': weighting},
    'preset': preset,
    'seed': seed,
    'steps': steps,
    'eval_every': 1000,
    'eval_episodes': 10,
    'final_eval_episodes': 100,
    'env': {},
  }
  evaluations = [
    {
      'step': 1000 * (i + 1),
      'frame': 1000 * (i + 1) * repeat,
      'update': i,
      'hours': 0.1 * (i + 1 + seed),
      'mean': value,
      'std': 1.0,
      'episodes': 10,
      'train_mean': None if value is None else value - 1,
      'train_episodes': 3,
      'scores': None,
      'measures': {} if value is None else {'success': value},
    }
    for i, value in enumerate(values)
  ]
  parts = {'observation': 100.0, 'reward': 0.1, 'dynamics': 10.0}
  drawn = (
    {
      name: [[100, 200, 300], [value, value / 2, value / 3]]
      for part, value in parts.items()
      for name in (f'loss/{part}', f'harmony/{part}/weight')
    }
    if metrics
    else {}
  )
  return {
    'suite': suite,
    'task': task,
    'method': method,
    'base': base,
    'weighting': weighting,
    'preset': preset,
    'seed': seed,
    'complete': complete,
    'source': f'runs/{task}/seed{seed}',
    'config': config,
    'planned_steps': steps,
    'action_repeat': repeat,
    'score': 'return',
    'environment': {
      'command': 'python -m experiments.x',
      'commit': 'a' * 40,
      'python': '3.11',
      'devices': 'cpu',
      'date': None,
      'versions': {'jax': '0.10.2'},
    },
    'evaluations': evaluations,
    'metrics': drawn,
    'hours': 0.5,
    'steps_per_second': 20.0,
    **others,
  }
