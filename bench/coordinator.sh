#!/usr/bin/env bash
# Measures a coordinator with many queued runs and watchers while a run of two ranks trains: latency
# of unary calls, then the time from its start after kill -9 to the first answer. Prints JSON lines.
#
#   bench/coordinator.sh BUILD [RUNS [WATCHERS [SECONDS]]]
set -euo pipefail

build=$(realpath "${1:?usage: bench/coordinator.sh BUILD [RUNS [WATCHERS [SECONDS]]]}")
runs=${2:-1000}
watchers=${3:-50}
seconds=${4:-20}
folder=$(mktemp -d)
server=
# shellcheck disable=SC2317  # called by trap
cleanup() {
  if [[ -n $server ]]; then
    # Drained first, or the next run in line would start.
    "$build/bin/lockstep" hosts drain local >/dev/null || true
    # shellcheck disable=SC2046
    "$build/bin/lockstep" cancel --force --wait $("$build/bin/lockstep" runs list \
      --filter 'state=RUNNING OR state=STARTING OR state=STOPPING' -o name) >/dev/null || true
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$folder"
}
trap cleanup EXIT
cd "$folder"
export LOCKSTEP_ADDRESS=unix:$folder/s

cat >coordinator.yaml <<YAML
state_directory: $folder/state
listen: ['unix:$folder/s']
hosts: [{name: local, address: localhost, slots: 2}]
limits: {queued_runs_per_caller: 10000, streams_per_caller: 1000}
log: {file: $folder/server.log}
YAML
head -c 2000000 /dev/zero >tokens.bin
cat >run.yaml <<YAML
model: {layers: 4, heads: 4, width: 128, context: 128, vocab: 64}
data: {train: $folder/tokens.bin, validation: $folder/tokens.bin}
batch: {global: 16, micro: 1}
train: {steps: 1000000}
optimizer: {learning_rate: 1e-3}
YAML

# Milliseconds until the coordinator answers.
start() {
  local begin
  begin=$(date +%s%N)
  "$build/bin/lockstep" coordinator --config coordinator.yaml >/dev/null 2>errors.txt &
  server=$!
  until "$build/bin/lockstep" runs list >/dev/null 2>&1; do
    kill -0 "$server" || { cat errors.txt >&2; exit 1; }
    sleep 0.02
  done
  echo $(( ($(date +%s%N) - begin) / 1000000 ))
}

started=$folder/started
start >"$started"
"$build/bench/coordinator_load" "$LOCKSTEP_ADDRESS" run.yaml "$runs" "$watchers" "$seconds"
first=$("$build/bin/lockstep" runs list --filter 'state=RUNNING' -o name | head -n 1)
[[ -n $first ]] || { echo "no run trains" >&2; exit 1; }
kill -9 "$server"
wait "$server" 2>/dev/null || true
start >"$started"
echo "{\"restart_ms\": $(cat "$started")}"
"$build/bin/lockstep" runs list --filter 'state=RUNNING' -o name | grep -q . || { echo "the run is lost" >&2; exit 1; }
