#!/usr/bin/env bash
# The study of PLAN.md, one part at a time: results/harmony/run.sh
#   cartpole|rates|tie|second|sizes|scales|walker|video|walker_video|lever|catch|clip|bounds|free
#   [more flags of `experiments.offline train`, such as --seeds=3]
# The same command goes on where it was stopped; several at once share the runs. RULES=five, six, seven, first or others does a part of the
# rules (`second` does five without it, `scales` its own five), FIRST=1 the first buffer alone.
set -euo pipefail
part=${1:?one of cartpole, rates, tie, second, sizes, scales, walker, video, walker_video, lever, catch, clip, bounds, free}
shift
here=${STUDY:-runs/harmony}
python=${PYTHON:-python}
mkdir -p "$here"

record() { # file, flags
  local file=$here/$1.npz
  shift
  [ -e "$file" ] || "$python" -m experiments.offline record --policy=smooth --output="$file" "$@"
}

train() { # study, flags
  local study=$1
  shift
  "$python" -m experiments.offline train --output="$here/$study" --updates=4000 --measure_every=500 \
    --config.encoder.depth=16 --config.decoder.depth=16 --config.rssm.deter=128 --config.rssm.units=96 \
    --config.rssm.stoch=8 --config.rssm.classes=16 --config.batch_size=8 --config.batch_length=12 \
    --config.model_opt.lr=1e-3 "$@"
}

both() { # the buffers of a setting; FIRST=1 takes the first alone
  if [ -n "${FIRST:-}" ]; then echo "$here/${1}0.npz"; else echo "$here/${1}0.npz,$here/${1}1.npz"; fi
}

on_catch() { # when rewarded, flags: the preset's own model of DreamerV3
  local rewarded=$1
  shift
  "$python" -m experiments.offline train --output="$here/catch_$rewarded" --method=dreamerv3 --updates=1500 --measure_every=250 \
    --context=4 --horizon=3 --config.batch_length=8 --buffer="$(both "catch_$rewarded")" --seeds=3 "$@"
}

fixed() { echo "--variant=$1: weighting.rule=fixed weighting.w_o=$2 weighting.w_r=$3"; }
first=(--weighting=none,harmony,running_tied,running_tied_unrectified "$(fixed w100 1 100)" "$(fixed reward_only 0 100)"
  "$(fixed w10 1 10)" "$(fixed w1000 1 1000)" "--variant=harmony_x10: weighting.rule=harmony weighting.rate=10")
others=(--weighting=harmony_unrectified,reciprocal,running,running_elbo,uncertainty,dwa,nash_mtl,gradnorm)
for rule in uncertainty_library dwa_epochs running_unrectified running_elbo_unrectified; do
  others+=("--variant=$rule: weighting.rule=$rule")
done
early="--variant=harmony_early: weighting.rule=harmony weighting.rate=10 weighting.calibrate=8"
five=(--weighting=none,harmony,running_tied "$(fixed w100 1 100)" "$early")
six=(--weighting=uncertainty,dwa,nash_mtl "$(fixed w10 1 10)" "$(fixed w1000 1 1000)" "$(fixed reward_only 0 100)")
seven=("${six[@]}" "$early")
bounds=()
for memory in 10:0.9 1000:0.999; do
  bounds+=("--variant=memory_${memory%:*}: weighting.rule=equilibrium weighting.decay=${memory#*:}")
done
for ratio in 100:0.01 10:0.1; do
  bounds+=("--variant=ratio_${ratio%:*}: weighting.rule=equilibrium weighting.least=${ratio#*:}")
done
scaled=(--weighting=none,harmony,running_tied,running_tied_unrectified "$(fixed w100 1 100)")

case $part in
  cartpole | rates | tie | second | sizes | scales | clip)
    for seed in 0 1; do
      record "cartpole$seed" --suite=dmc --task=cartpole_swingup --config.env.render=fast --seed=$seed
    done
    ;;
  walker)
    for seed in 0 1; do
      record "walker$seed" --suite=dmc --task=walker_stand --config.env.render=fast --episodes=300 --seed=$seed
    done
    ;;
  video | walker_video)
    task=cartpole_swingup episodes=400
    [ "$part" = video ] || { task=walker_stand episodes=300; }
    for seed in 0 1; do
      record "$part$seed" --suite=dmc --task=$task --config.env.render=fast --config.env.background=video --episodes=$episodes --seed=$seed
    done
    ;;
  lever)
    for seed in 0 1; do record "lever$seed" --suite=metaworld --task=lever_pull --seed=$seed; done
    ;;
  catch) # random games of seven steps, with the reward at the end of one and at every step
    for seed in 0 1; do
      for rewarded in end steps; do
        file=$here/catch_$rewarded$seed.npz
        [ -e "$file" ] || "$python" -m experiments.offline record --output="$file" --suite=catch --episodes=1000 --seed=$seed \
          --config.env.rewarded=$rewarded
      done
    done
    ;;
