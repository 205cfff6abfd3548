#!/usr/bin/env bash
# A run that is killed by kill -9 a hundred times, at random moments and places, also in the middle of
# saves, and resumed each time, ends in the bits of an undisturbed one; no process, shared memory or
# torn checkpoint is left. SOAK_SEED (default: from the clock) is what is random; LOCKSTEP_BUILD
# (default: build) is the build folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=$(realpath "${LOCKSTEP_BUILD:-build}")
export LOCKSTEP_BINARY=$build/bin/lockstep
export LOCKSTEP_KILLS=100
export LOCKSTEP_KILL_SEED=${SOAK_SEED:-$(date +%s)}
export OMP_WAIT_POLICY=passive
timeout 3000 "$build/tests/system_kill_test"
echo "kill: seed $LOCKSTEP_KILL_SEED: $LOCKSTEP_KILLS kills (${SECONDS} s)"
