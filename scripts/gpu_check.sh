#!/usr/bin/env bash
# What a GPU says of the CUDA kernels, in minutes: every kernel against the CPU, whole networks, graphs, times, NVIDIA's
# libraries, rooflines, memory checker, a short training, PyTorch. One table last.
# In a bundle (gpu_bundle.sh) it uses the programs there; in a checkout those of a build with -DAVID_CUDA=ON.
#
# Usage: gpu_check.sh [--build DIR] [--device cuda:0] [--out DIR] [--copy DIR] [--minutes M] [--again] [--rehearse]
#                     [STAGE...]
#   STAGEs  info parity tests graphs step kernels profile scaling sanitizer train ops peers
#           (default: all; a stage that passed is not run again, unless with --again)
#   --minutes M  begin nothing new after M minutes and end soon after (default 9)
#   --copy DIR   after every stage three files there: gpu_check.json, gpu_check.txt, gpu_check.tar.gz (all logs)
#   --rehearse   these stages where there is no GPU: the networks of configs/tiny, a clip, a frame or two, in the place
#                of the paper's, few steps, limits 30 times as long, --minutes 300; with a build for the PTX machine
#                (--build build-ptx) on a CPU. Do the stages run? No number of it means anything. Writes OUT/rehearsal
# Writes OUT/<stage>.log, OUT/results.tsv (numbers), traces, rooflines, gpu_check.json; what there is so far is written
# after every stage. Every command has a time limit and is killed behind it: a kernel that hangs costs a minute, not the
# rest. Where kernels on wgmma fail or hang, everything after runs with AVID_TMA=off if that helps, else with
# AVID_WGMMA=off, and the table says so.
# Exit code 0 when everything passed, 1 otherwise. Skipped: sanitizer without compute-sanitizer; kernels without
# cuBLASLt and cuDNN; ops and peers without PyTorch.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
all=(info parity tests graphs step kernels profile scaling sanitizer train ops peers)
# Seconds that a stage may take, and its single commands.
declare -A stage_limit=([info]=90 [parity]=270 [tests]=240 [graphs]=90 [step]=240 [kernels]=240 [profile]=150
  [scaling]=120 [sanitizer]=300 [train]=90 [ops]=300 [peers]=420)
device=cuda:0 out=gpu-check build= copy= minutes= again=no rehearse=no stages=()
while [ $# -gt 0 ]; do
  case $1 in
    --build | --device | --out | --copy | --minutes)
      [ $# -gt 1 ] || { echo "gpu_check: $1 needs a value | see --help" >&2; exit 2; }
      declare "${1#--}=$2"
      shift 2 ;;
    --again) again=yes; shift ;;
    --rehearse) rehearse=yes; shift ;;
    --help | -h) sed -n '2,22s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *)
      case " ${all[*]} " in
        *" $1 "*) stages+=("$1"); shift ;;
        *) echo "gpu_check: unknown argument $1 | see --help" >&2; exit 2 ;;
      esac ;;
  esac
done
patience=1  # of the limits
if [ $rehearse = yes ]; then
  patience=30 minutes=${minutes:-300} out=$out/rehearsal  # no number of one among those of a GPU
