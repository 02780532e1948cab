#!/usr/bin/env bash
# Installs what the build needs from scripts/packages.txt. Silent and quick when nothing is missing.
# As root or through sudo; otherwise it prints the command to run and stops. Usage: scripts/setup.sh
set -euo pipefail
case ${1:-} in
  "") ;;
  --help | -h) sed -n '2,3s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "setup: unknown argument $1 | see --help" >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."

packages=$(sed 's/#.*//' scripts/packages.txt | xargs)
missing=()
for package in $packages; do
  status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ]; then
  as_root=()
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
  as_root=(sudo)
else
  echo "setup: missing packages; run as root, then start again:" >&2
  echo "  apt-get update && apt-get install -y --no-install-recommends ${missing[*]}" >&2
  exit 1
fi

echo "setup: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { ${as_root[@]+"${as_root[@]}"} apt-get update && \
       ${as_root[@]+"${as_root[@]}"} apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  echo "setup: installing failed (above); check the network and the package sources, then run scripts/setup.sh again" >&2
  exit 1
fi
