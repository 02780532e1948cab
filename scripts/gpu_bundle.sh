#!/usr/bin/env bash
# Builds the program and its tests with CUDA and packs them with everything they need but the driver, for a machine that
# has neither packages nor a network: unpack there and run ./gpu_check.sh.
#
# Usage: scripts/gpu_bundle.sh [--build DIR] [--archs "80;90"] [--jobs N] [--lean] [--programs LIST] [--out FILE.tar.xz]
#   --lean  programs and libraries alone, for a machine that has this checkout: scripts/gpu_check.sh --build .../bin there
#   --programs "avid test_gpu"  only these, for a smaller file (default: also test_tensor, _autograd, _models, _train)
# Needs the CUDA toolkit here. The machine there needs x86-64 with AVX2, a C library no older than this one's, and
# NVIDIA's driver. cuBLASLt and cuDNN are used where that machine has them. The CUDA runtime is linked in; other
# libraries travel in lib/, found by RPATH.
# Fails when something would be missing there, when the packed program does not run here, or above 60 MB.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build-gpu archs="80;90" out= jobs=$(nproc) lean=no
names="avid test_gpu test_tensor test_autograd test_models test_train"
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --archs) archs=$2; shift 2 ;;
    --jobs) jobs=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --lean) lean=yes; shift ;;
    --programs) names=$2; shift 2 ;;
    --help|-h) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "gpu_bundle: unknown option $1 | see --help" >&2; exit 2 ;;
  esac
done
out=${out:-$build/avid-gpu.tar.xz}
most_mb=60
programs=()
for name in $names; do case $name in avid) programs+=(avid) ;; *) programs+=("tests/$name") ;; esac; done
mkdir -p "$build"
# RPATH and not RUNPATH: it holds for the libraries that libraries need, too. MP4 would bring a hundred more along.
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DAVID_CUDA=ON "-DAVID_CUDA_ARCHS=$archs" \
  -DAVID_CPU_ARCH=x86-64-v3 -DAVID_TEST_SOURCE_DIR=. -DAVID_AV_INCLUDE=OFF '-DCMAKE_BUILD_RPATH=$ORIGIN/../lib' \
  -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags >"$build/bundle-cmake.log" 2>&1 ||
  { cat "$build/bundle-cmake.log" >&2; exit 1; }
if ! grep -q "^CUDAToolkit\|CMAKE_CUDA_COMPILER" "$build/CMakeCache.txt"; then
  echo "gpu_bundle: no CUDA toolkit found here | install one, or name it with CUDAToolkit_ROOT" >&2
  exit 1
fi
cmake --build "$build" -j "$jobs" --target "${programs[@]##*/}"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
bundle=$stage/avid-gpu
mkdir -p "$bundle/bin" "$bundle/lib" "$bundle/tests/golden" "$bundle/data/samples" "$bundle/bench"
for program in "${programs[@]}"; do cp "$build/$program" "$bundle/bin/"; done
strip "$bundle"/bin/*
# Libraries, except those of the C library and the driver, which must be the machine's own.
own='^(libc|libm|libdl|libpthread|librt|libresolv|libcuda|ld-linux[^.]*|linux-vdso)\.so'
for program in "$bundle"/bin/*; do ldd "$program"; done | awk '$3 ~ /^\// {print $1, $3}' | sort -u |
  while read -r name library; do
    [[ $name =~ $own ]] || cp -L "$library" "$bundle/lib/$name"
  done
strip --strip-unneeded "$bundle"/lib/*
cp -r tests/golden/pixel "$bundle/tests/golden/"
cp -r configs "$bundle/configs"
cp -r bench/peers "$bundle/bench/peers"
rm -rf "$bundle/bench/peers/__pycache__"
cp data/samples/*.h5 "$bundle/data/samples/"
cp scripts/gpu_check.sh scripts/gpu_stages.sh "$bundle/"
git rev-parse HEAD >"$bundle/commit" 2>/dev/null || true

# Does it stand alone? Every library comes from lib/ or is the machine's own, and the program computes.
for program in "$bundle"/bin/*; do
  env -u LD_LIBRARY_PATH ldd "$program" | while read -r name _ path _; do
    name=${name##*/}
    [[ $name =~ $own || $path == "$bundle/lib/"* || $path == "$bundle/bin/../lib/"* ]] ||
      { echo "gpu_bundle: ${program##*/} would need $name from $path" >&2; exit 1; }
  done
done
golden=$bundle/tests/golden/pixel/avid_mask
env -i "$bundle/bin/avid" info >/dev/null
env -i "$bundle/bin/avid" forward --base "$golden/base.safetensors" --adapter "$golden/adapter.safetensors" \
  --input "$golden/input.safetensors" --output "$stage/forward.safetensors" >/dev/null
[ $lean = no ] || (cd "$bundle" && rm -r tests configs data bench gpu_check.sh gpu_stages.sh)
# Programs hold the same kernels: a window over all of them keeps one copy.
XZ_OPT='-T1 --x86 --lzma2=preset=9,dict=128MiB' tar -C "$stage" --sort=name -cJf "$out" avid-gpu
size=$(stat -c %s "$out")
echo "$out: $((size / 1000000)) MB, unpacked $(du -sm "$bundle" | cut -f1) MiB"
if [ "$size" -gt $((most_mb * 1000000)) ]; then
  echo "gpu_bundle: larger than $most_mb MB | fewer --archs" >&2
  exit 1
fi