fi
minutes=${minutes:-9}
[[ $minutes =~ ^[0-9]+$ ]] || { echo "gpu_check: --minutes: expected a whole number, got $minutes" >&2; exit 2; }
[ ${#stages[@]} -gt 0 ] || stages=("${all[@]}")
if [ -x "$here/bin/avid" ]; then
  root=$here bin=$here/bin
else
  root=$(cd "$here/.." && pwd) bin=${build:-$root/build-gpu}
fi
if [ ! -x "$bin/avid" ]; then
  echo "gpu_check: $bin/avid is missing | build with -DAVID_CUDA=ON, or run scripts/gpu_bundle.sh" >&2
  exit 1
fi
bin=$(cd "$bin" && pwd) tests=$bin/tests
[ ! -x "$bin/test_tensor" ] || tests=$bin
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
[ -z "$copy" ] || { mkdir -p "$copy" && copy=$(cd "$copy" && pwd); } || exit 1
cd "$root" || exit 1  # the tests of a bundle look for configurations there
export AVID_TEST_DEVICE=$device AVID_GOLDEN=$root/tests/golden
results=$out/results.tsv json=$out/gpu_check.json
touch "$results"
limit_from=${AVID_GPU_CHECK_LIMITS:-}  # tests of this script: all limits in seconds, instead of those above
total_end=$((SECONDS + 60 * minutes)) stage_end=$((SECONDS + 60 * minutes)) running=
trap 'kill -KILL -- "-$running" 2>/dev/null; exit 130' INT TERM

# limited SECONDS COMMAND...: its exit code, or 124 when it took longer: then it and its children were killed, and if a
# driver that does not let go of them keeps them, they are left behind.
limited() {
  local limit=${limit_from:-$((patience * $1))} waited=0 begun=${EPOCHREALTIME/[.,]/}
  shift
  [ "$limit" -le $((stage_end - SECONDS)) ] || limit=$((stage_end - SECONDS))
  [ "$limit" -ge 1 ] || { echo "gpu_check: no time left for $(basename "$1")"; return 124; }
  set -m  # a process group of its own
  "$@" </dev/null &
  running=$!
  set +m
  while kill -0 "$running" 2>/dev/null; do
    if [ $((${EPOCHREALTIME/[.,]/} - begun)) -ge $((limit * 1000000)) ]; then
      kill -KILL -- "-$running" 2>/dev/null
      for waited in {1..100}; do kill -0 "$running" 2>/dev/null || break; sleep 0.1; done
      kill -0 "$running" 2>/dev/null || wait "$running" 2>/dev/null
      running=
      echo "gpu_check: killed after $limit s: $*"
      return 124
    fi
    [ $((waited++)) -lt 20 ] && sleep 0.01 || sleep 0.1
  done
  wait "$running" 2>/dev/null
  local code=$?
  running=
  return $code
}
# note STAGE NAME VALUE UNIT: a number for the table; a later one of the same name replaces it.
note() {
  awk -F'\t' -v s="$1" -v n="$2" '!($1 == s && $2 == n)' "$results" >"$results.new" && mv "$results.new" "$results"
  printf '%s\t%s\t%s\t%s\n' "$@" >>"$results"
}
# number FILE KEY: the first "KEY": NUMBER of a JSON file.
number() { sed -n 's/.*"'"$2"'": *\(-\{0,1\}[0-9.e+-]*\).*/\1/p' "$1" | head -n 1; }
# Kernels on wgmma are left out from here on, for the reason given; kept in OUT for later calls.
without_wgmma() {
  printf '%s\n' "$1" >"$out/wgmma.off"
  export AVID_WGMMA=off
  echo "gpu_check: AVID_WGMMA=off from here on: $1"
}
# Likewise their tensor copies.
without_tma() {
  printf '%s\n' "$1" >"$out/tma.off"
  export AVID_TMA=off
  echo "gpu_check: AVID_TMA=off from here on: $1"
}
[ "$again" = no ] || rm -f "$out/wgmma.off" "$out/tma.off"
[ ! -e "$out/wgmma.off" ] || export AVID_WGMMA=off
[ ! -e "$out/tma.off" ] || export AVID_TMA=off

# cuBLASLt and cuDNN: where the loader does not know them, those of PyTorch's packages or of the toolkit.
library_folders() {
  local python=${AVID_PEER_PYTHON:-python3} folders folder library
  folders=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' 2>/dev/null)
  for folder in "$folders"/nvidia/*/lib /usr/local/cuda/lib64; do
    for library in cudnn cublasLt nvrtc; do  # cuDNN compiles some of its kernels with the last one
      compgen -G "$folder/lib$library.so.*" >/dev/null || continue
      printf ':%s' "$folder"
      break
    done
  done
}
library_path=${LD_LIBRARY_PATH:-}  # PyTorch's own, which must not get the toolkit's in its place
export LD_LIBRARY_PATH=$library_path$(library_folders)
LD_LIBRARY_PATH=${LD_LIBRARY_PATH#:}

# usable: sets `problem`, why the device cannot be used; fails then. Asked once, and again after a command had to be
# killed.
problem= asked=no
usable() {
  if [ $asked = no ]; then
    asked=yes problem=
    limited 45 "$bin/avid" info --json >"$out/info.json" 2>"$out/info.err"
    local code=$?
    if [ $code -ne 0 ]; then
      problem="avid info ended with code $code: $(head -n 1 "$out/info.err")"
      [ $code -ne 124 ] || problem="the device does not answer: avid info hangs"
    else  # "name": "cuda:0 (NVIDIA H100)", or "name": "cuda:0" beside "problem": "..."
      tr -d '\n' <"$out/info.json" | grep -o '{[^{}]*"name": *"'"$device"'[" ][^{}]*}' | head -n 1 >"$out/device.json"
      problem=$(sed -n 's/.*"problem": *"\([^"]*\)".*/\1/p' "$out/device.json")
      [ -s "$out/device.json" ] || problem="avid info lists no $device (is it a build with -DAVID_CUDA=ON?)"
    fi
  fi
  [ -z "$problem" ]
}

. "$here/gpu_stages.sh"

# The table, the JSON and the copies, of what there is so far.
rows=
table() {
  [ $rehearse = no ] || echo "a rehearsal with tiny networks: no number here means anything"
  [ ! -e "$out/tma.off" ] || echo "AVID_TMA=off: $(cat "$out/tma.off")"
  [ ! -e "$out/wgmma.off" ] || echo "AVID_WGMMA=off: $(cat "$out/wgmma.off")"
  awk -F'\t' '{printf "%-68s %14s %s\n", $2, $3, $4}' "$results"
  printf '%s' "$rows" | while IFS='|' read -r name result; do printf '%-12s %s\n' "$name" "$result"; done
}
report() {
  text() { printf '%s' "$1" | tr '\n\t' '  ' | sed 's/\\/\\\\/g; s/"/\\"/g'; }
  {
    echo "{"
    echo "  \"device\": \"$device\","
    [ $rehearse = no ] || echo "  \"rehearsal\": true,"
    echo "  \"device_name\": \"$(sed -n 's/.*"name": *"\([^"]*\)".*/\1/p' "$out/device.json" 2>/dev/null)\","
    echo "  \"commit\": \"$(cat "$bin/../commit" 2>/dev/null || git -C "$root" rev-parse HEAD 2>/dev/null)\","
    echo "  \"without_tma\": \"$(text "$(cat "$out/tma.off" 2>/dev/null)")\","
    echo "  \"without_wgmma\": \"$(text "$(cat "$out/wgmma.off" 2>/dev/null)")\","
    echo "  \"stages\": {"
    printf '%s' "$rows" | while IFS='|' read -r name result; do
      echo "    \"$name\": \"$(text "$result")\","
    done | sed '$ s/,$//'
    echo "  },"
    echo "  \"results\": ["
    awk -F'\t' '{
      printf "    {\"stage\": \"%s\", \"what\": \"%s\", \"value\": %s, \"unit\": \"%s\"},\n", $1, $2,
        $3 ~ /^-?[0-9.]+(e[-+]?[0-9]+)?$/ ? $3 : "null", $4}' "$results" | sed '$ s/,$//'
    echo "  ]"
    echo "}"
  } >"$json.new" && mv "$json.new" "$json"
  table >"$out/gpu_check.txt"
  [ -z "$copy" ] || {
    cp "$json" "$out/gpu_check.txt" "$copy/"
    tar -C "$out" --exclude='run*' --exclude='*.safetensors' -czf "$copy/gpu_check.tar.gz" . 2>/dev/null
  }
}
# run_stage STAGE: sets result
run_stage() {
  local stage=$1 start=$SECONDS code
  stage_end=$((SECONDS + ${limit_from:-$((patience * ${stage_limit[$stage]}))}))
  [ -z "$limit_from" ] || stage_end=$((SECONDS + 20 * limit_from))
  [ $stage_end -le $total_end ] || stage_end=$total_end
  "stage_$stage" >"$out/$stage.log" 2>&1
  code=$?
  # Tests that found no device end well, saying so; some need a library beside it.
  [ $code -ne 0 ] || ! grep "^skipped: device: " "$out/$stage.log" | grep -qv "^skipped: device: no cuDNN" || code=1
  ! grep -q "^gpu_check: killed" "$out/$stage.log" || asked=no  # is it still there?
  case $code in
    0) result=passed ;;
    3) result=skipped ;;
    *) result=failed ;;
  esac
  result="$result $((SECONDS - start))s"
  return $code
}

