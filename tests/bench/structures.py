#!/usr/bin/env python3
"""What each structure of a checkpoint costs at serving time: starts quern, sends the same request with every
structure in interleaved order, prints medians as one table. Usage: structures.py BINARY MODEL [REPEATS]"""
import json
import re
import statistics
import subprocess
import sys
import urllib.request

PROMPT_TOKENS, NEW_TOKENS = 512, 64
FORMS = [{"attention": "mha"}, {}, {"attention": "mqa", "convert": True}]


def ask(port, form):
    body = {"sequence": [1000 + (i * 7919) % 30000 for i in range(PROMPT_TOKENS)], "max_tokens": NEW_TOKENS,
            "ignore_eos": True, "cache": False, **form}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/infer", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)


def main():
    binary, model = sys.argv[1:3]
    repeats = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    server = subprocess.Popen([binary, "serve", "--model", model, "--listen", "127.0.0.1:0", "--access-log", "off"],
                              stderr=subprocess.PIPE, text=True)
    try:
        port = None
        for line in server.stderr:
            found = re.search(r"listening on \S+ port (\d+)", line)
            port = found.group(1) if found else port
            if "ready after" in line:
                break
        replies = [[] for _ in FORMS]
        for form in FORMS:
            ask(port, form)  # warm-up; makes the conversion
        for r in range(repeats):
            for i in range(len(FORMS)):
                k = (i + r) % len(FORMS)
                replies[k].append(ask(port, FORMS[k]))
    finally:
        server.terminate()
        server.wait()
    print("| attention | KV heads | label | prefill ms | tokens/s | state bytes | bytes/token | weights MB | GFLOP |")
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|")
    for got in replies:
        one = got[0]
        s = one["structure"]

        def median(pick):
            return statistics.median(pick(g["timings"]) for g in got)

        label = "native" if s["origin"] == "native" else f"converted, {s['exactness']}"
        print(f"| {s['attention']['type']} | {s['attention']['kv_heads']} | {label} | "
              f"{median(lambda t: t['prefill_ms']):.0f} | {median(lambda t: t['decode_tokens_per_second']):.1f} | "
              f"{one['memory']['state_bytes']:,} | {one['memory']['state_bytes_per_token']:,} | "
              f"{one['memory']['weights_bytes'] / 1e6:.1f} | {one['cost']['analytic_flops'] / 1e9:.0f} |")


main()
