#!/usr/bin/env bash
# What the compiled kernels need: registers, spills, shared memory, which instructions they use, and how many stand in
# their hottest loop per tensor-core instruction. Needs nvcc and python3, no GPU. Exit status 1 when a kernel spills, needs
# more or has fewer tensor-core and copy instructions than kernels/resources.tsv says, or when a source calls for
# instructions that none of its kernels has. Loops are held to the table within 3 %, or 25 % if nvcc has another version.
# Kernels whose warpgroups hand registers to each other (setmaxnreg) must have as many as the table says: with fewer they
# would wait for ever.
#
# Usage: scripts/kernel_resources.sh [--file REGEX] [--arch 80,90] [--jobs N] [--json] [--loops] [--update]
#   --file REGEX   only kernels/<op>.cu whose op matches
#   --json         one object per kernel on stdout instead of the table
#   --budget FILE  another table than kernels/resources.tsv
#   --loops        lists the kernels whose loop has more instructions per tensor-core instruction than it should
#   --update       writes what was measured into kernels/resources.tsv (only the files that were compiled)
#   NVCC=path      another nvcc
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in --help | -h) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
command -v python3 >/dev/null || { echo "kernel_resources: needs python3" >&2; exit 2; }
exec python3 scripts/kernel_resources.py "$@"
