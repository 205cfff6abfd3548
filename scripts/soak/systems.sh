#!/usr/bin/env bash
# scripts/quickstart and scripts/test of the present commit, each from nothing, in fresh systems made by
# debootstrap: SYSTEMS (default: bookworm trixie noble) below FOLDER (default: /var/tmp/lockstep-systems,
# 5 GiB a system). MIRROR_debian and MIRROR_ubuntu are the archives. Needs root.
# Builds what it needs itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folder=${FOLDER:-/var/tmp/lockstep-systems}
debian=${MIRROR_debian:-http://deb.debian.org/debian}
ubuntu=${MIRROR_ubuntu:-http://archive.ubuntu.com/ubuntu}
declare -A title=([bookworm]="Debian 12" [trixie]="Debian 13" [noble]="Ubuntu 24.04")

if [[ $EUID -ne 0 ]]; then
  echo "systems: debootstrap needs root" >&2
  exit 2
fi
if ! command -v debootstrap >/dev/null; then
  echo "systems: debootstrap is not installed (apt-get install debootstrap)" >&2
  exit 2
fi

unmount() {
  local root
  for root in "$folder"/*/; do
    for place in dev/shm dev proc; do
      mountpoint -q "$root$place" && umount "$root$place"
    done
  done
  true
}
trap unmount EXIT

# make SYSTEM: a fresh one with git, its /proc and /dev in place and the repository in /lockstep.
make() {
  local root=$folder/$1 mirror=$debian script=() components=main
  if [[ $1 == noble ]]; then
    mirror=$ubuntu components=main,universe
    # An older debootstrap does not know the name; all Ubuntu releases are made alike.
    [[ -e /usr/share/debootstrap/scripts/$1 ]] || script=(gutsy)
  fi
  rm -rf "$root"
  mkdir -p "$root"
  debootstrap --variant=minbase --components="$components" --include=git,ca-certificates \
    "$1" "$root" "$mirror" "${script[@]}" || return
  mount -t proc proc "$root/proc"
  mount --bind /dev "$root/dev"
  mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
  git clone --quiet --no-hardlinks . "$root/lockstep"
}

# within SYSTEM COMMAND...: runs it there, with nothing of this environment.
within() {
  local root=$folder/$1
  shift
  chroot "$root" env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    bash -c 'cd /lockstep && exec "$@"' within "$@"
}

mkdir -p "$folder"
status=0
for system in ${SYSTEMS:-bookworm trixie noble}; do
  name=${title[$system]:-$system}
  log=$folder/$system.log
  if ! make "$system" >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    echo "systems: $name: not made, see $log" >&2
    status=1
    continue
  fi
  # Installing is not part of the time: it is the archive's.
  within "$system" scripts/setup >>"$log" 2>&1 || true
  for command in quickstart test; do
    start=$SECONDS
    if within "$system" "scripts/$command" >>"$log" 2>&1; then
      echo "systems: $name: scripts/$command succeeded in $((SECONDS - start)) s"
    else
      tail -n 40 "$log" >&2
      echo "systems: $name: scripts/$command FAILED, see $log" >&2
      status=1
      break
    fi
  done
done
exit "$status"
