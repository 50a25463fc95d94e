#!/usr/bin/env python3
"""Makes tests/golden/quern: tiny random checkpoints of quern's own family (docs/checkpoints.md) with the logits of every
structure that they hold, computed in float64 by tools/train/twin.py.

    build/golden-venv/bin/python tools/golden/quern.py            # rewrites tests/golden/quern
    build/golden-venv/bin/python tools/golden/quern.py --check    # remakes in build/, compares with what is committed

`all` has every member that grist has. `forms` has what the format allows besides: projections for each KV head, F = E,
ReLU features, members that share all their matrices, gating C, other experts, no RoPE, an output matrix, one way of
sharing, mixed types. `factored` has tables narrower than the model with the maps to it and back, E and F of each block,
and gating D with groups, a scale, a bias of the choice and a gated shared expert. A few plausible faults are run as well: a fixture that would not notice them is not written.
"""
import argparse
import filecmp
import json
import math
import os
import struct
import sys

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools", "train"))
from twin import Twin, softmax  # noqa: E402

N_TOKENS = 37  # past two blocks of 16


class Forms(Twin):
    """The twin with what grist itself does not use; `fault` makes one mistake on purpose."""

    fault = ""

    def find(self, *names):
        swap = {".f": ".e"} if self.fault == "f=e" else {}
        if self.fault == "first e":
            names = [n.replace("layers.1.attn.linformer.e", "layers.0.attn.linformer.e") for n in names]
        return super().find(*[n[:-2] + swap.get(n[-2:], n[-2:]) for n in names])

    def performer(self, q, k, v, w):
        m = self.cfg["attention"]["performer"]
        if m.get("kernel", "favor+") == "favor+":
            return super().performer(q, k, v, w)
        phi = [np.maximum(x * x.shape[1] ** -0.25 @ w.T, 0) + 1e-3 for x in (q, k)]
        a = np.tril(phi[0] @ phi[1].T)
        return a @ v / a.sum(1, keepdims=True)

    def ffn(self, h, f, block):
        m = self.cfg["ffn"][f]
        self.act = m.get("activation", m.get("expert", f))
        if m.get("gating", "B") == "B" or self.fault == "gating":
            return super().ffn(h, f, block)
        at, out = f"{block}.ffn.{f}", np.zeros_like(h)
        l = h @ self.find(f"{at}.router").T
        for t in range(len(h)):
            chosen, _ = self.choose(l[t], m, at)
            if m["gating"] == "C":
                w = softmax(l[t])[chosen]
            else:
                w = self.scores(l[t], m, at, self.fault == "bias")[chosen]
                w = w / w.sum() * (1 if self.fault == "scale" else m.get("route_scale", 1))
            for e, x in zip(chosen, w):
                out[t] += x * self.mlp(h[t:t + 1], f"{at}.experts.{e}", None)[0]
        if "shared_intermediate_size" in m:
            gate = self.find(f"{at}.shared_gate") if m.get("shared_gate") and self.fault != "ungated" else None
            y = self.mlp(h, f"{at}.shared_expert", None)
            out += y if gate is None else y / (1 + np.exp(-(h @ gate)))[:, None]
        return out

    def scores(self, l, m, at, biased=True):
        """What experts of one token are ranked by: logits, or with gating D sigmoids and a bias."""
        if m.get("gating", "B") != "D":
            return l
        bias = self.find(f"{at}.route_bias") if biased else None
        return 1 / (1 + np.exp(-l)) + (0 if bias is None else bias)

    def choose(self, l, m, at):
        """Experts of one token, and how near the choice came to being another one."""
        s, k, n = self.scores(l, m, at), m["num_experts_per_tok"], m.get("groups", 1)
        gap = np.inf
        if n > 1 and self.fault != "groups":
            best = np.sort(s.reshape(n, -1), -1)[:, -2:].sum(-1)
            order = np.argsort(-best, kind="stable")
            top = m["top_groups"]
            gap = best[order[top - 1]] - best[order[top]] if top < n else gap
            s = np.where(np.isin(np.arange(len(s)) * n // len(s), order[:top]), s, -np.inf)
        order = np.argsort(-s, kind="stable")
        return order[:k], min(gap, s[order[k - 1]] - s[order[k]])

    def logits(self, ids, structure):
        """With an embedding map: its product with each table is one table, and so it is on the way back."""
        if "embedding_size" not in self.cfg:
            return super().logits(ids, structure)
        plain = self.w
        to, back = plain["model.embed_map.weight"], plain["model.output_map.weight"]
        back = to.T if self.fault == "one map" else back
        self.w = {n: x @ to.T if x.shape[-1] == to.shape[1] and "embed_" in n else x for n, x in plain.items()}
        self.w["lm_head.weight"] = plain["model.embed_tokens.weight"] @ back
        out = super().logits(ids, structure)
        self.w = plain
        return out

    def mlp(self, h, at, _):
        up, down = h @ self.find(f"{at}.up_proj").T, self.find(f"{at}.down_proj").T
        gate = self.find(f"{at}.gate_proj")
        g = up if gate is None else h @ gate.T
        if self.act in ("gelu", "geglu"):
            g = g / 2 * (1 + np.vectorize(math.erf)(g / math.sqrt(2)))
        elif self.act == "gelu_pytorch_tanh":
            g = g / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g ** 3)))
        elif self.act == "reglu":
            g = np.maximum(g, 0)
        else:
            g = g / (1 + np.exp(-g))
        return (g if gate is None else g * up) @ down

    def attention(self, h, a, block):
        if self.fault == "shared" and block == "model.shared":
            block = "model.layers.0"
        return super().attention(h, a, block)


