"""Writes the generated parts of the documentation: python -m experiments.docs --output=docs.

configuration.md    every setting and flag, as classes of settings, configs/ and the launcher say
harmony_losses.png  the harmonious losses over σ, and what follows from them
"""

if not __package__:
  import as_file  # noqa: F401

from collections.abc import Iterable
from types import ModuleType
from typing import Any

from absl import flags

from harmony_jax import envs, method, settings
from harmony_jax.config import IDENTITY, RunSettings
from harmony_jax.training.progress import format_seconds

from . import configs, launcher

Fields = dict[str, settings.Setting]
Column = dict[str, dict[str, Any]]  # {method: {name: value}}
METHODS = {name: method.entry(name) for name in method.METHODS}
_ALL = [e for entry in METHODS.values() for e in settings.describe(entry.settings)]
# Where methods share a name, the first of them says what it means.
FIELDS = {e.name: e for e in _ALL} | {e.name: e for e in reversed(_ALL)}
RUN = {e.name: e for e in settings.describe(RunSettings()) if e.name not in IDENTITY}
SAME = '·'
HEADER = """# Configuration

*Written by `python -m experiments.docs --output=docs` from the classes of settings,
[configs/](../configs) and [experiments/launcher.py](../experiments/launcher.py): edit those.*

A setting is changed by a flag, `--config.batch_size=8` or `--config.rssm.deter=1024`; some have a
shorter flag, too. An unknown setting, a value of another type and an impossible one are refused in
one line. A run begins with a line `differs from the paper: …`, and its `config.json` holds every
value. `--config_file=FILE.yaml` takes settings from a file, with these names in groups or with
dots ([docs/small.yaml](small.yaml) is one); its values are part of `config.json`: the same values
as flags go on with the run, and nothing else needs the file. `--config.label=NAME` gives a run with
other settings a folder and a place in reports of its own. A configuration is put together in this
order; what comes later counts:

1. the base method, as [harmony_jax/methods/](../harmony_jax/methods) has it published;
2. the suite: its settings, what the method adapts to such tasks, and what the authors changed;
3. the preset: the method's own smaller sizes, then what the suite changes for its runs;
4. the files of `--config_file`, in their order;
5. the flags of the command and `--config.…` flags, which may not contradict each other.

The presets: `paper` is what the authors ran; `cpu` is a smaller model and run for 2 CPU cores;
`debug` and `tiny` show whether everything works, in minutes and in half a minute. `auto` takes
`paper` on an accelerator and `cpu` otherwise.
"""

launcher.path('output', 'docs', 'The folder to write to.')


def cell(values: dict[str, Any]) -> str:
  """Return {method: value} as one writes it after `--config.field=`: once where all agree."""
  texts = {}
  for name, value in values.items():
    text = ','.join(value) if isinstance(value, (tuple, list)) else str(value)
    texts[name] = f'`{value:.6g}`' if isinstance(value, float) and value % 1 else f'`{text}`'
  if len(set(texts.values())) == 1:
    return next(iter(texts.values())).replace('``', '(empty)')
  return ', '.join(f'{text} {name}' for name, text in texts.items())


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
  """Return the lines of a Markdown table."""
  escape = lambda text: ' '.join(text.split()).replace('|', '\\|')
  lines = [[*head], ['---' for _ in head], *([escape(each) for each in row] for row in rows)]
  return [f'| {" | ".join(line)} |' for line in lines] + ['']


def settings_table(
  fields: Fields, columns: dict[str, Column], usual: Iterable[Column] = ()
) -> list[str]:
  """Return a table of settings; where all columns have the `usual` values, there is no row."""
  rows: list = []
  text = lambda column, name: cell({k: flat[name] for k, flat in column.items() if name in flat})
  for name, known in fields.items():
    row = [text(column, name) for column in columns.values()]
    if usual:
      row = [SAME if each == text(column, name) else each for each, column in zip(row, usual)]
    if set(row) != {SAME}:
      choices = ', '.join(map(str, known.choices)) or getattr(known.type, '__name__', 'names')
      rows.append((f'`{name}`', *row, f'{known.meaning} ({choices})'))
  return table(('`--config.…`', *columns, 'meaning'), rows)


