"""What the documentation says is true: its commands and its Python run, its links lead somewhere,
its numbers are those of their sources.

Commands: those of the quick start are really run, one after the other, at `tiny` sizes. Commands
that train are taken through the launcher to their configuration; `tests/suites_test.py` trains each
suite. Commands of tools have their flags checked, sweeps their plan made. What cannot go that far
is in `NOT_RUN`, with the reason. Anything else fails.
"""

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from configs import common
from experiments import docs
from harmony_jax import configuration, harmony
from harmony_jax.errors import UserError
from harmony_jax.reporting import concepts
from tests import documents
from tests.documents import PAGES, ROOT

# Beginnings of commands that are not taken further than said here.
NOT_RUN = {
  'python -m experiments.line': 'run by test_own_environment',
  'python -m experiments.catch --preset=tiny --method=dreamerv3_plain_kl': 'run by test_own_method',
  'python -m experiments.rlbench': 'needs a simulator that no registry has: tests/suites_test.py',
  "python -c 'from tests import agent_test; agent_test.record_goldens()'": 'would overwrite the goldens',
  'tensorboard': 'a package of its own, which is not installed for the tests',
  'pip install tensorboard': 'the same',
  'pip install wandb': 'a quoted message',
  'pip install git+': 'needs the network',
  'python -m experiments.<suite>': 'any of them',
}
TOOLS = (
  'benchmark',
  'contact_sheet',
  'docs',
  'evaluate',
  'play',
  'precision',
  'report',
  'reproduce',
  'results',
)
COMMANDS = [(page, command) for page, text in PAGES.items() for command in documents.commands(text)]


def environment(**variables):
  return {**os.environ, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT), **variables}


@pytest.fixture
def reach():
  """The package that docs/own_environment.md has registered."""
  import gymnasium

  sys.modules['my_package'] = types.ModuleType('my_package')
  gymnasium.register('Reach-v0', 'gymnasium.envs.classic_control:CartPoleEnv')
  yield
  gymnasium.registry.pop('Reach-v0')
  del sys.modules['my_package']


# --------------------------------------------------------------------------------------------------
# Commands


def test_commands_are_found():
  """The search for commands finds those of every form, and nothing else."""
  page = (
    '```python\nmake = 1\n```\n```\npython -m experiments.a --x=1   # why\nmake b\nprinted: 3\n'
    'srun -n4 python -m experiments.c \\\n    --y\n```\n'
    'See `python -m experiments.d\n--z`, `make_e`, `A=1 python -m pytest`.\n\n    make f\n'
  )
  assert documents.commands(page) == [
    'python -m experiments.a --x=1',
    'make b',
    'srun -n4 python -m experiments.c --y',
    'make f',
    'python -m experiments.d --z',
    'A=1 python -m pytest',
  ]
  assert len(COMMANDS) > 70


@pytest.mark.parametrize('page', PAGES)
def test_commands_are_right(page, reach, tmp_path):
  for command in documents.commands(PAGES[page]):
    try:
      check_command(command, tmp_path)
    except (AssertionError, UserError, ValueError, documents.flags.Error) as error:
      raise AssertionError(f'{page}: {command}: {error}') from error


def check_command(command, tmp_path):
  """Goes as far with a command as is possible in no time; fails for one that nothing is known of."""
  if command.startswith(tuple(NOT_RUN)):
    return
  words = documents.without_prefix(command)
  if words[0] == 'make':
    targets = [word for word in words[1:] if '=' not in word]
    for target in targets:
      assert re.search(rf'^{target}:', (ROOT / 'Makefile').read_text(), re.M), f'no target {target}'
    paths = [word.partition('=')[2] for word in words if word.startswith('ARGS=tests')]
    assert all((ROOT / path).exists() for path in paths), paths
  elif words[0].endswith('pip') and words[1] == 'install':
    check_install(words[2:])
  elif words[:3] == ['python', '-m', 'pytest']:
    assert all((ROOT / word).exists() for word in words[3:] if not word.startswith('-')), words
  elif words[:2] == ['python', '-m'] and words[2].startswith('experiments.'):
    check_experiment(words[2].partition('.')[2], words[3:], tmp_path)
  else:
    raise AssertionError(
      'the tests do not know what to do with this command: see tests/docs_test.py'
    )


