"""Writes the generated parts of the documentation: python -m experiments.docs --output=docs.

configuration.md       every setting and flag, from configs/ and the launcher; what a setting
means is the comment
                       beside or above it in configs/
harmony_losses.png     the harmonious losses over σ and what follows from them, from
harmony_jax/harmony.py
"""

import ast
import functools
import importlib
import io
import pathlib
import sys
import tokenize

from absl import app, flags, logging

from configs import common
from experiments import launcher
from harmony_jax.configuration import flatten
from harmony_jax.errors import UserError

SUITES = {
  'atari100k': 'Atari 100K',
  'catch': 'the built-in game',
  'dmc': 'DeepMind Control',
  'dmcr': 'DMC Remastered',
  'metaworld': 'Meta-World',
  'rlbench': 'RLBench',
  'gym': 'any Gymnasium environment',
}
CONFIGS = pathlib.Path(common.__file__).parent
PRESETS = common.PRESETS[1:]
SAME = '·'

HEADER = """# Configuration

*Written by `python -m experiments.docs --output=docs` from [configs/](../configs) and
[experiments/launcher.py](../experiments/launcher.py). Do not edit it: edit the comments there, and run that again.*

A setting is changed by a flag, `--config.batch_size=8` or `--config.rssm.deter=1024`; some have a shorter flag, too. An
unknown setting, a value of another type and an impossible one are refused in one line. A run begins with a line
`differs from the paper: …`, and its `config.json` holds every value.

A configuration is put together in this order; what comes later counts:

1. the base method: [configs/dreamerv3.py](../configs/dreamerv3.py); [configs/dreamerv2.py](../configs/dreamerv2.py) says what
   differs from it, and [configs/dreamerpro.py](../configs/dreamerpro.py) what differs from that;
2. the suite, `configs/<suite>.py`: its settings, then its settings for the method;
3. the preset, where it is not `paper`: what the method needs at small sizes, then the suite's sizes;
4. the flags of the command, and `--config.…` flags last.

The presets: `paper` is what the authors ran; `cpu` is a smaller model and run for 2 CPU cores; `debug` and `tiny` show
whether everything works, in minutes and in half a minute. `auto` takes `paper` on an accelerator and `cpu` otherwise.
"""


# --------------------------------------------------------------------------------------------------
# Comments as documentation


def descriptions(path) -> dict:
  """{'rssm.deter': its comment} of every keyword in the `dict(…)` calls of a Python file.

  A comment is on the line of the keyword; that of a group, `rssm=dict(`, may also be on the line
  above. A keyword without one is not in the result.
  """
  source = path.read_text(encoding='utf-8')
  beside, above = {}, {}
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      alone = not token.line[: token.start[1]].strip()
      (above if alone else beside)[token.start[0]] = token.string.lstrip('# ')
  found = {}

  def visit(node, prefix):
    if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'dict':
      named = [(each.arg, each.value, each.lineno) for each in node.keywords if each.arg]
    elif isinstance(node, ast.Dict):
      named = [
        (key.value, value, key.lineno)
        for key, value in zip(node.keys, node.values)
        if isinstance(key, ast.Constant)
      ]
    else:
      for child in ast.iter_child_nodes(node):
        visit(child, prefix)
      return
    for name, value, line in named:
      text = beside.get(line) or (above.get(line - 1) if isinstance(value, ast.Call) else None)
      if text:
        found.setdefault(f'{prefix}{name}', text)
      visit(value, f'{prefix}{name}.')

  visit(ast.parse(source), '')
  return found


def described(fields, known) -> dict:
  """{field: its description}. Raises UserError that names the fields without one."""
  missing = [field for field in fields if field not in known]
  if missing:
    raise UserError(f'no comment says what these settings mean: {", ".join(missing)}')
  return {field: known[field] for field in fields}


# --------------------------------------------------------------------------------------------------
# Tables


def cell(value) -> str:
  """A value as one writes it after `--config.field=`."""
  if isinstance(value, (tuple, list)):
    return f'`{",".join(map(str, value))}`'
  if isinstance(value, float):
    return f'`{value:.6g}`' if value % 1 else f'`{value:.1f}`'
  return f'`{value}`' if value != '' else '(empty)'


def table(head, rows) -> list:
  """Lines of a Markdown table."""
  escape = lambda text: ' '.join(str(text).split()).replace('|', '\\|')
  return [
    f'| {" | ".join(head)} |',
    '| ' + ' | '.join('---' for _ in head) + ' |',
    *(f'| {" | ".join(map(escape, row))} |' for row in rows),
    '',
  ]


