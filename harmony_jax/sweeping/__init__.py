"""Many runs: what a sweep runs (`plan`), where (`local`, `rays`, `slurm`), and how it is followed
(`board`).

Every run is a child process of the ordinary entry point, with its ordinary run folder; nothing here
knows the agent or imports JAX. `job.Worker` looks after one child, whichever engine it runs under.
"""
