"""What `experiments.benchmark` measures, for any method that follows the protocol."""
