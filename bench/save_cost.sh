#!/usr/bin/env bash
# What checkpoints cost the training loop: the quickstart model on 2 ranks with a checkpoint every 20
# steps (asynchronous, and waited for) beside the same steps with none, in alternating runs. Prints one
# JSON line: medians over the rounds of a run's seconds, wall and processor, and what saving adds to
# them in percent. Starting up and the checkpoint at the end are taken off by a run of 20 steps.
# usage: bench/save_cost.sh [ROUNDS (5)] [STEPS (200)]
# LOCKSTEP_BINARY (default build/bin/lockstep) is the program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=${1:-5}
steps=${2:-200}
short=20
binary=$(realpath "${LOCKSTEP_BINARY:-build/bin/lockstep}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

awk 'BEGIN { srand(1); for (i = 0; i < 40000; i++)
  printf "line %d says %d and %d\n", i, rand() * 100, rand() * 1000 }' >"$folder/text.txt"
"$binary" data prepare --input "$folder/text.txt" --output "$folder/data" >"$folder/log" 2>&1
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

# run STEPS EVERY ASYNC: wall and processor seconds
run() {
  rm -rf "$folder/run"
  local TIMEFORMAT='%R %U %S'
  { time "$binary" train configs/quickstart.yaml --ranks 2 --set run.output="$folder/run" \
    --set data.train="$folder/data" --set data.validation=null --set train.validate_every=0 \
    --set train.steps="$1" --set schedule.warmup_steps=5 --set checkpoint.every_steps="$2" \
    --set checkpoint.async="$3" >"$folder/log" 2>&1; } 2>"$folder/time"
  awk '{ print $1, $2 + $3 }' "$folder/time"
}

: >"$folder/times"
run "$short" 0 true >/dev/null # warms the page cache
for ((round = 0; round < rounds; round++)); do
  for kind in "none 0 true" "async 20 true" "sync 20 false" "start 0 true"; do
    read -r name every async <<<"$kind"
    count=$((steps + short))
    [[ $name == start ]] && count=$short
    echo "$name $(run "$count" "$every" "$async")" >>"$folder/times"
  done
done

# What round r adds is taken within round r; then the median.
awk -v rounds="$rounds" -v steps="$steps" '
  function median(list, n,    i, j, t) {
    for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++)
      if (list[j] < list[i]) { t = list[i]; list[i] = list[j]; list[j] = t }
    return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
  }
  { wall[$1, ++seen[$1]] = $2; cpu[$1, seen[$1]] = $3 }
  function added(table, kind,    r, list) {
    for (r = 1; r <= rounds; r++)
      list[r] = 100 * (table[kind, r] - table["none", r]) / (table["none", r] - table["start", r])
    return median(list, rounds)
  }
  function seconds(table,    r, list) {
    for (r = 1; r <= rounds; r++) list[r] = table["none", r] - table["start", r]
    return median(list, rounds)
  }
  END {
    printf "{\"benchmark\":\"save_cost\",\"rounds\":%d,\"steps\":%d,\"save_every\":20,", rounds, steps
    printf "\"loop_wall_seconds\":%.2f,\"loop_cpu_seconds\":%.2f,", seconds(wall), seconds(cpu)
    printf "\"async_wall_percent\":%.1f,\"async_cpu_percent\":%.1f,", added(wall, "async"), added(cpu, "async")
    printf "\"sync_wall_percent\":%.1f,\"sync_cpu_percent\":%.1f}\n", added(wall, "sync"), added(cpu, "sync")
  }' "$folder/times"