def usual(size: str) -> Column:
  """Return {method: {name: value}} at a size, where no suite says otherwise."""
  flat = lambda entry: settings.flatten(RunSettings()) | settings.flatten(entry.settings)
  return {name: {**flat(entry), **entry.sizes.get(size, {})} for name, entry in METHODS.items()}


def suite_lines(command: str, suite: ModuleType) -> list[str]:
  """Return a suite's flags, and by preset what it changes and its environment's options."""
  options = envs.options(suite.SUITE)()
  env = {k.name: k for part in ('env.', 'eval_env.') for k in settings.describe(options, part)}
  flat = lambda name, preset: configs().make(suite, name, preset, suite.DEFAULT_TASK).flat()
  columns = {f'`{each}`': {name: flat(name, each) for name in METHODS} for each in suite.PRESETS}
  words = lambda hours: 'not measured' if hours is None else format_seconds(3600 * hours)
  hours = ', '.join(f'{words(hours)} ({preset})' for preset, hours in suite.HOURS.items())
  short = {'method': configs().default_method(suite), suite.TASK_FLAG: suite.DEFAULT_TASK}
  short |= {flag: field for flag, (field, _) in getattr(suite, 'ENV_FLAGS', {}).items()}
  flags_ = ', '.join(f'`--{flag}` `{value}`' for flag, value in short.items())
  title = (suite.__doc__ or '').splitlines()[0]
  expected = [usual(each.size) for each in suite.PRESETS.values()]
  return [
    f'### {command}\n\n{title} [Its file](../configs/{command}.py).\n',
    f'A whole run takes {hours}. Its flags, with defaults or settings: {flags_}.\n',
    *settings_table({**RUN, **FIELDS, **env}, columns, expected),
  ]


def configuration() -> str:
  """Return the text of configuration.md."""
  suites, values = configs().suites(), flags.FlagValues()
  launcher.define_flags(suites['catch'], values)
  rows = [
    (f'`--{flag.name}`', '' if flag.default is None else cell({'': flag.default}), flag.help)
    for flag in values.get_flags_for_module(launcher.__name__)
  ]
  published = usual('')
  sizes = {'`paper`': published, '`cpu`': usual('small'), '`debug`, `tiny`': usual('toy')}
  lines = [
    HEADER,
    '## Flags of every training command\n',
    *table(('flag', 'default', 'meaning'), rows),
    '## Settings of a run\n',
    *settings_table(RUN, {'default': {'': settings.flatten(RunSettings())}}),
    '## Settings of the method\n',
    *(f'`{name}`: {entry.note}.\n' for name, entry in METHODS.items() if entry.note),
    *settings_table(FIELDS, {name: {name: flat} for name, flat in published.items()}),
    '## Smaller presets\n',
    "The methods' own smaller sizes. A suite may say otherwise: [below](#suites).\n",
    *settings_table(FIELDS, sizes, [published] * len(sizes)),
    '## Suites\n',
    f'{SAME}: the value from above, of the method or of its smaller sizes.\n',
  ]
  for command, suite in suites.items():
    lines += suite_lines(command, suite)
  return '\n'.join(lines).rstrip() + '\n'


def main(words: list[str]) -> None:
  """Write the files."""
  from harmony_jax.reporting import concepts
  from harmony_jax.training import recording

  launcher.no_words(words, '--output=docs')
  output = recording.writable(flags.FLAGS.output)
  (output / 'configuration.md').write_text(configuration(), encoding='utf-8')
  concepts.draw(concepts.harmonious_losses(), output / 'harmony_losses.png')


if __name__ == '__main__':
  launcher.command(main)
