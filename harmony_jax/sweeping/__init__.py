"""Many jobs: each a command with run folders of its own, started where an executor can.

Nothing here knows suites, configurations or experiments, or imports JAX.
"""
