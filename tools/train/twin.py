"""A plain numpy twin of grist's forward pass, written token by token from the formulas, to test other implementations.

Reads the exported directory only (config.json, model.safetensors, tokenizer.json); works in float64 unless told otherwise.

    python twin.py DIR --text "ROMEO:" [--structure gqa+swiglu+none | --structure all]   print the score of a text
    python twin.py DIR --state state.pt                                                   check against the torch model
"""

import argparse
import json
import math
import os

import numpy as np


def read_safetensors(path, dtype):
    """Return {name: array} of an F32/F16/BF16 safetensors file."""
    with open(path, "rb") as f:
        raw = f.read()
    n = int.from_bytes(raw[:8], "little")
    out = {}
    for name, t in json.loads(raw[8:8 + n]).items():
        if name == "__metadata__":
            continue
        a, b = t["data_offsets"]
        data = raw[8 + n + a:8 + n + b]
        if t["dtype"] == "BF16":
            x = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            x = np.frombuffer(data, {"F16": np.float16, "F32": np.float32}[t["dtype"]])
        out[name] = x.reshape(t["shape"]).astype(dtype)
    return out


def softmax(x):
    """Softmax over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Twin:
    """Weights of an exported checkpoint; logits(ids, structure) runs one of its structures."""

    def __init__(self, path, dtype=np.float64):
        with open(os.path.join(path, "config.json")) as f:
            self.cfg = json.load(f)
        self.w = read_safetensors(os.path.join(path, "model.safetensors"), dtype)
        self.dtype = dtype

    def structures(self):
        """All (attention, ffn, sharing) of the checkpoint."""
        c = self.cfg
        return [(a, f, s) for a in c["attention"] for f in c["ffn"] for s in c["sharing"]]

    def encode(self, data):
        """Bytes to ids, BOS in front."""
        return [self.cfg["bos_token_id"], *data]

    def find(self, *names):
        """Return the first tensor that exists."""
        for n in names:
            if n + ".weight" in self.w:
                return self.w[n + ".weight"]
        return None

    def norm(self, x, gain):
        """RMSNorm."""
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.cfg["rms_norm_eps"]) * gain

    def rotate(self, x):
        """Rotary code on x [T,H,D], pairs (i, i + D/2)."""
        T, _, D = x.shape
        freq = float(self.cfg["rope_theta"]) ** (-np.arange(0, D, 2) / D)
        angle = (np.arange(T)[:, None] * freq)[:, None]
        c, s = np.cos(angle).astype(self.dtype), np.sin(angle).astype(self.dtype)
        a, b = x[..., :D // 2], x[..., D // 2:]
        return np.concatenate((a * c - b * s, b * c + a * s), -1)

    def attention(self, h, a, block):
        """One attention on h [T,d] (already normalised)."""
        m, D = self.cfg["attention"][a], self.cfg["head_dim"]
        at = f"{block}.attn"
        proj = {p: self.find(f"{at}.{a}.{p}_proj", f"{at}.{p}_proj") for p in "qkvo"}
        T = h.shape[0]
        q, k, v = ((h @ proj[p].T).reshape(T, -1, D) for p in "qkv")
        if m.get("rope", True):
            q, k = self.rotate(q), self.rotate(k)
        H, G = q.shape[1], k.shape[1]
        out = np.empty_like(q)
        for i in range(H):
            g = i * G // H
            if a == "linformer":
                E = self.find(f"{at}.{a}.e", "model.linformer.e")
                F = self.find(f"{at}.{a}.f", "model.linformer.f")
                out[:, i] = self.linformer(q[:, i], k[:, g], v[:, g], E, E if F is None else F, g)
            elif a == "performer":
                W = self.find(f"{at}.{a}.features", "model.performer.features")
                out[:, i] = self.performer(q[:, i], k[:, g], v[:, g], W if W.ndim == 2 else W[g])
            else:
                for t in range(T):
                    p = softmax(k[:t + 1, g] @ q[t, i] * D ** -0.5)
                    out[t, i] = p @ v[:t + 1, g]
        return out.reshape(T, -1) @ proj["o"].T

    def linformer(self, q, k, v, E, F, g):
        """Prefix form, one token at a time: the state is E k and F v summed over the past."""
        if E.ndim == 3:
            E, F = E[g], F[g]
        K, V, out = np.zeros((len(E), q.shape[1]), self.dtype), np.zeros((len(E), q.shape[1]), self.dtype), np.empty_like(q)
        for t in range(len(q)):
            K += np.outer(E[:, t], k[t])
            V += np.outer(F[:, t], v[t])
            out[t] = softmax(K @ q[t] * q.shape[1] ** -0.5) @ V
        return out

    def performer(self, q, k, v, W):
        """Running-maximum recurrence, no epsilon."""
        x, y = q * q.shape[1] ** -0.25, k * k.shape[1] ** -0.25
        m = len(W)
        S, z, M = np.zeros((m, q.shape[1]), self.dtype), np.zeros(m, self.dtype), np.full(m, -np.inf)
        out = np.empty_like(q)
        for t in range(len(q)):
            l = W @ y[t] - y[t] @ y[t] / 2
            new = np.maximum(M, l)
            S, z = S * np.exp(M - new)[:, None], z * np.exp(M - new)
            w = np.exp(l - new)
            S, z, M = S + np.outer(w, v[t]), z + w, new
            a = W @ x[t] + M
            p = np.exp(a - a.max())
            out[t] = p @ S / (p @ z)
        return out

    def ffn(self, h, f, block):
        """One FFN on h [T,d] (already normalised)."""
        m, at = self.cfg["ffn"][f], f"{block}.ffn.{f}"
        if "num_experts" in m:
            p = softmax(h @ self.find(f"{at}.router").T)
            top = np.argsort(-p, axis=-1, kind="stable")[:, :m["num_experts_per_tok"]]
            out = np.zeros_like(h)
            for t in range(len(h)):
                for e in sorted(top[t]):
                    out[t] += p[t, e] / p[t, top[t]].sum() * self.mlp(h[t:t + 1], f"{at}.experts.{e}", m["expert"])[0]
            return out
        return self.mlp(h, at, m.get("activation", f))

    def mlp(self, h, at, act):
        """A plain or gated MLP."""
        up, down = h @ self.find(f"{at}.up_proj").T, self.find(f"{at}.down_proj").T
        gate = self.find(f"{at}.gate_proj")
        if gate is not None:
            g = h @ gate.T
            return (g / (1 + np.exp(-g)) * up) @ down
        erf = np.vectorize(math.erf)
        return (0.5 * up * (1 + erf(up / math.sqrt(2)))).astype(self.dtype) @ down

    def logits(self, ids, structure):
        """Return logits [T,V] of the token ids (BOS first) under one structure."""
        a, f, share = structure
        ids = np.asarray(ids)
        x = self.w["model.embed_tokens.weight"][ids].copy()
        for i in range(1, self.cfg["embedding_lags"] + 1):
            x[i:] += self.w[f"model.embed_lags.{i}.weight"][ids[:-i]] if len(ids) > i else 0
        for n in range(self.cfg["num_hidden_layers"]):
            block = f"model.layers.{n}" if share == "none" else "model.shared"
            x = x + self.attention(self.norm(x, self.find(f"{block}.attn.{a}.norm", f"{block}.attn.norm")), a, block)
            x = x + self.ffn(self.norm(x, self.find(f"{block}.ffn.{f}.norm", f"{block}.ffn.norm")), f, block)
        head = self.find("lm_head", "model.embed_tokens")
        return self.norm(x, self.w["model.norm.weight"]) @ head.T

    def score(self, data, structure):
        """Return the natural log-probability of each byte of data, BOS in front."""
        l = self.logits(self.encode(data)[:-1], structure)
        l = l - l.max(-1, keepdims=True)
        return (l - np.log(np.exp(l).sum(-1, keepdims=True)))[np.arange(len(data)), list(data)]


def check(twin, state, data):
    """Compare with the torch model on the bytes of data (a multiple of 64) for every structure; return the worst difference."""
    import torch
    from export import load_net
    net, _ = load_net(state)
    target = torch.tensor([list(data)])
    tokens = torch.tensor([twin.encode(data)[:-1]])
    worst = 0.0
    for s in twin.structures():
        with torch.no_grad():
            each = net(tokens, target, s)[1][0].double().numpy()
        gap = np.abs(each + twin.score(data, s)).max()
        print(f"{'+'.join(s):24} mean {each.mean():.4f} nats/byte, largest difference {gap:.2e}", flush=True)
        worst = max(worst, gap)
    return worst


def main():
    """Score a text, or compare with torch."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("dir")
    p.add_argument("--text", default="ROMEO:\nBut, soft! what light through yonder window breaks?\nIt is the east, and Juliet is the sun.\n" * 2)
    p.add_argument("--structure", default="all")
    p.add_argument("--state")
    a = p.parse_args()
    twin = Twin(a.dir)
    data = a.text.encode()
    if a.state:
        worst = check(twin, a.state, (data * (64 // len(data) + 1))[:192] if len(data) < 192 else data[:192])
        assert worst < 1e-3, worst
        return
    wanted = twin.structures() if a.structure == "all" else [tuple(a.structure.split("+"))]
    for s in wanted:
        lp = twin.score(data, s)
        print(f"{'+'.join(s):24} {-lp.sum():.6f} nats, {-lp.mean():.6f} per byte")


if __name__ == "__main__":
    main()
