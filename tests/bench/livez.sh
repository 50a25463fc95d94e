#!/bin/bash
# GET /livez beside a bare libmicrohttpd loop (wrk, 1 thread, 32 connections, alternating rounds), and its latency at
# a fixed 1,000 requests/s while prompts of 2,048 tokens are read in. Usage: tests/bench/livez.sh MODEL [SECONDS [ROUNDS]]
set -eu
cd "$(dirname "$0")/../.."
quern=${QUERN_BIN:-build/quern} model=$1 secs=${2:-5} rounds=${3:-5}
dir=$(mktemp -d)
pids=()
cleanup() {
    exec 9>&- || true
    for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
cc -O2 -o "$dir/bare_loop" tests/bench/bare_loop.c -lmicrohttpd
bare=$((20000 + RANDOM % 20000))
mkfifo "$dir/stay"
"$dir/bare_loop" "$bare" < "$dir/stay" &
pids+=($!)
exec 9> "$dir/stay"
"$quern" serve --model "$model" --listen 127.0.0.1:0 --access-log off 2> "$dir/log" &
pids+=($!)
for _ in $(seq 200); do grep -q 'ready after' "$dir/log" && break; sleep 0.05; done
port=$(sed -n 's/.*listening on .* port \([0-9]*\).*/\1/p' "$dir/log")
per_second() { wrk -t1 -c32 -d"${secs}s" "http://127.0.0.1:$1/livez" | awk '$1 == "Requests/sec:" { print $2 }'; }
for _ in $(seq "$rounds"); do echo "$(per_second "$port") $(per_second "$bare")"; done |
    awk '{ q[NR] = $1; b[NR] = $2; r[NR] = $1 / $2; n = NR } function med(v,  i, j, t) {
        for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j - 1] > v[j]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
        return v[int((n + 1) / 2)] }
        END { printf "GET /livez: %.0f requests/s, bare loop %.0f, ratio %.2f (goal 0.80)\n", med(q), med(b), med(r) }'
python3 tests/bench/paced.py "$port" 1000 "$secs"
