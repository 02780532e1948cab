#!/usr/bin/env bash
# Are the kernel tests able to fail? Plants one small bug at a time into kernels/*.cu (a dropped barrier, a bound off by one, a
# swapped index, a wrong stride, a missing mask, a wrong wait count, another operator ...), runs the kernel's tests on the
# simulator, and counts the bugs they notice. No GPU needed. Exit status 1 when a bug survives that
# kernels/mutation_survivors.md does not explain.
#
# Usage: scripts/mutate_kernels.sh [--file REGEX] [--max N] [--seed N] [--build DIR] [--minutes M] [--race] [--asan] [--list] [--json FILE]
#   --file REGEX   only kernels/<op>.cu and kernels/device/<name>.h whose name matches
#   --max N        at most N bugs per file, chosen by --seed (default 8; 0: all)
#   --build DIR    a configured build folder (default build); test_sim is built there
#   --minutes M    stop after M minutes and report what was done
#   --race, --asan survivors of the plain build get a second chance in the build with race hooks, with sanitizers
#   --list         print the bugs and stop
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in --help | -h) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
command -v python3 >/dev/null || { echo "mutate_kernels: needs python3" >&2; exit 2; }
exec python3 scripts/mutate_kernels.py "$@"
