#!/usr/bin/env bash
# The coordinator dies at every commit and every other failpoint, in every state of a run, over and
# over while a training of two ranks goes on, is paused and resumed: its curve is that of an
# undisturbed one. LOCKSTEP_BUILD (default: build) is the build folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=$(realpath "${LOCKSTEP_BUILD:-build}")
export LOCKSTEP_BINARY=${LOCKSTEP_BINARY:-$build/bin/lockstep}
export OMP_WAIT_POLICY=passive
for round in 1 2 3 4 5; do
  timeout 1500 "$build/tests/coordinator_system_crash_test" --gtest_filter='*F2_*:F3_*:F8_*'
  echo "coordinator_kill: round $round of 5 (${SECONDS} s)"
done
