"""Ratio tables of quern and a llama.cpp given by path; see peer.sh. Standard library only.

Tests: ppN reads a prompt of N tokens, tgN generates N, @dN at a depth of N tokens, bB runs B sequences together (a prompt
of 128 and 64 new tokens each; the figure is generation, as llama-batched-bench's S_TG). Every round runs each side once,
in alternating order; figures are medians over the rounds with their interquartile range, the ratio is the median of the
rounds' ratios. The bound is what the machine's measured limits allow for the formula's bytes and operations.
"""
import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys

import peer_server

BATCH_PROMPT, BATCH_NEW = 128, 64


def run(cmd):
    p = subprocess.run([str(c) for c in cmd], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if p.returncode:
        sys.exit(f"{' '.join(map(str, cmd))}: exit status {p.returncode}\n{p.stderr[-2000:]}")
    return p.stdout


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def parse_test(name):
    batch = re.fullmatch(r"b(\d+)", name)
    single = re.fullmatch(r"(pp|tg)(\d+)(?:@d(\d+))?", name)
    if batch:
        return {"name": name, "kind": "batch", "batch": int(batch[1])}
    if single:
        return {"name": name, "kind": single[1], "n": int(single[2]), "depth": int(single[3] or 0)}
    sys.exit(f"peer: test {name!r} is not ppN, tgN, ppN@dN, tgN@dN or bB")


def quern_run(o, model, test):
    """The row of one run: tokens per second as "median", the formula's "bytes" and "flops"."""
    cmd = [o.quern, "bench", "--model", model, "--threads", o.threads, "--repeats", 1, "--json", *o.quern_args]
    if test["kind"] == "batch":
        cmd += ["--prompt", 0, "--generate", BATCH_NEW, "--depth", BATCH_PROMPT, "--batch", test["batch"]]
    else:
        pp = test["kind"] == "pp"
        cmd += ["--prompt", test["n"] if pp else 0, "--generate", 0 if pp else test["n"], "--depth", test["depth"]]
    return json.loads(run(cmd))["results"][0]


def peer_run(o, model, test):
    if test["kind"] == "batch":
        n = test["batch"]
        out = json_lines(run([o.peer_batched, "-m", model, "-c", n * (BATCH_PROMPT + BATCH_NEW), "-b", 2048, "-ub", 512,
                              "-npp", BATCH_PROMPT, "-ntg", BATCH_NEW, "-npl", n, "-t", o.threads, "-tb", o.threads,
                              "-fa", "on", "--output-format", "jsonl"]))
        return next(r["speed_tg"] for r in out if "speed_tg" in r)
    pp = test["kind"] == "pp"
    out = json_lines(run([o.peer_bench, "-m", model, "-t", o.threads, "-fa", 1, "-r", 1, "-o", "jsonl",
                          "-p", test["n"] if pp else 0, "-n", 0 if pp else test["n"], "-d", test["depth"]]))
    return out[0]["avg_ts"]


def spread(values):
    if len(values) < 2:
        return 0.0
    q = statistics.quantiles(values, n=4, method="inclusive")
    return q[2] - q[0]


def machine(o):
    rows = json.loads(run([o.quern, "bench", "--machine", "--threads", o.threads, "--json"]))
    return rows["cpu"], rows["isa"], rows["threads"][-1]


def bound(row, limits):
    """Most tokens per second that memory and the widest arithmetic allow."""
    tokens = (row["prompt_tokens"] + row["generated_tokens"]) * row["batch"]
    peak = max(limits[k] or 0 for k in ("int8_gops", "bf16_gflops", "f32_gflops"))
    seconds = {"memory": row["bytes"] / (limits["read_memory_gb"] * 1e9), "arithmetic": row["flops"] / (peak * 1e9)}
    which = max(seconds, key=seconds.get)
    return tokens / seconds[which], which


def header(o):
    rev = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                         check=False).stdout.strip()
    cpu, isa, limits = machine(o)
    now = datetime.datetime.now(datetime.timezone.utc).date()
    print(f"{now}, quern {rev}, {cpu} ({isa}), {os.cpu_count()} CPUs, {o.threads} threads, {o.rounds} alternating rounds.")
    print("Limits: " + ", ".join(f"{k} {v:.1f}" for k, v in limits.items() if k != "threads" and v) + "\n")
    return limits


def bench(o, limits):
    print("| file | test | quern tokens/s | IQR | peer tokens/s | IQR | ratio | bound | quern ÷ bound |")
    print("|---|---|---:|---:|---:|---:|---:|---|---:|")
    for model in o.models:
        for test in o.tests:
            ours, theirs, row = [], [], None
            for k in range(o.rounds):
                for side in (("quern", "peer") if k % 2 == 0 else ("peer", "quern")):
                    if side == "quern":
                        row = quern_run(o, model, test)
                        ours.append(row["median"])
                    else:
                        theirs.append(peer_run(o, model, test))
            most, which = bound(row, limits)
            mine = statistics.median(ours)
            ratio = statistics.median(a / b for a, b in zip(ours, theirs))
            print(f"| {os.path.basename(model)} | {test['name']} | {mine:.1f} | {spread(ours):.1f} | "
                  f"{statistics.median(theirs):.1f} | {spread(theirs):.1f} | {ratio:.2f} | {most:.0f} ({which}) | "
                  f"{mine / most:.2f} |", flush=True)
    print()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quern", required=True)
    p.add_argument("--quern-args", default="", help="more options of quern bench, in one word")
    p.add_argument("--peer-bench", help="path of a llama-bench")
    p.add_argument("--peer-batched", help="path of a llama-batched-bench, for bB")
    p.add_argument("--peer-server", help="path of a llama-server")
    p.add_argument("--models", nargs="+", required=True, help="GGUF files")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--tests", default="pp512,tg128,tg32@d4096,b16")
    p.add_argument("--clients", type=int, default=16, help="streams of the server comparison")
    o = p.parse_args()
    o.quern_args = o.quern_args.split()
    o.tests = [parse_test(t) for t in o.tests.split(",")]
    if not (o.peer_bench or o.peer_batched or o.peer_server):
        p.error("give --peer-bench, --peer-batched or --peer-server")
    o.tests = [t for t in o.tests if (o.peer_batched if t["kind"] == "batch" else o.peer_bench)]
    limits = header(o)
    if o.tests:
        bench(o, limits)
    if o.peer_server:
        peer_server.compare(o)


main()
