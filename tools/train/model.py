"""The supernet: all weights of grist, and the forward pass of any one of its 30 structures.

Weights of a kind are stacked over the layers, [L,out,in] for sharing "none" and [1,out,in] for sharing "all", so that the
optimiser handles a stack in one batched product. A forward pass casts what its structure needs to the working type and
runs compiled block functions, one per attention and one per FFN, common to all layers.
"""

import torch
from torch import nn
import torch.nn.functional as F

import attention as att
from config import ATTENTION, FFN, SHARING, VOCAB, group


def rms(x, gain, eps):
    """RMSNorm in f32."""
    x = x.float()
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + eps) * gain


def attention_block(x, gain, qkv, o, extra, cos, sin, mask, kind, G, D, eps, low):
    """Add one attention's output to the residual x [B,T,d]; mask is a dropout mask or None."""
    B, T, _ = x.shape
    h = rms(x, gain, eps).to(low)
    H = o.shape[1] // D
    q, k, v = F.linear(h, qkv).split((H * D, G * D, G * D), -1)
    q, k, v = q.view(B, T, H, D), k.view(B, T, G, D), v.view(B, T, G, D)
    if cos is not None:
        q, k = att.rotate(q, cos, sin), att.rotate(k, cos, sin)
    if kind == "linformer":
        out = att.linformer(q, k, v, *extra)
    elif kind == "performer":
        out = att.performer(q, k, v, *extra)
    else:
        out = att.softmax_attention(q, k, v)
    out = F.linear(out, o).float()
    return x + (out if mask is None else out * mask)


def gate_weights(h, router, top):
    """Softmax over all experts, the top ones kept (ties to the lowest index), renormalised. Returns weights, probabilities."""
    p = F.linear(h, router).softmax(-1)
    a, b = p.unsqueeze(-1), p.unsqueeze(-2)
    E = p.shape[-1]
    index = torch.arange(E)
    wins = (b > a) | ((b == a) & (index[None, :] < index[:, None]))
    w = p * (wins.sum(-1) < top)
    return w / w.sum(-1, keepdim=True), p


def ffn_block(x, gain, up, down, router, mask, hidden_mask, kind, top, eps, low):
    """Add one FFN's output to the residual x [B,T,d]. Returns x and the router's balance loss (0 without a router)."""
    h = rms(x, gain, eps)
    u = F.linear(h.to(low), up)
    balance = x.new_zeros(())
    if kind == "gelu":
        u = F.gelu(u.float())
    else:
        a, b = u.float().chunk(2, -1)
        u = F.silu(a) * b
    if kind == "moe":
        w, p = gate_weights(h, router, top)
        E = w.shape[-1]
        used = (w > 0).float().mean((0, 1)).detach() / top
        balance = E * (used * p.mean((0, 1))).sum()
        u = (u.view(*u.shape[:-1], E, -1) * w.unsqueeze(-1)).flatten(-2)
    if hidden_mask is not None:
        u = u * hidden_mask
    out = F.linear(u.to(low), down).float()
    return x + (out if mask is None else out * mask), balance


def head_loss(x, gain, table, target, eps, low):
    """Mean nats per byte of the tied head, and the loss of every position [B,T]."""
    logits = F.linear(rms(x, gain, eps).to(low), table).float()
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
    return loss.mean(), loss.detach()