# ---- weights ----------------------------------------------------------------------------------------------


class Maker:
    """Collects tensors: random values rounded to what F16 holds (and BF16 where that is asked for)."""

    def __init__(self, seed):
        self.rng, self.tensors = np.random.default_rng(seed), {}

    def add(self, name, *shape, scale=None, mean=0.0, dtype="F16"):
        x = self.rng.standard_normal(shape) * (shape[-1] ** -0.5 if scale is None else scale) + mean
        x = x.astype(np.float32)
        if dtype == "BF16":
            raw = ((x.view(np.uint32) + 0x8000) >> 16).astype(np.uint16)
        else:
            raw = x.astype({"F16": np.float16, "F32": np.float32}[dtype])
        self.tensors[name + ".weight"] = (dtype, shape, raw.tobytes())

    def norm(self, name, d):
        self.add(name, d, scale=0.2, mean=1.0, dtype="F32" if self.rng.random() < 0.3 else "F16")

    def save(self, path, config):
        os.makedirs(path, exist_ok=True)
        with open(os.path.join(path, "config.json"), "w") as f:
            json.dump(config, f, indent=1)
            f.write("\n")
        header, at = {}, 0
        for name, (dtype, shape, raw) in sorted(self.tensors.items()):
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
            at += len(raw)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(path, "model.safetensors"), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            for name in sorted(self.tensors):
                f.write(self.tensors[name][2])


