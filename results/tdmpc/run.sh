#!/usr/bin/env bash
# The study of README.md, one part at a time: results/tdmpc/run.sh states|pixels [more flags of `experiments.sweep`]
# The same command goes on where it was stopped.
set -euo pipefail
part=${1:?one of states, pixels}
shift
sweep() {
  "${PYTHON:-python}" -m experiments.sweep --suite=dmc --tasks=walker_stand --preset=cpu --seeds=3 --weighting=none,harmony \
    --root="${STUDY:-runs/tdmpc}/$part" --workers=1 "$@"
}
case $part in
  states) sweep --methods=tdmpc,dreamerv2 --config.env.observe=state "$@" ;;
  pixels) sweep --methods=tdmpc "$@" ;;
esac