def check_install(words):
  """`pip install`: the constraints file is there, and the extras are those of setup.py."""
  known = (ROOT / 'setup.py').read_text()
  for word in words:
    if word.startswith('constraints/'):
      assert (ROOT / word).exists(), word
    for extra in re.findall(r'(?:^\.|harmony-jax)\[(.+)\]', word):
      assert all(f"'{name}'" in known for name in extra.split(',')), word
    requirement = re.match(r'[a-z_-]+[<>=]', word)
    assert not requirement or f"'{word}" in known, f'setup.py does not say {word}'


def check_experiment(module, words, tmp_path):
  """Training: to its configuration. Sweeps: to their plan. Tools: their flags."""
  if module == 'doctor':
    assert not words
  elif module in documents.SUITES:
    # S stands for a seed, machine0 for a machine; what several processes are told is tested in
    # parallel_test.py.
    words = [word.replace('=S', '=0') if word.startswith('--seed') else word for word in words]
    config = documents.configuration_of(module, words)
    assert config.suite == importlib.import_module(f'configs.{module}').SUITE
  elif module == 'sweep':
    plan = [sys.executable, '-m', 'experiments.sweep', *words, f'--root={tmp_path}', '--dry_run']
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    result = subprocess.run(plan, cwd=documents.ROOT, capture_output=True, env=environment)
    assert result.returncode == 0, result.stderr
  else:
    assert module in TOOLS, f'the tests do not know experiments.{module}'
    documents.parse(module, words)


def test_flags_in_the_text_exist():
  """`--flag=value` and `… --flag=a|b`, alone in a line of text, are flags of some command, with its
  values.
  """
  training, fields = {}, set()
  for suite in documents.SUITES:
    values, benchmark = documents.flags.FlagValues(), importlib.import_module(f'configs.{suite}')
    docs.launcher.define_flags(benchmark, values)
    training |= {
      flag.name: getattr(flag.parser, 'enum_values', None)
      for flag in values.get_flags_for_module(docs.launcher.__name__)
    }
    fields |= set(configuration.flatten(benchmark.get_config('dreamerv2', 'paper').to_dict()))
  of_tools = lambda name: any(name in documents.flags_of(tool) for tool in ('sweep', *TOOLS))
  fields |= {'…', 'some.field', 'x'}  # that stand for any
  seen = 0
  for page, text in PAGES.items():
    for span in re.findall(r'`(?:… )?(--[^`]+)`', documents.split(text)[1].replace('\\|', '|')):
      if span.count(' ') > span.count(' --') or '…=' in span:
        continue  # a message
      for word in span.split():
        name, _, value = word.removeprefix('--').partition('=')
        seen += 1
        if name.startswith('config.'):
          assert name.removeprefix('config.') in fields, f'{page}: {span}: no setting {name}'
        elif name not in training:
          assert name == 'ntasks' or of_tools(name), f'{page}: {span}: no flag --{name}'
        elif training[name] and value not in ('', '…'):
          assert set(re.split('[|,]', value)) <= set(training[name]), f'{page}: {span}'
  assert seen > 60


def test_a_wrong_command_fails(tmp_path):
  """The checks above can fail."""
  for command in (
    'python -m experiments.catch --presett=tiny',
    'python -m experiments.catch --config.batch_sise=8',
    'python -m experiments.atari100k --game=Pogn',
    'python -m experiments.results --outptu=x',
    'python -m experiments.sweep --weighting=harmoni',
    'make coffee',
    'python -m experiments.nothing',
    'pip install -c constraints/python2.txt',
    "pip install '.[cuda99]'",
    'python -m http.server',
  ):
    with pytest.raises((AssertionError, UserError, ValueError, documents.flags.Error)):
      check_command(command, tmp_path)


# --------------------------------------------------------------------------------------------------
# The quick start, from the first run to the report


