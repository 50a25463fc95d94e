#!/bin/bash
# Starts quern on a model, asks it one question with several structures, prints the answers with their time and
# memory, and keeps serving until Ctrl-C. Without a terminal, or with QUERN_DEMO_ONCE set, it stops after the
# demonstration with exit 0. Usage: tools/demo.sh BINARY MODEL
set -eu
bin=$1
model=$2
addr=${QUERN_LISTEN:-127.0.0.1:8080}
log=$(mktemp)
pid=
stop() {
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    [ -z "$pid" ] || wait "$pid" 2>/dev/null || true
    rm -f "$log"
}
trap stop EXIT
trap 'exit 0' INT TERM

"$bin" serve --model "$model" --listen "$addr" 2>"$log" &
pid=$!
i=0
until curl -fs "http://$addr/readyz" >/dev/null 2>&1; do
    i=$((i + 1))
    if ! kill -0 "$pid" 2>/dev/null || [ $i -gt 600 ]; then
        cat "$log" >&2
        exit 1
    fi
    sleep 0.1
done
echo "quern is serving $model on http://$addr"
echo

prompt='<|im_start|>user\nWhat is a mill used for? Answer in one sentence.<|im_end|>\n<|im_start|>assistant\n'
ask() { # structure fields as JSON members
    curl -sS "http://$addr/v1/infer" -H 'content-type: application/json' \
        -d "{\"sequence\":\"$prompt\",\"max_tokens\":48$1}"
}
row='[.structure.attention.type, .structure.attention.kv_heads, .structure.origin, .structure.exactness, .timings.prefill_ms,
      .timings.decode_tokens_per_second, .memory.state_bytes]
     | "\(.[0])\t\(.[1])\t\(.[2])/\(.[3])\t\(.[4] * 10 | round / 10)\t\(.[5] // 0 | . * 10 | round / 10)\t\(.[6])"'
table="attention\tKV heads\torigin\tprefill ms\ttokens/s\tstate bytes\n"
for fields in '' ',"attention":"mha"' ',"attention":"mqa","convert":true'; do
    reply=$(ask "$fields")
    if ! echo "$reply" | jq -e .outputs >/dev/null; then
        echo "$reply" >&2
        exit 1
    fi
    echo "POST /v1/infer {…$fields}"
    echo "$reply" | jq -r '"  " + (.outputs[0].text | gsub("\n"; "\n  "))'
    echo
    table="$table$(echo "$reply" | jq -r "$row")\n"
done
printf '%b' "$table" | column -t -s "$(printf '\t')"
echo
echo "Exact conversions answer as the checkpoint does; mqa is made untrained, by averaging KV heads, to show its cost."

if [ -t 0 ] && [ -z "${QUERN_DEMO_ONCE:-}" ]; then
    echo
    echo "Serving on http://$addr until Ctrl-C. Try:"
    echo "  curl http://$addr/v1/infer -d '{\"sequence\":\"Once upon a time\",\"max_tokens\":32}'"
    wait "$pid"
fi
