"""Errors that are the user's to fix, not the program's."""


class UserError(Exception):
  """A mistake in a command, a configuration or a folder.

  The text is one line that says what is wrong and what would be right. The
  launcher prints it alone, without a traceback, and exits with status 2.
  """
