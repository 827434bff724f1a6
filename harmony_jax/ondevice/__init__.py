"""Whole runs as programs of a device, in a pure-JAX environment, mapped over seeds and settings."""
