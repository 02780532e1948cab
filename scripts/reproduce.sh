#!/usr/bin/env bash
# The paper's CoinRun tables from one command: train every model, sample, score, and set the numbers beside the paper's.
#
# Usage: scripts/reproduce.sh [--budget minutes|hours|paper] --out DIR [--rescore] [--actions uniform|hold]
#                             [--table 1|3|4|5|6 | --figure mask|strips|normalised|data | all]
#
#   minutes  all methods, networks and frames as small as they go (a base trained here, 16x16, 10 diffusion steps): shows
#            that everything works, says nothing about the methods. 3.3 minutes on two cores shared with other work.
#   hours    32x32 frames, 200 diffusion steps; base and judge of actions are the shipped ones. The same
#            AVID_REPRODUCE_UPDATES (1000) of 8 clips for each model, however busy the machine is: a second run gives the
#            same numbers. Frames are the shipped samples, or, with --actions hold, collected here (the game library is
#            needed): an action is then held for 4 steps on average. Uniform actions, the paper's, mostly cancel within 8
#            frames, and take far longer to learn from.
#   paper    the published sizes at 64x64, 260,000 + 200,000 updates a model. Needs the game library and much time on a GPU.
#
# Every stage leaves a mark in DIR/done when it is finished; the same command goes on where it stopped, in the middle of
# a training too. The result is DIR/report.html and DIR/report.json.
# Scores: every metric whose weights are there (AVID_WEIGHTS, see avid weights), and from 32x32 frames up the project's
# own fid_procgen and fvd_procgen, which need no download. Generated clips are kept in DIR/kept: --rescore scores every
# row again without sampling, for example when weights have come since.
# AVID_REPRODUCE_REPLAY=1 stores no frames of the 15 games of pretraining (369 GB): they are played again when they are read.
# AVID=path of the program (default build/avid); AVID_DEVICE=cpu|cuda|cuda:N where networks compute (default cpu);
# AVID_REPRODUCE_DRY=1 prints the plan and the cost, and stops.
set -euo pipefail
{  # read as a whole before anything runs: the file may change while this takes its hours
cd "$(dirname "$0")/.."

show_help() { sed -n '2,/^set -/p' "$0" | sed '$d; s/^# \{0,1\}//'; }
usage() {
  show_help >&2
  exit 2
}
budget=minutes out= what=all rescore= actions=uniform
while [ $# -gt 0 ]; do
  case $1 in
    --budget) budget=${2:-}; shift 2 || usage ;;
    --out) out=${2:-}; shift 2 || usage ;;
    --table | --figure) what="${1#--} ${2:-}"; shift 2 || usage ;;
    --rescore) rescore=yes; shift ;;
    --actions) actions=${2:-}; shift 2 || usage ;;
    all) what=all; shift ;;
    -h | --help) show_help; exit 0 ;;
    *) usage ;;
  esac
done
[ -n "$out" ] || usage
case $budget in minutes | hours | paper) ;; *) echo "reproduce: --budget: expected minutes, hours or paper, got '$budget'" >&2; exit 2 ;; esac
case $budget:$actions in
  *:uniform | hours:hold) ;;
  *:hold) echo "reproduce: --actions hold: only with --budget hours, got --budget $budget" >&2; exit 2 ;;
  *) echo "reproduce: --actions: expected uniform or hold, got '$actions'" >&2; exit 2 ;;
esac
case $what in
  all | "table 1" | "table 3" | "table 4" | "table 5" | "table 6") ;;
  "figure mask" | "figure strips" | "figure normalised" | "figure data") ;;
  *) echo "reproduce: expected --table 1, 3, 4, 5 or 6, or --figure mask, strips, normalised or data, got '$what'" >&2; exit 2 ;;
