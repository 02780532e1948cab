#!/usr/bin/env bash
# Set-up, build, every test. Usage: scripts/test.sh [quick|all]     (default: all = labels quick, full and sim)
#
# Without a GPU the CUDA kernels run in the simulator (label sim) and are not compiled by nvcc, which takes minutes; to do
# that as well: cmake -S . -B build -DAVID_CUDA=ON && cmake --build build && ctest --test-dir build -L nvcc
set -euo pipefail
cd "$(dirname "$0")/.."
level=${1:-all}
case $level in
  quick) labels=(-L quick) ;;
  all) labels=(-LE nvcc) ;;
  *) echo "usage: scripts/test.sh [quick|all]" >&2; exit 2 ;;
esac
cuda=OFF
if nvidia-smi -L >/dev/null 2>&1; then
  cuda=ON
else
  echo "no GPU here: the CUDA kernels are tested in the simulator; label nvcc (registers and spills) is not run"
fi
./scripts/build.sh build -DAVID_TESTS=ON -DAVID_CUDA=$cuda
cd build
# Tests run side by side, one thread each: faster on small sizes than one test on all cores.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} ctest --output-on-failure -j "$(nproc)" "${labels[@]}"