esac

case $part in
  rates)
    variants=()
    for rate in 1 3 10 30 100; do
      variants+=("--variant=rate$rate: weighting.rule=harmony weighting.rate=$rate")
      variants+=("--variant=rate${rate}_closed: weighting.rule=harmony weighting.rate=$rate weighting.calibrate=8")
    done
    train rates --buffer="$here/cartpole0.npz" --seeds=3 "${variants[@]}" "$@"
    ;;
  tie) # beside the rates: the same buffer and seeds
    train rates --buffer="$here/cartpole0.npz" --seeds=3 --weighting=none,harmony_tied,running,running_tied \
      "--variant=harmony_tied_x10: weighting.rule=harmony_tied weighting.rate=10" "$@"
    ;;
  sizes) # a half and twice the width of everything; later flags count
    for width in half double; do
      sizes=(8 64 48) && [ $width = half ] || sizes=(32 256 192)
      train "cartpole_$width" --buffer="$(both cartpole)" --seeds=3 --weighting=none,harmony,running_tied "$(fixed w100 1 100)" \
        --config.encoder.depth=${sizes[0]} --config.decoder.depth=${sizes[0]} --config.rssm.deter=${sizes[1]} \
        --config.rssm.units=${sizes[2]} "$@"
    done
    ;;
  clip) # each rule with the largest norm of a gradient that the preset has, and with none
    variants=()
    for rule in none harmony equilibrium; do
      variants+=("--variant=$rule: weighting.rule=$rule" "--variant=${rule}_unclipped: weighting.rule=$rule model_opt.clip=1e9")
    done
    train clip --buffer="$(both cartpole)" --seeds=3 "${variants[@]}" "$@"
    ;;
  bounds) # on the buffers of second, walker, lever and catch, which record them
    for task in cartpole:rates walker:walker lever:lever; do
      train "${task#*:}" --buffer="$(both "${task%:*}")" --seeds=3 "${bounds[@]}" "$@"
    done
    on_catch end "${bounds[@]}" "$@"
    ;;
  free) # closed forms of three tasks with free nats where there are none, and without them where there are
    with="losses.free_nats=1" without="losses.free_nats=0"
    train lever --buffer="$(both lever)" --seeds=3 "--variant=running_free: weighting.rule=running $with" \
      "--variant=nash_mtl_free: weighting.rule=nash_mtl $with" "$@"
    train rates --buffer="$(both cartpole)" --seeds=3 "--variant=running_unfree: weighting.rule=running $without" "$@"
    ;;
  catch)
    for rewarded in end steps; do
      on_catch $rewarded --weighting=none,harmony,equilibrium,nash_mtl "$(fixed w100 1 100)" "$@"
    done
    ;;
  scales)
    chosen="${RULES:-scaled}[@]"
    for scale in 0.1 10; do
      train "cartpole_x$scale" --buffer="$(both cartpole)" --seeds=3 --reward_scale=$scale "${!chosen}" "$@"
    done
    [ -n "${RULES:-}" ] || train rates --buffer="$(both cartpole)" --seeds=3 --weighting=running_tied_unrectified "$@"
    ;;
  *) # the rules of RULES, or the first and then the others
    study=$part buffers=$part rules=${RULES:-first others} seeds=5
    case $part,$rules in second,* | *,five | *,six) seeds=3 ;; esac
    if [ "$part" = second ]; then # beside the rates, by the names that rules have there
      study=rates buffers=cartpole rules=${RULES:-five}
      five=(--weighting=none,running_tied "$(fixed w100 1 100)" "--variant=rate1: weighting.rule=harmony weighting.rate=1"
        "--variant=rate10_closed: weighting.rule=harmony weighting.rate=10 weighting.calibrate=8")
      others+=("--variant=gradnorm_kept: weighting.rule=gradnorm")
    fi
    for name in $rules; do
      chosen="$name[@]"
      train "$study" --buffer="$(both "$buffers")" --seeds=$seeds "${!chosen}" "$@"
    done
    ;;
esac
