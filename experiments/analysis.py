"""The paper's analyses, by runs of your own: python -m experiments.analysis --figure=2a.

A figure is a few commands, sweeps of runs or models learned on a recorded buffer, and a drawing of
what they wrote. They are printed before they run, so that each can be had alone, and go on where
they were stopped; what several figures need is done once. --dry_run prints them only. The figure
becomes <output>/figure_2a.png (and .svg, .csv with its numbers, .md with what it shows and cannot
show). docs/analysis.md walks through all of them.
"""

if not __package__:
  import as_file  # noqa: F401

import collections
import dataclasses
import pathlib
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags

from harmony_jax import settings
from harmony_jax.config import Config, nearest, nested_flat
from harmony_jax.errors import UserError
from harmony_jax.paths import joined
from harmony_jax.training import recording, run_folder

from . import configs, launcher

flags.DEFINE_string('figure', None, "Of the paper: '2a', 'e10', …; without it they are listed.")
flags.DEFINE_string('suite', None, "A suite in place of the figure's own.")
flags.DEFINE_list('tasks', None, "Tasks in place of the figure's own, with commas.")
flags.DEFINE_alias('task', 'tasks')
flags.DEFINE_string('method', 'dreamerv2', "The base method; the paper's is dreamerv2.")
flags.DEFINE_string('seeds', '1', launcher.SEEDS)
launcher.path('root', 'runs', 'Where runs are, as in a sweep; buffers beside them.')
launcher.path('output', 'analysis', 'The folder that figures are written to.')
flags.DEFINE_list('results', None, 'Draw these in place of runs below --root: results files, runs.')
flags.DEFINE_bool('dry_run', False, 'Print the commands; start nothing.')
flags.DEFINE_bool('draw_only', False, 'Draw what is there; start nothing.')

Words = tuple[str, ...]
METAWORLD = {'metaworld': ('lever_pull', 'handle_pull_side')}
THREE = {'metaworld': ('lever_pull', 'handle_pull_side', 'hammer')}
DMCR = {'dmcr': ('cheetah_run', 'walker_run', 'cartpole_balance')}
RULES = {rule: (f'--weighting={rule}',) for rule in ('none', 'harmony', 'harmony_unrectified')}
WEIGHTS = {  # label: (w_o, w_r)
  'w_r1': (1, 1),
  'w_r10': (1, 10),
  'w_r100': (1, 100),
  'w_r100_w_o0': (0, 100),
}
SIZES = {  # of models learned on a buffer: updates, episodes, their length
  'paper': (50_000, 500, 500),
  'cpu': (4_000, 300, 80),
  'debug': (100, 20, 80),
  'tiny': (4, 10, 60),
}
SCALE = {
  'paper': "The paper's sizes, steps and updates.",
  'cpu': (
    "Models, steps and updates are much smaller than the paper's. What is ahead may be seen, by "
    'how much it is at the size of the paper cannot.'
  ),
}
flags.DEFINE_enum('preset', 'cpu', [*SIZES], "Sizes; 'paper' for the authors', on an accelerator.")
TRIAL = 'A trial whether everything runs, of which nothing can be concluded.'


@dataclasses.dataclass(frozen=True)
class Online:
  """A figure of whole runs: a sweep per suite and variant, panels of scores and of metrics.

  Attributes:
    suites: {command: tasks}. variants: {label: flags of the sweep}.
    panels: 'score', names of metrics that are drawn by variant, or 'weights'.
  """

  title: str
  suites: Mapping[str, Sequence[str]]
  variants: Mapping[str, Words]
  panels: Sequence[str] = ('score',)


@dataclasses.dataclass(frozen=True)
class Offline:
  """A figure of world models that learn from a recorded buffer.

  Attributes:
    labels: keys of `WEIGHTS`. draw: the function of offline/figures.py that draws it.
    window: steps that are seen, and then predicted.
  """

  title: str
  suites: Mapping[str, Sequence[str]]
  labels: Sequence[str]
  draw: str
  window: tuple[int, int] = (15, 35)


def weights(label: str) -> Words:
  """Return the settings that a key of `WEIGHTS` stands for."""
  return tuple(f'weighting.{name}={w}' for name, w in zip(('w_o', 'w_r'), WEIGHTS[label]))