def flag_rows(benchmark, names=None) -> list:
  """Rows (flag, default, meaning) of a benchmark's command, all or those of these names."""
  values = flags.FlagValues()
  launcher.define_flags(benchmark, values)
  rows = []
  for flag in values.get_flags_for_module(launcher.__name__):
    if names is None or flag.name in names:
      text, choices = flag.help, getattr(flag.parser, 'enum_values', None)
      if choices:  # absl puts them before the text
        text = f'{text.partition(">: ")[2]} One of {", ".join(choices)}.'
      rows.append((f'`--{flag.name}`', '' if flag.default is None else cell(flag.default), text))
  return rows


def method_tables() -> list:
  """Every setting of the base methods, a table per section."""
  base, *others = (flatten(common.METHODS[name]().to_dict()) for name in common.METHODS)
  known = descriptions(CONFIGS / 'dreamerv3.py')
  texts = described(base, known)
  sections = {}
  for field in known:  # in the order of the file
    if field in base:
      sections.setdefault(field.rpartition('.')[0], []).append(field)
  lines = []
  for section in sorted(sections, key=bool):  # those without a section first
    lines += [f'### {section}' if section else '### training', '']
    lines += [known[section], ''] if section in known else []
    lines += table(
      ('`--config.…`', *common.METHODS, 'meaning'),
      [
        (
          f'`{field}`',
          cell(base[field]),
          *(SAME if other[field] == base[field] else cell(other[field]) for other in others),
          texts[field],
        )
        for field in sections[section]
      ],
    )
  return lines


def common_changes(method, preset) -> dict:
  """What the presets of all suites have in common: {field: value}."""
  small = {**common.SMALL_BY_METHOD[method], **common.SMALL, **common.SHORT_HARMONY}
  return {'paper': {}, 'cpu': small}.get(preset, {**small, **common.TOY})


@functools.cache
def usual(method, preset) -> dict:
  """The settings that a method has with a preset where no suite says otherwise: {field: value}."""
  return {**flatten(common.build(method).to_dict()), **common_changes(method, preset)}


def preset_table() -> list:
  """What the smaller presets of all suites have in common."""
  changed = dict.fromkeys(
    field for method in common.METHODS for field in common_changes(method, 'tiny')
  )
  rows = []
  for field in changed:
    row = [f'`{field}`']
    for preset in ('paper', 'cpu', 'tiny'):
      row.append(_by_method({method: usual(method, preset)[field] for method in common.METHODS}))
    rows += [row] if len(set(row[1:])) > 1 else []
  return table(('field', '`paper`', '`cpu`', '`debug`, `tiny`'), rows)


def _by_method(values) -> str:
  """One value where all methods have the same, else each with its method."""
  cells = {method: cell(value) for method, value in values.items()}
  if len(set(cells.values())) == 1:
    return next(iter(cells.values()))
  return ', '.join(f'{text} {method}' for method, text in cells.items())


def suite_lines(suite) -> list:
  """What a suite's command has that others have not: its flags, its settings by preset, its
  environment's options.
  """
  benchmark = importlib.import_module(f'configs.{suite}')
  configs = {
    (method, preset): flatten(benchmark.get_config(method, preset).to_dict())
    for method in common.METHODS
    for preset in PRESETS
  }
  any_config = configs['dreamerv3', 'paper']
  short = getattr(benchmark, 'ENV_FLAGS', {})
  lines = [
    f'### {suite}: {SUITES[suite]}',
    '',
    f'`python -m experiments.{suite}`, [configs/{suite}.py](../configs/{suite}.py). '
    f'Hours of a run: {", ".join(f"{preset}: {benchmark.HOURS[preset]}" for preset in PRESETS)}.',
    '',
  ]
  lines += table(
    ('flag', 'default', 'meaning'), flag_rows(benchmark, {benchmark.TASK_FLAG, 'method', *short})
  )
  rows = []
  order = [*descriptions(CONFIGS / 'common.py'), *descriptions(CONFIGS / 'dreamerv3.py')]
  for field in (name for name in order if name in any_config and name not in ('suite', 'preset')):
    row = [
      _unless_common(
        {
          method: (configs[method, preset][field], method, preset, field)
          for method in common.METHODS
        }
      )
      for preset in PRESETS
    ]
    if any(text != SAME for text in row):
      rows.append((f'`{field}`', *row))
  lines += table(('setting', *(f'`{preset}`' for preset in PRESETS)), rows)
  known = descriptions(CONFIGS / f'{suite}.py')
  texts = described([name for name in any_config if name.startswith(('env.', 'eval_env.'))], known)
  options = [name for name in known if name in texts]
  flag_of = {field: f', `--{flag}`' for flag, (field, _) in short.items()}
  return lines + table(
    ('option of the environment', *(f'`{preset}`' for preset in PRESETS), 'meaning'),
    [
      (
        f'`{name}`{flag_of.get(name, "")}',
        *(
          _by_method({method: configs[method, preset][name] for method in common.METHODS})
          for preset in PRESETS
        ),
        texts[name],
      )
      for name in options
    ],
  )


