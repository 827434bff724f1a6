"""What the documentation says is true: its commands and its Python run, its links lead somewhere.

Commands that train are taken to their configuration, sweeps to their plan, and of tools the flags
are parsed. Those of the quick start are run, at `tiny` sizes, and so are those of the pages about
an own method and an own environment, in a copy of the code with the edits that they tell.
"""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import common
from experiments import docs, doctor
from harmony_jax import harmony, method, settings
from harmony_jax.reporting import concepts
from tests import commands, documents
from tests.documents import PAGES, ROOT

# Beginnings of commands that are not taken further than said here.
NOT_RUN = {
  'python -m experiments line': 'run by test_own_code',
  'python -m experiments.catch --preset=tiny --method=dreamer_action': 'run by test_own_code',
  'python -m experiments.rlbench': 'needs a simulator that no registry has: tests/suites_test.py',
  'python -m experiments.<suite>': 'any of them',
  'tensorboard': 'a package of its own, which is not installed for the tests',
  'pip install tensorboard': 'the same',
  'pip install wandb': 'a quoted message',
  'pip install trackio': 'the same',
  'pip install git+': 'needs the network',
}
COMMANDS = {command: page for page, text in PAGES.items() for command in documents.commands(text)}
EXPERIMENTS = ('python', '-m', 'experiments')


def python(*words, folder, timeout=400, **variables):
  """Return what a Python program printed; it must end well."""
  if not variables:
    result = commands.Command(*words[words[0] == '-m' :], folder=folder).end(timeout)
  else:
    variables = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), **variables}
    how = {'cwd': folder, 'timeout': timeout, 'env': variables}
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True, **how)
  assert result.returncode == 0, f'{words}: {result.stdout[-2000:]} {result.stderr[-2000:]}'
  assert 'Traceback' not in result.stderr, result.stderr
  return result.stdout


# --------------------------------------------------------------------------------------------------
# Commands


def test_commands_are_found():
  """The search for commands finds those of every form, and nothing else."""
  page = (
    '```python\nmake = 1\n```\n```\npython -m experiments.a --x=1   # why\nmake b\nprinted: 3\n'
    'srun -n4 python -m experiments.c \\\n    --y\n```\n'
    'See `python -m experiments.d\n--z`, `make_e`, `A=1 python -m pytest`.\n\n    harmony f\n'
  )
  assert documents.commands(page) == [
    'python -m experiments.a --x=1',
    'make b',
    'srun -n4 python -m experiments.c --y',
    'harmony f',
    'python -m experiments.d --z',
    'A=1 python -m pytest',
  ]
  assert len(COMMANDS) > 70


# Parses each command as the program itself would, and goes as far as it can in no time. Of suites,
# whose flags are no global ones, all in one process.
PARSE = """
import importlib, json, sys, types
from absl import flags
from importlib.util import find_spec
from experiments import configs, launcher
from harmony_jax.config import split_flags
sys.modules['my_package'] = types.ModuleType('my_package')
suites, lines = configs().suites(), json.loads(sys.argv[1])
if any(name in [*suites, 'sweep'] for name, _ in lines):
  import gymnasium
  gymnasium.register('Reach-v0', 'gymnasium.envs.classic_control:CartPoleEnv')
for name, words in lines:
  module = None if name in suites else importlib.import_module(f'experiments.{name}')
  values = flags.FLAGS
  if not module:
    values = flags.FlagValues()
    launcher.define_flags(suites[name], values)
  try:
    argv, texts = split_flags(['', *(['--logdir=x'] if 'logdir' in values else []), *words])
    values.unparse_flags()
    rest = values(argv)[1:]
    if not module:
      launcher.no_words(rest, '--')
      if name == 'jax_envs' and not find_spec('gymnax'):
        continue
      launcher.make_config(suites[name], values, texts, False)
    elif name == 'sweep':
      values.dry_run = True
      assert module.main(rest, texts) == 0
  except Exception as error:
    sys.exit(f'{name} {words}: {type(error).__name__}: {error}')
"""