def fixed(*labels: str) -> dict[str, Words]:
  """Return variants with constant weights."""
  words = lambda label: (f'--config.{text}' for text in weights(label))
  return {label: ('--weighting=fixed', *words(label)) for label in labels}


# --------------------------------------------------------------------------------------------------

FIGURES: dict[str, Online | Offline | None] = {
  '2a': Online(
    'Sample efficiency by the weight of the reward',
    METAWORLD,
    fixed('w_r1', 'w_r10', 'w_r100', 'w_r100_w_o0'),
  ),
  '2b': Offline('Losses before they are weighed', METAWORLD, ['w_r1'], 'losses'),
  '2c': Offline('What the features do not know of the state', THREE, [*WEIGHTS][:3], 'states'),
  '3': Offline(
    'Predicted pictures and rewards', {'metaworld': ('lever_pull',)}, ['w_r1', 'w_r100'], 'strips'
  ),
  '4': None,  # a drawing of formulas
  '6b': Online(
    'The dynamics loss',
    {'dmcr': ('cheetah_run',)},
    {name: RULES[name] for name in ('none', 'harmony')},
    ('loss/dynamics',),
  ),
  '9b': Online(
    'Rules for several tasks',
    {'metaworld': ('lever_pull',), 'dmcr': ('cheetah_run',)},  # and RLBench's push_button
    {r: (f'--weighting={r}',) for r in ('none', 'harmony', 'uncertainty', 'dwa', 'nash_mtl')},
  ),
  '15': Online(
    'Rectified and unrectified',
    {'dmc': ('quadruped_run',)},
    RULES,
    ('score', 'loss/dynamics', 'harmony/reward/weight'),
  ),
  '16': Online('Rectified and unrectified', DMCR, RULES),
  '17': Online(
    'The dynamics harmonized, or w_d = 1',
    THREE,
    {
      'none': RULES['none'],
      'harmony': RULES['harmony'],
      'harmony_w_d1': ('--weighting=harmony', '--config.weighting.tasks=observation,reward'),
    },
  ),
  '18': Online(
    'Harmony and weights by hand',
    {**METAWORLD, **DMCR},
    {'harmony': RULES['harmony'], **fixed('w_r10', 'w_r100')},
  ),
  '22': Online(
    'Sample efficiency by the weight of the reward',
    {'metaworld': ('hammer',)},
    fixed('w_r1', 'w_r10', 'w_r100'),
  ),
  '23': Online('Learned weights', METAWORLD, {'harmony': RULES['harmony']}, ('weights',)),
  'e10': Offline(
    'Does the picture help the reward?',
    {'metaworld': ('lever_pull',)},
    ['w_r100', 'w_r100_w_o0'],
    'reward_errors',
    (35, 15),
  ),
}


def chosen(figure: Online | Offline) -> dict[str, Sequence[str]]:
  """Return {command of a suite: tasks}: the figure's own, or those that flags name.

  Raises:
    UserError: a suite or a task that is not there.
  """
  options = flags.FLAGS
  suites = dict(figure.suites)
  if options.suite:
    module = configs().suite(options.suite)
    suites = {options.suite: suites.get(options.suite, (module.DEFAULT_TASK,))}
  elif options.tasks and len(suites) > 1:
    raise UserError(f'--tasks needs --suite here, one of {", ".join(suites)}')
  found = {}
  for command, tasks in suites.items():
    module = configs().suite(command)
    found[command] = [launcher.canonical(module, task) for task in options.tasks or tasks]
  return found


