#!/bin/bash
# Starts quern (on the built-in model, or on MODEL), asks it one question with several structures, prints the answers
# with their time and memory, and keeps serving until Ctrl-C. Without a terminal, or with QUERN_DEMO_ONCE set, it stops
# after the demonstration with exit 0. Usage: tools/demo.sh BINARY [MODEL]
set -eu
bin=$1
model=${2:-}
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

"$bin" serve ${model:+--model "$model"} --listen "$addr" 2>"$log" &
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
echo "quern is serving ${model:-grist, the built-in model,} on http://$addr"
echo

if [ -z "$model" ]; then
    prompt='ROMEO:\n'
    more=',"max_tokens":160,"temperature":0.6,"seed":7'
    asks=('' ',"attention":"mqa","ffn":"moe"' ',"attention":"linformer","ffn":"gelu"' ',"attention":"performer","ffn":"moe"'
        ',"attention":"mha","ffn":"swiglu","sharing":"all"')
    note='All 30 combinations of its attentions, FFNs and ways of sharing were trained; GET /v1/structures lists them.'
else
    prompt='<|im_start|>user\nWhat is a mill used for? Answer in one sentence.<|im_end|>\n<|im_start|>assistant\n'
    more=',"max_tokens":48'
    asks=('' ',"attention":"mha"' ',"attention":"mqa","convert":true')
    note='Exact conversions answer as the checkpoint does; untrained ones are made here, to show what they cost.'
fi
quality=$(curl -fsS "http://$addr/v1/structures" | jq -c '[.data[0].held_out // [] | .[] |
    {key: "\(.attention)+\(.ffn)+\(.sharing)", value: .bits_per_byte}] | from_entries')
# shellcheck disable=SC2016 # jq's variables
row='.structure as $s | ($quality["\($s.attention.type)+\($s.ffn.type)+\($s.sharing.type)"]) as $bits
     | [$s.attention.type, $s.ffn.type, $s.sharing.type, "\($s.origin), \($s.exactness)", (.timings.prefill_ms * 10 | round / 10),
        (.timings.decode_tokens_per_second // 0 | round), .memory.state_bytes, .memory.weights_active_bytes,
        ($bits // "-" | tostring)] | map(tostring) | join("\t")'
table="attention\tffn\tsharing\torigin\tprefill ms\ttokens/s\tstate bytes\tweight bytes/token\theld-out bits/byte\n"
for fields in "${asks[@]}"; do
    body="{\"sequence\":\"$prompt\"$more$fields}"
    reply=$(curl -sS "http://$addr/v1/infer" -H 'content-type: application/json' -d "$body")
    if ! echo "$reply" | jq -e .outputs >/dev/null; then
        echo "$reply" >&2
        exit 1
    fi
    echo "POST /v1/infer $body"
    echo "$reply" | jq -r '"  " + (.outputs[0].text | gsub("\n"; "\n  "))'
    echo
    table="$table$(echo "$reply" | jq -r --argjson quality "$quality" "$row")\n"
done
printf '%b' "$table" | column -t -s "$(printf '\t')"
echo
echo "$note"

if [ -t 0 ] && [ -z "${QUERN_DEMO_ONCE:-}" ]; then
    echo
    echo "Serving on http://$addr until Ctrl-C. Try:"
    echo "  curl http://$addr/v1/infer -d '{\"sequence\":\"Once upon a time\",\"max_tokens\":32}'"
    echo "  curl http://$addr/v1/compare -d '{\"sequence\":\"Once upon a time\",\"structures\":[{},{\"attention\":\"performer\"}]}'"
    wait "$pid"
fi