def run(command, folder):
  """Runs a command of the quick start with the sizes of `tiny`."""
  command = command.replace('-cpu/', '-tiny/').replace('--preset=cpu', '--preset=tiny')
  command = re.sub(r'--episodes=\d+', '--episodes=2', command)
  python = shlex.quote(sys.executable)
  result = subprocess.run(
    re.sub(r'^python ', f'{python} ', command),
    shell=True,
    cwd=folder,
    capture_output=True,
    text=True,
    timeout=400,
    env=environment(),
  )
  assert result.returncode == 0 and 'Traceback' not in result.stderr, (
    command,
    result.stdout,
    result.stderr,
  )
  return result.stdout


@pytest.fixture(scope='module')
def quick_start(tmp_path_factory):
  """A folder in which the first run has been made."""
  folder = tmp_path_factory.mktemp('quick_start')
  # One evaluation, by as many environments at a time as in training: one program less to compile.
  fewer = '--config.eval_every=480 --config.eval_envs=16 --config.video_every=0'
  assert 'complete: ' in run(f'python -m experiments.catch --preset=tiny {fewer}', folder)
  return folder


def test_quick_start(quick_start):
  """Every command about the first run, in the order of the page; then its Python."""
  page = PAGES['docs/quick_start.md']
  after = [
    command
    for command in documents.commands(page)
    if re.match(r'python -m experiments\.(evaluate|play|report|results) \S', command)
    and '…' not in command
  ]
  modules = {shlex.split(command)[2].partition('.')[2] for command in after}
  assert modules >= {'evaluate', 'play', 'report', 'results'}
  for command in after:
    run(command, quick_start)
  made = {path.suffix for path in quick_start.rglob('*') if path.is_file()}
  assert {'.html', '.mp4', '.json', '.csv', '.png'} <= made


def test_python_of_the_first_run(quick_start, monkeypatch):
  """Blocks of Python that load the first run."""
  monkeypatch.chdir(quick_start)
  names, found = (
    {},
    [
      block
      for page in ('README.md', 'docs/quick_start.md')
      for block in documents.blocks(PAGES[page], 'python')
      if 'Agent.load' in block
    ],
  )
  assert found
  for block in found:
    folder = quick_start / 'runs/catch/catch/dreamerv3-harmony-tiny/seed0'
    block = re.sub(r"'runs/[^']*'", repr(str(folder)), block)
    exec(compile(block, 'Agent.load', 'exec'), names)


# --------------------------------------------------------------------------------------------------
# Python


def test_harmony_alone():
  """Its blocks run; what it says of the numbers is so."""
  names, reached = {}, []
  for block in documents.blocks(PAGES['docs/harmony_alone.md'], 'python'):
    exec(compile(block, 'docs/harmony_alone.md', 'exec'), names)
    reached.append({name: float(value) for name, value in names['metrics'].items()})
  text = PAGES['docs/harmony_alone.md']
  for task, loss, sigma, weight in (
    ('observation', 50, '50.98', 1 / 50.98),
    ('reward', 0.01, '0.105', 9.5),
  ):
    assert sigma in text
    np.testing.assert_allclose(reached[0][f'{task}/sigma'], float(sigma), rtol=0.01)
    np.testing.assert_allclose(reached[0][f'{task}/weight'], weight, rtol=0.01)
    np.testing.assert_allclose(harmony.optimal_sigma(loss), float(sigma), rtol=2e-3)
  assert all(
    np.isfinite(leaf).all() for leaf in jax.tree.leaves((names['gradient'], names['params']))
  )
  np.testing.assert_allclose(
    names['params']['harmony']['reward'],
    np.log(harmony.optimal_sigma(names['first']['reward'])),
    rtol=1e-5,
  )
  with pytest.raises(ValueError) as error:
    harmony.weigh({'reward': np.ones(64)}, {'reward': 0.0}, ())
  assert str(error.value) in text
  for negative in (-0.5, -3.0):  # no minimum, as the pitfalls say
    totals = [
      float(harmony.weigh({'a': np.float32(negative)}, {'a': np.float32(s)}, ())[0])
      for s in (0, -2, -4, -8)
    ]
    assert totals == sorted(totals, reverse=True) and totals[-1] < -1000


