#!/usr/bin/env bash
# What a GPU says of the CUDA kernels, in minutes: tests, memory checker, graphs, our kernels against NVIDIA's libraries,
# rooflines, whole updates, a short training. One table last.
# In a bundle (gpu_bundle.sh) it uses the programs there; in a checkout those of a build with -DAVID_CUDA=ON.
#
# Usage: gpu_check.sh [--build DIR] [--device cuda:0] [--out DIR] [--again] [STAGE...]
#   STAGEs  info tests sanitizer graphs step profile kernels peers train
#           (default: all; a stage that passed is not run again, unless with --again)
# Writes OUT/<stage>.log, OUT/results.tsv (numbers), traces and rooflines, and OUT/gpu_check.json. Exit code 0 when everything
# passed, 1 otherwise. Skipped: sanitizer without compute-sanitizer; kernels without cuBLASLt and cuDNN; peers without PyTorch.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
all=(info tests sanitizer graphs step profile kernels peers train)
device=cuda:0 out=gpu-check build= again=no stages=()
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --again) again=yes; shift ;;
    --help|-h) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *)
      case " ${all[*]} " in
        *" $1 "*) stages+=("$1"); shift ;;
        *) echo "gpu_check: unknown argument $1 | see --help" >&2; exit 2 ;;
      esac ;;
  esac
