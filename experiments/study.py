"""Weighting rules times seeds, whole runs at once on a device: docs/ondevice.md.

python -m experiments.study --env=catch --rules=none,fixed:100,harmony --seeds=10 --output=studies/a

Acting, environment, replay, updates and evaluation are one program, over as many agents as fit on
the device. It says beforehand how much memory and time that takes, saves after each wave of agents,
and goes on by the same command, which may have more seeds or rules, too. The output's results/ is
what `experiments.report` reads.
"""

if not __package__:
  import as_file  # noqa: F401

import sys
from typing import Any

import jax
from absl import flags

from harmony_jax import disk, settings
from harmony_jax.config import Config
from harmony_jax.errors import UserError
from harmony_jax.training.interruption import Interrupted, Interruption
from harmony_jax.training.progress import format_seconds

from . import configs, launcher, variants

RULES = (
  'With commas: none, harmony, …; fixed:100 is a reward weight of 100 (the others as in none), '
  "harmony:0.5 half the harmonizers' rate."
)

flags.DEFINE_string('env', None, 'A suite in JAX, such as catch; or gymnax:Breakout-MinAtar.')
flags.DEFINE_string('task', None, "By default the suite's.")
flags.DEFINE_list('rules', None, RULES)
flags.DEFINE_multi_string('variant', [], launcher.VARIANT)
flags.DEFINE_string('method', None, "By default the suite's.")
flags.DEFINE_string('preset', 'cpu', "Sizes; 'paper' for the authors'.")
flags.DEFINE_string('seeds', '1', launcher.SEEDS)
flags.DEFINE_integer('together', 0, 'Agents at once on a device; 0: what fits, on a CPU one.', 0)
flags.DEFINE_integer('devices', 0, 'Devices that share the agents; 0: all.', lower_bound=0)
flags.DEFINE_bool('estimate', False, 'End when time and memory are told.')
launcher.path('output', None, "The study's folder.")


_OF_THE_LOOP = 'devices replay_on env_processes checkpoint_every video_every keep_replay'.split()


def main(words: list[str], texts: list[str]) -> int:
  """Train what is not finished of a study."""
  from harmony_jax import parallel

  launcher.no_words(words, '--env=catch')
  options = flags.FLAGS
  for name in ('env', 'output'):
    if not options[name].value:
      raise UserError(f'a study needs --{name}')
  parallel.use_compilation_cache()
  parallel.keep_freed_memory()
  with Interruption() as interruption:
    return _run(options, texts, interruption)


def _run(options, texts, interruption):
  from harmony_jax.ondevice import study, timetable
  from harmony_jax.reporting import report

  common, made = _configs(options, texts)
  seeds = launcher.parse_seeds(options.seeds)
  opened = study.Study(options.output, _plan(options, common, made, seeds))
  groups = [(each, opened.lots(each, seeds)) for each in study.structures(made)]
  groups = [(each, lots) for each, lots in groups if lots]
  failed: list[str] = []
  if groups:
    prepared = _prepare(options, opened, groups)
    if options.estimate:
      return 0
    opened.begin(prepared[0][0].width)
    interruption.arm()

    def check():
      if interruption.requested:
        told = f'{interruption.requested}: what is finished is saved in {opened.path}'
        raise Interrupted(told)

    bar = variants.Bar(sum(times.wave * len(parts) for _, parts, times in prepared))
    work = [(lots, wave, times) for wave, parts, times in prepared for lots in parts]
    # what is compared comes side by side, so that a study that is cut short can be read
    for lots, wave, times in sorted(work, key=lambda each: each[0][0].seed):
      game, config = wave.program.game, wave.program.config
      numbers = list(dict.fromkeys(lot.seed for lot in lots))
      own = timetable.make(config, game.spec, game.length, numbers).own
      recorded = wave.train(lots, wave.tables(lots, own), check)
      for lot, each in zip(lots, recorded):
        if each.failure:
          failed.append(f'{lot.label}, seed {lot.seed}: {each.failure}')
        else:
          opened.save(lot, made[lot.label], each)
      scores = [each.scores[-1]['eval_mean'] for each in recorded]
      told = [f'{lot.label} seed {lot.seed} {score:.2f}' for lot, score in zip(lots, scores)]
      print(bar.line(times.wave, ', '.join(told)), flush=True)
  lines, problems = report.conclude([opened.path], opened.path / 'results')
  print('\n'.join(lines))
  launcher.note(problems)
  for text in failed:
    print(f'{text}; it is left out', file=sys.stderr)
  return 1 if failed else 0