def check(lines, folder):
  """Take commands as far as they go; AssertionError for a wrong one, or one of no known kind."""
  found, suites = {}, common.suites()
  for command in lines:
    words = documents.words_of(command)
    if command.startswith(tuple(NOT_RUN)):
      continue
    if words[:2] == ['python', '-m'] and words[2].startswith('experiments.'):
      words = [*EXPERIMENTS, words[2].partition('.')[2], *words[3:]]
    if words[:3] == [*EXPERIMENTS]:
      name = words[3]
      found.setdefault('suites' if name in suites else name, []).append([name, words[4:]])
    elif words[0] == 'make':
      makefile = (ROOT / 'Makefile').read_text()
      for target in (word for word in words[1:] if '=' not in word):
        assert re.search(rf'^{target}:', makefile, re.M), f'no target {target}'
    elif words[0].endswith('pip') and words[1] == 'install':
      check_install(words[2:])
    else:
      assert words[:3] == ['python', '-m', 'pytest'], f'of no known kind: {command}'
      assert all((ROOT / word).exists() for word in words[3:] if not word.startswith('-')), words
  for name, lines in found.items():
    if name == 'doctor':
      for _, words in lines:
        doctor.parse(words)
    else:  # a value that is left open stands for any
      lines = [(of, [word.replace('…', '1') for word in words]) for of, words in lines]
      python('-c', PARSE, json.dumps(lines), folder=folder)


def check_install(words):
  """`pip install`: the constraints file is there, and the extras are those of setup.py."""
  known = (ROOT / 'setup.py').read_text()
  for word in words:
    assert not word.startswith('constraints/') or (ROOT / word).exists(), word
    for extra in re.findall(r'(?:^\.|harmony-jax)\[(.+)\]', word):
      assert all(f"'{name}'" in known for name in extra.split(',')), word
    assert not re.match(r'[a-z_-]+[<>=]', word) or f"'{word}" in known, f'not in setup.py: {word}'


def asked_of_a_gpu(folder):
  """Return the commands of the script for a GPU, whose figures are one file; none is run."""
  asked, out, program = folder / 'asked', folder / 'out', folder / 'python'
  program.write_text(f'#!/bin/bash\nprintf "python$(printf " %q" "$@")\\n" >> {asked}\n')
  program.chmod(0o755)
  script = ['bash', str(ROOT / 'benchmarks' / 'on_a_gpu.sh')]
  variables = {**os.environ, 'OUT': str(out), 'PYTHON': str(program)}
  subprocess.run(script, env=variables, capture_output=True, check=True, timeout=100)
  assert [path.name for path in out.iterdir()] == ['figures.tgz']
  return [line for line in asked.read_text().splitlines() if ' -m experiments.' in line]


def test_commands_are_right(tmp_path):
  (tmp_path / 'docs').mkdir()
  shutil.copy(ROOT / 'docs' / 'small.yaml', tmp_path / 'docs')
  of_script = asked_of_a_gpu(tmp_path)
  assert len(of_script) > 8
  check([*COMMANDS, *of_script], tmp_path)


@pytest.mark.parametrize(
  'command',
  [
    'python -m experiments.catch --presett=tiny',
    'python -m experiments.catch --config.batch_sise=8',
    'python -m experiments.results --outptu=x',
    'python -m experiments.sweep --weighting=harmoni',
    'python -m experiments.nothing',
    'make coffee',
    'pip install -c constraints/python2.txt',
    "pip install '.[cuda99]'",
    'python -m http.server',
  ],
)
def test_a_wrong_command_fails(command, tmp_path):
  with pytest.raises(AssertionError):
    check([command], tmp_path)


