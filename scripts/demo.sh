#!/usr/bin/env bash
# From a fresh clone to a trained, sampled and scored AVID adapter on real CoinRun, on a CPU, in under 15 minutes.
#
# Usage: scripts/demo.sh [RUN_DIR]            (default: runs/demo; made anew if it is there and finished or stopped)
#   AVID_DEMO_MINUTES=6   minutes of adapter training
set -euo pipefail
cd "$(dirname "$0")/.."
run=${1:-runs/demo}
minutes=${AVID_DEMO_MINUTES:-6}
started=$(date +%s)
say() { printf '\n== %s  (%d s)\n' "$1" $(($(date +%s) - started)); }

base=data/pretrained/base32.safetensors
shipped=data/pretrained/coinrun32_adapter.safetensors
heldout=data/samples/coinrun32-heldout.h5
held_actions=data/samples/coinrun32-heldout-hold.h5
avid=build/avid

say "set-up and build"
./scripts/setup.sh
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build build --target avid
$avid info

say "data: real CoinRun episodes shipped with the project (data/samples/README.md says how they were made)"
$avid inspect data/samples/coinrun32-train.h5
$avid inspect $heldout

say "training an adapter for $minutes minutes; the base ($base) stays frozen and never saw an action or CoinRun"
if [ -e "$run" ]; then
  mv "$run" "$run.$(date +%Y%m%d-%H%M%S)"
  echo "an earlier $run was kept under another name"
fi
$avid train --config configs/demo_adapter.toml --run "$run" --set train.time_limit_minutes="$minutes"

say "pictures"
$avid sample --run "$run" --data $heldout --clips 6 --steps 20 --seed 4 --out "$run/pictures/heldout"
for action in right left jump; do
  $avid sample --base $base --adapter $shipped --data $held_actions --clips 6 --steps 20 --seed 7 --actions "$action*8" \
    --out "$run/pictures/shipped_$action"
done

say "does the shipped adapter follow actions? the same levels with actions held for 4 steps; true against shuffled actions"
$avid evaluate --base $base --adapter $shipped --name shipped --data $held_actions --clips 96 --steps 10 \
  --shuffle-actions --out "$run/scores_held_actions.json"

say "scores on held-out levels"
$avid evaluate --run "$run" --name "this demo" --also "shipped=$shipped" --data $heldout --clips 96 --steps 10 \
  --shuffle-actions --out "$run/scores.json"

say "done"
cat <<EOF
Look at:
  $run/report.html                         the training run: curves, samples, settings (opens offline)
  $run/pictures/heldout/strip.png          held-out clips: conditioning, real, base, this demo's adapter, mask
  $run/pictures/shipped_right/strip.png    the shipped adapter from the same start frames, told to go right ...
  $run/pictures/shipped_left/strip.png     ... and told to go left; shipped_jump/strip.png: to jump
  $run/scores.json                         the last table above, with every setting
  $run/scores_held_actions.json            the one before it
EOF
