#!/usr/bin/env python3
"""What quern's arithmetic and each type cost in perplexity: converts a model to every type, and scores a text with
quern's arithmetic and with exact f32 arithmetic on each file's own values. A file that has a type already is converted
from as it is; files given with --also (another converter's) are scored too.

usage: accuracy.py BINARY MODEL TEXT [--windows 80] [--threads N] [--types q8_0,…] [--also FILE …]
                   [--kv-types f16,q8 …]         (a row for each way of storing keys and values)
                   [--peer-perplexity PATH]      (a llama-perplexity: the same windows in its arithmetic)"""
import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile

TYPES = "f16,bf16,q8_0,q4_0,q4_1,q4_k_m"
CTX = 512


def score(args, model, kv, *more):
    threads = ["--threads", str(args.threads)] if args.threads else []
    command = [args.binary, "perplexity", "--model", model, "--text", args.text, "--ctx", str(CTX),
               "--chunks", str(args.windows), "--kv-type", kv, "--json", *threads, *more]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)["results"]


def peer_score(args, model):
    threads = ["-t", str(args.threads)] if args.threads else []
    command = [args.peer_perplexity, "-m", model, "-f", args.text, "-c", str(CTX), "--chunks", str(args.windows)]
    p = subprocess.run(command + threads, capture_output=True, text=True, check=True)
    found = re.search(r"PPL = ([\d.]+)", p.stdout + p.stderr)
    return float(found.group(1)) if found else None


def rows(args, name, model):
    exact = score(args, model, "f32", "--exact")[0]
    peer = ""
    if args.peer_perplexity:
        value = peer_score(args, model)
        peer = f" {value:.4f} |" if value else " - |"
    for kv in args.kv_types.split(","):
        got = score(args, model, kv)[0]
        off = 100 * (got["perplexity"] / exact["perplexity"] - 1)
        print(f"| {name} | {os.path.getsize(model) / 1e6:.1f} | {kv} | {got['perplexity']:.4f} | "
              f"{exact['perplexity']:.4f} | {off:+.4f} % |{peer}", flush=True)
    return exact


def main():
    p = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1])
    p.add_argument("binary")
    p.add_argument("model")
    p.add_argument("text")
    p.add_argument("--windows", type=int, default=80)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--types", default=TYPES)
    p.add_argument("--also", nargs="*", default=[])
    p.add_argument("--kv-types", default="f16")
    p.add_argument("--peer-perplexity")
    args = p.parse_args()
    last = None
    peer = " peer |" if args.peer_perplexity else ""
    print("| file | MB | KV | perplexity | exact f32 arithmetic | difference |" + peer)
    print("|---|---:|---|---:|---:|---:|" + ("---:|" if args.peer_perplexity else ""))
    with tempfile.TemporaryDirectory() as scratch:
        for kind in args.types.split(","):
            path = os.path.join(scratch, kind + ".gguf")
            subprocess.run([args.binary, "convert", args.model, "--type", kind, "--out", path], check=True,
                           stderr=subprocess.DEVNULL)
            last = rows(args, kind.upper(), path)
            os.unlink(path)
    for path in args.also:
        last = rows(args, os.path.basename(path), path)
    if last:
        print(f"\n{last['windows']} windows of {CTX} tokens, {last['scored']} predictions, standard error "
              f"of a perplexity about {last['stderr']:.2f}; {datetime.date.today()}")


if __name__ == "__main__":
    sys.exit(main())