def commands(figure: Online | Offline, more: Sequence[str]) -> list[list[str]]:
  """Return what is to be run, each a command's name and its flags; `more` go to all that train."""
  options = flags.FLAGS
  how = [f'--method={options.method}', f'--preset={options.preset}', f'--seeds={options.seeds}']
  if isinstance(figure, Online):
    return [
      ['sweep', f'--suite={suite}', f'--tasks={",".join(tasks)}', *how, *words]
      + [f'--root={root_of(label, words)}', *more]
      for suite, tasks in chosen(figure).items()
      for label, words in figure.variants.items()
    ]
  found = []
  updates, episodes, length = SIZES[options.preset]
  context, horizon = figure.window
  for suite, tasks in chosen(figure).items():
    for task in tasks:
      buffer, study = places(suite, task, figure)
      if not buffer.exists():
        policy = 'random' if configs().suite(suite).TRAITS.discrete else 'smooth'
        found.append(
          ['offline', 'record', f'--suite={suite}', f'--task={task}', f'--preset={options.preset}']
          + [f'--policy={policy}', f'--episodes={episodes}', f'--length={length}']
          + [f'--output={buffer}']
        )
      variants = [
        f'--variant={label}: weighting.rule=fixed {" ".join(weights(label))}'
        for label in figure.labels
      ]
      found.append(
        ['offline', 'train', f'--buffer={buffer}', *how, *variants, f'--updates={updates}']
        + [f'--measure_every={max(1, updates // 8)}', f'--context={context}']
        + [f'--horizon={horizon}', '--mlp', '--show=1', f'--output={study}', *more]
      )
  return found


def root_of(label: str, words: Words) -> str:
  """Return the root of a variant's runs: its own where the rule alone does not say what it is."""
  own = any(word.startswith('--config') for word in words)
  return str(pathlib.Path(flags.FLAGS.root, *(['variants', label] if own else [])))


def places(suite: str, task: str, figure: Offline) -> tuple[pathlib.Path, pathlib.Path]:
  """Return the paths of a task's buffer and study."""
  options = flags.FLAGS
  folder = pathlib.Path(options.root, 'offline')
  name = f'{suite}-{joined(task.lower())}-{options.preset}'
  context, horizon = figure.window
  return folder / f'{name}.npz', folder / f'{name}-{options.method}-{context}+{horizon}'


def run(words: Sequence[str]) -> int:
  """Run a command of this project; return its exit code. A signal is for it: it saves, and ends."""
  process = subprocess.Popen([sys.executable, '-m', f'{__package__}.{words[0]}', *words[1:]])
  handlers = {  # a terminal's Ctrl-C comes to both
    signal.SIGINT: lambda *_: None,
    signal.SIGTERM: lambda number, _: process.send_signal(number),
  }
  before = {number: signal.signal(number, each) for number, each in handlers.items()}
  try:
    return process.wait()
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


# --------------------------------------------------------------------------------------------------


class About(NamedTuple):
  """What is told beside a figure.

  Attributes:
    there: (what it is a seed of, whether it is complete) of each run that is drawn.
    other: in which settings runs are not as the preset, such as 'steps (100 for 8000)'.
    lines: about variants and buffers.
  """

  there: list[tuple[tuple, bool]]
  other: list[str]
  lines: list[str]


def draw_online(
  name: str, figure: Online, output: pathlib.Path, texts: Sequence[str]
) -> list[pathlib.Path]:
  """Draw a figure of runs with the settings `texts`; return the paths."""
  from harmony_jax.reporting import analysis, curves, figures

  found, about = collected(figure, texts)
  colors = figures.colors_of(figure.variants, curves.METHODS)
  there, panels = {record.method for record in found}, []
  legend = [(label, color, 'solid') for label, color in colors.items() if label in there]
  for suite in dict.fromkeys(record.suite for record in found):
    own = [record for record in found if record.suite == suite]
    for panel in figure.panels:
      if panel == 'score':
        drawn = curves.learning(own, colors, {})
        panels += drawn.panels if drawn else []
        about.lines.extend([drawn.note.rstrip('.')] if drawn and drawn.note else [])
      elif panel == 'weights':
        if drawn := curves.metric(own, 'harmony/'):
          panels, legend = panels + drawn.panels, drawn.legend
      else:
        panels += analysis.metric(own, panel, colors)
  names = [panel for panel in figure.panels if panel not in ('score', 'weights')]
  names += ['harmony/'] if 'weights' in figure.panels else []
  columns = 'label', 'task', 'seed', 'measure', 'step', 'value'
  rows = analysis.rows(found, names)
  return _written(name, figure, output, panels, legend, columns, rows, about)


