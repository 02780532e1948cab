#!/usr/bin/env bash
# Our program against PyTorch on the same machine in one run. Needs Python 3 with venv; installs PyTorch into .venv once.
# Usage: bench/peers/run.sh [--quick] [--only avid|base|sample] [--size 32|64] [--dtype f32|bf16] [--sdpa] [--json FILE]
#        bench/peers/run.sh ops --config F [--base-config F] [--kind K] [--clips N] [--dtype D] [--modes eager,sdpa,compile]
#   ops            single convolutions and attentions instead of whole steps; all options: ops --help
#   --device cuda  both sides on a GPU, at the paper's sizes; needs a PyTorch with CUDA and our build with -DAVID_CUDA=ON
#   AVID_PEER_PROGRAM names our program (default: build/avid).
#   AVID_PEER_PYTHON names an interpreter that already has PyTorch.
set -euo pipefail
case ${1:-} in --help | -h) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${AVID_PEER_PYTHON:-$root/.venv/bin/python}
if [ ! -x "$python" ]; then
  python3 -m venv "$root/.venv" >&2
  "$root/.venv/bin/pip" install --quiet torch numpy safetensors >&2
fi
program=${AVID_PEER_PROGRAM:-$root/build/avid}
if [ ! -x "$program" ]; then
  "$root/scripts/build.sh" >&2
fi
what=compare
[ "${1:-}" != ops ] || { what=ops; shift; }
exec "$python" "$root/bench/peers/$what.py" --program "$program" "$@"
