"""What the pages of the documentation contain: blocks, commands, links, headings."""

import pathlib
import re
import shlex
import textwrap

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {
  str(path.relative_to(ROOT)): path.read_text(encoding='utf-8')
  for pattern in ('README.md', 'docs/*.md', 'results/*/README.md', 'benchmarks/*.md')
  for path in sorted(ROOT.glob(pattern))
}
BEGINNING = re.compile(
  r'(?:\w+=\S+ +)*(?:srun .*?)?'
  r'(?:python -m|harmony|make|(?:uv )?pip|\.venv/bin/pip|tensorboard|python -c) [^\s=]'
)


def split(text: str) -> tuple[list[tuple[str, str]], str]:
  """Return the fenced blocks, (language, code without indentation), and the text between them."""
  found, prose, inside, language = [], [], None, ''
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


def blocks(text: str, language: str) -> list[str]:
  """Return the fenced blocks of a language."""
  return [code for name, code in split(text)[0] if name == language]


def commands(text: str) -> list[str]:
  """Return every command of a page: in blocks without a language, indented, and within a line."""
  code, prose = '\n'.join(blocks(text, '')), split(text)[1]
  code += '\n' + '\n'.join(re.findall(r'^    (.*)$', prose, re.M))
  lines = re.sub(r'\s*\\\n\s*', ' ', code).splitlines()
  lines += [' '.join(span.split()) for span in re.findall(r'`([^`]+)`', prose.replace('\\|', '¦'))]
  lines = [re.split(r'\s{2,}[#(]|\s#\s', line.strip())[0].strip() for line in lines]
  return list(dict.fromkeys(line for line in lines if BEGINNING.match(line)))


def words_of(command: str) -> list[str]:
  """Return the words of a command from its program on, with a number for S and without …"""
  words = [word.replace('=S', '=0') for word in shlex.split(command) if word != '…']
  programs = [at for at, word in enumerate(words) if word in ('python', 'harmony')]
  words = words[programs[0] if programs else words[0] == 'uv' :]
  return ['python', '-m', 'experiments', *words[1:]] if words[0] == 'harmony' else words


def slugs(text: str) -> set[str]:
  """Return the anchors that GitHub makes of a page's headings."""
  heads = re.findall(r'^#+ +(.+?) *$', split(text)[1], re.M)
  return {re.sub(r'[^\w\- ]', '', head.lower()).replace(' ', '-') for head in heads}


def links(text: str) -> list[str]:
  """Return the targets of links and pictures that are files or anchors."""
  targets = re.findall(r'\]\(([^)\s]+)\)', split(text)[1])
  return [target for target in targets if not re.match(r'\w+:', target)]
