#!/usr/bin/env bash
# Every fuzz target for ten minutes, as many at once as there are cores. LOCKSTEP_BUILD (default:
# build) is the build folder; FUZZ_SECONDS (default: 600) the time of each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=$(realpath "${LOCKSTEP_BUILD:-build}")/fuzz
seconds=${FUZZ_SECONDS:-600}
targets=(config flight manifest safetensors token_file)
if [[ ! -x $build/fuzz_config ]]; then
  echo "fuzz: $build/fuzz_config was not built: install clang with libFuzzer (Debian: clang and" \
    "libclang-rt-14-dev), and configure again" >&2
  exit 2
fi

one() {
  local log=$2/$1.log
  if ! tests/fuzz/fuzz.sh "$build" "$1" "$seconds" >"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "fuzz: $1: a finding, see above" >&2
    return 1
  fi
  awk -v name="$1" '/stat::number_of_executed_units/ {print "fuzz: " name ": " $2 " inputs, no finding"}' "$log"
}
export -f one
export build seconds
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -c "one {} '$logs'"
echo "fuzz: ${#targets[@]} targets, $seconds s each, no finding (${SECONDS} s)"
