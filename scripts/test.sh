#!/usr/bin/env bash
# Set-up, build, every test. Usage: scripts/test.sh [quick|all]     (default: all = labels quick, full and sim)
#
# Without a GPU the CUDA kernels run in the simulator (label sim). Where CUDA's toolkit is installed, level all also
# runs what nvcc makes of them, on the PTX machine (kernels/ptx, in build-ptx; the preset ptx-machine runs more there).
# Registers and spills take minutes more:
# cmake -S . -B build -DAVID_CUDA=ON && cmake --build build && ctest --test-dir build -L nvcc
set -euo pipefail
cd "$(dirname "$0")/.."
level=${1:-all}
case $level in
  quick) labels=(-L quick) ;;
  all) labels=(-LE nvcc) ;;
  --help | -h) sed -n '2,7s/^# \{0,1\}//p' scripts/test.sh; exit 0 ;;
  *) echo "usage: scripts/test.sh [quick|all]" >&2; exit 2 ;;
esac
have_toolkit() {  # the PTX machine knows the runtime of CUDA 13
  local nvcc
  nvcc=$(PATH=$PATH:/usr/local/cuda/bin command -v nvcc) &&
    [ "$("$nvcc" --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')" -ge 13 ]
}
cuda=OFF ptx=no
if nvidia-smi -L >/dev/null 2>&1; then
  cuda=ON
else
  echo "no GPU here: the CUDA kernels are tested in the simulator; label nvcc (registers and spills) is not run"
  if [ "$level" = all ] && have_toolkit; then
    ptx=yes
  elif [ "$level" = all ]; then
    echo "no toolkit of CUDA 13 here: what nvcc makes of the kernels is not run (label ptx)"
  fi
fi
./scripts/build.sh build -DAVID_TESTS=ON -DAVID_CUDA=$cuda
# Tests run side by side, one thread each: faster on small sizes than one test on all cores.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
ctest --test-dir build --output-on-failure -j "$(nproc)" "${labels[@]}"
[ $ptx = yes ] || exit 0
log=build/configure-ptx.log
cmake -S . -B build-ptx -G Ninja -DCMAKE_BUILD_TYPE=Release -DAVID_TESTS=ON -DAVID_PTX_MACHINE=ON >$log 2>&1 ||
  { cat $log >&2; exit 1; }
cmake --build build-ptx --target test_gpu test_ptx
ctest --test-dir build-ptx --output-on-failure -j "$(nproc)" -R '^ptx/|^ptx[0-9]+/kernels/'
