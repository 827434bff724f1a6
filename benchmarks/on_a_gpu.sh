#!/usr/bin/env bash
# What a GPU is asked, most telling first; after every step all figures so far are packed into $OUT/figures.tgz, so that a visit
# that is cut short leaves what it measured, in one file.
#
#   OUT=figures BUDGET=570 bash benchmarks/on_a_gpu.sh      BUDGET: seconds; ONLY="step_f32 boxing": these steps alone;
#                                                           PRESET=tiny: to try it out, on a CPU as well
#   bash benchmarks/on_a_gpu.sh pack                        before it, for a machine that has JAX for CUDA and Python 3.12 but
#                                                           no network: puts what else is needed into .gpu/, which goes along
#                                                           (with the authors' recordings, where HARMONY_PARITY_DIR has them)
set -u
cd "$(dirname "$0")/.."
pack=$PWD/.gpu

if [ "${1:-}" = pack ]; then
  set -e
  names='gymnasium farama-notifications ale-py tensorboardX dm-haiku jmp flax optax chex orbax-checkpoint beartype submitit'
  wanted=() platforms=()
  for name in $names; do wanted+=("$(grep -iE "^${name//-/[-_]}==" constraints/python3.12.txt || echo "$name")"); done
  for tag in manylinux_2_{28,27,24,17}_x86_64 manylinux2014_x86_64 manylinux1_x86_64; do platforms+=(--platform "$tag"); done
  rm -rf "$pack"
  mkdir -p "$pack/wheels" "$pack/parity"
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
    -d "$pack/wheels" "${wanted[@]}"
  for name in v3_discrete_harmony v2_dmcr_harmony pro_gaussian; do
    cp "${HARMONY_PARITY_DIR:-none}/$name.npz" "$pack/parity/" 2>/dev/null || echo "without the recording $name"
  done
  du -sh "$pack"
  exit
fi

budget=${BUDGET:-570} preset=${PRESET:-paper} python=${PYTHON:-python3}
out=${OUT:?the folder that figures.tgz goes to}
temporary=$(mktemp -d)
back=$temporary/figures
mkdir -p "$out" "$back"
if ls "$pack"/wheels/*.whl > /dev/null 2>&1; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$temporary/site" "$pack"/wheels/*.whl
  export PYTHONPATH=$temporary/site
fi
export PYTHONUNBUFFERED=1 XLA_PYTHON_CLIENT_PREALLOCATE=false JAX_COMPILATION_CACHE_DIR=$temporary/programs
[ -d "$pack/parity" ] && export HARMONY_PARITY_DIR=$pack/parity

step() { # name, most seconds, command
  local name=$1 most=$2 left=$((budget - SECONDS)) begun=$SECONDS
  if [ -n "${ONLY:-}" ] && [[ " $ONLY " != *" $name "* ]]; then return; fi
  if [ $left -lt 25 ]; then
    echo "$name: not run, $left s are left" | tee -a "$back/steps.txt"
    return
  fi
  timeout -s TERM -k 10 $((most < left ? most : left)) bash -c "$3" > "$back/$name.txt" 2>&1
  echo "$name: exit $? after $((SECONDS - begun)) s" | tee -a "$back/steps.txt"
  tail -n 4 "$back/$name.txt"
  tar -czf "$temporary/figures.tgz" -C "$temporary" figures && mv "$temporary/figures.tgz" "$out/"
}

benchmark="$python -m experiments.benchmark --preset=$preset"
bfloat16=--config.compute_dtype=bfloat16
runs=$temporary/runs
step machine 60 "nvidia-smi -L; git rev-parse HEAD; $python -c 'import jax, flax, optax; print(jax.__version__, flax.__version__, optax.__version__, jax.devices())'"
step smoke 120 "$python -m experiments.catch --preset=tiny --config.video_every=0 --logdir=$runs/smoke"
step step_bf16 150 "$benchmark --what=train_step $bfloat16 --output=$back/step_bf16.json"
# Whether one launch for the loop of the dynamics pays.
step step_graph 150 "XLA_FLAGS=--xla_gpu_enable_command_buffer=+WHILE $benchmark --what=train_step $bfloat16 --output=$back/step_graph.json"
# Kernels of the dynamics that no GPU had run: the other form's numbers, and in how many milliseconds.
step fused 60 "JAX_DEFAULT_MATMUL_PRECISION=highest $python -m pytest -q -x -p no:cacheprovider tests/recurrence_test.py -k 'in_kernels and how1'"
step step_fused 150 "$benchmark --what=train_step $bfloat16 --config.rssm.recurrence=fused --output=$back/step_fused.json"
step step_f32 150 "$benchmark --what=train_step --output=$back/step_f32.json"
step parity 150 "JAX_DEFAULT_MATMUL_PRECISION=highest $python -m pytest -q -x -s -p no:cacheprovider tests/parity_test.py -k v3_discrete_harmony"
step boxing 220 "$python -m experiments.atari100k --game=Boxing --preset=$preset $bfloat16 --config.video_every=0 --config.eval_every=2500 --config.eval_episodes=10 --config.log_every=100 --logdir=$runs/boxing; cp $runs/boxing/metrics.jsonl $back/boxing_metrics.jsonl; cp $runs/boxing/scores.jsonl $back/boxing_scores.jsonl"
step acting 90 "$benchmark --what=policy --output=$back/acting.json; $benchmark --what=replay --output=$back/replay.json"
step seeds 120 "$python -m experiments.catch --preset=cpu --num_seeds=8 --config.steps=6000 --config.eval_episodes=20 --config.video_every=0 --logdir=$runs/seeds"
# Expected: benchmarks/NOTES.md, "Whole runs as one program".
step study 480 "STUDY=$runs/study PYTHON=$python bash results/ondevice/run.sh gpu; cp -r $runs/study/gpu/results $back/study"
step tests 200 "JAX_DEFAULT_MATMUL_PRECISION=highest $python -m pytest -q -p no:cacheprovider tests/dreamer_test.py tests/harmony_test.py tests/device_replay_test.py tests/seeds_test.py"
echo "$SECONDS of $budget s; $out/figures.tgz"
