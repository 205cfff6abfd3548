#!/usr/bin/env bash
# A run that is asked to stop two hundred times, at random moments of every phase, at one to four ranks,
# by one signal or several, sent to the command, to a rank or to all: each stop exits 7, every
# checkpoint is whole, and the run ends in the bits of one that was never stopped. SOAK_SEED (default: from
# the clock) is what is random; LOCKSTEP_BUILD (default: build) is the build folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=$(realpath "${LOCKSTEP_BUILD:-build}")
export LOCKSTEP_BINARY=$build/bin/lockstep
export LOCKSTEP_STOPS=${LOCKSTEP_STOPS:-200}
export LOCKSTEP_STOP_SEED=${SOAK_SEED:-$(date +%s)}
export OMP_WAIT_POLICY=passive
timeout 6000 "$build/tests/system_signal_test" --gtest_filter='RandomStopTest.*'
echo "graceful_stops: seed $LOCKSTEP_STOP_SEED: $LOCKSTEP_STOPS stops (${SECONDS} s)"