def _configs(options, texts) -> tuple[Config, dict[str, Config]]:
  """(What all variants have in common, the configuration of each label)."""
  name, given = ('jax_envs', options.env) if ':' in options.env else (options.env, options.task)
  common = launcher.configuration(name, given, options.method, options.preset, texts)
  weighs = 'weighting.rule' in common.flat()
  chosen = options.rules or ([] if options.variant or not weighs else ['none', 'harmony'])
  pairs = [_rule(text, common) for text in chosen]
  pairs += [launcher.parse_variant(text) for text in options.variant]
  if 'results' in dict(pairs):
    raise UserError("a variant cannot be called 'results', where the results go")
  given = [*texts, *(word for _, words in pairs for word in words)]
  named = {text.partition('=')[0].removeprefix('config.') for text in given}
  told = 'changes nothing in a study, which is one program of the device'
  launcher.note(f'config.{name} {told}' for name in _OF_THE_LOOP if name in named)
  change = lambda config, words: configs().check(config.override(words))
  return common, variants.make(common, pairs or [('plain', [])], change, texts)


def _rule(text, common):
  """(label, settings) of one of --rules."""
  rule, colon, number = text.partition(':')
  flat = common.flat()
  if 'weighting.rule' not in flat:
    raise UserError(f'--rules={text}: {common.run.method} weighs no tasks')
  words = [f'weighting.rule={rule}']
  if colon and rule == 'fixed':
    as_none = common.agent.losses.scale if 'weighting.w_d' in flat else 1.0
    words += ['weighting.w_o=1.0', f'weighting.w_r={number}', f'weighting.w_d={as_none}']
  elif colon and rule.startswith('harmony'):
    words += [f'weighting.rate={number}']
  elif colon:
    raise UserError(f'--rules={text}: {rule} takes no number; use --variant')
  return f'{rule}{number}', words


def _plan(options, common, made, seeds) -> dict[str, Any]:
  """Everything that the runs are a function of."""
  base = common.to_json()
  shared = variants.plan(base, {label: each.to_json() for label, each in made.items()}, seeds)
  return {'config': settings.plain(base), 'together': options.together, **shared}


def _prepare(options, opened, groups):
  """Say what memory and time it takes; return (wave, its parts, times) of each program."""
  from harmony_jax.ondevice import study, waves
  from harmony_jax.training import recording

  there = jax.local_device_count()
  devices = options.devices or there
  if devices > there:
    raise UserError(f'--devices={devices}: there {"is" if there == 1 else "are"} {there}')
  count = sum(len(lots) for _, lots in groups)
  made = [study.make_program(group, [lots[0].seed]) for group, lots in groups]
  if not options.estimate:
    recording.writable(opened.path)  # before anything is compiled
  firsts = [(program, lots[0]) for program, (_, lots) in zip(made, groups)]
  size = max(
    waves.agent_bytes(program, program.timetable.own[lot.seed], lot.numbers)
    for program, lot in firsts
  )
  largest = max(len(lots) for _, lots in groups)
  width = waves.choose_width(opened.plan['together'], size, largest, devices)
  print(
    f'{count} agents on {devices} × {jax.local_devices()[0].device_kind}, '
    f'{min(largest, width * devices)} at once, by {len(groups)} '
    f'program{"s" if len(groups) > 1 else ""}; memory: {disk.text(size)} an agent, '
    f'{disk.text(width * size)} of {disk.text(waves.memory())} on each',
    flush=True,
  )
  prepared = []
  for (group, lots), (program, first) in zip(groups, firsts):
    wave = waves.Wave(program, devices, width)
    parts = list(study.waves(lots, wave.count))
    times = wave.measure([first], wave.tables([first], program.timetable.own))
    prepared.append((wave, parts, times))
    print(
      f'{", ".join(group.labels)}: compiled in {format_seconds(times.compiling)}; '
      f'{len(parts)} waves of {format_seconds(times.wave)} '
      f'({1e3 * times.iteration:.0f} ms for each of {times.iterations:,} iterations, '
      f'{format_seconds(times.evaluations)} of evaluations); '
      f'temporaries {disk.text(wave.temporaries())}',
      flush=True,
    )
  seconds = sum(times.wave * len(parts) for _, parts, times in prepared)
  print(f'expected: {format_seconds(seconds)} in all', flush=True)
  return prepared


if __name__ == '__main__':
  launcher.command(main, configurable=True)
