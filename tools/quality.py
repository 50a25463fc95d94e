#!/usr/bin/env python3
"""Held-out quality of every structure that a checkpoint was trained with, measured through quern's own score task.

The last tenth of a text (by bytes; train.py leaves the same part out) is cut into consecutive windows of 1,024 tokens; each
is scored with empty state and a beginning-of-sequence token before it, so that every byte counts. Prints one Markdown table
per way of sharing, in nats per character and bits per byte, with the date, the text's sha256 and the command. --positions
adds the loss by quarter of the window, from windows at four offsets: every byte counts once in each quarter, so that the
quarters differ by their place alone. --into writes the figures into a checkpoint's config.json, where GET /v1/structures finds
them. --goals checks them: best structure, then the worst of softmax attention and of linformer and performer, without and
with shared layers; exit 1 on a miss, or where the loss in a later quarter is above that of the first.
Usage: quality.py [--model M] [--window N] [--limit N] [--positions] [--json FILE] [--into CONFIG] [--goals A,B,C,D,E]
       BINARY TEXT"""
import argparse
import datetime
import hashlib
import json
import math
import os
import re
import shlex
import subprocess
import sys
import urllib.request

BATCH = 8  # windows in one request
QUARTERS = 4
SOFTMAX = ("mha", "gqa", "mqa")


class Server:
    """A quern process on a free port, for the duration of a with statement."""

    def __init__(self, binary, model):
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--access-log", "off"]
        self.process = subprocess.Popen(command + (["--model", model] if model else []), stderr=subprocess.PIPE, text=True)
        port, seen = None, []
        for line in self.process.stderr:
            seen.append(line)
            found = re.search(r"listening on \S+ port (\d+)", line)
            port = found.group(1) if found else port
            if "ready after" in line:
                break
        else:
            sys.exit("quern did not start:\n" + "".join(seen))
        self.base = f"http://127.0.0.1:{port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.base + path, data), timeout=3600) as reply:
            return json.load(reply)


def native(rows, slot):
    """The kinds of a slot that the checkpoint was trained with, in the server's order."""
    kinds = []
    for row in rows:
        kind = row["structure"]["type"]
        if row["slot"] == slot and row["origin"] in ("native", "synthetic") and kind not in kinds:
            kinds.append(kind)
    return kinds


def held_out(raw):
    """The part of a text that training never saw: its last tenth, from a whole character on."""
    cut = len(raw) * 9 // 10
    while cut < len(raw) and raw[cut] & 0xC0 == 0x80:
        cut += 1
    return raw[cut:].decode()