def _unless_common(found) -> str:
  """The values by method, or SAME where all are those that the method's preset has in every suite."""
  if all(value == usual(method, preset)[field] for value, method, preset, field in found.values()):
    return SAME
  return _by_method({method: value for method, (value, *_) in found.items()})


def configuration() -> str:
  """The text of configuration.md."""
  catch = importlib.import_module('configs.catch')
  run = described(common.run_settings(), descriptions(CONFIGS / 'common.py'))
  defaults = common.run_settings()
  lines = [
    HEADER,
    '## Flags of every training command',
    '',
    '`python -m experiments.<suite>`, which has its own [flags](#suites), too:',
    '',
    *table(
      ('flag', 'default', 'meaning'),
      [row for row in flag_rows(catch) if row[0] not in (f'`--{catch.TASK_FLAG}`', '`--method`')],
    ),
    '## Settings of a run',
    '',
    'Defaults; what a suite has in their place stands [below](#suites).',
    '',
    *table(
      ('`--config.…`', 'default', 'meaning'),
      [(f'`{field}`', cell(defaults[field]), text) for field, text in run.items()],
    ),
    '## Settings of the method',
    '',
    f'Values of `paper`; {SAME} where DreamerV2 has the value of DreamerV3.',
    '',
    *method_tables(),
    '## Smaller presets',
    '',
    'What they have in common in all suites. A suite may say otherwise: [below](#suites).',
    '',
    *preset_table(),
    '## Suites',
    '',
    f'{SAME}: the value from above, of the method or of the smaller presets.',
    '',
  ]
  for suite in SUITES:
    lines += suite_lines(suite)
  return '\n'.join(lines).rstrip() + '\n'


def harmonious_losses(points=241) -> dict:
  """What the figure shows, computed by the rules themselves: see `concepts.draw`."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from harmony_jax import harmony
  from harmony_jax.reporting import concepts

  sigma, loss = np.logspace(-2.5, 4, points), np.logspace(-3, 4, points)
  found = {'sigma': sigma, 'loss': loss}
  for name in concepts.RULES:
    rule = getattr(harmony, name)()
    total = jax.vmap(lambda level, s: rule.weigh({'task': level}, {'task': s}, ())[0], (None, 0))
    at = lambda level, where: np.asarray(total(jnp.float32(level), jnp.log(jnp.atleast_1d(where))))
    best = {level: float(rule.optimum(level)) for level in concepts.LOSSES}
    optimum = np.asarray(rule.optimum(loss))
    found[name] = {
      'total': {level: at(level, sigma) for level in concepts.LOSSES},
      'minimum': {
        level: (best[level], float(at(level, best[level])[0])) for level in concepts.LOSSES
      },
      'weight': 1 / optimum,
      'scaled': loss / optimum,
    }
  return found


# --------------------------------------------------------------------------------------------------


flags.DEFINE_string('output', 'docs', 'The folder to write to.')


def main(argv):
  """Writes the files."""
  from harmony_jax.reporting import concepts

  logging.set_verbosity(logging.WARNING)
  output = pathlib.Path(flags.FLAGS.output)
  try:
    if len(argv) > 1:
      raise UserError(f'unexpected argument {argv[1]!r}: the only option is --output=docs')
    (output / 'configuration.md').write_text(configuration(), encoding='utf-8')
    concepts.draw(harmonious_losses(), output / 'harmony_losses.png')
  except (UserError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 2
  print(f'{output / "configuration.md"}, {output / "harmony_losses.png"}')
  return 0


if __name__ == '__main__':
  app.run(main, flags_parser=launcher.parse_flags)
