#!/usr/bin/env bash
# The study of README.md: results/ondevice/run.sh cpu|quick|gpu   [more flags of `experiments.study`, such as --estimate]
# The same command goes on where it was stopped. RULES=running_tied runs another rule with the same seeds, RULES= those of --variant alone.
set -euo pipefail
part=${1:?cpu, quick or gpu}
shift
python=${PYTHON:-python}
here=${STUDY:-studies/ondevice}
case $part in
  cpu)
    sizes=(--preset=debug --seeds=10 --config.steps=6000 --config.env.size=4 --config.env.ball=8
      --config.eval_every=1500 --config.eval_episodes=64 --config.final_eval_episodes=200 --config.log_every=600)
    ;;
  quick)
    sizes=(--preset=debug --seeds=10 --config.steps=6400 --config.env.size=4 --config.env.ball=8 --config.env.distractors=2
      --config.actor_opt.lr=1e-3 --config.critic_opt.lr=1e-3 --config.eval_every=800 --config.eval_episodes=64
      --config.final_eval_episodes=200 --config.log_every=800)
    ;;
  gpu) sizes=(--preset=cpu --seeds=32 --config.eval_episodes=64 --config.env.ball=3 --config.env.paddle=6) ;;
  *)
    echo "cpu, quick or gpu, not $part" >&2
    exit 2
    ;;
esac
"$python" -m experiments.study --env=catch --rules="${RULES-none,fixed:100,harmony}" "${sizes[@]}" --output="$here/$part" "$@"
