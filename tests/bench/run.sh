#!/bin/bash
# All benchmarks of this machine, dated, as Markdown tables: tokens per second of the model, what its structures
# cost, the kernels, HTTP beside nginx. A few minutes; use an idle machine. Usage: tests/bench/run.sh [MODEL]
set -eu
cd "$(dirname "$0")/../.."
model=${1:-models/SmolLM2-135M-Instruct.Q4_1.gguf}
make --no-print-directory -s build/quern build/release/bench/kernels_bench build/release/tests/stub_server
echo "$(date -u +%Y-%m-%d), $(build/quern --version), $(nproc) CPUs, $(basename "$model")"
for args in "--batch 1 --depth 0" "--batch 1 --depth 2048" "--batch 4 --depth 0" "--batch 16 --depth 0"; do
    echo
    # shellcheck disable=SC2086
    build/quern bench --model "$model" $args | grep '^|'
done
echo
tests/bench/structures.py build/quern "$model"
echo
build/release/bench/kernels_bench
echo
tests/bench/http_bench.sh
