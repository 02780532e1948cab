# gpu_stages.sh -- what the stages of gpu_check.sh run; sourced by it, which has limited, note, number, usable and the
# names root, bin, tests, out, device, rehearse.
#
# A stage prints what people should see, and fails by its exit code: 3 says that it cannot run here.
stage_info() {
  command -v nvidia-smi >/dev/null && limited 20 nvidia-smi
  nproc
  echo "libraries: ${LD_LIBRARY_PATH:-the loader knows them, or there are none}"
  limited 45 "$bin/avid" info || return 1
  # Does the program compute at all here? The golden case on the CPU has the loss of the reference.
  local here there
  here=$(golden_loss cpu) || { echo "the program does not compute on the CPU here"; return 1; }
  echo "golden case on the CPU: loss $here"
  usable || { echo "$device: $problem"; return 1; }
  there=$(golden_loss "$device") || { echo "the golden case does not run on $device"; return 1; }
  echo "golden case on $device: loss $there"
  awk -v a="$here" -v b="$there" 'BEGIN { d = a - b; exit !(a != "" && b != "" && d * d <= 1e-8 * a * a) }' ||
    { echo "the losses differ"; return 1; }
}
# golden_loss DEVICE OPTION...
golden_loss() {
  local golden=$root/tests/golden/pixel/avid_mask on=$1
  shift
  limited 60 "$bin/avid" forward --base "$golden/base.safetensors" --adapter "$golden/adapter.safetensors" \
    --input "$golden/input.safetensors" --output "$out/forward.safetensors" --device "$on" "$@" --json \
    >"$out/forward.json" || return 1
  number "$out/forward.json" loss
}
# Every kernel by itself, a process per source file. First what tells most: single instructions, then products.
stage_parity() {
  [ -x "$tests/test_gpu" ] || { echo "no test_gpu in this build"; return 3; }
  local files found failed=() code file passed=0 hanging=0 wgmma tma
  found=$(limited 60 "$tests/test_gpu" --list-test-cases 2>&1)
  files=$(printf '%s\n' "$found" | sed -n 's|^\([a-z0-9_]*\)/.*|\1|p' | awk '!seen[$0]++')
  [ -n "$files" ] || { printf '%s\n' "$found"; return 1; }
  files=$(printf '%s\n' layouts warpgroup tensor_copy fill gather_gemm gather_gemm_wgmma gather_gemm_halo \
    gather_gemm_halo_wgmma gather_weight_grad_wgmma conv3d conv_transpose3d linear "$files" |
    awk '!seen[$0]++' | grep -Fx "$files")
  for file in $files; do
    wgmma=${AVID_WGMMA:-on} tma=${AVID_TMA:-on}
    case $file in warpgroup | tensor_copy | *_wgmma)  # listed, so it was on at the beginning: each says something
      wgmma=on
      [ "$file" != tensor_copy ] || tma=on
      [ $hanging -lt 2 ] || { echo "$file: left out, two before it hang"; failed+=("$file"); continue; } ;;
    esac
    AVID_WGMMA=$wgmma AVID_TMA=$tma limited 40 "$tests/test_gpu" "-tc=$file/*" >"$out/parity-$file.log" 2>&1
    code=$?
    [ $code -ne 124 ] || hanging=$((hanging + 1))
    if [ $code -ne 0 ] && [ "${AVID_TMA:-on}" = on ] && [ "$wgmma" = on ]; then
      case $file in
        tensor_copy) without_tma "$file $(how $code), see parity-$file.log" ;;
        *_wgmma | conv3d | conv_transpose3d | linear | *attention*)
          if AVID_WGMMA=on AVID_TMA=off limited 40 "$tests/test_gpu" "-tc=$file/*" >"$out/parity-$file-off.log" 2>&1
          then
            without_tma "$file $(how $code) with tma and passed without, see parity-$file.log"
          fi ;;
      esac
    fi
    if [ $code -ne 0 ] && [ "${AVID_WGMMA:-on}" = on ] && [ "${AVID_TMA:-on}" = "$tma" ]; then
      case $file in
        warpgroup | *_wgmma) without_wgmma "$file $(how $code), see parity-$file.log" ;;
        conv3d | conv_transpose3d | linear | *attention*)
          if AVID_WGMMA=off limited 40 "$tests/test_gpu" "-tc=$file/*" >"$out/parity-$file-without.log" 2>&1; then
            without_wgmma "$file $(how $code) with wgmma and passed without, see parity-$file.log"
          fi ;;
      esac
    fi
    printf '%-32s %s\n' "$file" "$(how $code)"
    if [ $code -eq 0 ]; then
      passed=$((passed + 1))
    else
      failed+=("$file")
      grep -m 3 -h "ERROR\|launch:\|test_gpu:\|killed" "$out/parity-$file.log"
    fi
    [ $code -ne 124 ] || asked=no
    usable || { echo "$device: $problem"; break; }
  done
  note parity "kernels that agree with the CPU (files of tests)" "$passed" "of $(printf '%s\n' "$files" | wc -l)"
  [ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; return 1; }
}
how() { case $1 in 0) echo passed ;; 124) echo "hangs, killed" ;; *) echo "failed (code $1)" ;; esac; }
# Tensors, autograd, networks (also those of the paper, for which the CPU takes a while) and training on the device.
stage_tests() {
  local failed=0 code test left_out=()
  # Hours without a GPU; NVIDIA's libraries, which ask a driver.
  [ $rehearse = no ] || left_out=("-sfe=*full_size_device_test.cpp,*library_on_device_test.cpp")
  for test in test_tensor test_autograd test_models test_train; do
    [ -x "$tests/$test" ] || { echo "no $test in this build"; failed=1; continue; }
    limited 140 "$tests/$test" -sf='*device_test.cpp,*device_ops_test.cpp' "${left_out[@]}"
    code=$?
    echo "== $test $(how $code)"
    [ $code -eq 0 ] || failed=1
  done
  return $failed
}
stage_sanitizer() {
  local tool check failed=0
  tool=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null) || {
    echo "compute-sanitizer is not installed (it comes with the toolkit)"
    return 3
  }
  for check in memcheck racecheck synccheck initcheck; do
    echo "== $check"
    limited 70 "$tool" --tool "$check" --error-exitcode 9 "$tests/test_tensor" \
      -sf='*device_test.cpp,*device_ops_test.cpp' -sfe='*library_on_device_test.cpp' || failed=1  # cuDNN's own not
  done
  echo "== memcheck, the golden network"
  limited 90 "$tool" --tool memcheck --error-exitcode 9 "$tests/test_models" -tc='device/golden*' || failed=1
  return $failed
}
# The demo's base on the samples, in a rehearsal the tiny one: run FOLDER SETTING...
short_run() {
  local run=$1 config=demo_base data setting settings
  shift
  [ $rehearse = no ] || config=tiny/base
  data=$(ls "$root"/data/samples/*train.h5 2>/dev/null | head -n 1)
  [ -n "$data" ] || { echo "no data/samples/*train.h5 here" >&2; return 3; }
  rm -rf "$run"
  settings=(--set "data.train=[\"$data\"]" --set "data.validation=[]" --set validation.every=0)
  for setting in "$@"; do settings+=(--set "$setting"); done
  limited 60 "$bin/avid" train --config "$root/configs/$config.toml" --run "$run" --device "$device" \
    "${settings[@]}" --json
}
stage_graphs() {  # an update that is repeated as a graph computes the same bits; runs are repeatable
  local digests=() graph updates=12
  [ $rehearse = no ] || updates=3
  for graph in off on on; do
    short_run "$out/run-graph" train.updates=$updates train.graph="\"$graph\"" >"$out/graph-$graph.json" || return $?
    digests+=("$("$bin/avid" inspect --sha "$out/run-graph" | awk '{print $1}' | tr '\n' ' ')")
    echo "train.graph = $graph: $(number "$out/graph-$graph.json" train_seconds) s, ${digests[-1]}"
    note graphs "$updates updates, graph $graph" "$(number "$out/graph-$graph.json" train_seconds)" s
  done
  [ "${digests[1]}" = "${digests[2]}" ] || { echo "two runs with graphs differ"; return 1; }
  [ "${digests[0]}" = "${digests[1]}" ] || { echo "runs with and without graphs differ"; return 1; }
}
# The networks that are timed: sizes of the paper, weights and clips made up. NAME CONFIG CLIPS
networks() {
  if [ $rehearse = yes ]; then
    echo "tiny-avid tiny/avid.toml 1"
    echo "tiny-base tiny/base.toml 1"
    return
  fi
  echo "avid71m avid_71m.toml 64"
  echo "base97m base.toml 32"
  echo "avid22m avid_22m.toml 64"
}
step_inputs() {
  local base=base.toml
  [ $rehearse = no ] || base=tiny/base.toml
  echo "--config $root/configs/$1 --clips $2"
  [ "$1" = $base ] || echo "--base-config $root/configs/$base"
}
# How often a step is repeated: COUNT, in a rehearsal once.
steps() { [ $rehearse = no ] && echo "--steps $1 --warmup $2" || echo "--steps 1 --warmup 1"; }
stage_step() {  # whole updates and sampling steps at the paper's sizes
  local failed=0 name config clips kind json what
  while read -r name config clips; do
    for kind in base sample; do
      json=$out/step-$name-$kind.json
      what="$name, $clips clips, $([ $kind = sample ] && echo sampling step || echo update)"
      if limited 60 "$bin/avid" bench step --kind $kind $(step_inputs "$config" "$clips") --dtype bf16 \
        --device "$device" $(steps 5 3) --json >"$json"; then
        printf '%-44s %s s, %s of the matrix product\n' "$what" "$(number "$json" median_s)" \
          "$(number "$json" share_of_gemm)"
        note step "$what" "$(number "$json" median_s)" s
        note step "$what: share of GEMM" "$(number "$json" share_of_gemm)" ""
        note step "$what: tensors" "$(number "$json" peak_tensor_mib)" MiB
        note step "matrix product, bf16" "$(number "$json" gemm_gflop_per_s)" GFLOP/s
        note step "copy" "$(number "$json" copy_gbyte_per_s)" GB/s
      else
        echo "$what: failed"
        failed=1
      fi
    done
  done < <(networks)
  return $failed
}
stage_profile() {  # where the time of an update goes; open the SVG, and the trace in ui.perfetto.dev
  local failed=0 name config clips
  while read -r name config clips; do
    limited 60 "$bin/avid" profile --kind base $(step_inputs "$config" "$clips") --dtype bf16 --device "$device" \
      $(steps 2 2) --trace "$out/trace-$name.json" --roofline "$out/roofline-$name.svg" || failed=1
  done < <(networks)
  return $failed
}
stage_scaling() {  # an update's time for twice the frames, and for twice the height and width: per frame, and per pixel
  local network=base97m config=base.toml clips=8 frames=8 size=64
  local name longer wider more json first= seconds ratio failed=0
  [ $rehearse = no ] || network=tiny-base config=tiny/base.toml clips=1 frames=2 size=16
  while read -r name longer wider more; do
    json=$out/scaling-$name.json
    sed "/^\(frames\|size\) = /d; /^\[data\]/a frames = $((longer * frames))\nsize = $((wider * size))" \
      "$root/configs/$config" >"$out/scaling-$name.toml"
    limited 40 "$bin/avid" bench step --kind base --config "$out/scaling-$name.toml" --clips $clips --dtype bf16 \
      --device "$device" $(steps 5 3) --json >"$json" || { failed=1; echo "$name: failed"; continue; }
    seconds=$(number "$json" median_s)
    echo "$network, $clips clips of 2 + $((longer * frames)) frames of $((wider * size))x$((wider * size)): $seconds s"
    if [ "$name" = once ]; then
      first=$seconds
    elif [ -n "$first" ]; then
      ratio=$(awk -v a="$first" -v b="$seconds" -v by=$((longer * wider * wider)) \
        'BEGIN { printf "%.3f", b / (by * a) }')
      note scaling "$network, $clips clips, $more" "$ratio" "of linear"
    fi
  done <<<"once 1 1
frames 2 1 twice the frames
pixels 1 2 four times the pixels"
  return $failed
}
# Every convolution, product, attention and layer norm of an update against cuDNN and cuBLASLt, all else against a copy.
stage_kernels() {
  local config clips name json=$out/kernels.json failed=0 route
  while read -r name config clips; do
    json=$out/kernels-$name.json
    limited 110 "$bin/avid" bench kernels --kind base $(step_inputs "$config" "$clips") --dtype bf16 \
      --device "$device" --json >"$json" 2>"$out/kernels-$name.err" ||
      { failed=1; echo "$name: not to its end"; cat "$out/kernels-$name.err"; continue; }
    if ! grep -q '"library_ms":' "$json"; then
      echo "neither cuBLASLt nor cuDNN computes here:"
      head -n 2 "$out/kernels-$name.err"
      return 3
    fi
    cat "$out/kernels-$name.err"
    note kernels "$name: convolutions and products of an update, ours" "$(number "$json" ours_ms_per_step)" ms
    note kernels "$name: the same, NVIDIA's libraries" "$(number "$json" library_ms_per_step)" ms
    note kernels "$name: ops without products, of a copy's rate" "$(number "$json" memory_bound_share_of_copy)" ""
  done < <(networks)
  # Layer norms are in classifiers alone.
  limited 60 "$bin/avid" bench kernels --kind base --config "$root/configs/classifier32.toml" --device "$device" ||
    failed=1
  # The libraries' results beside ours: the golden case through each.
  for route in "--conv native" "--conv cudnn --gemm cublaslt"; do
    echo "$route: loss $(golden_loss "$device" $route)"
  done
  return $failed
}
# A Python with PyTorch for this GPU; 3 where there is none.
peer_python() {
  python=$(command -v "${AVID_PEER_PYTHON:-python3}") &&
    limited 60 "$python" -c 'import torch, safetensors, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null || {
    echo "no Python with PyTorch for CUDA and safetensors here | name one with AVID_PEER_PYTHON"
    return 3
  }
}
stage_ops() {  # PyTorch's convolutions and attention at every size of an update, beside ours in one run
  local python network=avid71m config=avid_71m.toml clips=8 name only modes json failed=0
  [ $rehearse = no ] || network=tiny-avid config=tiny/avid.toml clips=1
  local -x LD_LIBRARY_PATH=$library_path
  peer_python || return $?
  while read -r name only modes; do  # of 8 clips: more than 65,535 pixels are too many for PyTorch's fused attention
    json=$out/ops-$name.json
    if AVID_PEER_PYTHON=$python AVID_PEER_PROGRAM=$bin/avid limited 100 "$root/bench/peers/run.sh" ops --kind base \
      $(step_inputs $config $clips) --dtype bf16 --device "${device%%:*}" --threads "$(nproc)" --only "$only" \
      --modes "$modes" --rounds 2 --seconds 60 --json "$json"; then
      note ops "$network, $clips clips, $only: PyTorch's time / ours, $modes" "$(number "$json" "${only}_ratio")" ""
      note ops "$network, $clips clips, $only: the slowest of them, $modes" "$(number "$json" slowest_ratio)" ""
    else
      failed=1
    fi
  done <<<"conv conv eager
attention attention eager,sdpa
compiled attention compile"
  return $failed
}
stage_peers() {  # PyTorch on the same GPU in the same run, the best of its ways
  local python kind mode failed=0
  local -x LD_LIBRARY_PATH=$library_path
  peer_python || return $?
  for kind in avid sample base; do  # torch.compile takes most of it
    if AVID_PEER_PYTHON=$python AVID_PEER_PROGRAM=$bin/avid limited 270 \
      "$root/bench/peers/run.sh" --quick --only $kind --threads "$(nproc)" --device "${device%%:*}" \
      --json "$out/peers-$kind.json"; then
      note peers "$kind: PyTorch's time / ours" "$(number "$out/peers-$kind.json" ratio)" ""
      for mode in eager eager-sdpa compile; do
        note peers "$kind: PyTorch's time / ours, $mode" "$(awk -v a="$(number "$out/peers-$kind.json" $mode-bf16)" \
          -v b="$(number "$out/peers-$kind.json" ours_s)" 'BEGIN { if (a > 0 && b > 0) printf "%.3f", a / b }')" ""
      done
    else
      failed=1
    fi
  done
  return $failed
}
stage_train() {
  local updates=20 what="the demo's base"
  [ $rehearse = no ] || updates=2 what=tiny-base
  short_run "$out/run" train.updates=$updates >"$out/train.json" || return $?
  cat "$out/train.json"
  note train "$updates updates of $what" "$(number "$out/train.json" train_seconds)" s
}
