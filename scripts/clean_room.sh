#!/usr/bin/env bash
# Proves the set-up: a minimal Debian 12 root made with debootstrap, a clone of this repository in it, the two commands.
# Needs root and debootstrap on this machine. Package sources, trust anchors and name resolution are this machine's own.
#
# Usage: scripts/clean_room.sh [--root DIR] [--keep] [COMMAND...]
#   COMMANDs run in the clone, in order (default: ./scripts/demo.sh ./scripts/test.sh); each one's time is printed.
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
root=${TMPDIR:-/tmp}/avid-clean-room
keep=no
commands=()
while [ $# -gt 0 ]; do
  case $1 in
    --root) root=$2; shift 2 ;;
    --keep) keep=yes; shift ;;
    --help|-h) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) commands+=("$1"); shift ;;
  esac
done
[ ${#commands[@]} -gt 0 ] || commands=(./scripts/demo.sh ./scripts/test.sh)
if [ "$(id -u)" -ne 0 ] || ! command -v debootstrap >/dev/null; then
  echo "clean_room: needs root and debootstrap (apt-get install debootstrap)" >&2
  exit 1
fi
if [ -e "$root" ]; then
  echo "clean_room: $root exists already; remove it or name another folder with --root" >&2
  exit 1
fi
mirror=$(sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) bookworm .*/\2/p' \
  /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1 || true)
if [ -z "$mirror" ]; then
  echo "clean_room: no Debian source in /etc/apt" >&2
  exit 1
fi

finish() {
  for mount in dev proc; do umount -l "$root/$mount" 2>/dev/null || true; done
  if [ "$keep" = no ]; then rm -rf --one-file-system "$root"; else echo "clean_room: kept $root" >&2; fi
}
trap finish EXIT

echo "clean_room: making a minimal Debian 12 in $root" >&2
debootstrap --variant=minbase --include=ca-certificates,git bookworm "$root" "$mirror" >"$root.log" 2>&1 || { tail "$root.log" >&2; exit 1; }
rm -f "$root.log"
cp -rL /etc/apt/sources.list* /etc/apt/apt.conf.d /etc/apt/keyrings "$root/etc/apt/" 2>/dev/null || true
find "$root/etc/apt/sources.list.d" -type f ! -name 'debian.sources' -delete 2>/dev/null || true
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || true
cp -L /etc/resolv.conf /etc/hosts "$root/etc/" 2>/dev/null || true
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
git clone --quiet --no-local "$repo" "$root/root/avid"

for command in "${commands[@]}"; do
  echo "clean_room: $command" >&2
  start=$(date +%s)
  env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 \
    ${http_proxy:+http_proxy=$http_proxy} ${https_proxy:+https_proxy=$https_proxy} \
    chroot "$root" bash -c "cd /root/avid && $command"
  echo "clean_room: $command took $(($(date +%s) - start)) s" >&2
done
