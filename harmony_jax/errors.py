"""Errors that are the user's to fix, not the program's."""

FAULTS = (Exception, SystemExit)  # of foreign code: some environments close their window and exit


class UserError(Exception):
  """A mistake in a command, a configuration or a folder.

  The text is one line that says what is wrong and what would be right. The
  launcher prints it alone, without a traceback, and exits with `exit_code`.
  """

  exit_code = 2

  def __init__(self, text: str):
    super().__init__(one_line(text))


class EnvironmentFault(UserError, RuntimeError):
  """What an environment did wrong; its `__cause__` is what it raised itself, if it did."""


class InUse(UserError):
  """A folder in which another process works: the same command will do once that has ended."""

  exit_code = 73  # EX_CANTCREAT of sysexits.h


def one_line(text: str) -> str:
  """A text that may quote anything (a mistyped flag, a damaged file) as one line of characters that
  print.
  """
  return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in ' '.join(text.split()))


def raised(error: BaseException) -> str:
  """An exception in one line, 'ValueError: its text'."""
  text = one_line(str(error))
  return f'{type(error).__name__}: {text}' if text else type(error).__name__
