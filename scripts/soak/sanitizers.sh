#!/usr/bin/env bash
# The whole suite under the address and undefined-behaviour sanitizers, then under the thread sanitizer.
# PRESETS (default: asan tsan) are the build presets.
# Builds what it needs itself.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

status=0
for preset in ${PRESETS:-asan tsan}; do
  start=$SECONDS
  log=$(mktemp)
  if LOCKSTEP_SKIP_SETUP=1 scripts/test --preset "$preset" >"$log" 2>&1; then
    echo "sanitizers: $preset: $(grep 'tests passed' "$log" | tail -n 1) ($((SECONDS - start)) s)"
  else
    tail -n 60 "$log" >&2
    echo "sanitizers: $preset: FAILED, see above" >&2
    status=1
  fi
  rm -f "$log"
done
exit "$status"