esac
avid=${AVID:-build/avid} device=${AVID_DEVICE:-cpu}
[ -x "$avid" ] || { echo "reproduce: $avid: no such program | build it (README) or set AVID" >&2; exit 1; }
dry=${AVID_REPRODUCE_DRY:-}  # leaves nothing behind
if [ -z "$dry" ]; then
  mkdir -p "$out" 2>/dev/null && [ -w "$out" ] ||
    { echo "reproduce: $out: cannot be made, or not written to | name another --out" >&2; exit 1; }
  mkdir -p "$out/done" "$out/runs" "$out/scores" "$out/pictures" "$out/logs"
  exec 9>"$out/lock"
  # The wait is for children of a killed run, which hold the lock until they are gone.
  flock -w 10 9 || { echo "reproduce: $out: another reproduce.sh works there | wait for it, or name another --out" >&2; exit 1; }
fi
begun="$budget"
[ "$actions" = uniform ] || begun="$budget --actions $actions"
if [ -f "$out/budget" ] && [ "$(cat "$out/budget")" != "$begun" ]; then
  echo "reproduce: $out: begun with --budget $(cat "$out/budget") | use that, or another --out" >&2
  exit 1
fi
[ -n "$dry" ] || echo "$begun" >"$out/budget"

# ---- what a budget means: data, sizes, and how long ----
samples=data/samples
collected=no  # yes: training frames are collected here, for each data set its own; no: they are those of train_data
updates=${AVID_REPRODUCE_UPDATES:-1000}
[[ $updates =~ ^[1-9][0-9]*$ ]] || { echo "reproduce: AVID_REPRODUCE_UPDATES: expected a number of updates, got '$updates'" >&2; exit 2; }
# LPIPS, FID and FVD as well where their weights are (AVID_WEIGHTS, see avid weights), fid_procgen and fvd_procgen with
# the shipped encoder; what cannot be computed is left out, and the report says why.
metrics=(--metrics all)
# Its clips of 2 + 4 frames are too short for FVD (9), its 16x16 frames too small for the Procgen encoder (32x32).
[ "$budget" != minutes ] || metrics=(--metrics mse,psnr,ssim)
case $budget in
  minutes)
    base=$out/runs/base judge=$out/runs/classifier_eval clips=6 frames=4 size=16 batch=6
    ddpm=(--sampler ddpm) fast=(--sampler ddpm)
    train_data=$samples/coinrun32-train.h5 heldout=$samples/coinrun32-heldout.h5
    levels_coinrun100k=32 levels_coinrun500k=96 levels_coinrun2500k=0
    common=(data.size=16 data.frames=4 diffusion.timesteps=10 diffusion.loss_weight=none train.updates=24 train.batch=4
      train.accumulate=1 train.lr=2e-3 train.warmup=4 ema.update_every=1 ema.update_after=4 checkpoint.every=8
      checkpoint.keep=1 validation.every=0 samples.every=0 samples.steps=5 log.every=8 log.tensorboard=false)
    u22=(model.width=8 "model.multipliers=[1,2]" model.heads=1 model.head_dim=8)
    u71=(model.width=12 "model.multipliers=[1,2]" model.heads=1 model.head_dim=8)
    small_control=(model.width=8 model.heads=1 model.head_dim=8)
    classifier=(model.width=8 "model.multipliers=[1,2]" model.heads=1 model.head_dim=8 model.mlp=32) ;;
  hours)
    base=data/pretrained/base32.safetensors judge=data/pretrained/coinrun32_classifier.safetensors
    clips=${AVID_REPRODUCE_CLIPS:-96} frames=8 size=32 ddpm=(--sampler ddpm)
    fast=(--sampler ddim --steps 20) batch=8 train_data=$samples/coinrun32-train.h5 heldout=$samples/coinrun32-heldout.h5
    levels_coinrun100k=32 levels_coinrun500k=96 levels_coinrun2500k=0
    common=(data.size=32 diffusion.loss_weight=none "train.updates=$updates" "train.cooldown=$((updates * 3 / 10))" train.batch=8 train.accumulate=1 train.lr=1e-3
      train.warmup=50 ema.decay=0.999 ema.update_every=1 ema.update_after=20 checkpoint.every=200 checkpoint.keep=2
      validation.every=0 samples.every=0 log.every=20)
    u22=(model.width=12 "model.multipliers=[1,2,4]" model.heads=2 model.head_dim=32)
    u71=(model.width=20 "model.multipliers=[1,2,4]" model.heads=2 model.head_dim=32)
    small_control=(model.width=12 model.heads=2 model.head_dim=32)
    classifier=(model.width=16 "model.multipliers=[1,2,4]" model.heads=2 model.head_dim=32 model.mlp=128)
    if [ "$actions" = hold ]; then
      collected=yes heldout=$samples/coinrun32-heldout-hold.h5
      levels_coinrun100k=0 levels_coinrun500k=0  # each has its own frames
    fi ;;
  paper)
    base=$out/runs/base judge=$out/runs/classifier_eval clips=1024 frames=8 size=64 batch=16
    ddpm=(--sampler ddpm) fast=(--sampler ddpm)
    collected=yes heldout=$out/data/coinrun-test common=() u22=() u71=() small_control=() classifier=() ;;