class Wanted(NamedTuple):
  """The runs of a variant on a task: its label, the preset, that with what flags change in it,
  which are `texts`, what the variant changes, and the folders that its runs have below --root."""

  label: str
  preset: Config
  config: Config
  texts: Sequence[str]
  changes: Sequence[str]
  folders: Sequence[pathlib.Path]


def wanted(figure: Online, texts: Sequence[str]) -> Iterator[Wanted]:
  """Yield what a figure is drawn of, by tasks within variants within suites."""
  options = flags.FLAGS
  seeds = launcher.parse_seeds(options.seeds)
  for command, tasks in chosen(figure).items():
    for label, words in figure.variants.items():
      rule = {'weighting.rule': words[0].removeprefix('--weighting=')}
      changes = [word.removeprefix('--config.') for word in words[1:]]
      for task in tasks:
        made = configs().make(configs().suite(command), options.method, options.preset, task)
        preset = made.replace(rule)
        config = preset.override(texts)
        folder = pathlib.Path(launcher.default_logdir(config)).relative_to('runs').parent
        places = [pathlib.Path(root_of(label, words), folder, f'seed{seed}') for seed in seeds]
        yield Wanted(label, preset, config, texts, changes, places)


def collected(figure: Online, texts: Sequence[str]) -> tuple[list[Any], About]:
  """Return (the records of a figure's runs, their method being the variant's label; what is to be
  said of them). `texts` may name the runs, by `label`."""
  from harmony_jax.reporting import records

  options, found, unlike, about = flags.FLAGS, [], {}, About([], [], [])
  seeds, beyond = launcher.parse_seeds(options.seeds), set()
  given = _printed(*records.every(options.results or ()))  # variants of one rule have one place
  for each in wanted(figure, texts):
    there = given
    if not options.results:
      there = _printed(*records.every([path for path in each.folders if path.exists()]))
    apart = [(record, _apart(record, each)) for record in there]
    unlike |= {_place(record): told for record, told in apart if told}
    fitting = [
      dataclasses.replace(record, method=each.label) for record, told in apart if told == []
    ]
    beyond |= {record.source for record in fitting if record.seed not in seeds}
    fitting = [record for record in fitting if record.seed in seeds]
    own = sorted(_printed(*records.settled(fitting)), key=lambda record: seeds.index(record.seed))
    found += own
    _tell_runs(about, each, own)
  others = sorted(unlike.keys() - set(map(_place, found)))  # else it is another variant's
  told = [f'{place[0]} is left out, a run with {", ".join(unlike[place])}' for place in others]
  told += [f'{each} has seeds beyond --seeds={options.seeds}' for each in sorted(beyond)]
  launcher.note(dict.fromkeys(told))
  if not found:
    where = f'in {", ".join(options.results)}' if options.results else f'below {options.root}'
    raise UserError(f'no run of this figure is {where}')
  return found, about


def _tell_runs(about, wanted, own):
  """Add what is to be said of a variant on a task, and of the records of its runs."""
  from harmony_jax.reporting import records

  if own:
    about.lines.extend(launcher.idle(wanted.config.override(wanted.changes), []))
  preset = records.without_paths(wanted.preset.override(wanted.changes).to_json())
  for record in own:
    about.there.append(((wanted.label, record.suite, record.task), record.complete))
    about.other.extend(records.apart(*_by_one_rule(preset, record.config)).values())
  scale = getattr(getattr(wanted.config.agent, 'losses', None), 'scale', 1.0)
  if wanted.label == 'harmony_w_d1' and scale != 1:
    method = flags.FLAGS.method
    told = f'{method} has w_d = {scale:g} of its own, as harmony_w_d1 has it here'
    about.lines.append(told)


def _place(record):
  return record.source, record.task, record.seed


def _printed(found, problems):
  """The records that were found; the problems are printed."""
  for text in problems:
    print(f'note: {text}', file=sys.stderr)
  return found


