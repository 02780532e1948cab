#!/usr/bin/env bash
# The check of kernels/resources.tsv finds what was planted: a smaller budget, instructions and kernels that are not there.
set -uo pipefail
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failures=0
file=fill kernel='fill_kernel<float>' arch=80 target=sm_80
# expect NAME TEXT COLUMN VALUE: with COLUMN of $kernel for $target set to VALUE, the check fails and says TEXT.
expect() {
  awk -F'\t' -v OFS='\t' -v file="$file.cu" -v kernel="$kernel" -v target="$target" -v column="$3" -v value="$4" '
    /^#/ { print; next }
    !names { for (i = 1; i <= NF; i++) at[$i] = i; names = 1; print; next }
    $1 == file && $2 == kernel && $3 == target { $at[column] = value }
    { print }' kernels/resources.tsv >"$folder/planted.tsv"
  local said code
  said=$(scripts/kernel_resources.sh --file "^$file\$" --arch $arch --jobs 1 --budget "$folder/planted.tsv" 2>&1)
  code=$?
  if [ $code -ne 1 ] || ! grep -qF "$2" <<<"$said"; then
    echo "$1: expected exit status 1 and '$2', got $code and:"
    echo "$said"
    failures=$((failures + 1))
  fi
}
grep -q '^fill.cu' kernels/resources.tsv || { echo "kernels/resources.tsv does not know fill.cu"; exit 1; }
scripts/kernel_resources.sh --file '^fill$' --arch 80 --jobs 1 >"$folder/said" || { cat "$folder/said"; exit 1; }
expect registers "registers" registers 1
expect instructions "no HMMA instruction any more, had 4" hmma 4
expect unknown "has no line in the table" kernel "fill_kernel<half>"
expect gone "is in the table but not in the source" kernel "fill_kernel<half>"
file=timestep_code kernel='timestep_code_kernel<float>'
expect local "LDL and STL instructions, budget 0" local 0
file=temporal_attention_fused kernel='temporal_fused_fwd_kernel<8, 4, 4>'
expect loop "instructions per tensor-core instruction in its loop, budget 2.5" loop_per_mma 2.5
file=gather_gemm_wgmma arch=90 target=sm_90a
kernel=$(awk -F'\t' '$1 == "gather_gemm_wgmma.cu" { print $2; exit }' kernels/resources.tsv)
expect handed_out "would wait for ever" registers 200
exit $((failures > 0))
