#!/bin/bash
# The tables of docs/benchmarks.md on structures: quern bench --structures at two published shapes, over ways of
# sharing, and over batch sizes for mixtures; then the goals held against the figures. Prints Markdown, dated.
#   tests/bench/structures.sh [--quick] [MAX_SECONDS [REPEATS]]
# MAX_SECONDS bounds each prefill cell (default 10: about 20 minutes in all). Use an idle machine.
set -eu
cd "$(dirname "$0")/../.."
lengths=512,1024,2048,4096,8192,16000,32768,65536
if [ "${1:-}" = --quick ]; then
    shift
    lengths=1000,16000
    set -- "${1:-1}" "${2:-3}"
fi
seconds=${1:-10} repeats=${2:-5} bench=${QUERN_BIN:-build/quern}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
[ -n "${QUERN_BIN:-}" ] || make --no-print-directory -s build/quern

sweep() { # name title arguments… : runs it, prints the table, keeps the rows for the goals
    local name=$1 title=$2
    shift 2
    printf '\n### %s\n\n' "$title"
    "$bench" bench --structures --repeats "$repeats" --max-seconds "$seconds" --format json "$@" > "$out/$name.json"
    tests/bench/structures_table.py table "$out/$name.json"
}

printf '## Structures\n\n%s, %s, %s CPUs\n' "$(date -u +%Y-%m-%d)" "$("$bench" --version)" "$(nproc)"
for shape in bert-base smollm2; do
    sweep "$shape" "Attention at the shape of $shape" --shape "$shape" --lengths "$lengths"
done
for shape in bert-base smollm2; do
    sweep "sharing-$shape" "Sharing at the shape of $shape" --shape "$shape" --attention gqa --sharing none,all --lengths 64,512
done
sweep moe "Mixture of experts (8 experts, 2 used) beside a dense FFN of equal arithmetic" \
    --shape hidden=768,layers=12,heads=12,vocab=4096,experts=8,experts_per_token=2 --attention gqa --ffn swiglu,moe \
    --batch 1,2,4,8,16 --lengths 512 --only decode
printf '\n### Beside the papers: times faster than mha at the shape of bert-base\n\n'
tests/bench/structures_table.py papers "$out"
printf '\n### Goals\n\n'
tests/bench/structures_table.py goals "$out"
