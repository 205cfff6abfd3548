#!/usr/bin/env bash
# Five rounds: the coordinator dies at every commit and every other failpoint, in every state of a run,
# while a training of two ranks goes on, is paused and resumed (F2); files of the newest checkpoint are
# torn, emptied, have a bit flipped or are gone when a rank dies (F8). Then it is away for 0, 20 and
# 60 s while runs go on, end or fail (F3). The curve is always that of an undisturbed run. SOAK_SEED
# (default: from the clock) is what is random; LOCKSTEP_BUILD (default: build) is the build folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=$(realpath "${LOCKSTEP_BUILD:-build}")
seed=${SOAK_SEED:-$(($(date +%s) % 1000000000))}
export LOCKSTEP_BINARY=${LOCKSTEP_BINARY:-$build/bin/lockstep}
export LOCKSTEP_DAMAGED_FILES=2 # in each way
export LOCKSTEP_OUTAGES=0,20,60
export OMP_WAIT_POLICY=passive
for round in 1 2 3 4 5; do
  export LOCKSTEP_DAMAGE_SEED=$((seed + 10 * round))
  timeout 1500 "$build/tests/coordinator_system_crash_test" --gtest_filter='*F2_*'
  timeout 1500 "$build/tests/coordinator_system_checkpoint_test"
  echo "coordinator_kill: seed $seed: round $round of 5 (${SECONDS} s)"
done
timeout 1500 "$build/tests/coordinator_system_found_again_test" --gtest_filter='*F3_*'
echo "coordinator_kill: seed $seed: 5 rounds, outages of $LOCKSTEP_OUTAGES s (${SECONDS} s)"