failed=0
for stage in "${stages[@]}"; do
  if [ "$again" = no ] && [ -e "$out/$stage.passed" ]; then
    result=passed-before
  elif [ $((total_end - SECONDS)) -lt 15 ] && [ -z "$limit_from" ]; then
    result="left out: no time" failed=1
  elif [ "$stage" != info ] && stage_end=$total_end && ! usable; then
    result="failed: $problem" failed=1
  else
    rm -f "$out/$stage.passed"
    run_stage "$stage"
    code=$?
    # Once more without tensor copies, then without wgmma: is that what is wrong? parity finds out for itself.
    case $stage in tests | graphs | step | train)
      before=$result
      for part in tma wgmma; do
        switch=AVID_${part^^}
        [ $code -ne 0 ] && [ $code -ne 3 ] && [ "${AVID_WGMMA:-on}" = on ] && [ "${!switch:-on}" = on ] || continue
        stage_end=$total_end
        usable && { [ $((total_end - SECONDS)) -gt 60 ] || [ -n "$limit_from" ]; } || break
        mv "$out/$stage.log" "$out/$stage-with-$part.log"
        export "$switch=off"
        run_stage "$stage"
        code=$?
        export "$switch=on"
        [ $code -ne 0 ] || "without_$part" "$stage $before with $part and passed without, see $stage-with-$part.log"
        result="$result without $part, $before with it"
      done ;;
    esac
    case $code in
      0) touch "$out/$stage.passed" ;;
      3) ;;
      *) failed=1 ;;
    esac
    echo "gpu_check: $stage $result" >&2
    [ $code -eq 0 ] || tail -n 12 "$out/$stage.log" >&2
  fi
  rows+="$stage|$result"$'\n'
  report
done
[ ! -e "$out/wgmma.off" ] && [ ! -e "$out/tma.off" ] || failed=1
table
echo "logs and JSON: $out${copy:+, copies: $copy}"
exit $failed