TRACED = """
import jax, numpy as np
from configs import catch
from experiments import launcher
from harmony_jax.agent import Agent
config = launcher.configure(catch, METHOD, 'tiny', 'catch', {'weighting.rule': RULE}, [])
assert (config.method, config.weighting.rule) == (METHOD, RULE)
agent = Agent.from_config(config, {'image': (64, 64, 3)}, 3, True)
shape = (config.batch_size, config.batch_length)
batch = {'image': np.zeros((*shape, 64, 64, 3), np.uint8), 'action': np.zeros((*shape, 3), np.float32),
         'reward': np.zeros(shape, np.float32)} | {name: np.zeros(shape, bool) for name in ('is_first', 'is_terminal')}
before = jax.eval_shape(agent.init, jax.random.key(0))
after, metrics = jax.eval_shape(agent.train_step, before, batch)
assert jax.tree.structure(after) == jax.tree.structure(before) and before.weighting.keys() == {*config.weighting.tasks}
print(*metrics)
"""


@pytest.mark.parametrize('how', ['traced', pytest.param('trained', marks=pytest.mark.slow)])
def test_own_method(how, tmp_path):
  """The edits of docs/own_method.md, applied to a copy of the code: the example is right there, and
  trains.
  """
  page = PAGES['docs/own_method.md']
  apply_edits(documents.blocks(page, 'diff'), tmp_path)
  words = shlex.split(
    next(command for command in documents.commands(page) if 'dreamerv3_plain_kl' in command)
  )
  method, rule = (
    next(word.partition('=')[2] for word in words if word.startswith(flag))
    for flag in ('--method', '--weighting')
  )
  code = '\n'.join(documents.blocks(page, 'python')) + (
    TRACED.replace('METHOD', repr(method)).replace('RULE', repr(rule))
    if how == 'traced'
    else f'import runpy, sys\nsys.argv = {words[2:]!r}\nrunpy.run_module({words[2]!r}, run_name="__main__")'
  )
  result = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=400,
    env=environment(PYTHONPATH=str(tmp_path)),
  )
  assert result.returncode == 0, (result.stdout, result.stderr)
  metrics = result.stdout
  if how == 'trained':
    assert 'complete: ' in result.stdout
    metrics = (tmp_path / f'runs/catch/catch/{method}-{rule}-tiny/seed0/metrics.jsonl').read_text()
  assert all(f'harmony/{task}/weight' in metrics for task in ('observation', 'reward', 'dynamics'))


def copy_code(folder):
  for name in ('harmony_jax', 'configs', 'experiments'):
    shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns('__pycache__'))


def apply_edits(edits, folder):
  """Copies the code to a folder and applies diffs whose first line names a file: there, or new."""
  copy_code(folder)
  assert len(edits) == 7
  for name, *lines in (edit.splitlines() for edit in edits):
    old, new = ('\n'.join(line[1:] for line in lines if line[:1] != other) for other in '+-')
    path = folder / name
    if not old:
      assert not path.exists(), name
      path.write_text(new + '\n', encoding='utf-8')
      continue
    text = path.read_text(encoding='utf-8')
    assert text.count(old) == 1, (
      f'docs/own_method.md changes lines of {name} that are not there: {old}'
    )
    path.write_text(text.replace(old, new), encoding='utf-8')