def tokens_of(server, text):
    """The beginning-of-sequence token, and the text's tokens without it."""
    ids = server.call("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
    first = server.call("/tokenize", {"prompt": "x", "add_special_tokens": True})["tokens"]
    plain = server.call("/tokenize", {"prompt": "x", "add_special_tokens": False})["tokens"]
    if len(first) != len(plain) + 1:
        sys.exit("the model has no beginning-of-sequence token: its windows' first bytes could not be scored")
    return first[0], ids


def scored(server, structure, bos, chunks):
    """The score task's outputs for lists of tokens, each with the beginning-of-sequence token before it."""
    for i in range(0, len(chunks), BATCH):
        yield from server.call("/v1/infer", {**structure, "task": "score", "sequence": [[bos] + c for c in chunks[i:i + BATCH]],
                                             "cache": False, "logprobs": 0, "timeout_ms": 3600000})["outputs"]


def by_quarter(server, structure, bos, ids, window):
    """Nats per token in each quarter of the window, over the tokens that stand in all four once."""
    sums, counts, step = [0.0] * QUARTERS, [0] * QUARTERS, window // QUARTERS
    first, end = window - step, (len(ids) - window) // window * window
    for shift in range(0, window, step):
        starts = range(shift, len(ids) - window + 1, window)
        for start, out in zip(starts, scored(server, structure, bos, [ids[a:a + window] for a in starts])):
            for at, token in enumerate(out["logprobs"]):
                if first <= start + at < end:
                    sums[at // step] -= token["logprob"]
                    counts[at // step] += 1
    return [a / n if n else math.nan for a, n in zip(sums, counts)]


def tables(figures, attentions, ffns, sharings):
    for sharing in sharings:
        print(f"\nSharing `{sharing}`: nats per character (bits per byte)\n")
        print("| attention | " + " | ".join(ffns) + " |")
        print("|---|" + "---:|" * len(ffns))
        for attention in attentions:
            cells = [figures[attention, ffn, sharing] for ffn in ffns]
            print(f"| {attention} | " + " | ".join(f"{c:.3f} ({c / math.log(2):.3f})" for c in cells) + " |")


def position_table(parts):
    print("\nNats per token by quarter of the window:\n")
    print("| structure | first | second | third | fourth |\n|---|---:|---:|---:|---:|")
    for key, row in parts.items():
        print(f"| {'+'.join(key)} | " + " | ".join(f"{p:.3f}" for p in row) + " |")


def misses(figures, parts, goals):
    """What falls short of the goals, as lines of text."""
    best, softmax, shared_softmax, fixed, shared_fixed = goals
    out = []
    if min(figures.values()) > best:
        out.append(f"the best structure has {min(figures.values()):.4f}, goal {best}")
    for (attention, ffn, sharing), nats in figures.items():
        shared = sharing != "none"
        goal = (shared_softmax if shared else softmax) if attention in SOFTMAX else (shared_fixed if shared else fixed)
        if nats > goal:
            out.append(f"{attention}+{ffn}+{sharing} has {nats:.4f}, goal {goal}")
    for key, (first, *rest) in parts.items():
        if max(rest) > first:
            out.append(f"{'+'.join(key)} rises along the window: {first:.4f} at first, {max(rest):.4f} later")
    return out


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary")
    parser.add_argument("text")
    parser.add_argument("--model", help="default: the built-in model")
    parser.add_argument("--window", type=int, default=1024, help="tokens per window")
    parser.add_argument("--limit", type=int, help="score only so many windows (a quick look)")
    parser.add_argument("--positions", action="store_true", help="also the loss by quarter of the window")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--into", help="write the figures into this config.json, as held_out")
    parser.add_argument("--goals", help="five upper bounds in nats per character: best, softmax, softmax with sharing, "
                                        "linformer and performer, the same with sharing")
    args = parser.parse_args()
    args.goals = [float(g) for g in args.goals.split(",")] if args.goals else None
    if args.goals and len(args.goals) != 5:
        parser.error("--goals takes five figures")
    return args


def measure(server, text, args):
    """Nats per byte and nats by quarter of every structure, the kinds of each slot, and the number of windows."""
    rows = server.call("/v1/structures")["data"][0]["structures"]
    kinds = [native(rows, slot) for slot in ("attention", "ffn", "sharing")]
    bos, ids = tokens_of(server, text)
    chunks = [ids[i:i + args.window] for i in range(0, len(ids), args.window)][:args.limit]
    figures, parts = {}, {}
    for key in ((a, f, s) for s in kinds[2] for f in kinds[1] for a in kinds[0]):
        structure = dict(zip(("attention", "ffn", "sharing"), key))
        scores = [out["score"] for out in scored(server, structure, bos, chunks)]
        size = sum(s["bytes"] for s in scores)
        figures[key] = -sum(s["log_prob"] for s in scores) / size
        if args.positions:
            parts[key] = by_quarter(server, structure, bos, ids[:args.limit and args.limit * args.window], args.window)
        print(f"{'+'.join(key)}: {figures[key]:.4f} ({sum(s['tokens'] for s in scores)} tokens, {size} bytes)",
              file=sys.stderr, flush=True)
    return figures, parts, kinds, len(chunks)


def write_figures(figures, args):
    rows = [{"attention": a, "ffn": f, "sharing": s, "nats_per_byte": round(v, 5),
             "bits_per_byte": round(v / math.log(2), 5)} for (a, f, s), v in figures.items()]
    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(rows, out, indent=1)
    if args.into:
        with open(args.into, encoding="utf-8") as config:
            whole = json.load(config)
        whole["held_out"] = rows
        with open(args.into, "w", encoding="utf-8") as out:
            json.dump(whole, out, indent=1)
            out.write("\n")


def main():
    args = arguments()
    with open(args.text, "rb") as text:
        raw = text.read()
    with Server(args.binary, args.model) as server:
        figures, parts, kinds, n = measure(server, held_out(raw), args)
    print(f"{datetime.date.today()}, {os.path.basename(args.text)} (sha256 {hashlib.sha256(raw).hexdigest()}), its last "
          f"tenth: {n} windows of at most {args.window} tokens. Command: `{shlex.join(sys.argv)}`")
    tables(figures, *kinds)
    if parts:
        position_table(parts)
    write_figures(figures, args)
    short = misses(figures, parts, args.goals) if args.goals else []
    if args.goals:
        print("\n" + ("\n".join("MISSED: " + line for line in short) or "All goals are met."))
    sys.exit(1 if short else 0)


main()