def test_flags_in_the_text_exist():
  """`--flag=value`, alone in a line of text, is a flag of some command."""
  source = '\n'.join(path.read_text() for path in (ROOT / 'experiments').glob('*.py'))
  known = set(
    re.findall(
      r"(?:DEFINE\w*|_number|string|integer|enum|switch|path)\((?:\s*launcher.PATH,)?\s*'(\w+)'",
      source,
    )
  )
  known |= {'ntasks', 'help', 'config_file', '…'}
  # the last ones are options of environments themselves
  fields = {'some.field', 'x', '…', 'env.length', 'env.…', 'env.continuous', 'env.obs_type'}
  fields |= {'env.frameskip', 'env.max_buttons_pressed'}
  for module in common.suites().values():
    known |= {module.TASK_FLAG, *getattr(module, 'ENV_FLAGS', {})}
    for name in method.METHODS:
      fields |= common.make(module, name, 'paper', module.DEFAULT_TASK).flat().keys()
  seen = 0
  for page, text in PAGES.items():
    for span in re.findall(r'`(?:… )?(--[^`]+)`', documents.split(text)[1]):
      if span.count(' ') > span.count(' --') or '…=' in span:
        continue  # a message
      for word in span.split():
        name, seen = word.removeprefix('--').partition('=')[0], seen + 1
        field = name.removeprefix('config.')
        assert (field in fields) if field != name else (name in known), f'{page}: {span}'
  assert seen > 60


# --------------------------------------------------------------------------------------------------
# The quick start, from the first run to the report


def test_quick_start(tmp_path, monkeypatch):
  """The first run, every command about it in the order of the page, then Python that loads it."""
  page = PAGES['docs/quick_start.md']
  # One evaluation, by as many environments at a time as in training: one program less to compile.
  fewer = ('--config.eval_every=480', '--config.eval_envs=16', '--config.video_every=0')
  fewer += ('--config.train_ratio=4', '--config.final_eval_episodes=16')
  fewer += ('--config.keep_replay=True',)
  first = python('-m', 'experiments.catch', '--preset=tiny', *fewer, folder=tmp_path)
  assert 'complete: ' in first
  made = set()
  for command in documents.commands(page):
    ends = '--watch' not in command
    if ends and re.match(r'python -m experiments\.(evaluate|play|report|results) [^…]+$', command):
      command = command.replace('-cpu/', '-tiny/').replace('--preset=cpu', '--preset=tiny')
      command = command.replace('/*/seed*', '/dreamerv3-harmony-tiny/seed0')  # as a shell would
      words = shlex.split(re.sub(r'--episodes=\d+', '--episodes=2', command))
      python(*words[1:], folder=tmp_path)
      made.add(words[2])
  assert len(made) == 4
  suffixes = {path.suffix for path in tmp_path.rglob('*') if path.is_file()}
  assert {'.html', '.mp4', '.json', '.csv', '.png'} <= suffixes
  monkeypatch.chdir(tmp_path)
  found = [
    block
    for text in (PAGES['README.md'], page, PAGES['docs/trained_agents.md'])
    for block in documents.blocks(text, 'python')
    if 'Agent.load' in block or 'Checkpoints' in block
  ]
  assert found
  names = {}
  for block in found:
    run = "'runs/catch/catch/dreamerv3-harmony-tiny/seed0'"
    exec(compile(re.sub(r"'runs/[^']*'", run, block), 'Agent.load', 'exec'), names)


# --------------------------------------------------------------------------------------------------
# Python


def test_harmony_alone():
  """Its blocks run; what it says of the numbers is so."""
  text, names, reached = PAGES['docs/harmony_alone.md'], {}, []
  for block in documents.blocks(text, 'python'):
    exec(compile(block, 'docs/harmony_alone.md', 'exec'), names)
    reached.append({name: float(value) for name, value in names['metrics'].items()})
  for task, sigma, weight in (('observation', '50.98', 1 / 50.98), ('reward', '0.105', 9.5)):
    assert sigma in text
    np.testing.assert_allclose(reached[0][f'{task}/sigma'], float(sigma), rtol=0.01)
    np.testing.assert_allclose(reached[0][f'{task}/weight'], weight, rtol=0.01)
  told = {'weights of 1': (1.5, 1.5), 'reciprocal': (0, 3.5), 'harmony': (3.15, 3.15)}
  told |= {'harmony at its optimum': (0, 3.15)}
  for rule, kls in told.items():  # as its table says
    kl, explained = np.transpose(names['learned'][rule])
    limit = 1 / 7 if rule == 'reciprocal' else 0.01  # it wanders between 3 and 4
    np.testing.assert_allclose(kl, kls, rtol=limit, atol=0.01)
    np.testing.assert_allclose(explained, 0.97 * (kl > 1), atol=0.04)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(names['params']))
  with pytest.raises(ValueError) as error:
    harmony.weigh({'reward': np.ones(64)}, {'reward': 0.0}, ())
  assert str(error.value) in text


