#!/usr/bin/env bash
# Set-up and build. Usage: scripts/build.sh [BUILD_DIR [cmake options...]]     (default: build, Release)
set -euo pipefail
case ${1:-} in
  --help | -h) sed -n '2s/^# \{0,1\}//p' "$0"; exit 0 ;;
  -*) echo "build: expected a folder before $1 | see --help" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
./scripts/setup.sh
build=${1:-build}
shift || true
log=$build/configure.log
mkdir -p "$build"
if ! cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "$@" >"$log" 2>&1; then
  cat "$log" >&2
  exit 1
fi
cmake --build "$build"
