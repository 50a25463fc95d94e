#!/usr/bin/env python3
"""Held-out quality of every structure that a checkpoint was trained with, measured through quern's own score task.

The last part of a text is cut into consecutive windows of 1,024 tokens; each is scored with empty state and a
beginning-of-sequence token before it, so that every byte counts. Prints one Markdown table per way of sharing, in nats
per character and bits per byte, with the date, the text's sha256 and the command; --json writes the figures to a file.
Usage: quality.py [--model M] [--held-out 0.1] [--window 1024] [--limit N] [--json FILE] BINARY TEXT"""
import argparse
import datetime
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import urllib.request

BATCH = 8  # windows in one request


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


def windows(server, text, size):
    """Token windows, each with the beginning-of-sequence token before it."""
    ids = server.call("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
    first = server.call("/tokenize", {"prompt": "x", "add_special_tokens": True})["tokens"]
    plain = server.call("/tokenize", {"prompt": "x", "add_special_tokens": False})["tokens"]
    if len(first) != len(plain) + 1:
        sys.exit("the model has no beginning-of-sequence token: its windows' first bytes could not be scored")
    return [[first[0]] + ids[i:i + size] for i in range(0, len(ids), size)]


def score(server, structure, chunks):
    log_prob = tokens = size = 0
    for i in range(0, len(chunks), BATCH):
        reply = server.call("/v1/infer", {**structure, "task": "score", "sequence": chunks[i:i + BATCH], "cache": False,
                                          "timeout_ms": 3600000})
        for out in reply["outputs"]:
            log_prob += out["score"]["log_prob"]
            size += out["score"]["bytes"]
            tokens += out["score"]["tokens"]
    return log_prob, size, tokens


def tables(figures, attentions, ffns, sharings):
    for sharing in sharings:
        print(f"\nSharing `{sharing}`: nats per character (bits per byte)\n")
        print("| attention | " + " | ".join(ffns) + " |")
        print("|---|" + "---:|" * len(ffns))
        for attention in attentions:
            cells = [figures[attention, ffn, sharing] for ffn in ffns]
            print(f"| {attention} | " + " | ".join(f"{c:.3f} ({c / math.log(2):.3f})" for c in cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("binary")
    parser.add_argument("text")
    parser.add_argument("--model", help="default: the built-in model")
    parser.add_argument("--held-out", type=float, default=0.1, help="the part of the text, at its end, that is scored")
    parser.add_argument("--window", type=int, default=1024, help="tokens per window")
    parser.add_argument("--limit", type=int, help="score only so many windows (a quick look)")
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    raw = open(args.text, "rb").read()
    held = raw[len(raw) - round(len(raw) * args.held_out):].decode()
    with Server(args.binary, args.model) as server:
        rows = server.call("/v1/structures")["data"][0]["structures"]
        attentions, ffns, sharings = (native(rows, slot) for slot in ("attention", "ffn", "sharing"))
        chunks = windows(server, held, args.window)[:args.limit]
        figures = {}
        for sharing in sharings:
            for ffn in ffns:
                for attention in attentions:
                    total, size, tokens = score(server, {"attention": attention, "ffn": ffn, "sharing": sharing}, chunks)
                    figures[attention, ffn, sharing] = -total / size
                    print(f"{attention}+{ffn}+{sharing}: {-total / size:.4f} ({tokens} tokens, {size} bytes)",
                          file=sys.stderr)
    print(f"{datetime.date.today()}, {os.path.basename(args.text)} (sha256 {hashlib.sha256(raw).hexdigest()}), its last "
          f"{args.held_out:.0%}: {len(chunks)} windows of at most {args.window} tokens.")
    tables(figures, attentions, ffns, sharings)
    if args.json:
        rows = [{"attention": a, "ffn": f, "sharing": s, "nats_per_byte": round(v, 5),
                 "bits_per_byte": round(v / math.log(2), 5)} for (a, f, s), v in figures.items()]
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump(rows, out, indent=1)


main()
