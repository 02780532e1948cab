#!/usr/bin/env bash
# Set-up and build. Usage: scripts/build.sh [BUILD_DIR [cmake options...]]     (default: build, Release)
set -euo pipefail
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
