"""What the pages of the documentation contain: blocks, commands, links, headings."""

import functools
import pathlib
import re
import shlex
import subprocess
import sys
import textwrap
import xml.etree.ElementTree

from absl import flags

from configs import common
from experiments import launcher

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {
  str(path.relative_to(ROOT)): path.read_text(encoding='utf-8')
  for pattern in ('README.md', 'docs/*.md', 'results/*/README.md', 'benchmarks/*.md')
  for path in sorted(ROOT.glob(pattern))
}
SUITES = ('atari100k', 'catch', 'dmc', 'dmcr', 'metaworld', 'rlbench', 'gym')
BEGINNING = re.compile(
  r'(?:\w+=\S+ +)*(?:srun .*?)?(?:python -m|make|pip|\.venv/bin/pip|tensorboard|python -c) [^\s=]'
)


def split(text) -> tuple:
  """([(language, code)] of the fenced blocks, without their indentation; the text between them)."""
  found, prose, inside = [], [], None
  for line in text.splitlines():
    fence = re.match(r' *```(\w*)', line)
    if fence and inside is None:
      language, inside = fence[1], []
    elif fence:
      found.append((language, textwrap.dedent('\n'.join(inside)) + '\n'))
      inside = None
    else:
      (prose if inside is None else inside).append(line)
  assert inside is None, 'a block that does not end'
  return found, '\n'.join(prose)


def blocks(text, language) -> list:
  """The fenced blocks of a language."""
  return [code for name, code in split(text)[0] if name == language]


def commands(text) -> list:
  """Every command of a page: in blocks without a language, in indented blocks and in `…` within a
  line.
  """
  code, prose = '\n'.join(blocks(text, '')), split(text)[1]
  code += '\n' + '\n'.join(re.findall(r'^    (.*)$', prose, re.M))
  lines = re.sub(r'\s*\\\n\s*', ' ', code).splitlines()
  lines += [' '.join(span.split()) for span in re.findall(r'`([^`]+)`', prose.replace('\\|', '¦'))]
  lines = [re.split(r'\s{2,}[#(]|\s#\s', line.strip())[0].strip() for line in lines]
  return list(dict.fromkeys(line for line in lines if BEGINNING.match(line)))


def without_prefix(command) -> list:
  """The words of a command from `python` on: without variables, `srun` and its options, and without
  …
  """
  words = [word for word in shlex.split(command) if word != '…']
  start = next((index for index, word in enumerate(words) if word == 'python'), 0)
  return words[start:]


def slugs(text) -> set:
  """The anchors that GitHub makes of a page's headings."""
  heads = re.findall(r'^#+ +(.+?) *$', split(text)[1], re.M)
  return {re.sub(r'[^\w\- ]', '', head.lower()).replace(' ', '-') for head in heads}


def links(text) -> list:
  """The targets of links and pictures that are files or anchors."""
  return [
    target
    for target in re.findall(r'\]\(([^)\s]+)\)', split(text)[1])
    if not re.match(r'\w+:', target)
  ]


# --------------------------------------------------------------------------------------------------
# Flags


@functools.cache
def flags_of(module) -> dict:
  """{name: (type, values of an enum, default)} of the flags of `python -m experiments.<module>`, by
  its --helpxml.
  """
  result = subprocess.run(
    [sys.executable, '-m', f'experiments.{module}', '--helpxml'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert '<AllFlags>' in result.stdout and 'Traceback' not in result.stderr, (module, result.stderr)
  found = {}
  for flag in xml.etree.ElementTree.fromstring(result.stdout).iter('flag'):
    values = [each.text for each in flag.findall('enum_value')]
    found[flag.findtext('name')] = flag.findtext('type'), values, flag.findtext('default')
  return found


def parse(module, words) -> tuple:
  """({flag: text}, [other words], [overrides]) of a command of a tool; fails where it would be
  refused.
  """
  known, given, rest, overrides = flags_of(module), {}, [], []
  for word in words:
    name, equals, value = word.removeprefix('--').partition('=')
    if not word.startswith('--'):
      rest.append(word)
    elif name.startswith('config.'):
      assert equals, word
      overrides.append(f'{name.removeprefix("config.")}={value}')
    else:
      assert name in known, f'{module} has no flag --{name}'
      kind, values, _ = known[name]
      assert (kind == 'bool') or equals, f'{word} needs a value'
      assert not values or value in values, f'{word}: one of {values}'
      if kind in ('int', 'float') and value != '…':
        float(value)
      given[name] = value or 'true'
  return given, rest, overrides


def configuration_of(suite, words):
  """The configuration that a training command would run with, by the launcher's own functions."""
  import importlib

  from harmony_jax import configuration

  benchmark = importlib.import_module(f'configs.{suite}')
  values = flags.FlagValues()
  launcher.define_flags(benchmark, values)
  argv, overrides = configuration.split_config_flags(['python', *words])
  rest = values(argv)
  assert len(rest) == 1, f'no flags: {rest[1:]}'
  config, _ = launcher.make_config(benchmark, values, overrides, accelerator=False)
  common.check(config)
  return config
