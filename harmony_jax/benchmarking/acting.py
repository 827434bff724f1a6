"""The policy: time of a step from host to host, and complete episodes with many environments
against one.
"""

import time

import jax

from harmony_jax import parallel
from harmony_jax.benchmarking import subject, timing
from harmony_jax.training import evaluation

BATCHES = (1, 64)
CALLS = 200
WARM_UP = 5


def measure_policy(config, actions=0, repeats=0) -> dict:
  """{'batch_1': {'ms_median', …, 'ms_per_step'}, 'batch_64': …}: from observations in NumPy to
  actions in NumPy.

  Args:
    actions: number of actions; 0 takes the suite's.
    repeats: calls; 0 for 200.

  A call is what training and evaluation do for each step of their N environments (`Player.act`),
  its draw of randomness included; `ms_per_step` is the median by N.
  """
  spec = subject.make_spec(config, actions)
  agent = subject.make_agent(config, spec)
  compiled = parallel.compile_agent(agent)
  weights, result = subject.first_state(compiled).weights, {}
  for count in BATCHES:
    player = evaluation.Player(agent, compiled['act'], weights, count, jax.random.key(1))
    timesteps = [subject.random_timestep(spec, count, seed) for seed in range(4)]
    number = [0]

    def act():
      number[0] += 1
      player.act(weights, timesteps[number[0] % len(timesteps)], number[0])

    for _ in range(WARM_UP):
      act()
    found = timing.spread(timing.repeat(act, repeats or CALLS), 'ms', 1e3)
    result[f'batch_{count}'] = found | {'ms_per_step': found['ms_median'] / count}
  return result


def measure_evaluation(config, episodes=100, single_episodes=3) -> dict:
  """Complete evaluation episodes with `config.eval_envs` environments against one, by a policy that
  learned nothing.

  Args:
    episodes, single_episodes: with many environments, and with one.

  Returns: {'one', 'many': {'steps_per_second', …}, 'ratio'}; steps are those of complete episodes,
  without resets.
  """
  runs = {}
  for name, count, number in (
    ('one', 1, single_episodes),
    ('many', min(config.eval_envs, episodes), episodes),
  ):
    groups = [
      subject.make_env(config, size, **config.eval_env) for size in evaluation.group_sizes(count)
    ]
    try:
      runs[name] = _play(config, groups, number)
    finally:
      for env in groups:
        env.close()
  return {**runs, 'ratio': runs['many']['steps_per_second'] / runs['one']['steps_per_second']}


def _play(config, groups, episodes):
  spec, counts = groups[0].spec, [env.num_envs for env in groups]
  agent = subject.make_agent(config, spec)
  compiled = parallel.compile_agent(agent)
  weights = subject.first_state(compiled).weights
  mode = config.eval_policy == 'mode'
  for count in set(counts):
    player = evaluation.Player(agent, compiled['act'], weights, count, jax.random.key(1), mode)
    timestep = subject.random_timestep(spec, count)
    for call in range(WARM_UP):  # compiles the policy for so many environments
      player.act(weights, timestep, call)
  began = time.perf_counter()
  results = evaluation.evaluate(
    agent, compiled['act'], weights, groups, config.seed, 0, episodes, mode
  )
  seconds, steps = time.perf_counter() - began, sum(result.length for result in results)
  return {
    'environments': sum(counts),
    'episodes': len(results),
    'steps': steps,
    'seconds': seconds,
    'steps_per_second': steps / seconds,
    'ms_per_step': 1e3 * seconds / steps,
  }