# One update of the run's method in its environment, without compiling anything.
TRACED = """
import sys, jax, numpy as np
from absl import flags
from experiments import configs, launcher
from harmony_jax import envs, method
from harmony_jax.config import split_flags
from harmony_jax.envs.check import check
suite, values = configs().suite(sys.argv[1]), flags.FlagValues()
launcher.define_flags(suite, values)
argv, texts = split_flags(['', *sys.argv[2:]])
values(argv)
config, _ = launcher.make_config(suite, values, texts, False)
env = envs.make(config.run.suite, config.run.task, 2, **config.env)
check(env)
made = method.entry(config.run.method).make(config.agent, env.spec)
shape = (config.agent.batch_size, config.agent.batch_length)
zeros = lambda rest, dtype: np.zeros((*shape, *rest), dtype)
batch = {name: zeros(each.shape, each.dtype) for name, each in env.spec.observation.items()}
batch |= {'action': zeros((env.spec.num_actions,), np.float32), 'reward': zeros((), np.float32)}
batch |= {name: zeros((), bool) for name in ('is_first', 'is_last', 'is_terminal')}
before = jax.eval_shape(made.init, jax.random.key(0))
after, metrics = jax.eval_shape(made.train_step, before, batch)
assert jax.tree.structure(after) == jax.tree.structure(before)
print(*metrics)
"""


@pytest.mark.parametrize('how', ['traced', pytest.param('trained', marks=pytest.mark.slow)])
@pytest.mark.parametrize('page', ['docs/own_method.md', 'docs/own_environment.md'])
def test_own_code(page, how, tmp_path):
  """The edits of a page, in a copy of the code, and its command."""
  for name in ('harmony_jax', 'configs', 'experiments'):
    shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
  edit(PAGES[page], tmp_path)
  command = next(
    command
    for command in documents.commands(PAGES[page])
    if ' line ' in command or 'running_mean' in command
  )
  words = documents.words_of(command)[2:]
  name, *words = [words[0].removeprefix('experiments').strip('.'), *words[1:]]
  name, *words = words if not name else [name, *words]
  here = {'folder': tmp_path, 'PYTHONPATH': str(tmp_path)}
  if how == 'traced':
    shown = python('-c', TRACED, name, *words, **here)
  else:
    assert 'complete: ' in python('-m', 'experiments', name, *words, **here)
    shown = next(tmp_path.rglob('metrics.jsonl')).read_text()
  tasks = ['reward', 'dynamics', *(['action'] if 'own_method' in page else [])]
  assert all(f'harmony/{task}/weight' in shown for task in tasks)


def edit(text, folder):
  """Apply diffs whose first line names a file, there or new, and write the suite that is told."""
  for block in documents.blocks(text, 'diff'):
    name, *lines = block.splitlines()
    old, new = ('\n'.join(line[1:] for line in lines if line[:1] != other) for other in '+-')
    path = folder / name
    before = path.read_text(encoding='utf-8') if path.exists() else ''
    assert (before.count(old) == 1) if old else not before, f'{name} has no such lines: {old}'
    path.write_text(before.replace(old, new) if old else new + '\n', encoding='utf-8')
  for block in documents.blocks(text, 'python'):
    for mark, name in (('class Line', 'harmony_jax/envs'), ('TASK_FLAG', 'configs')):
      if mark in block:
        (folder / name / 'line.py').write_text(block)


def test_no_other_python():
  """Every page with Python has a test that runs it."""
  pages = {page for page, text in PAGES.items() if documents.blocks(text, 'python')}
  tested = ('quick_start', 'trained_agents', 'harmony_alone', 'own_method', 'own_environment')
  assert pages <= {'README.md', *(f'docs/{name}.md' for name in tested)}


# --------------------------------------------------------------------------------------------------
# Texts, numbers, links


def test_the_configuration_reference_is_up_to_date():
  text = docs.configuration()
  assert (ROOT / 'docs/configuration.md').read_text(encoding='utf-8') == text, (
    'run python -m experiments.docs --output=docs'
  )
  for name in method.METHODS:
    for each in settings.describe(method.entry(name).settings):
      assert f'| `{each.name}` |' in text and each.meaning