def config(d, heads, layers, context, lags, **more):
    return {"model_type": "quern", "architectures": ["QuernForCausalLM"], "hidden_size": d,
            "num_hidden_layers": layers, "num_attention_heads": heads, "head_dim": 8, "vocab_size": 44,
            "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "bos_token_id": 0, "torch_dtype": "float16", "embedding_lags": lags, **more}


def make_all(path):
    """Every member of grist, under the names that grist uses."""
    c = config(32, 4, 2, 40, 3, tie_word_embeddings=True, attention={
        "gqa": {"kv_heads": 2}, "mha": {"kv_heads": 4}, "mqa": {"kv_heads": 1},
        "linformer": {"kv_heads": 4, "k": 12, "rope": True},
        "performer": {"kv_heads": 4, "features": 24, "kernel": "favor+", "rope": True}}, ffn={
        "swiglu": {"intermediate_size": 40}, "gelu": {"intermediate_size": 56, "activation": "gelu"},
        "moe": {"expert": "swiglu", "num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 24, "gating": "B"}},
        sharing=["none", "all"], held_out=[
            {"attention": "gqa", "ffn": "swiglu", "sharing": "none", "nats_per_byte": 1.5, "bits_per_byte": 2.164},
            {"attention": "performer", "ffn": "moe", "sharing": "all", "nats_per_byte": 2.0, "bits_per_byte": 2.885}])
    m, d = Maker(1), 32
    m.add("model.embed_tokens", 44, d, scale=0.5)
    for i in (1, 2, 3):
        m.add(f"model.embed_lags.{i}", 44, d, scale=0.3)
    m.norm("model.norm", d)
    for e in "ef":
        m.add(f"model.linformer.{e}", 12, 40, scale=0.5)
    for b in ("model.layers.0", "model.layers.1", "model.shared"):
        for p in "qo":
            m.add(f"{b}.attn.{p}_proj", d, d, scale=0.3)
        for a, g in (("gqa", 2), ("mha", 4), ("mqa", 1), ("linformer", 4), ("performer", 4)):
            m.norm(f"{b}.attn.{a}.norm", d)
            for p in "kv":
                m.add(f"{b}.attn.{a}.{p}_proj", g * 8, d, scale=0.3)
            if a in ("linformer", "performer"):
                for p in "qo":
                    m.add(f"{b}.attn.{a}.{p}_proj", d, d, scale=0.3)
        m.add(f"{b}.attn.performer.features", 24, 8, scale=1)
        for f, gated, n in (("swiglu", True, 40), ("gelu", False, 56)):
            m.norm(f"{b}.ffn.{f}.norm", d)
            network(m, f"{b}.ffn.{f}", gated, n, d)
        m.norm(f"{b}.ffn.moe.norm", d)
        m.add(f"{b}.ffn.moe.router", 4, d, scale=0.5)
        for e in range(4):
            network(m, f"{b}.ffn.moe.experts.{e}", True, 24, d)
    m.save(path, c)


def network(m, at, gated, n, d, dtype="F16"):
    for p in ("gate", "up") if gated else ("up",):
        m.add(f"{at}.{p}_proj", n, d, scale=0.3, dtype=dtype)
    m.add(f"{at}.down_proj", d, n, scale=0.3, dtype=dtype)


def make_forms(path):
    """What else the format allows."""
    c = config(24, 4, 3, 48, 0, tie_word_embeddings=False, attention={
        "linformer": {"kv_heads": 2, "k": 9, "rope": False}, "mha": {},
        "performer": {"kv_heads": 2, "features": 20, "kernel": "relu"}}, ffn={
        "gelu": {"intermediate_size": 40, "activation": "gelu_pytorch_tanh"}, "reglu": {"intermediate_size": 24},
        "moe": {"expert": "geglu", "activation": "gelu", "num_experts": 5, "num_experts_per_tok": 3,
                "intermediate_size": 16, "gating": "C"}},
        sharing=["all"])
    m, d = Maker(2), 24
    m.add("model.embed_tokens", 44, d, scale=0.5, dtype="F32")
    m.add("lm_head", 44, d, scale=0.5, dtype="BF16")
    m.norm("model.norm", d)
    b = "model.shared"
    m.norm(f"{b}.attn.norm", d)
    m.norm(f"{b}.ffn.norm", d)
    m.norm(f"{b}.ffn.moe.norm", d)
    m.add(f"{b}.attn.q_proj", 32, d, scale=0.3, dtype="BF16")
    m.add(f"{b}.attn.o_proj", d, 32, scale=0.3)
    m.add(f"{b}.attn.mha.q_proj", 32, d, scale=0.3, dtype="F32")
    for p in "kv":
        m.add(f"{b}.attn.{p}_proj", 16, d, scale=0.3)
        m.add(f"{b}.attn.mha.{p}_proj", 32, d, scale=0.3)
    m.add(f"{b}.attn.linformer.e", 2, 9, 48, scale=0.5, dtype="F32")
    m.add(f"{b}.attn.performer.features", 2, 20, 8, scale=1)
    network(m, f"{b}.ffn.gelu", False, 40, d, "BF16")
    network(m, f"{b}.ffn.reglu", True, 24, d)
    m.add(f"{b}.ffn.moe.router", 5, d, scale=0.5, dtype="F32")
    for e in range(5):
        network(m, f"{b}.ffn.moe.experts.{e}", True, 16, d, "F32")
    m.save(path, c)


def make_factored(path):
    """Narrow tables with maps, E and F of each block, gating D with all that belongs to it."""
    c = config(24, 3, 2, 48, 2, embedding_size=16, attention={
        "mha": {"kv_heads": 3}, "linformer": {"kv_heads": 3, "k": 9}}, ffn={
        "swiglu": {"intermediate_size": 40},
        "moe": {"expert": "swiglu", "num_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 16, "gating": "D",
                "groups": 4, "top_groups": 2, "route_scale": 2.5, "shared_intermediate_size": 24, "shared_gate": True}},
        sharing=["none", "all"])
    m, d = Maker(5), 24
    m.add("model.embed_tokens", 44, 16, scale=0.7)
    for i in (1, 2):
        m.add(f"model.embed_lags.{i}", 44, 16, scale=0.4)
    m.add("model.embed_map", d, 16, scale=0.3)
    m.add("model.output_map", 16, d, scale=0.3, dtype="F32")
    m.norm("model.norm", d)
    for b in ("model.layers.0", "model.layers.1", "model.shared"):
        m.norm(f"{b}.attn.norm", d)
        m.norm(f"{b}.ffn.norm", d)
        for p in "qkvo":
            m.add(f"{b}.attn.{p}_proj", d, d, scale=0.3)
        for e in "ef":
            m.add(f"{b}.attn.linformer.{e}", 9, 48, scale=0.5)
        network(m, f"{b}.ffn.swiglu", True, 40, d)
        m.add(f"{b}.ffn.moe.router", 8, d, scale=0.5)
        m.add(f"{b}.ffn.moe.route_bias", 8, scale=0.2, dtype="F32")
        for e in range(8):
            network(m, f"{b}.ffn.moe.experts.{e}", True, 16, d)
        network(m, f"{b}.ffn.moe.shared_expert", True, 24, d)
        m.add(f"{b}.ffn.moe.shared_gate", d, scale=0.3)
    m.save(path, c)


# ---- golden files -----------------------------------------------------------------------------------------


def distance(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def watch_gaps(twin):
    """Keeps in twin.gap how near a token came to standing between two experts: routing would turn on rounding."""
    plain, twin.gap = twin.ffn, 1.0

    def ffn(h, f, block):
        m = twin.cfg["ffn"][f]
        if "num_experts" in m:
            at = f"{block}.ffn.{f}"
            twin.gap = min(twin.gap, *(twin.choose(l, m, at)[1] for l in h @ twin.find(f"{at}.router").T))
        return plain(h, f, block)

    twin.ffn = ffn


def golden(path, faults):
    """Writes golden.bin of the checkpoint in path."""
    twin = Forms(path)
    ids = np.random.default_rng(3).integers(0, 44, N_TOKENS)
    watch_gaps(twin)
    rows = {s: twin.logits(ids, s) for s in twin.structures()}
    assert twin.gap > 1e-4, twin.gap
    for name, structure in faults:
        bad = Forms(path)
        bad.fault = name
        d = distance(bad.logits(ids, structure), rows[structure])
        assert d > 1e-3, (name, structure, d)
    names = list(rows)
    for i, a in enumerate(names):
        for b in names[:i]:
            assert distance(rows[a], rows[b]) > 1e-2, (a, b)
    with open(os.path.join(path, "golden.bin"), "wb") as f:
        f.write(b"QNMANY01" + struct.pack("<3I", N_TOKENS, 44, len(rows)) + ids.astype("<i4").tobytes())
        for s, x in rows.items():
            f.write(b"".join(n.encode().ljust(16, b"\0") for n in s) + x.astype("<f4").tobytes())


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--check", action="store_true")
    check = p.parse_args().check
    home = os.path.join(ROOT, "tests", "golden", "quern")
    out = os.path.join(ROOT, "build", "golden-quern") if check else home
    make_all(os.path.join(out, "all"))
    golden(os.path.join(out, "all"), [("f=e", ("linformer", "gelu", "none")), ("shared", ("mha", "moe", "all"))])
    make_forms(os.path.join(out, "forms"))
    golden(os.path.join(out, "forms"), [("gating", ("mha", "moe", "all"))])
    make_factored(os.path.join(out, "factored"))
    golden(os.path.join(out, "factored"), [
        ("one map", ("mha", "swiglu", "none")), ("first e", ("linformer", "swiglu", "none")),
        *((fault, ("mha", "moe", "none")) for fault in ("bias", "groups", "scale", "ungated"))])
    for name in ("all", "forms", "factored"):
        for file in ("config.json", "model.safetensors", "golden.bin"):
            a, b = os.path.join(out, name, file), os.path.join(home, name, file)
            print(f"{os.path.getsize(a):8} {name}/{file}")
            assert not check or filecmp.cmp(a, b, shallow=False), f"{name}/{file} differs"


if __name__ == "__main__":
    main()