class Supernet(nn.Module):
    """Parameters by plain name ("none.attn.softmax.q" and so on) and the forward pass of a structure."""

    def __init__(self, cfg, seed=0, compile_blocks=False):
        super().__init__()
        self.cfg = cfg
        self.p = nn.ParameterDict()
        g = torch.Generator().manual_seed(seed)
        self._make_parameters(g)
        self.low = torch.bfloat16
        cos, sin = att.rope_tables(cfg.context, cfg.dh, cfg.theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.pool = None
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compile_blocks else (lambda f: f)
        self.attention_block, self.ffn_block, self.head = wrap(attention_block), wrap(ffn_block), wrap(head_loss)

    def _make_parameters(self, g):
        c, d = self.cfg, self.cfg.d

        def put(name, *shape, std=0.0, value=None):
            t = torch.randn(*shape, generator=g) * std if value is None else value
            self.p[name.replace(".", "/")] = nn.Parameter(t)

        table = torch.randn((c.lags + 1) * VOCAB, d, generator=g) * 0.02
        put("table", value=table)                              # rows i*VOCAB + byte: lag i; lag 0 is the tied embedding
        put("norm", value=torch.ones(d))
        q = c.heads * c.dh
        for share in SHARING:
            n = c.layers if share == "none" else 1
            for a in ATTENTION:
                put(f"{share}.attn.{a}.norm", value=torch.ones(n, d))
                put(f"{share}.attn.{a}.k", n, c.kv[a] * c.dh, d, std=d ** -0.5)
                put(f"{share}.attn.{a}.v", n, c.kv[a] * c.dh, d, std=d ** -0.5)
                if f"{share}/attn/{group(a)}/q" not in self.p:
                    put(f"{share}.attn.{group(a)}.q", n, q, d, std=d ** -0.5)
                    put(f"{share}.attn.{group(a)}.o", n, d, q, std=0.1 * q ** -0.5)
            for f in FFN:
                wide = {"swiglu": 2 * c.swiglu, "gelu": c.gelu, "moe": 2 * c.experts * c.expert}[f]
                inner = wide if f == "gelu" else wide // 2
                put(f"{share}.ffn.{f}.norm", value=torch.ones(n, d))
                put(f"{share}.ffn.{f}.up", n, wide, d, std=d ** -0.5)       # [gate; up] for the gated kinds
                put(f"{share}.ffn.{f}.down", n, d, inner, std=0.1 * inner ** -0.5)
            put(f"{share}.ffn.moe.router", n, c.experts, d, std=0.02)
            if c.ef_per_block:
                put(f"{share}.e", value=self._slots(g).repeat(n, 1, 1))
                put(f"{share}.f", value=self._slots(g).repeat(n, 1, 1))
        if not c.ef_per_block:
            put("e", value=self._slots(g))
            put("f", value=self._slots(g))
        W = torch.stack([att.orthogonal_features(c.m, c.dh, g) for _ in range(c.layers)])
        self.register_buffer("features", W)                    # [L,m,dh]; sharing "all" uses the first

    def _slots(self, g):
        """Start Linformer's E or F: slot j averages the j-th segment of the context, plus a little noise."""
        c = self.cfg
        seg = c.context / c.k
        owner = (torch.arange(c.context) / seg).long().clamp(max=c.k - 1)
        t = torch.zeros(c.k, c.context)
        t[owner, torch.arange(c.context)] = seg ** -0.5
        return t + torch.randn(c.k, c.context, generator=g) * 0.02

    def get(self, name):
        """Return a parameter by its dotted name."""
        return self.p[name.replace(".", "/")]

    def set_dropout(self, rate, tokens, generator):
        """Fill the pool of random masks that a training step's dropout draws from; rate 0 turns it off."""
        if rate <= 0:
            self.pool = None
            return
        wide = max(self.cfg.d, 1)
        keep = torch.rand(2 * tokens * wide, generator=generator) >= rate
        self.pool = keep.to(torch.bfloat16) / (1 - rate)

    def _mask(self, B, T, width):
        if self.pool is None:
            return None
        n = B * T * width
        at = int(torch.randint(0, self.pool.numel() - n, ()))
        return self.pool[at:at + n].view(B, T, width)

    def embed(self, tokens, lag_drop=0.0):
        """Sum the embedding and the lag tables' rows: tokens [B,T] -> [B,T,d]."""
        c = self.cfg
        B, T = tokens.shape
        pad = (c.lags + 1) * VOCAB
        idx = torch.full((B, T, c.lags + 1), pad)
        for i in range(c.lags + 1):
            idx[:, i:, i] = tokens[:, :T - i] + i * VOCAB
        if lag_drop > 0:
            idx[..., 1:].masked_fill_(torch.rand(B, T, c.lags) < lag_drop, pad)
        table = torch.cat((self.get("table"), torch.zeros(1, c.d)))
        return F.embedding_bag(idx.view(B * T, -1), table, mode="sum", padding_idx=pad).view(B, T, c.d)

    def forward(self, tokens, target, structure, lag_drop=0.0):
        """Return (mean loss, per-position loss [B,T], balance loss) of one structure on windows tokens [B,T]."""
        a, f, share = structure
        c, low = self.cfg, self.low
        B, T = tokens.shape
        g = group(a)
        pick = lambda name: self.get(f"{share}.{name}")
        qkv = torch.cat((pick(f"attn.{g}.q"), pick(f"attn.{a}.k"), pick(f"attn.{a}.v")), 1).to(low).unbind(0)
        o = pick(f"attn.{g}.o").to(low).unbind(0)
        na, nf = pick(f"attn.{a}.norm").unbind(0), pick(f"ffn.{f}.norm").unbind(0)
        up, down = pick(f"ffn.{f}.up").to(low).unbind(0), pick(f"ffn.{f}.down").to(low).unbind(0)
        router = pick("ffn.moe.router").unbind(0) if f == "moe" else None
        cos, sin = (self.cos[:T], self.sin[:T]) if c.rope[a] else (None, None)
        x = self.embed(tokens, lag_drop)
        m = self._mask(B, T, c.d)
        x = x if m is None else x * m
        balance = 0.0
        for i in range(c.layers):
            j = i if share == "none" else 0
            x = self.attention_block(x, na[j], qkv[j], o[j], self._extra(a, share, j), cos, sin,
                                     self._mask(B, T, c.d), a, c.kv[a], c.dh, c.eps, low)
            x, b = self.ffn_block(x, nf[j], up[j], down[j], router[j] if router else None,
                                  self._mask(B, T, c.d), None, f, c.top, c.eps, low)
            balance = balance + b
        loss, each = self.head(x, self.get("norm"), self.get("table")[:VOCAB].to(low), target, c.eps, low)
        return loss, each, balance / c.layers

    def _extra(self, a, share, j):
        if a == "linformer":
            if self.cfg.ef_per_block:
                return self.get(f"{share}.e")[j], self.get(f"{share}.f")[j]
            return self.get("e"), self.get("f")
        return (self.features[j],) if a == "performer" else ()