def _apart(record, variant):
  """['weighting.rate (0.5 for 1.0)']: how a record weighs otherwise than the runs of a variant that
  are `Wanted`, or is not as the flags say; None for a run of another kind or variant.

  A rule's name does not say how it weighs, and no more does a run's label. What a study calls a
  variant does not say what is special in it, so that each setting must be as here.
  """
  from harmony_jax.reporting import records, schema

  kind = lambda of: (of['suite'], of['task'], schema.label(of))
  plain = variant.config.override(variant.changes).to_json()
  made = {name: value for name, value in record.config.items() if name != 'variant'}
  wanted, own = _by_one_rule(plain, made)
  if kind(own) != kind(wanted):
    return None
  flat, own_flat = nested_flat(wanted), nested_flat(own)
  names = lambda texts: {text.partition('=')[0] for text in texts}
  special, asked = names(variant.changes), names(variant.texts)
  # an older run may lack a setting, but none of those by which variants differ
  if any(own_flat.get(name) != flat[name] for name in special):
    return None
  apart = records.apart(wanted, own)
  asked |= apart.keys() if made.keys() != record.config.keys() else set()
  told = [text for name, text in apart.items() if name in asked or name.startswith('weighting.')]
  return None if told and wanted is not plain else told  # other weights are no variant of `none`


def _by_one_rule(*configs):
  """Two configurations; where one has the rule `none` and one `fixed`, both as the latter."""
  from harmony_jax import weighting

  rules = {(each.get('weighting') or {}).get('rule') for each in configs}
  return [*map(weighting.spelled_out, configs)] if rules == {'none', 'fixed'} else configs


def draw_offline(name: str, figure: Offline, output: pathlib.Path) -> list[pathlib.Path]:
  """Draw a figure of models learned on buffers; return the paths."""
  from harmony_jax.offline import figures, study

  options, studies, about = flags.FLAGS, {}, About([], [], [])
  for suite, tasks in chosen(figure).items():
    for task in tasks:
      opened = study.Study(places(suite, task, figure)[1])
      opened.labels = [label for label in opened.labels if label in figure.labels]
      opened.seeds = launcher.parse_seeds(options.seeds)
      studies[task] = opened
      preset = configs().make(configs().suite(suite), options.method, options.preset, task)
      _tell_scale(about, opened, figure, preset)
  about.there.extend(
    ((run.label, task), True)
    for task, opened in studies.items()
    for run in opened.runs()
    if opened.finished(run)
  )
  if figure.draw == 'strips':
    paths = figures.strips(studies, output, name)
    return [*paths, describe(name, figure, output, about)]
  panels, colors, rows = getattr(figures, figure.draw)(studies)
  legend = [(label, color, 'solid') for label, color in colors.items()]
  columns = 'label', 'task', 'buffer', 'seed', 'measure', 'update', 'value'
  return _written(name, figure, output, panels, legend, columns, rows, about)


def _tell_scale(about, opened, figure, preset):
  """Add in which settings a study and its buffers are not as the preset, and lines about them."""
  from harmony_jax.reporting import records

  plan, own_settings = opened.plan, opened.plan.get('settings', {})
  sizes = zip(('updates', 'episodes', 'length'), SIZES[flags.FLAGS.preset])
  made = {**dict(sizes), **dict(zip(('context', 'horizon'), figure.window)), 'reward_scale': 1.0}
  own = {name: plan[name] for name in made if name in plan} | own_settings
  made |= {**settings.to_json(preset.agent), 'env': settings.plain(preset.env)}
  for label in opened.labels:
    tree = {**nested_flat(own_settings), **plan['variants'][label]}
    weighs = [k for k in preset.flat() if k.startswith(('weighting.', 'losses.')) and k in tree]
    about.lines.extend(launcher.idle(preset.replace({name: tree[name] for name in weighs}), []))
  for recorded in (each.get('recorded', {}) for each in plan['buffers']):
    there = {name: recorded[name] for name in ('episodes', 'length', 'env') if name in recorded}
    known = made if 'env' in there else {k: v for k, v in made.items() if k != 'env'}
    about.other.extend(records.apart(known, own | there).values())
    policy = recorded.get('policy', 'random')
    told = f'the policy {policy}' if policy not in ('random', 'smooth') else 'random actions'
    rare = ', so that high rewards are rare in it or missing' if told == 'random actions' else ''
    about.lines.append(
      f'The buffer is of {told}, where the paper has the replay of an agent that learned{rare}'
    )


