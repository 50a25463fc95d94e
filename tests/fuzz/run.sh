#!/bin/bash
# Runs every libFuzzer target for some seconds and prints one dated table. Leaks and aborts count; a find stays in
# build/fuzz-finds and makes the run fail. Usage: tests/fuzz/run.sh [SECONDS-EACH]
set -u
cd "$(dirname "$0")/../.." || exit 2
seconds=${1:-60}
bad=0
mkdir -p build/fuzz-finds
echo "$(date -u +%Y-%m-%d), $(git rev-parse --short HEAD), ${seconds} s each"
echo
echo "| target | executions | per second | finds |"
echo "|---|---:|---:|---:|"
for bin in build/fuzz/fuzz/*_fuzz; do
    name=$(basename "$bin")
    corpus=build/fuzz-corpus/$name
    seeds=tests/fuzz/seeds/${name%_fuzz}
    mkdir -p "$corpus"
    [ -d "$seeds" ] || seeds=
    # shellcheck disable=SC2086
    "$bin" -max_total_time="$seconds" -rss_limit_mb=2048 -max_len=4096 -timeout=10 -print_final_stats=1 \
        -artifact_prefix="build/fuzz-finds/$name-" "$corpus" $seeds > "build/fuzz-finds/$name.log" 2>&1
    rc=$?
    n=$(grep -oE 'number_of_executed_units: [0-9]+' "build/fuzz-finds/$name.log" | grep -oE '[0-9]+$')
    [ $rc -eq 0 ] || { bad=$((bad + 1)); tail -30 "build/fuzz-finds/$name.log" >&2; }
    echo "| ${name%_fuzz} | ${n:-0} | $((${n:-0} / seconds)) | $([ $rc -eq 0 ] && echo 0 || echo 1) |"
done
[ $bad -eq 0 ]