done
[ ${#stages[@]} -gt 0 ] || stages=("${all[@]}")
if [ -x "$here/bin/avid" ]; then
  root=$here bin=$here/bin tests=$here/bin
else
  root=$(cd "$here/.." && pwd) bin=${build:-$root/build-gpu}
  tests=$bin/tests
fi
if [ ! -x "$bin/avid" ]; then
  echo "gpu_check: $bin/avid is missing | build with -DAVID_CUDA=ON, or run scripts/gpu_bundle.sh" >&2
  exit 1
fi
mkdir -p "$out"
export AVID_TEST_DEVICE=$device AVID_GOLDEN=$root/tests/golden
results=$out/results.tsv

# note STAGE NAME VALUE UNIT: a number for the table; a later one of the same name replaces it.
note() {
  touch "$results"
  awk -F'\t' -v s="$1" -v n="$2" '!($1 == s && $2 == n)' "$results" >"$results.new" && mv "$results.new" "$results"
  printf '%s\t%s\t%s\t%s\n' "$@" >>"$results"
}
# number FILE KEY: the first "KEY": NUMBER of a JSON file.
number() { sed -n 's/.*"'"$2"'": \(-\{0,1\}[0-9.e+-]*\).*/\1/p' "$1" | head -n 1; }
# The networks that are timed: sizes of the paper, weights and clips made up. NAME CONFIG CLIPS
networks() {
  echo "base97m base.toml 32"
  echo "avid71m avid_71m.toml 64"
  echo "avid22m avid_22m.toml 64"
}
step_inputs() { echo "--config $root/configs/$1 --base-config $root/configs/base.toml --clips $2"; }

# A stage prints what people should see, and fails by its exit code: 3 says that it cannot run here.
stage_info() {
  command -v nvidia-smi >/dev/null && nvidia-smi
  "$bin/avid" info && "$bin/avid" info --json | tr -d ' \n' | grep -q '"devices":\[[^]]*"'"$device"'"' ||
    { echo "$device cannot be used here"; return 1; }
}
stage_tests() {
  local failed=0
  for test in test_tensor test_models test_train; do
    [ -x "$tests/$test" ] && { "$tests/$test" -sf='*/device_test.cpp' || failed=1; }
  done
  return $failed
}
stage_sanitizer() {
  local tool
  tool=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null) || {
    echo "compute-sanitizer is not installed (it comes with the toolkit)"
    return 3
  }
  for check in memcheck racecheck synccheck initcheck; do
    echo "== $check"
    "$tool" --tool "$check" --error-exitcode 9 \
      "$tests/test_tensor" -sf='*/device_test.cpp' || return 1
  done
  "$tool" --tool memcheck --error-exitcode 9 "$tests/test_models" -tc='device/golden*'
}
# The demo's base on the samples: run FOLDER SETTING...
short_run() {
  local run=$1 data
  shift
  data=$(ls "$root"/data/samples/*train.h5 2>/dev/null | head -n 1)
  [ -n "$data" ] || { echo "no data/samples/*train.h5 here"; return 3; }
  rm -rf "$run"
  local settings=(--set "data.train=[\"$data\"]" --set "data.validation=[]" --set validation.every=0)
  for setting in "$@"; do settings+=(--set "$setting"); done
  "$bin/avid" train --config "$root/configs/demo_base.toml" --run "$run" --device "$device" "${settings[@]}" --json
}
stage_graphs() {  # an update that is repeated as a graph computes the same bits; runs are repeatable
  local digests=()
  for graph in off on on; do
    short_run "$out/run-graph" train.updates=12 train.graph="\"$graph\"" >"$out/graph-$graph.json" || return $?
    digests+=("$("$bin/avid" inspect --sha "$out/run-graph" | awk '{print $1}' | tr '\n' ' ')")
    echo "train.graph = $graph: $(number "$out/graph-$graph.json" train_seconds) s, ${digests[-1]}"
    note graphs "12 updates, graph $graph" "$(number "$out/graph-$graph.json" train_seconds)" s
  done
  [ "${digests[1]}" = "${digests[2]}" ] || { echo "two runs with graphs differ"; return 1; }
  [ "${digests[0]}" = "${digests[1]}" ] || { echo "runs with and without graphs differ"; return 1; }
}
stage_step() {  # whole updates and sampling steps at the paper's sizes
  local failed=0
  while read -r name config clips; do
    for kind in base sample; do
      local json=$out/step-$name-$kind.json
      if "$bin/avid" bench step --kind $kind $(step_inputs "$config" "$clips") --dtype bf16 --device "$device" \
        --steps 5 --warmup 3 --json >"$json"; then
        local what="$name, $clips clips, $([ $kind = sample ] && echo sampling step || echo update)"
        printf '%-44s %s s, %s of the matrix product\n' "$what" "$(number "$json" median_s)" "$(number "$json" share_of_gemm)"
        note step "$what" "$(number "$json" median_s)" s
        note step "$what: share of GEMM" "$(number "$json" share_of_gemm)" ""
        note step "$what: tensors" "$(number "$json" peak_tensor_mib)" MiB
        note step "matrix product, bf16" "$(number "$json" gemm_gflop_per_s)" GFLOP/s
        note step "copy" "$(number "$json" copy_gbyte_per_s)" GB/s
      else
        failed=1
      fi
    done
  done < <(networks)
  return $failed
}
stage_profile() {  # where the time of an update goes; open the SVG, and the trace in ui.perfetto.dev
  local failed=0
  while read -r name config clips; do
    "$bin/avid" profile --kind base $(step_inputs "$config" "$clips") --dtype bf16 --device "$device" --steps 2 \
      --warmup 2 --trace "$out/trace-$name.json" --roofline "$out/roofline-$name.svg" || failed=1
  done < <(networks)
  return $failed
}
stage_kernels() {  # every convolution and product of an update against cuDNN and cuBLASLt
  local config clips name json=$out/kernels.json failed=0
  while read -r name config clips; do
    json=$out/kernels-$name.json
    "$bin/avid" bench kernels --kind base $(step_inputs "$config" "$clips") --dtype bf16 --device "$device" --json \
      >"$json" 2>"$out/kernels-$name.err" || { failed=1; cat "$out/kernels-$name.err"; continue; }
    if ! grep -q '"library_ms":' "$json"; then
      echo "neither cuBLASLt nor cuDNN computes here:"
      head -n 2 "$out/kernels-$name.err"
      return 3
    fi
    cat "$out/kernels-$name.err"
    note kernels "$name: convolutions and products of an update, ours" "$(number "$json" ours_ms_per_step)" ms
    note kernels "$name: the same, NVIDIA's libraries" "$(number "$json" library_ms_per_step)" ms
  done < <(networks)
  # The libraries' results beside ours: the golden case through each.
  local golden=$root/tests/golden/pixel/avid_mask
  for route in "--conv native" "--conv cudnn --gemm cublaslt"; do
    "$bin/avid" forward --base "$golden/base.safetensors" --adapter "$golden/adapter.safetensors" \
      --input "$golden/input.safetensors" --output "$out/forward.safetensors" --device "$device" $route --json |
      tr -d ' \n' | sed 's/.*\("loss":[^,}]*\).*/\1/' | sed "s/^/$route: /"
    echo
  done
  return $failed
}
stage_peers() {  # PyTorch on the same GPU in the same run, the better of eager and compiled
  local python=${AVID_PEER_PYTHON:-python3}
  "$python" -c 'import torch, safetensors, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null || {
    echo "no Python with PyTorch for CUDA and safetensors here | name one with AVID_PEER_PYTHON"
    return 3
  }
  AVID_PEER_PYTHON=$(command -v "$python") AVID_PEER_PROGRAM=$bin/avid "$root/bench/peers/run.sh" --quick \
    --device "$device" --json "$out/peers.json" || return 1
  local ratios kinds=(avid base sample) i=0
  ratios=$(sed -n 's/.*"ratio": \([0-9.]*\).*/\1/p' "$out/peers.json")
  for ratio in $ratios; do note peers "${kinds[i++]}: PyTorch's time / ours" "$ratio" ""; done
}
stage_train() {
  short_run "$out/run" train.updates=20 >"$out/train.json" || return $?
  cat "$out/train.json"
  note train "20 updates of the demo's base" "$(number "$out/train.json" train_seconds)" s
}

json=$out/gpu_check.json rows= failed=0
for stage in "${stages[@]}"; do
  if [ "$again" = no ] && [ -e "$out/$stage.passed" ]; then
    result=passed-before
  else
    rm -f "$out/$stage.passed"
    start=$SECONDS
    "stage_$stage" >"$out/$stage.log" 2>&1
    code=$?
    case $code in
      0) result=passed; touch "$out/$stage.passed" ;;
      3) result=skipped ;;
      *) result=failed; failed=1 ;;
    esac
    # Tests that found no device end well, saying so.
    if grep -q "^skipped: device: " "$out/$stage.log"; then result=skipped; failed=1; rm -f "$out/$stage.passed"; fi
    result="$result $((SECONDS - start))s"
    [ "$result" != "${result#passed}" ] || tail -n 5 "$out/$stage.log" >&2
  fi
  rows+="$stage|$result"$'\n'
done
touch "$results"
{
  echo "{"
  echo "  \"device\": \"$device\","
  echo "  \"commit\": \"$(cat "$root/commit" 2>/dev/null || git -C "$root" rev-parse HEAD 2>/dev/null)\","
  echo "  \"stages\": {"
  printf '%s' "$rows" | sed 's/\(.*\)|\(.*\)/    "\1": "\2",/' | sed '$ s/,$//'
  echo "  },"
  echo "  \"results\": ["
  awk -F'\t' '{printf "    {\"stage\": \"%s\", \"what\": \"%s\", \"value\": %s, \"unit\": \"%s\"},\n", $1, $2, $3 == "" ? "null" : $3, $4}' \
    "$results" | sed '$ s/,$//'
  echo "  ]"
  echo "}"
} >"$json"
awk -F'\t' '{printf "%-68s %14s %s\n", $2, $3, $4}' "$results"
printf '%s' "$rows" | awk -F'|' '{printf "%-12s %s\n", $1, $2}'
echo "logs and JSON: $out"
exit $failed
