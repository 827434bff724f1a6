#!/usr/bin/env bash
# The runs of README.md, one after the other: results/denoised_mdp/run.sh [more flags of `experiments.dmc`]
# The same command goes on where it was stopped.
set -euo pipefail
for seed in 0 1 2; do
  for method in denoised_mdp dreamerv2; do
    for weighting in none harmony; do
      "${PYTHON:-python}" -m experiments.dmc --task=walker_stand --background=video --preset=cpu --config.steps=8000 \
        --method=$method --weighting=$weighting --seed=$seed \
        --logdir="${STUDY:-runs/denoised_mdp}/$method-$weighting/seed$seed" "$@"
    done
  done
done
