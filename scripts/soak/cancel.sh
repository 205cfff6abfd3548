#!/usr/bin/env bash
# Two hundred cancelled attempts, each with ranks that do not want to go (deaf to signals, stopped, with
# children in sessions of their own, without mpirun, without a supervisor, still starting): no process
# is left. Then a hundred failing ones: the first failing rank is named. LOCKSTEP_BUILD (default:
# build) is the build folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=$(realpath "${LOCKSTEP_BUILD:-build}")
export LOCKSTEP_CANCEL_LOOPS=34   # of six ways
export LOCKSTEP_FAILURE_LOOPS=50  # of two ways
export OMP_WAIT_POLICY=passive
timeout 3000 "$build/tests/coordinator_attempts_cancel_test"
timeout 3000 "$build/tests/coordinator_attempts_failure_test"
echo "cancel: $((6 * LOCKSTEP_CANCEL_LOOPS)) cancelled and $((2 * LOCKSTEP_FAILURE_LOOPS)) failing attempts (${SECONDS} s)"
