#!/bin/bash
# quern beside a llama.cpp that is given by path, on the same GGUF files, same threads, alternating runs; prints
# Markdown tables of medians, spread, ratios and bounds. Nothing is built or fetched here. Examples:
#   tests/bench/peer.sh --peer-bench DIR/llama-bench --peer-batched DIR/llama-batched-bench --models FILE… \
#       --threads 2 --rounds 5 --tests pp512,tg128,tg32@d4096,b16
#   tests/bench/peer.sh --peer-server DIR/llama-server --models FILE… --clients 16
set -eu
cd "$(dirname "$0")/../.."
[ -x build/quern ] || [ -n "${QUERN_BIN:-}" ] || make --no-print-directory -s build/quern
exec python3 tests/bench/peer.py --quern "${QUERN_BIN:-build/quern}" "$@"
