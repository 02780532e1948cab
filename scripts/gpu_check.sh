#!/usr/bin/env bash
# What a GPU says of the CUDA kernels, in minutes: tests, memory checker, updates timed, a short training. One table last.
# In a bundle (gpu_bundle.sh) it uses the programs there; in a checkout those of a build with -DAVID_CUDA=ON.
#
# Usage: gpu_check.sh [--build DIR] [--device cuda:0] [--out DIR] [--again] [STAGE...]
#   STAGEs  info tests sanitizer step train     (default: all; a stage that passed is not run again, unless with --again)
# Writes OUT/<stage>.log and OUT/gpu_check.json. Exit code 0 when everything passed, 1 otherwise.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
device=cuda:0 out=gpu-check build= again=no stages=()
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --again) again=yes; shift ;;
    --help|-h) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    info|tests|sanitizer|step|train) stages+=("$1"); shift ;;
    *) echo "gpu_check: unknown argument $1 | see --help" >&2; exit 2 ;;
  esac
done
[ ${#stages[@]} -gt 0 ] || stages=(info tests sanitizer step train)
if [ -x "$here/bin/avid" ]; then
  root=$here bin=$here/bin
  export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  tests=$bin
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

# A stage prints what people should see, and fails by its exit code.
stage_info() { "$bin/avid" info && "$bin/avid" info --json | grep -q '"'"$device"; }
stage_tests() {
  local failed=0
  for test in test_tensor test_models; do
    "$tests/$test" -sf='*/device_test.cpp' || failed=1
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
stage_step() {  # whole updates of every shipped configuration, on made-up clips
  local failed=0
  for config in "$root"/configs/*.toml; do
    for precision in f32 bf16; do
      printf '%-28s %-5s ' "$(basename "$config" .toml)" "$precision"
      "$bin/avid" train --dry-run --config "$config" --set train.precision=$precision --device "$device" --json 2>>"$out/step.err" |
        sed -n 's/.*"measured_gflop_s": \([0-9.e+]*\).*/\1 GFLOP\/s/p' | grep . || { echo "no result (see step.err)"; failed=1; }
    done
  done
  return $failed
}
stage_train() {
  local data
  data=$(ls "$root"/data/samples/*.h5 2>/dev/null | head -n 1)
  [ -n "$data" ] || { echo "no data/samples/*.h5 here"; return 3; }
  rm -rf "$out/run"
  "$bin/avid" train --config "$root/configs/demo_base.toml" --run "$out/run" --device "$device" \
    --set train.updates=20 --set "data.train=[\"$data\"]" --set "data.validation=[]" --set validation.every=0 --json
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
{
  echo "{"
  echo "  \"device\": \"$device\","
  echo "  \"stages\": {"
  printf '%s' "$rows" | sed 's/\(.*\)|\(.*\)/    "\1": "\2",/' | sed '$ s/,$//'
  echo "  }"
  echo "}"
} >"$json"
[ ! -s "$out/step.log" ] || cat "$out/step.log"
printf '%s' "$rows" | awk -F'|' '{printf "%-12s %s\n", $1, $2}'
echo "logs and JSON: $out"
exit $failed
