#!/usr/bin/env bash
# 300 submissions, each with a kill -9 of the coordinator at a random moment of it: no run is lost or
# doubled, and the store passes `admin check`. SOAK_SEED (default: from the clock) is what is random;
# LOCKSTEP_BUILD (default: build) is the build folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=$(realpath "${LOCKSTEP_BUILD:-build}")
export LOCKSTEP_BINARY=${LOCKSTEP_BINARY:-$build/bin/lockstep}
export LOCKSTEP_SUBMIT_LOOPS=300
export LOCKSTEP_SUBMIT_SEED=${SOAK_SEED:-$(($(date +%s) % 1000000000))}
export OMP_WAIT_POLICY=passive
timeout 3000 "$build/tests/coordinator_system_crash_test" --gtest_filter='F1_*'
echo "coordinator_submit: seed $LOCKSTEP_SUBMIT_SEED: $LOCKSTEP_SUBMIT_LOOPS submissions (${SECONDS} s)"
