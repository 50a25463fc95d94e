"""Train grist: one supernet, one structure per micro-batch, resumable at any kill.

Each worker process (one thread, one core) draws structures from a shuffled deck, computes a gradient and applies it at
once to weights in shared memory, without waiting for the other: on a busy machine no core idles, at the price that a run
is not reproducible bit for bit. The softmax members read windows of 272 bytes until --full-from, then 1,088 like the
others, so that the last steps run at the full context. The learning rate is constant, then falls linearly to zero from
--decay-from to --steps. A moving average of the weights is kept and measured. State goes to OUT/state.pt every few
minutes (written aside, then renamed), the log to OUT/log.csv; the same command takes a killed run up again.

    python train.py --text FILE --out DIR --deck core --minutes 60
    python branch.py --state DIR/state.pt
    python train.py --text FILE --out DIR --deck all --steps 6000 --full-from 5200 --decay-from 4200
"""

import argparse
import csv
import os
import signal
import time

import torch
import torch.multiprocessing as mp

from config import ATTENTION, SOFTMAX, STRUCTURES, Config
import data
from model import Supernet
from optim import Optimiser

PROBES = (("gqa", "swiglu", "none"), ("mha", "swiglu", "none"), ("gqa", "moe", "none"), ("linformer", "swiglu", "none"),
          ("performer", "swiglu", "none"), ("gqa", "swiglu", "all"))
CORE = {("mha", "swiglu", "none"): 4, ("gqa", "swiglu", "none"): 3, ("linformer", "swiglu", "none"): 3,
        ("performer", "swiglu", "none"): 3, ("gqa", "gelu", "none"): 1, ("mha", "gelu", "none"): 1,
        ("linformer", "gelu", "none"): 1, ("performer", "gelu", "none"): 1, ("mha", "swiglu", "all"): 1,
        ("gqa", "swiglu", "all"): 1, ("linformer", "swiglu", "all"): 1, ("performer", "swiglu", "all"): 1}
FAVOURED = (("gqa", "swiglu"), ("mha", "swiglu"), ("gqa", "moe"), ("mha", "moe"))


def weight(structure, deck):
    """How often a structure stands in a deck. "core" trains few members, from which branch.py starts the others; in "all"
    unshared ones stand twice, shared ones once, the likely best ones once more; in "even" every one stands once."""
    if deck == "core":
        return CORE.get(structure, 0)
    a, f, s = structure
    return 1 if deck == "even" or s == "all" else 2 + ((a, f) in FAVOURED)


def override(text):
    """Parse a shape override; rope=A,B switches rope off for A and B."""
    key, value = text.split("=")
    if key == "rope":
        return key, {a: a not in value.split(",") for a in ATTENTION}
    kind = type(getattr(Config(), key))
    return key, (value == "1") if kind is bool else kind(value)


