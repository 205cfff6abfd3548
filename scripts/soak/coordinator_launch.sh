#!/usr/bin/env bash
# 500 launches of runs that may not be restarted, each with a kill -9 of the coordinator within the
# first 50 ms of it, half of them within 5 ms: the same attempt goes on, no restart is counted, no
# process is left. SOAK_SEED (default: from the clock) is what is random; LOCKSTEP_BUILD (default:
# build) is the build folder; LOCKSTEP_LAUNCH_KILLS another number.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=$(realpath "${LOCKSTEP_BUILD:-build}")
export LOCKSTEP_BINARY=${LOCKSTEP_BINARY:-$build/bin/lockstep}
export LOCKSTEP_LAUNCH_KILLS=${LOCKSTEP_LAUNCH_KILLS:-500}
export LOCKSTEP_LAUNCH_SEED=${SOAK_SEED:-$(($(date +%s) % 1000000000))}
export OMP_WAIT_POLICY=passive
timeout 6000 "$build/tests/coordinator_system_crash_test" --gtest_filter='F2_KillsWhileLaunching*'
echo "coordinator_launch: seed $LOCKSTEP_LAUNCH_SEED: $LOCKSTEP_LAUNCH_KILLS kills (${SECONDS} s)"
