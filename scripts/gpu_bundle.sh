#!/usr/bin/env bash
# Builds the program and its tests with CUDA and packs them with everything they need but the driver, for a machine that has
# neither packages nor a network: unpack there and run ./gpu_check.sh.
#
# Usage: scripts/gpu_bundle.sh [--build DIR] [--archs "80;90"] [--out FILE.tar.xz]     (needs the CUDA toolkit here)
# The machine there needs x86-64 with AVX2 and a C library no older than this one's.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build-gpu archs="80;90" out=
while [ $# -gt 0 ]; do
  case $1 in
    --build) build=$2; shift 2 ;;
    --archs) archs=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    --help|-h) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "gpu_bundle: unknown option $1 | see --help" >&2; exit 2 ;;
  esac
done
out=${out:-$build/avid-gpu.tar.xz}
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DAVID_CUDA=ON "-DAVID_CUDA_ARCHS=$archs" \
  -DAVID_CPU_ARCH=x86-64-v3 >"$build.log" 2>&1 || { cat "$build.log" >&2; exit 1; }
if ! grep -q "^CUDAToolkit\|CMAKE_CUDA_COMPILER" "$build/CMakeCache.txt"; then
  echo "gpu_bundle: no CUDA toolkit found here | install one, or name it with CUDAToolkit_ROOT" >&2
  exit 1
fi
cmake --build "$build" --target avid test_tensor test_models

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
bundle=$stage/avid-gpu
mkdir -p "$bundle/bin" "$bundle/lib" "$bundle/tests/golden"
for program in "$build/avid" "$build/tests/test_tensor" "$build/tests/test_models"; do cp "$program" "$bundle/bin/"; done
strip "$bundle"/bin/*
# Libraries, except those of the C library and the driver, which must be the machine's own.
for program in "$bundle"/bin/*; do ldd "$program"; done | awk '$3 ~ /^\// {print $3}' | sort -u |
  grep -Ev '/(libc|libm|libdl|libpthread|librt|ld-linux[^/]*|libcuda)\.so' | while read -r library; do
    cp -L "$library" "$bundle/lib/"
  done
cp -r tests/golden/pixel "$bundle/tests/golden/"
cp -r configs "$bundle/configs"
mkdir -p "$bundle/data/samples"
cp data/samples/*.h5 "$bundle/data/samples/" 2>/dev/null || true
cp scripts/gpu_check.sh "$bundle/"
git rev-parse HEAD >"$bundle/commit" 2>/dev/null || true
tar -C "$stage" -cJf "$out" avid-gpu
echo "$out: $(du -h "$out" | cut -f1)"