esac
overrides_of() {  # configuration -> the budget's keys for its kind
  local config=$1
  [ "$budget" = paper ] && return
  printf '%s\n' "${common[@]}" data.resets=exclude data.windows=full
  [ $collected = yes ] || printf '%s\n' "data.train=$train_data" "data.validation=$heldout"
  case $config in
    *controlnet_small) printf '%s\n' "${small_control[@]}" ;;
    *controlnet | *finetune) ;;
    classifier*) printf '%s\n' "${classifier[@]}" ;;
    *_71m) printf '%s\n' "${u71[@]}" ;;
    base) printf '%s\n' "${u22[@]}" ;;
    *) printf '%s\n' "${u22[@]}" ;;
  esac
  case $config in
    coinrun*) local key=levels_${config%%_*}; printf 'data.levels=%s\n' "${!key}" ;;
  esac
}
data_of() {  # configuration -> where the data lie that are collected here
  case $1 in
    base) echo "data.train=$out/data/procgen15" "data.validation=$out/data/procgen15-test" ;;
    classifier_eval*) echo "data.train=$out/data/coinrun10m" "data.validation=$heldout" ;;
    classifier_noisy) echo "data.train=$out/data/coinrun500k" "data.validation=$heldout" ;;
    *) echo "data.train=$out/data/${1%%_*}" "data.validation=$heldout" ;;
  esac
}

# ---- what is needed for what was asked ----
main22="avid_22m scratch_22m" main71="avid_71m scratch_71m" both="controlnet_small controlnet finetune"
case $what in
  "table 4") wanted=(coinrun100k) ;;
  "table 5") wanted=(coinrun2500k) ;;
  "figure normalised" | "figure data" | all) wanted=(coinrun500k coinrun100k coinrun2500k) ;;
  *) wanted=(coinrun500k) ;;
esac
models_of() {  # data set -> its methods, in the order in which they can be made
  case "$what:$1" in
    "table 3:"* | "table 6:"*) echo avid_22m avid_71m avid_no_mask_22m avid_no_mask_71m avid_no_cond_22m avid_no_cond_71m ;;
    "figure mask:"* | "figure strips:"*) echo avid_22m avid_71m ;;
    "table 1:"*) echo base $main22 $main71 $both cfg_22m cfg_71m poe_22m poe_71m classifier_guidance ;;
    *:coinrun500k)
      echo base $main22 $main71 $both cfg_22m cfg_71m poe_22m poe_71m classifier_guidance avid_no_mask_22m avid_no_mask_71m \
        avid_no_cond_22m avid_no_cond_71m ;;
    *) echo base $main22 $main71 $both ;;
  esac
}
network_of() {  # method -> the configuration of the network that it trains; empty for none
  case $2 in
    base) [ "$budget" = hours ] || echo base ;;
    poe_*) echo "$1_scratch_${2#poe_}" ;;
    classifier_guidance) echo classifier_noisy ;;
    *) echo "$1_$2" ;;
  esac
}

