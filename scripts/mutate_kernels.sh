#!/usr/bin/env bash
# Are the kernel tests able to fail? Plants one small bug at a time into kernels/*.cu and kernels/device/*.h (a dropped
# barrier, a bound off by one, a swapped index, a wrong stride, a missing mask, a wrong wait count, another operator),
# compiles that kernel alone (-O1), runs its tests on the simulator, and counts the bugs they notice. A bug that leaves
# the object as it was has no effect. One that the plain build misses meets the race hooks, which count traffic too, and
# the sanitizers. No GPU needed.
#
# Not planted is what no result can show: swapped operands where the operation commutes (fmaxf, min, the two factors of
# fmaf, sums), and other numbers in the text of a message.
#
# Usage: scripts/mutate_kernels.sh [--build DIR] [--file REGEX] [--max N] [--seed N] [--seconds S]
#                                  [--again | --anew | --report | --list]
#   --build DIR    a configured build folder (default build); the simulator's tests are built there, results kept in
#                  DIR/mutants/results.tsv, so that the next call goes on where this one stopped
#   --file REGEX   only kernels/<op>.cu and kernels/device/<name>.h whose name matches
#   --max N        N bugs per file and one more per 100 lines, drawn by --seed (default 5; 0: all)
#   --seconds S    start nothing new after S seconds
#   --again        try the survivors that are not explained once more (with better tests)
#   --anew         forget what is known of the chosen files' bugs, and try them all
#   --report       only print what is known: a table per file, and the survivors
#   --list         print the bugs and stop
# Exit status: 0 done, 1 a survivor is not explained in kernels/mutation_survivors.md, 2 no such option, 3 not done yet.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in --help | -h) sed -n '2,24s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
command -v python3 >/dev/null || { echo "mutate_kernels: needs python3" >&2; exit 2; }
exec python3 scripts/mutate_kernels.py "$@"
