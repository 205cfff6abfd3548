#!/usr/bin/env bash
# The promise of run.reproducible: ranks, in full: every combination of family, precision, order of
# data, ranks 1 2 3 4 6 8, stages and threads gives the same weights, `step` lines and ledger.
# SOAK_SEED (default: from the clock) is the seed of weights, data order and dropout;
# LOCKSTEP_BINARY (default: build/bin/lockstep) is the program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

binary=$(realpath "${LOCKSTEP_BINARY:-build/bin/lockstep}")
seed=${SOAK_SEED:-$(date +%s)}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Numbered lines: text with a structure, and another one for another seed.
awk -v seed="$seed" 'BEGIN { srand(seed); for (i = 0; i < 4000; i++)
  printf "line %d says %d and %d\n", i, rand() * 100, rand() * 1000 }' >"$folder/text.txt"
"$binary" data prepare --input "$folder/text.txt" --output "$folder/data" >"$folder/prepare.log" 2>&1

cat >"$folder/config.yaml" <<YAML
run: {seed: $seed, reproducible: ranks}
model: {layers: 2, heads: 2, width: 32, context: 16, vocab: 256, dropout: 0.1}
data: {train: $folder/data}
batch: {global: 24, micro: 1}
train: {steps: 50}
optimizer: {learning_rate: 1e-2}
schedule: {warmup_steps: 5}
YAML

# Threads that wait must not spin: 8 ranks of 2 threads share whatever cores there are.
export OMP_WAIT_POLICY=passive

# What must not depend on ranks, stage and threads, as one hash a file.
digest() {
  local run=$1
  sha256sum <"$run/checkpoints/step-00000050/model.safetensors"
  sha256sum <"$run/ledger.jsonl"
  grep '^{"event":"step",' "$run/metrics.jsonl" |
    sed -E 's/"(tokens_per_second|step_seconds)":[^,}]*//g' | sha256sum
}

# train FAMILY COMPUTE ORDER RANKS STAGE THREADS
train() {
  rm -rf "$folder/run"
  if ! OMP_NUM_THREADS=$6 timeout 120 "$binary" train "$folder/config.yaml" --ranks "$4" \
    --set model.family="$1" --set precision.compute="$2" --set data.order="$3" \
    --set parallel.zero_stage="$5" --set run.output="$folder/run" >"$folder/log" 2>&1; then
    cat "$folder/log" >&2
    echo "reproducible: seed $seed: $*: the run failed" >&2
    return 1
  fi
}

runs=0
for family in gpt llama; do
  for compute in fp32 bf16 fp16; do
    for order in sequential shuffled; do
      expected=
      for ranks in 1 2 3 4 6 8; do
        for stage in 0 1 2; do
          for threads in 1 2; do
            train "$family" "$compute" "$order" "$ranks" "$stage" "$threads"
            found=$(digest "$folder/run")
            expected=${expected:-$found}
            if [[ $found != "$expected" ]]; then
              echo "reproducible: seed $seed: $family $compute $order: $ranks ranks, stage $stage," \
                "$threads threads differ from 1 rank, stage 0, 1 thread" >&2
              exit 1
            fi
            runs=$((runs + 1))
          done
        done
      done
      echo "reproducible: seed $seed: $family $compute $order: $runs runs so far, all equal (${SECONDS} s)"
    done
  done
done
echo "reproducible: seed $seed: $runs runs of 50 steps, 12 trainings, each with the same bits in all its runs (${SECONDS} s)"
