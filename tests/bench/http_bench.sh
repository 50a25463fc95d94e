#!/bin/bash
# What HTTP costs: quern's server over the fake model, beside nginx in the same run. Prints one dated table.
#   tests/bench/http_bench.sh [seconds per run, default 3] [rounds, default 3]
# Needs wrk and nginx. QUERN_STUB_BIN names the server (default build/release/tests/stub_server).
set -u
cd "$(dirname "$0")/../.." || exit 2
secs=${1:-3}
rounds=${2:-3}
stub=${QUERN_STUB_BIN:-build/release/tests/stub_server}
dir=$(mktemp -d)
pids=()
cleanup() {
    for p in "${pids[@]}"; do kill "$p" 2>/dev/null; done
    wait 2>/dev/null
    rm -rf "$dir"
}
trap cleanup EXIT
for tool in wrk nginx cc python3 taskset; do
    PATH=$PATH:/usr/sbin command -v $tool >/dev/null || { echo "http_bench: $tool is missing" >&2; exit 2; }
done
[ -x "$stub" ] || { echo "http_bench: $stub is missing: make $stub" >&2; exit 2; }
cc -O2 -D_GNU_SOURCE -o "$dir/sse_client" tests/bench/sse_client.c || exit 1

serve() { # name, environment…: starts a server; sets port, pid
    local name=$1
    shift
    env "$@" "$stub" --model stub --listen 127.0.0.1:0 --access-log off --max-running 512 --max-queue 1024 \
        2> "$dir/$name.log" &
    pid=$!
    pids+=("$pid")
    for _ in $(seq 100); do
        if grep -q 'ready after' "$dir/$name.log"; then
            port=$(sed -n 's/.*listening on .* port \([0-9]*\).*/\1/p' "$dir/$name.log")
            return
        fi
        sleep 0.05
    done
    echo "http_bench: server did not start" >&2
    cat "$dir/$name.log" >&2
    exit 1
}

nginx_port=$((20000 + RANDOM % 20000))
cat > "$dir/nginx.conf" <<CONF
worker_processes 1; daemon off; error_log /dev/null; pid $dir/nginx.pid;
events { worker_connections 1024; }
http { access_log off; keepalive_requests 100000000;
  server { listen 127.0.0.1:$nginx_port backlog=1024; location / { default_type text/plain; return 200 "ok\n"; } } }
CONF
PATH=$PATH:/usr/sbin taskset -c 0 nginx -p "$dir" -c "$dir/nginx.conf" 2>/dev/null &
pids+=($!)

serve fast STUB_STEP_US=0
fast_port=$port
fast_pid=$pid
cat > "$dir/post.lua" <<'LUA'
wrk.method = "POST"
wrk.body = '{"sequence":"hello","max_tokens":1}'
wrk.headers["Content-Type"] = "application/json"
LUA

# run_wrk cpus url [script]: prints "requests/s p99_ms non2xx"
run_wrk() {
    local cpus=$1
    shift
    taskset -c "$cpus" wrk -t1 -c32 -d"${secs}s" --latency ${2:+-s "$2"} "$1" | awk '
        function ms(t) { return t ~ /us$/ ? t / 1000 : t ~ /ms$/ ? t + 0 : t * 1000 }
        $1 == "99%" { p = ms($2) } $1 == "Requests/sec:" { r = $2 } /Non-2xx|Socket errors/ { bad = 1 }
        END { printf "%.0f %.2f %d\n", r, p, bad }'
}
cpu_us() { # pid: CPU time so far, microseconds
    awk -v hz="$(getconf CLK_TCK)" '{ sub(/^.*\) /, ""); print ($12 + $13) * 1000000 / hz }' "/proc/$1/stat"
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

sleep 0.3
for r in $(seq "$rounds"); do
    taskset -cp 0 "$fast_pid" > /dev/null # one core for either server, the other for wrk
    for t in /proc/"$fast_pid"/task/*; do taskset -cp 0 "${t##*/}" > /dev/null 2>&1; done
    c0=$(cpu_us "$fast_pid")
    quern=$(run_wrk 1 "http://127.0.0.1:$fast_port/livez")
    c1=$(cpu_us "$fast_pid")
    ngx=$(run_wrk 1 "http://127.0.0.1:$nginx_port/livez")
    for t in /proc/"$fast_pid"/task/*; do taskset -cp 0-1023 "${t##*/}" > /dev/null 2>&1; done
    c2=$(cpu_us "$fast_pid")
    post=$(run_wrk 0-1023 "http://127.0.0.1:$fast_port/v1/infer" "$dir/post.lua")
    c3=$(cpu_us "$fast_pid")
    echo "$r $quern $ngx $post $(echo "$c0 $c1 $c2 $c3 $secs $quern $post" | awk '{ print ($2 - $1) / ($6 * $5), ($4 - $3) / ($9 * $5) }')" >> "$dir/rows"
done
# columns: round, quern rps p99 bad, nginx rps p99 bad, post rps p99 bad, cpu/req livez, cpu/req post
q=$(awk '{ print $2 }' "$dir/rows" | median)
n=$(awk '{ print $5 }' "$dir/rows" | median)
ratio=$(awk '{ print $2 / $5 }' "$dir/rows" | median)
p=$(awk '{ print $8 }' "$dir/rows" | median)
bad=$(awk '{ b += $4 + $7 + $10 } END { print b }' "$dir/rows")

serve steps STUB_STEP_US=19800
sse=$("$dir/sse_client" "$port" 256 150)
serve cancel STUB_STEP_US=1000
gone=$(python3 tests/bench/http_probe.py cancel "$port")
serve idle STUB_STEP_US=0
idle=$(python3 tests/bench/http_probe.py idle "$port")

read -r sse_n sse_rate sse_p50 sse_p99 _ sse_err <<< "$sse"
printf 'HTTP cost, %s, %s, %s CPUs, median of %s runs of %s s\n' "$(date -u +%F)" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)" "$(nproc)" "$rounds" "$secs"
row() { printf '%-58s %14s %16s\n' "$1" "$2" "$3"; }
row measurement value goal
row "GET /livez, 32 connections, requests/s" "$q" ""
row "  nginx 1 worker, return 200, requests/s" "$n" ""
row "  ratio" "$(printf %.2f "$ratio")" ">= 0.80"
row "  server CPU per request, us" "$(awk '{ print $11 }' "$dir/rows" | median | xargs printf %.1f)" "<= 12"
row "POST /v1/infer, no arithmetic, 32 connections, requests/s" "$p" ">= 40000"
row "  p99, ms" "$(awk '{ print $9 }' "$dir/rows" | median)" "<= 3"
row "  process CPU per request, us" "$(awk '{ print $12 }' "$dir/rows" | median | xargs printf %.1f)" ""
row "256 streams x 50 tokens/s: events/s" "${sse_rate:-failed}" ""
row "  added latency p50 / p99, ms" "${sse_p50:-?} / ${sse_p99:-?}" "p99 <= 5"
row "  wrong or missing events ($sse_n in all)" "${sse_err:-?}" "0"
row "client leaves -> engine has dropped it, median / max, ms" "${gone/ / / }" "max <= 20"
row "resident memory per idle connection, KiB" "$idle" "<= 20"
row "failed requests (runs with any)" "$bad" "0"
