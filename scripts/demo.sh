#!/usr/bin/env bash
# From a fresh clone to a trained, sampled and scored AVID adapter on real CoinRun, on a CPU, in under 15 minutes.
#
# Usage: scripts/demo.sh [RUN_DIR]            (default: runs/demo; made anew if it is there and finished or stopped)
#   AVID_DEMO_MINUTES=6   minutes of adapter training
set -euo pipefail
case ${1:-} in
  --help | -h) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
  -*) echo "demo: unknown option $1 | see --help" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
run=${1:-runs/demo}
minutes=${AVID_DEMO_MINUTES:-6}
started=$(date +%s)
say() { printf '\n== %s  (%d s)\n' "$1" $(($(date +%s) - started)); }

base=data/pretrained/base32.safetensors
shipped=data/pretrained/coinrun32_adapter.safetensors
train=data/samples/coinrun32-train-hold.h5
heldout=data/samples/coinrun32-heldout-hold.h5
avid=build/avid

say "set-up and build"
./scripts/setup.sh
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build build --target avid
$avid info

say "data: real CoinRun episodes shipped with the project (data/samples/README.md says how they were made)"
echo "actions are held for 4 steps on average, so that what they do can be seen within a clip of 8 frames"
$avid inspect $train
$avid inspect $heldout

say "training an adapter for $minutes minutes; the base ($base) stays frozen and never saw an action or CoinRun"
if [ -e "$run" ]; then
  mv "$run" "$run.$(date +%Y%m%d-%H%M%S)"
  echo "an earlier $run was kept under another name"
fi
$avid train --config configs/demo_adapter.toml --run "$run" --set train.time_limit_minutes="$minutes"

pictures() {  # name, options that choose the model: held-out clips, and the same start frames under three orders
  local name=$1 action
  shift
  $avid sample "$@" --data $heldout --clips 6 --steps 20 --seed 24 --out "$run/pictures/${name}_heldout"
  for action in none right jump; do  # seed 19: nearly every agent stands on the ground, where it can jump
    $avid sample "$@" --data $heldout --clips 6 --steps 20 --seed 19 --actions "$action*8" \
      --out "$run/pictures/${name}_$action"
  done
}
say "pictures of this demo's adapter"
pictures demo --run "$run"
say "the same of the shipped adapter, which learned for 78 minutes"
pictures shipped --base $base --adapter $shipped

say "scores on held-out levels; shuffled: under the actions of other clips, which hurts who follows actions"
$avid evaluate --run "$run" --name "this demo" --also "shipped=$shipped" --data $heldout --clips 96 --steps 10 \
  --shuffle-actions --out "$run/scores.json"

say "done"
cat <<EOF
Look at:
  $run/report.html                        the training run: curves, samples, settings (opens offline)
  $run/pictures/demo_heldout/strip.png    held-out clips: conditioning, real, base, this demo's adapter, mask
  $run/pictures/demo_none/strip.png       this demo's adapter, told to do nothing ...
  $run/pictures/demo_jump/strip.png       ... and, from the same start frames, to jump; demo_right/: to go right
  $run/pictures/shipped_*/strip.png       the same of the shipped adapter
  $run/scores.json                        the table above, with every setting
The picture is centred on the agent: when it jumps, the ground falls away. Jumps are learned first; of these start frames
most have a step that ends a walk to the right. Repeat-last-frame is hard to beat in PSNR, as many clips stand still.
EOF
