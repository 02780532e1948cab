#!/usr/bin/env bash
# scripts/get_procgen.sh -- obtain the procgen 0.10.7 package: the game library and its pictures
#
# Downloads the package with pip, unpacks it into third_party/procgen (or $AVID_PROCGEN_DIR) and records the sha256
# of the game library beside it. Nothing of it is Python at run time and nothing of it enters the repository (procgen
# is MIT, the Qt inside its library LGPL). Silent when it is already there; safe to repeat and to interrupt.
#
# Usage: scripts/get_procgen.sh [--force]     AVID_PROCGEN_DIR=DIR  another place
#                                             AVID_PROCGEN_WHEEL=FILE  a package file already on this machine
set -euo pipefail

version=0.10.7
# The library in the package for Python 3.10 on x86-64 Linux; the shipped samples were rendered with it.
known_sha256=f44786431a902e9ae1a32cd44f4aa650f4bdad893240a322e49e6098d6a7a2ea

root=$(cd "$(dirname "$0")/.." && pwd)
target=${AVID_PROCGEN_DIR:-$root/third_party/procgen}
library=procgen/data/prebuilt/libenv.so

die() { echo "get_procgen: $1" >&2; exit 1; }

case "${1:-}" in
  "" | --force) ;;
  -h | --help) sed -n '2,9p' "$0" | sed 's/^# \{0,1\}//'; exit 0 ;;
  *) echo "get_procgen: unknown argument '$1' | see scripts/get_procgen.sh --help" >&2; exit 2 ;;
esac

if [ "${1:-}" != --force ] && [ -f "$target/libenv.sha256" ] &&
   (cd "$target" && sha256sum --status -c libenv.sha256 2>/dev/null) && [ -d "$target/procgen/data/assets" ]; then
  exit 0
fi

command -v python3 >/dev/null || die "python3 is missing | apt-get install python3 python3-pip (only to fetch the package)"

mkdir -p "$(dirname "$target")" 2>/dev/null || die "cannot make $(dirname "$target") | set AVID_PROCGEN_DIR to a folder you can write"
work=$(mktemp -d "$target.new.XXXXXX" 2>/dev/null) || die "cannot write beside $target | set AVID_PROCGEN_DIR to a folder you can write"
trap 'rm -rf "$work"' EXIT

wheel=${AVID_PROCGEN_WHEEL:-}
if [ -z "$wheel" ]; then
  python3 -m pip --version >/dev/null 2>&1 || die "pip is missing | apt-get install python3-pip (only to fetch the package)"
  echo "get_procgen: downloading procgen $version (36 MB)" >&2
  if ! python3 -m pip download "procgen==$version" --python-version 3.10 --only-binary=:all: --no-deps \
       --disable-pip-version-check --quiet --dest "$work" >"$work/pip.log" 2>&1; then
    reason=$(grep -v '^[[:space:]]*$' "$work/pip.log" | tail -n 1 || true)
    # Without a network pip's last line only says that it found no such package.
    if grep -qiE 'connection|resolve|retrying|timed out|unreachable' "$work/pip.log"; then reason="no connection to the package index"; fi
    die "pip could not download procgen $version: ${reason:-no message} | check the network, or give a package file: AVID_PROCGEN_WHEEL=FILE"
  fi
  wheel=$(echo "$work"/procgen-*.whl)
fi
[ -f "$wheel" ] || die "no package file at $wheel"

python3 -m zipfile -e "$wheel" "$work/unpacked" 2>/dev/null || die "$wheel cannot be unpacked | delete it and run again"
[ -f "$work/unpacked/$library" ] || die "the package has no $library | this machine needs x86-64 Linux"
[ -d "$work/unpacked/procgen/data/assets" ] || die "the package has no procgen/data/assets"
(cd "$work/unpacked" && sha256sum "$library" > libenv.sha256)
read -r sha256 _ < "$work/unpacked/libenv.sha256"
if [ "$sha256" != "$known_sha256" ]; then
  echo "get_procgen: note: the library differs from the one used for the shipped samples ($sha256)" >&2
fi

rm -rf "$target.old"
[ ! -e "$target" ] || mv "$target" "$target.old"
mv "$work/unpacked" "$target"
rm -rf "$target.old"
echo "get_procgen: $target ready, libenv.so sha256 $sha256" >&2