@pytest.mark.parametrize('how', ['made', pytest.param('trained', marks=pytest.mark.slow)])
def test_own_environment(how, tmp_path):
  """The class of docs/own_environment.md and the three edits that the page tells: its command
  starts, and trains.
  """
  page = PAGES['docs/own_environment.md']
  copy_code(tmp_path)
  (tmp_path / 'my_package.py').write_text(
    next(b for b in documents.blocks(page, 'python') if 'class Line' in b)
  )
  edit = lambda source, old, new, to: (tmp_path / to).write_text(
    re.sub(old, new, (tmp_path / source).read_text(encoding='utf-8'), count=1), encoding='utf-8'
  )
  suites = 'harmony_jax/envs/__init__.py'
  edit(suites, r'SUITES = {', "SUITES = {\n    'line': 'my_package:Line',", suites)
  edit(
    'configs/catch.py', r"= 'catch', 'task', 'catch'", "= 'line', 'task', 'line'", 'configs/line.py'
  )
  edit('configs/line.py', r'env=dict\([^)]*\)', 'env=dict(length=8)', 'configs/line.py')
  edit(
    'experiments/catch.py',
    r'(?s)^.*$',
    'from configs import line\nfrom experiments import launcher\n'
    "if __name__ == '__main__':\n  launcher.run(line)\n",
    'experiments/line.py',
  )
  words = shlex.split(
    next(command for command in documents.commands(page) if 'experiments.line' in command)
  )
  if how == 'made':  # without a step of training
    words[1:3] = [
      '-c',
      """
from configs import line
from experiments import launcher
from harmony_jax import envs
from harmony_jax.envs.check import check
from harmony_jax.training import loop

class Trainer:
  def __init__(self, config, folder, *others):
    self.config = config
  def run(self):
    check(envs.make(self.config.suite, self.config.task, 2, **self.config.env))
    print('complete: checked')

loop.Trainer = Trainer
launcher.run(line)
""",
    ]
  result = subprocess.run(
    [sys.executable, *words[1:]],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=400,
    env=environment(PYTHONPATH=str(tmp_path)),
  )
  assert result.returncode == 0 and 'complete: ' in result.stdout, (result.stdout, result.stderr)


def test_no_other_python():
  """Every page with Python has a test that runs it."""
  assert {page for page, text in PAGES.items() if documents.blocks(text, 'python')} <= {
    'README.md',
    'docs/quick_start.md',
    'docs/harmony_alone.md',
    'docs/own_method.md',
    'docs/own_environment.md',
  }  # the last: tests/envs_own_environment_test.py


# --------------------------------------------------------------------------------------------------
# Texts, numbers, links


def test_the_configuration_reference_is_up_to_date():
  assert (ROOT / 'docs/configuration.md').read_text(encoding='utf-8') == docs.configuration(), (
    'docs/configuration.md is not what configs/ say: python -m experiments.docs --output=docs'
  )


def test_every_setting_is_described(tmp_path):
  """Each field of each configuration has a comment; one without is named."""
  text = docs.configuration()
  for suite in docs.SUITES:
    benchmark = importlib.import_module(f'configs.{suite}')
    for field in configuration.flatten(benchmark.get_config('dreamerv2', 'paper').to_dict()):
      assert f'| `{field}`' in text, field
  source = tmp_path / 'some.py'
  source.write_text(
    'dict(\n  # all of it\n  a=dict(b=1, c=dict()),  # this\n  d=2)  # that\n'
    'X = {"e": dict(\n  f=3)}  # other\n'
  )
  assert docs.descriptions(source) == {
    'a': 'this',
    'a.b': 'this',
    'a.c': 'this',
    'd': 'that',
    'e.f': 'other',
  }
  with pytest.raises(UserError, match='no comment says what these settings mean: g'):
    docs.described(['d', 'g'], docs.descriptions(source))


def test_the_figure_shows_the_closed_forms(tmp_path):
  """Its numbers: minima by search on the drawn curves, weights by eq. 13 in NumPy."""
  found = docs.harmonious_losses()
  for name, best in (
    ('unrectified', lambda x: x),
    ('rectified', lambda x: (x + np.sqrt(x * (x + 4))) / 2),
  ):
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


def rows(page, head) -> list:
  """The rows of the table under a head, as lists of cells."""
  lines = PAGES[page].split(head, 1)[1].splitlines()[2:]
  cells = lambda line: [cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]]
  return [
    cells(line)
    for line in lines[: next(i for i, line in enumerate([*lines, '']) if not line.startswith('|'))]
  ]