started=$(date +%s)
say() { printf '%s  %s\n' "$(printf '%4d s' $(($(date +%s) - started)))" "$1"; }
stage() {  # name, command...: runs it unless it is done; its words go to a log
  local name=$1
  shift
  [ -e "$out/done/$name" ] && return
  say "$name"
  if ! "$@" >"$out/logs/$name.log" 2>&1; then
    echo "reproduce: $name failed | the same command goes on from here; what it said last ($out/logs/$name.log):" >&2
    tail -n 3 "$out/logs/$name.log" >&2
    exit 1
  fi
  touch "$out/done/$name"
}
set_options=()
options_of() {  # configuration -> --set options in set_options
  set_options=()
  local line
  while IFS= read -r line; do [ -n "$line" ] && set_options+=(--set "$line"); done < <(overrides_of "$1")
  [ $collected = no ] || for line in $(data_of "$1"); do set_options+=(--set "$line"); done
  case $1 in
    *_avid_* | *_controlnet* | *_finetune) set_options+=(--set "base.checkpoint=$base") ;;
  esac
}
train() {  # configuration: begins or goes on
  local run=$out/runs/$1
  if [ -e "$run/checkpoints/latest" ]; then
    $avid train --resume "$run" --device "$device"
  else
    rm -rf "$run"  # killed before its first checkpoint
    options_of "$1"
    $avid train --config "configs/paper/$1.toml" --run "$run" --device "$device" "${set_options[@]}"
  fi
}
poe_weights="0.2 0.4 0.6" cfg_weights="0.3 1 3 10" guidance_weights="0.003 0.01 0.03 0.1 0.3"
[ "$budget" != hours ] || guidance_weights="0.01 0.03 0.1"  # each takes 200 steps
method_options() {  # data set, method -> options of avid evaluate and avid sample in method
  local runs=$out/runs
  method=("${fast[@]}")
  case $2 in
    base) method+=(--base "$base") ;;
    scratch_* | finetune) method+=(--run "$runs/$1_$2") ;;
    poe_*) method+=(--base "$base" --action-model "$runs/$1_scratch_${2#poe_}" --poe $poe_weights) ;;
    cfg_*) method+=(--base "$base" --action-model "$runs/$1_$2" --action-cfg $cfg_weights) ;;
    classifier_guidance)
      method=("${ddpm[@]}" --base "$base" --guidance-classifier "$runs/classifier_noisy" --guidance $guidance_weights) ;;
    *) method+=(--run "$runs/$1_$2") ;;
  esac
}
evaluate() {
  method_options "$1" "$2"
  $avid evaluate "${method[@]}" --device "$device" --data "$heldout" --clip-list "$out/clips.json" --clips 0 --size "$size" --frames "$frames" \
    --batch "$batch" --name method --classifier "$judge" "${metrics[@]}" --keep-clips "$out/kept" \
    --out "$out/scores/$1__$2.json"
}
pictures() {
  method_options "$1" "$2"
  $avid sample "${method[@]}" --device "$device" --data "$heldout" --clips 2 --size "$size" --frames "$frames" --seed 7 --out "$out/pictures/$1__$2"
}

# ---- the plan and its cost ----
networks=()
[ "$budget" = hours ] || networks=(base classifier_eval)  # hours: both are shipped
methods=()
for dataset in "${wanted[@]}"; do
  for m in $(models_of "$dataset"); do
    methods+=("$dataset $m")
    network=$(network_of "$dataset" "$m")
    case " ${networks[*]} " in *" $network "*) network= ;; esac
    [ -z "$network" ] || networks+=("$network")
  done
