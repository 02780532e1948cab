#!/usr/bin/env bash
# Set-up, build, every test. Usage: scripts/test.sh [quick|all]     (default: all = labels quick and full)
set -euo pipefail
cd "$(dirname "$0")/.."
level=${1:-all}
case $level in
  quick) labels=(-L quick) ;;
  all) labels=() ;;
  *) echo "usage: scripts/test.sh [quick|all]" >&2; exit 2 ;;
esac
./scripts/build.sh build -DAVID_TESTS=ON
cd build
# Tests run side by side, one thread each: faster on small sizes than one test on all cores.
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} ctest --output-on-failure -j "$(nproc)" ${labels[@]+"${labels[@]}"}
