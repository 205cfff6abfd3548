#!/usr/bin/env bash
# usage: fuzz.sh BUILD TARGET SECONDS
# Fuzzes one target from its corpus. What it learns is kept in BUILD/corpus for the next time; an input
# that it finds is BUILD/TARGET-crash-... or -timeout-...: mend the reader, and put it into
# tests/fuzz/corpus/TARGET.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
build=$1 target=$2 seconds=$3
mkdir -p "$build/corpus/$target"
options=(-max_total_time="$seconds" -max_len=4096 -timeout=10 -malloc_limit_mb=256 -rss_limit_mb=2048
  -detect_leaks=0 -print_final_stats=1 -artifact_prefix="$build/$target-")
[[ -f $here/$target.dict ]] && options+=(-dict="$here/$target.dict")
exec "$build/fuzz_$target" "${options[@]}" "$build/corpus/$target" "$here/corpus/$target"
