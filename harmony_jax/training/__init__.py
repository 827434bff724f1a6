"""Everything with side effects: the training loop, run folders, checkpoints, logs, videos."""