class Trainer:
    """Shared state of the run, and what one worker does with it."""

    def __init__(self, args):
        self.args, self.rank = args, 0
        self.cfg = Config(**dict(override(s) for s in args.set or ()))
        torch.manual_seed(args.seed)
        self.net = Supernet(self.cfg, seed=args.seed, compile_blocks=not args.eager)
        self.opt = Optimiser(self.net, muon_lr=args.muon_lr, adam_lr=args.adam_lr, decay=args.weight_decay)
        self.ema = {n: p.detach().clone() for n, p in self.net.p.items()}
        self.count = torch.zeros(4, dtype=torch.float64)       # steps, characters, seconds of worker 0, steps in the average
        self.losses = torch.zeros(2, dtype=torch.float64)      # sum and number since the last log row
        self.text, self.held = data.load(args.text)
        self.members = [s for s in STRUCTURES if args.only in ("", s[0])]
        self.path = os.path.join(args.out, "state.pt")
        os.makedirs(args.out, exist_ok=True)
        if os.path.exists(self.path):
            self.load()
        self.net.share_memory()
        for t in (*self.opt.state.values(), self.count, self.losses):
            t.share_memory_()
        self.lock, self.stop = mp.Lock(), mp.Event()

    @property
    def step(self):
        """Optimiser steps so far, all workers together."""
        return int(self.count[0])

    def save(self):
        """Write the whole state aside and rename it into place."""
        state = {"cfg": self.cfg.as_dict(), "net": {n: p.detach() for n, p in self.net.p.items()},
                 "features": self.net.features, "ema": self.ema, "opt": self.opt.state, "count": self.count,
                 "step": self.step, "seen": int(self.count[1]), "seconds": float(self.count[2])}
        torch.save(state, self.path + ".new")
        os.replace(self.path + ".new", self.path)

    def load(self):
        """Take up the state of an earlier run."""
        s = torch.load(self.path, weights_only=False)
        assert s["cfg"] == self.cfg.as_dict(), "the stored run has another shape"
        with torch.no_grad():
            for n, p in self.net.p.items():
                p.copy_(s["net"][n])
            for n, t in self.opt.state.items():
                t.copy_(s["opt"][n])
        self.net.features.copy_(s["features"])
        self.ema = s["ema"]
        self.count.copy_(s["count"])
        print(f"resumed at step {self.step}", flush=True)

    def next_structure(self):
        """Deal this worker's next structure from its shuffled deck."""
        if not self.deck:
            full = [s for s in self.members for _ in range(weight(s, self.args.deck))]
            self.deck = [full[i] for i in torch.randperm(len(full), generator=self.gen)]
        return self.deck.pop()

    def factor(self):
        """Learning rate factor: short warm-up, constant, linear fall to zero."""
        a = self.args
        fall = (a.steps - self.step) / max(1, a.steps - a.decay_from)
        return max(0.0, min(1.0, (self.step + 1) / a.warmup, fall))

    def one_step(self):
        """Draw and run the micro-batches, update the shared weights."""
        a, began, seen, loss_sum = self.args, time.time(), 0, 0.0
        for _ in range(a.micro):
            s = self.next_structure()
            T = 272 if s[0] in SOFTMAX and self.step < a.full_from else self.cfg.context
            B = a.tokens // T
            tokens, target = data.draw(self.text, B, T, self.gen)
            self.net.set_dropout(a.dropout, B * T, self.gen)
            loss, _, balance = self.net(tokens, target, s, a.lag_drop)
            ((loss + 0.01 * balance) / a.micro).backward()
            loss_sum += loss.item() / a.micro
            seen += B * T
        self.opt.step(self.factor())
        with self.lock:
            self.count[0] += 1
            self.count[1] += seen
            if self.rank == 0:
                self.count[2] += time.time() - began
            self.losses += torch.tensor([loss_sum, 1.0], dtype=torch.float64)

    def average(self):
        """Move the average towards the weights, by the steps made since the last call."""
        new = self.step - int(self.count[3])
        if new < 4:
            return
        self.count[3] += new
        keep = min(self.args.ema, self.step / (self.step + 20)) ** new
        with torch.no_grad():
            for n, p in self.net.p.items():
                self.ema[n].lerp_(p, 1 - keep)

    def probe(self):
        """Measure a few structures on the first held-out windows with the averaged weights (in a private copy)."""
        net = Supernet(self.cfg)
        with torch.no_grad():
            for n, p in net.p.items():
                p.copy_(self.ema[n])
            net.features.copy_(self.net.features)
        return {s: data.measure(net, self.held, s, self.args.probe_windows) for s in PROBES if s in self.members}

    def log(self, row):
        """Append one row to OUT/log.csv and print it."""
        path = os.path.join(self.args.out, "log.csv")
        new = not os.path.exists(path)
        with open(path, "a", newline="") as f:
            w = csv.DictWriter(f, row)
            if new:
                w.writeheader()
            w.writerow(row)
        print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)

    def report(self, rate):
        """Write one log row: the mean training loss since the last one, and the probes."""
        total, number = self.losses.tolist()
        self.losses.zero_()
        row = {"step": self.step, "seconds": round(float(self.count[2])), "characters": int(self.count[1]),
               "characters_per_second": round(rate), "lr_factor": round(self.factor(), 4),
               "train": round(total / max(1, number), 4)}
        found = self.probe()
        self.log(row | {"+".join(s): round(found[s][0], 4) if s in found else "" for s in PROBES})
        print("  by quarter", {"+".join(s): [round(x, 3) for x in q[1]] for s, q in found.items()}, flush=True)

    def work(self, rank):
        """Train until --steps, --minutes or another worker's end; worker 0 also averages, logs and saves."""
        a, start = self.args, time.time()
        self.rank, self.deck = rank, []
        torch.set_num_threads(1)
        torch.manual_seed(1000 * self.step + 10 * a.seed + rank)
        self.gen = torch.Generator().manual_seed(1000 * self.step + 10 * a.seed + rank + 5)
        saved, ticked = start, (start, float(self.count[1]), self.step)
        while self.step < a.steps and not self.stop.is_set():
            self.one_step()
            if rank:
                continue
            self.average()
            if self.step - ticked[2] >= a.every:
                now = time.time()
                self.report((float(self.count[1]) - ticked[1]) / (now - ticked[0]))
                ticked = (now, float(self.count[1]), self.step)
            if time.time() - saved > 60 * a.save_minutes:
                self.save()
                saved = time.time()
            if time.time() - start > 60 * a.minutes:
                self.stop.set()

    def run(self):
        """Start the other workers, work, and save at the end; SIGTERM ends the run after the steps in hand."""
        signal.signal(signal.SIGTERM, lambda *_: self.stop.set())
        others = [mp.get_context("fork").Process(target=self.work, args=(r,), daemon=True)
                  for r in range(1, self.args.workers)]
        for p in others:
            p.start()
        self.work(0)
        self.stop.set()
        for p in others:
            p.join()
        self.report(0)
        self.save()


def arguments():
    """Read the command line."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--text", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--steps", type=int, default=6000)
    p.add_argument("--full-from", type=int, default=5200)
    p.add_argument("--decay-from", type=int, default=4200)
    p.add_argument("--warmup", type=int, default=50)
    p.add_argument("--minutes", type=float, default=1e9)
    p.add_argument("--save-minutes", type=float, default=4)
    p.add_argument("--tokens", type=int, default=4352, help="characters in a micro-batch")
    p.add_argument("--micro", type=int, default=1, help="micro-batches in a step")
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--muon-lr", type=float, default=0.02)
    p.add_argument("--adam-lr", type=float, default=3e-3)
    p.add_argument("--weight-decay", type=float, default=0.05)
    p.add_argument("--dropout", type=float, default=0.05)
    p.add_argument("--lag-drop", type=float, default=0.0)
    p.add_argument("--ema", type=float, default=0.995)
    p.add_argument("--every", type=int, default=100)
    p.add_argument("--probe-windows", type=int, default=12)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--deck", default="all", choices=("core", "all", "even"), help="which structures are drawn, how often")
    p.add_argument("--only", default="", help="train one attention only (pilots)")
    p.add_argument("--set", nargs="*", help="shape overrides, key=value (pilots); rope=A,B switches rope off for A and B")
    p.add_argument("--eager", action="store_true", help="do not compile the blocks")
    return p.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)                            # before any product: the workers are forked
    torch._inductor.config.pattern_matcher = False      # its fused attention is slower here than plain bf16 products
    torch._dynamo.config.cache_size_limit = 64          # five attentions and three FFNs, at two lengths
    Trainer(arguments()).run()
