#!/bin/bash
# Starts quern on a model, runs the wrk scripts beside this file against it in bounded time, prints one table.
# Usage: tests/load/run.sh BINARY MODEL [SECONDS-PER-SCRIPT]
set -eu
cd "$(dirname "$0")/../.."
bin=$1
model=$2
seconds=${3:-10}
port=${QUERN_LOAD_PORT:-18090}
log=$(mktemp)
"$bin" serve --model "$model" --listen "127.0.0.1:$port" --max-queue 64 --access-log off 2> "$log" &
pid=$!
trap 'kill $pid 2>/dev/null || true; wait $pid 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 300); do
    curl -fs "http://127.0.0.1:$port/readyz" > /dev/null && break
    kill -0 $pid 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.1
done
echo "$(date -u +%Y-%m-%d), $("$bin" --version | head -1), $(nproc) CPUs, ${seconds} s each, $(basename "$model")"
echo
echo "| script | connections | requests/s | p50 ms | p99 ms | tokens/s | refused (429) | failed |"
echo "|---|---:|---:|---:|---:|---:|---:|---:|"
failed=0
for run in health:32 short:8 mixed:16 structures:16 short:128; do
    script=${run%:*}
    connections=${run#*:}
    out=$(LUA_PATH="tests/load/?.lua" wrk -t1 -c"$connections" -d"${seconds}s" --timeout 120s \
        -s "tests/load/$script.lua" "http://127.0.0.1:$port" -- 7)
    line=$(echo "$out" | grep '^RESULT') || { echo "$out" >&2; exit 1; }
    read -r _ rps p50 p99 tps refused errors <<< "$line"
    echo "| $script | $connections | $rps | $p50 | $p99 | $tps | $refused | $errors |"
    failed=$((failed + errors))
done
[ "$failed" -eq 0 ]