done
tenths() { echo "$(($1 / 10)).$(($1 % 10))"; }
# In 1e15 FLOP. Updates take 64 clips; a clip costs 3 forward passes of what is trained and one of what is frozen.
train_cost() {  # configuration of --budget paper
  case $1 in
    base) echo 14900 ;;
    classifier_eval) echo 3760 ;;
    classifier_noisy) echo 5960 ;;
    *_controlnet_small) echo 6400 ;;
    *_controlnet) echo 10800 ;;
    *_finetune) echo 11480 ;;
    *_avid_*71m) echo 12380 ;;
    *_avid_*22m) echo 6660 ;;
    *_71m) echo 8520 ;;
    *_22m) echo 2820 ;;
  esac
}
score_cost() {  # method: 1024 clips in 200 steps, all weights of a sweep
  case $1 in
    base | finetune) echo 61 ;;
    classifier_guidance) echo $((5 * 157)) ;;
    controlnet) echo 98 ;;
    controlnet_small) echo 75 ;;
    poe_71m) echo $((3 * 107)) ;;
    poe_22m) echo $((3 * 76)) ;;
    cfg_71m) echo $((4 * 152)) ;;
    cfg_22m) echo $((4 * 91)) ;;
    avid_*71m) echo 107 ;;
    avid_*22m) echo 76 ;;
    scratch_71m) echo 45 ;;
    scratch_22m) echo 15 ;;
  esac
}
plan() {
  echo "budget $budget, $what: ${#networks[@]} networks to train, ${#methods[@]} rows to score on $clips clips, into $out"
  case $budget in
    minutes) echo "cost: 3.3 minutes on two cores of a server that had other work besides (measured), 50 MiB of disk" ;;
    hours)
      echo "cost: ${#networks[@]} trainings of $updates updates, 0.5 to 2 s each on one core of a server that had other work:" \
        "$(tenths $((${#networks[@]} * updates * 5 / 3600))) to $(tenths $((${#networks[@]} * updates * 20 / 3600))) hours;" \
        "and sampling, of which classifier guidance with its 200 steps and 3 weights takes most" \
        "(a quarter of an hour a weight for 64 clips); 500 MiB of disk" ;;
    paper)
      local training=0 scoring=0 entry frames=$((1000 + 10000 + 500)) base_frames=31500  # thousands
      for entry in "${networks[@]}"; do training=$((training + $(train_cost "$entry"))); done
      for entry in "${methods[@]}"; do scoring=$((scoring + $(score_cost "${entry#* }"))); done
      case " ${wanted[*]} " in *" coinrun100k "*) frames=$((frames + 100)) ;; esac
      case " ${wanted[*]} " in *" coinrun2500k "*) frames=$((frames + 2500)) ;; esac
      echo "cost: training takes $(tenths $((training / 100)))e18 FLOP, scoring $(tenths $((scoring / 100)))e18: together" \
        "$(((training + scoring) * 12 / 14900)) days at the pace of the paper's base, 14.9e18 FLOP in 12 days on one A100" \
        "(predicted). $(((frames + base_frames) / 1000)) million frames, the game makes about 18,000 a second and core:" \
        "$(((frames + base_frames) * 12288 / 1000000)) GB" \
        "($((frames * 12288 / 1000000)) GB with AVID_REPRODUCE_REPLAY=1)" ;;
  esac
}
plan
[ -z "$dry" ] || exit 0
[ -z "$rescore" ] || rm -f "$out"/done/score_*