def test_the_figure_shows_the_closed_forms(tmp_path):
  """Its numbers: minima by search on the drawn curves, weights by eq. 13 in NumPy."""
  found = concepts.harmonious_losses()
  rectified = lambda x: (x + np.sqrt(x * (x + 4))) / 2
  for name, best in (('unrectified', lambda x: x), ('rectified', rectified)):
    rule = found[name]
    for level in concepts.LOSSES:
      sigma, lowest = rule['minimum'][level]
      np.testing.assert_allclose(sigma, best(level), rtol=1e-5)
      # the grid
      np.testing.assert_allclose(found['sigma'][rule['total'][level].argmin()], sigma, rtol=0.07)
      np.testing.assert_allclose(rule['total'][level].min(), lowest, atol=2e-3)
    np.testing.assert_allclose(rule['weight'], 1 / best(found['loss']), rtol=1e-5)
    np.testing.assert_allclose(rule['scaled'], found['loss'] / best(found['loss']), rtol=1e-5)
  concepts.draw(found, tmp_path / 'figure.png')
  assert (tmp_path / 'figure.png').read_bytes().startswith(b'\x89PNG')


def test_numbers_of_the_concepts():
  text = PAGES['docs/concepts.md']
  levels, *table = [
    np.array(line.split('|')[2:-1], float)
    for line in text.splitlines()
    if re.match(r'\| (L|weight|contribution)\b', line)
  ]
  wanted = 1 / levels, harmony.optimal_weight(levels), harmony.optimal_scale(levels)
  np.testing.assert_allclose(table, wanted, rtol=6e-3)
  head = '| setting | dreamerv3 | dreamerv2 | in words |'
  rows = text.split(head, 1)[1].split('\n\n')[0].splitlines()[2:]
  v3, v2 = (settings.flatten(method.entry(name).settings) for name in ('dreamerv3', 'dreamerv2'))
  assert len(rows) > 8
  for row in rows:
    field, first, second = (part.strip('` ') for part in row.split('|')[1:4])
    assert first != second, field
    assert [docs.cell({'': each[field]}).strip('`') for each in (v3, v2)] == [first, second], field


def test_quoted_messages_are_in_the_source():
  """Symptoms of docs/troubleshooting.md: what stands between two … is in a text of the program."""
  pieces = []
  for path in ROOT.glob('[che]*/**/*.py'):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
      if isinstance(node, ast.JoinedStr):
        pieces.append('\0'.join(str(getattr(part, 'value', '')) for part in node.values))
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        pieces.append(node.value)
  source = '\0'.join(pieces) + (ROOT / 'Makefile').read_text(encoding='utf-8')
  rows = [line for line in PAGES['docs/troubleshooting.md'].splitlines() if line.startswith('| ')]
  spans = [span for row in rows for span in re.findall(r'`([^`]+)`', row.split(' | ')[0])]
  quoted = [each.strip(' -=') for span in spans if ' ' in span for each in span.split('…')]
  assert len(quoted) > 50
  rest = lambda text: text.partition(' ')[2] or text  # a name may come first
  assert not [text for text in quoted if text not in source and rest(text) not in source]


@pytest.mark.parametrize('page', [*PAGES, 'WORKSPACE.md'])
def test_links(page):
  """Links, pictures and anchors lead somewhere, named tests exist, and pages are in the index."""
  path = ROOT / page
  text = path.read_text(encoding='utf-8')
  for target in documents.links(text):
    name, _, anchor = target.partition('#')
    file = (path.parent / name).resolve() if name else path
    assert file.exists(), target
    assert not anchor or anchor in documents.slugs(file.read_text(encoding='utf-8')), target
  for name, function in re.findall(r'`(tests/\w+\.py)(?:::(\w+))?', text):
    assert (ROOT / name).exists(), name
    assert not function or f'def {function}(' in (ROOT / name).read_text(), function
  if page.startswith('docs/') and page != 'docs/README.md':
    assert f']({path.name})' in PAGES['docs/README.md']