def test_numbers_of_the_concepts():
  page, text = 'docs/concepts.md', PAGES['docs/concepts.md']
  head = '| run | observation | dynamics | reward |'
  assert text.count(head) == 2
  for part in text.split(head)[1:]:  # measured: as they stand in the results
    for line in part.splitlines()[2:4]:
      _, run_name, *cells, _ = [cell.strip() for cell in line.split('|')]
      source = PAGES[f'results/{"catch" if run_name.startswith("catch") else "dmc"}/README.md']
      for cell in cells:
        assert f'| {cell} |' in source, cell
  levels, *table = [
    line.split('|')[2:-1]
    for line in text.splitlines()
    if re.match(r'\| (L|weight|contribution)\b', line)
  ]
  levels = np.array(levels, float)
  for cells, wanted in zip(
    table, (1 / levels, harmony.optimal_weight(levels), harmony.optimal_scale(levels))
  ):
    np.testing.assert_allclose(np.array(cells, float), wanted, rtol=6e-3)
  v3, v2 = (
    configuration.flatten(common.METHODS[name]().to_dict()) for name in ('dreamerv3', 'dreamerv2')
  )
  shown = rows(page, '| setting | dreamerv3 | dreamerv2 | in words |')
  assert len(shown) > 10
  for field, first, second, _ in shown:
    field = field.strip('`')
    assert (docs.cell(v3[field]).strip('`'), docs.cell(v2[field]).strip('`')) == (first, second), (
      field
    )
    assert first != second, field
  for loss, factor, sigma in ((13.7, 1, '14.6'), (13.7, 6 / 5, '17.4')):
    assert sigma in text
    np.testing.assert_allclose(harmony.optimal_sigma(loss * factor), float(sigma), rtol=5e-3)


def test_quoted_messages_are_in_the_source():
  """A text with a space, quoted as a symptom in docs/troubleshooting.md, is one that the program
  prints, from its first word to its last.

  … is what differs; where a quotation begins or ends with it there may be more.
  """
  sources = [
    text
    for folder in ('harmony_jax', 'experiments', 'configs')
    for path in (ROOT / folder).rglob('*.py')
    for text in texts(path)
  ]
  makefile, count = (ROOT / 'Makefile').read_text(encoding='utf-8'), 0
  pattern = lambda span: re.compile(
    ('.*' if span[0] == '…' else '')
    + '.+'.join(map(re.escape, span.removeprefix('…').lstrip().split('…'))),
    re.S,
  )
  printed = lambda span: (
    any(pattern(span).fullmatch(source) for source in sources) or span.strip('… ') in makefile
  )
  assert printed('problem: …') and not printed('left out: …') and not printed('is damaged')
  for line in PAGES['docs/troubleshooting.md'].splitlines():
    for span in (
      re.findall(r'`([^`]+)`', re.split(r'(?<!\\)\|', line)[1]) if line.startswith('| ') else []
    ):
      if ' ' in span:
        count += 1
        assert printed(span), f'no message reads: {span}'
  assert count > 50


def texts(path):
  """The strings of a Python file; the placeholders of f-strings are a character that is in no
  message.
  """
  tree = ast.parse(path.read_text(encoding='utf-8'))
  known = {
    target.id: str(node.value.value)
    for node in tree.body
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    for target in node.targets
    if isinstance(target, ast.Name)
  }
  part = lambda value: (
    value.value
    if isinstance(value, ast.Constant)
    else known.get(getattr(value.value, 'id', ''), '\0')
  )
  for node in ast.walk(tree):
    if isinstance(node, ast.JoinedStr):
      yield ''.join(map(part, node.values))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      yield node.value


@pytest.mark.parametrize('page', [*PAGES, 'WORKSPACE.md'])
def test_links(page):
  """Links, pictures and anchors lead somewhere, and named tests exist."""
  path = ROOT / page
  text = path.read_text(encoding='utf-8')
  for target in documents.links(text):
    name, _, anchor = target.partition('#')
    file = (path.parent / name).resolve() if name else path
    assert file.exists(), target
    if anchor:
      assert anchor in documents.slugs(file.read_text(encoding='utf-8')), target
  for name, function in re.findall(r'`(tests/\w+\.py)(?:::(\w+))?', text):
    assert (ROOT / name).exists(), name
    assert not function or f'def {function}(' in (ROOT / name).read_text(), function


def test_every_page_is_in_the_index():
  index = PAGES['docs/README.md']
  for page in (name.partition('/')[2] for name in PAGES if name.startswith('docs/')):
    assert page == 'README.md' or f']({page})' in index, page
