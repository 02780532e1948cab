#!/usr/bin/env bash
# Can the tests see a mistake in what only nvcc compiles, or only a build with CUDA? Plants one small bug at a time into
# the GPU's side of the device language (inline assembly: a swapped operand, a dropped .trans, a wrong wait count) and
# into the calls to CUDA's runtime, compiles what it touches, and runs tests on the PTX machine (kernels/ptx). The
# simulator's side of the same names, and the kernels themselves, are scripts/mutate_kernels.sh's.
#
# Usage: scripts/mutate_cuda.sh [--build DIR] [--file REGEX] [--max N] [--seed N] [--seconds S] [--list]
#   --build DIR    a build folder configured with -DAVID_PTX_MACHINE=ON (default build-ptx)
#   --file REGEX   only files whose name matches: gpu_cuda, warpgroup_cuda, tensor_map, runtime_cuda, recorded_cuda
#   --max N        N bugs per file, drawn by --seed (default 0: all)
#   --seconds S    start nothing new after S seconds
#   --list         print the bugs and stop
# Exit status: 0 done, 1 a survivor is not explained in kernels/mutation_survivors.md, 2 no such option.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in --help | -h) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
command -v python3 >/dev/null || { echo "mutate_cuda: needs python3" >&2; exit 2; }
exec python3 scripts/mutate_cuda.py "$@"
