"""Configurations: a file per suite. A file with `SUITE` is a suite, and its name is its command."""