def draw_formulas(name: str, output: pathlib.Path) -> list[pathlib.Path]:
  """Draw figure 4, the harmonious losses over σ, by the rules themselves."""
  from harmony_jax.reporting import concepts

  concepts.draw(concepts.harmonious_losses(), output / f'{name}.png')
  return [output / f'{name}.png']


def _written(name, figure, output, panels, legend, columns, rows, about):
  """Write a figure, its data and what it shows; return the paths."""
  import pandas

  from harmony_jax.reporting import figures

  if not panels:
    raise UserError('the runs of this figure have written nothing yet that it shows')
  data = output / f'{name}.csv'
  table = pandas.DataFrame(rows, columns=columns, dtype=object)
  with run_folder.atomic_write(data) as file:
    table.to_csv(file, index=False, lineterminator='\n')
  title = f'Figure {name.partition("_")[2]}: {figure.title.lower()}'
  paths = figures.save(figures.Figure(name, title, '', panels, legend), output)
  return [*paths, data, describe(name, figure, output, about)]


def describe(
  name: str, figure: Online | Offline, output: pathlib.Path, about: About
) -> pathlib.Path:
  """Write what a figure shows, of which runs, at which scale; return the path."""
  options, scale = flags.FLAGS, SCALE.get(flags.FLAGS.preset, TRIAL)
  tasks = '; '.join(f'{suite}: {", ".join(tasks)}' for suite, tasks in chosen(figure).items())
  seeds = len(launcher.parse_seeds(options.seeds))
  labels = figure.variants if isinstance(figure, Online) else figure.labels
  kinds = len(labels) * sum(map(len, chosen(figure).values()))
  complete = collections.Counter(kind for kind, done in about.there if done)
  fewest = min(complete[kind] for kind, _ in about.there)
  lines = [
    f'# Figure {name.partition("_")[2]} of the paper: {figure.title.lower()}',
    f'{tasks}; {options.method}, preset `{options.preset}`, {seeds} seed{"s" * (seeds > 1)}.',
    scale,
  ]
  if about.other:
    lines.append(f'Not all is as in the preset: {", ".join(sorted(set(about.other)))}.')
  if complete.total() < kinds * seeds:
    lines.append(
      f'Of the {kinds * seeds} runs {complete.total()} are complete; what is drawn is of '
      f'{len(about.there)}, and each mean of those that there are.'
    )
  if fewest < 5:
    lines.append(f'{fewest} of the five seeds that a mean needs at least.')
  lines += [f'{line}.' for line in dict.fromkeys(about.lines)]
  path = output / f'{name}.md'
  with run_folder.atomic_write(path) as file:
    file.write('\n\n'.join(lines) + '\n')
  return path


def main(words: list[str], texts: list[str]) -> int:
  """Run what a figure needs, and draw it."""
  options = flags.FLAGS
  if not options.figure:
    launcher.no_words(words, '--figure=2a')
    for name, figure in FIGURES.items():
      print(f'{name:4} {figure.title if figure else "The harmonious losses over σ"}')
    return 0
  name = options.figure.lower()
  if name not in FIGURES:
    near = nearest(name, FIGURES)
    raise UserError(f'--figure={name}: did you mean {near!r}? ({", ".join(FIGURES)})')
  launcher.parse_seeds(options.seeds)
  figure, file = FIGURES[name], f'figure_{name}'
  if options.results and not isinstance(figure, Online):
    raise UserError(f'--results is of whole runs, --figure={name} is not of such')
  if isinstance(figure, Offline) and not options.dry_run:
    recording.writable(pathlib.Path(options.root, 'offline'))
  if figure and not (options.draw_only or options.results):
    for command in commands(figure, [*words, *(f'--config.{text}' for text in texts)]):
      print(f'$ python -m {__package__}.{shlex.join(command)}', flush=True)
      if not options.dry_run and (code := run(command)):
        return code
  if options.dry_run:
    return 0
  output = recording.writable(options.output)
  if figure is None:
    paths = draw_formulas(file, output)
  elif isinstance(figure, Online):
    paths = draw_online(file, figure, output, texts)
  else:
    paths = draw_offline(file, figure, output)
  print(f'written: {", ".join(map(str, paths))}')
  return 0


if __name__ == '__main__':
  launcher.command(main, configurable=True)