# ---- data ----
collect() {  # place, game, levels, steps of each, more...
  local place=$1 game=$2 levels=$3 steps=$4
  shift 4
  $avid collect --game "$game" --levels "$levels" --steps "$steps" --jobs "$(nproc)" --out "$out/data/$place" "$@"
}
if [ "$budget" = paper ]; then
  games="bigfish bossfight caveflyer chaser climber dodgeball fruitbot heist jumper leaper maze miner ninja plunder starpilot"
  mkdir -p "$out/data/procgen15" "$out/data/procgen15-test"
  for game in $games; do
    stage "collect_$game" collect "procgen15/$game" "$game" 0:2000 1000 ${AVID_REPRODUCE_REPLAY:+--replay}
    stage "collect_test_$game" collect "procgen15-test/$game" "$game" 2000:2100 1000 ${AVID_REPRODUCE_REPLAY:+--replay}
  done
  stage collect_coinrun_test collect coinrun-test coinrun 10000:11000 1000 --seed 1
  stage collect_classifier collect coinrun10m coinrun 0:10000 1000
  stage collect_coinrun500k collect coinrun500k coinrun 0:500 1000
  for dataset in "${wanted[@]}"; do
    case $dataset in
      coinrun100k) stage collect_coinrun100k collect coinrun100k coinrun 0:100 1000 ;;
      coinrun2500k) stage collect_coinrun2500k collect coinrun2500k coinrun 0:2500 1000 ;;
    esac
  done
elif [ $collected = yes ]; then
  for dataset in "${wanted[@]}"; do
    case $dataset in coinrun100k) levels=100 ;; coinrun500k) levels=500 ;; coinrun2500k) levels=2500 ;; esac
    stage "collect_$dataset" collect "$dataset" coinrun "0:$levels" 200 --actions hold --no-backgrounds --size 32
  done
fi
stage clips "$avid" clips --data "$heldout" --count "$clips" --seed 0 --targets "$frames" --name "coinrun-eval$clips" --out "$out/clips.json"

# ---- networks, scores, pictures ----
for network in "${networks[@]}"; do stage "train_$network" train "$network"; done
for entry in "${methods[@]}"; do
  read -r dataset m <<<"$entry"
  if [ "$m" = base ] && [ -e "$out/done/score_coinrun500k__base" ] && [ "$dataset" != coinrun500k ]; then
    cp "$out/scores/coinrun500k__base.json" "$out/scores/${dataset}__base.json"  # one base, whatever the data set
    continue
  fi
  stage "score_${dataset}__$m" evaluate "$dataset" "$m"
  case $dataset:$m in
    coinrun500k:avid_* | coinrun500k:scratch_22m | coinrun500k:controlnet | coinrun500k:finetune) stage "pictures_${dataset}__$m" pictures "$dataset" "$m" ;;
  esac
done

# ---- report: always made anew, it costs a second ----
notes=()
case $budget in
  minutes)
    notes+=(--note "Budget minutes: networks of a few thousand numbers, 24 updates each, 16x16 frames, $clips clips. This shows that every stage works; it says nothing about the methods."
      --note "The base was trained here on CoinRun without actions, not on 15 other games."
      --note "Neither FVD nor fvd_procgen and fid_procgen here: clips of 6 frames are too short for I3D, frames of 16x16 too small for the Procgen encoder.") ;;
  hours)
    notes+=(--note "Budget hours: 32x32 frames, networks of width 12 (for 22M) and 20 (for 71M) on the shipped base of width 16, $updates updates of 8 clips each, $clips clips, DDIM with 20 steps (classifier guidance: DDPM with 200)."
      --note "The classifier behind the Action Error Ratio is the shipped one (data/pretrained/README.md).")
    case $actions in
      uniform) notes+=(--note "Data sets are the first 32, 96 and all 160 levels of the shipped sample (4k, 12k and 20k frames) in place of 100k, 500k and 2.5M.") ;;
      hold) notes+=(--note "Actions are held for 4 steps on average, the paper's are uniform. Data sets are 100, 500 and 2500 levels of 200 frames (20k, 100k and 500k) in place of 100k, 500k and 2.5M.") ;;
    esac ;;
esac
tables=()
case $what in "table "*) tables=(--table "${what#table }") ;; esac
$avid report --scores "$out/scores" --pictures "$out/pictures" "${notes[@]}" ${tables[@]+"${tables[@]}"} \
  --title "AVID on CoinRun, budget $budget" --out "$out/report.html" --json-out "$out/report.json"
say "done"
exit 0
}
