#!/usr/bin/env bash
# 50 trainings of two ranks, each paused at a random step and resumed: curve, ledger and weights are
# those of an undisturbed one. SOAK_SEED (default: from the clock) is what is random; LOCKSTEP_BUILD
# (default: build) is the build folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=$(realpath "${LOCKSTEP_BUILD:-build}")
export LOCKSTEP_BINARY=${LOCKSTEP_BINARY:-$build/bin/lockstep}
export LOCKSTEP_PAUSES=50
export LOCKSTEP_PAUSE_SEED=${SOAK_SEED:-$(($(date +%s) % 1000000000))}
export OMP_WAIT_POLICY=passive
timeout 3000 "$build/tests/coordinator_system_crash_test" --gtest_filter='F12_*'
echo "coordinator_pause: seed $LOCKSTEP_PAUSE_SEED: $LOCKSTEP_PAUSES trainings (${SECONDS} s)"
