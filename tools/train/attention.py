"""The five attentions in training form: whole windows at once, causal, exact, built from matrix products.

Shapes: B windows, T positions, H query heads, G KV heads, D head width, k Linformer slots, m Performer features.
Softmax runs in blocks of query rows. Linformer and Performer run in chunks of C positions: the state at the chunk's
boundary plus the exact masked part inside the chunk; both equal their token-by-token recurrences.
"""

import torch

CHUNK = 64
BLOCK = 272


def rope_tables(length, width, theta, dtype=torch.float32):
    """Return cos and sin [length, width/2] of the rotate-half position code."""
    freq = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * freq
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x, cos, sin):
    """Rotate pairs (i, i + D/2) of x [B,T,H,D] by the tables [T,D/2]."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    c, s = cos[:x.shape[1], None], sin[:x.shape[1], None]
    return torch.cat((a * c - b * s, b * c + a * s), -1).to(x.dtype)


def softmax_attention(q, k, v):
    """q [B,T,H,D], k and v [B,T,G,D] -> [B,T,H*D]; query head i reads KV head i*G//H."""
    B, T, H, D = q.shape
    G = k.shape[2]
    r = H // G
    q = (q * D ** -0.5).view(B, T, G, r, D).permute(0, 2, 1, 3, 4)        # [B,G,T,r,D]
    k, v = k.permute(0, 2, 3, 1), v.transpose(1, 2)                       # [B,G,D,T], [B,G,T,D]
    outs = []
    for a in range(0, T, BLOCK):
        b = min(a + BLOCK, T)
        qs = q[:, :, a:b].reshape(B, G, (b - a) * r, D)
        s = (qs @ k[..., :b]).view(B, G, b - a, r, b).float()
        ahead = torch.arange(b) > torch.arange(a, b)[:, None]
        p = s.masked_fill(ahead[:, None, :], float("-inf")).softmax(-1).to(v.dtype)
        outs.append((p.view(B, G, (b - a) * r, b) @ v[:, :, :b]).view(B, G, b - a, r, D))
    o = outs[0] if len(outs) == 1 else torch.cat(outs, 2)                 # [B,G,T,r,D]
    return o.permute(0, 2, 1, 3, 4).reshape(B, T, H * D)


def chunked(x):
    """[B,T,H,D] -> [N,B*H,C,D], T = N*C."""
    B, T, H, D = x.shape
    return x.view(B, T // CHUNK, CHUNK, H, D).permute(1, 0, 3, 2, 4).reshape(T // CHUNK, B * H, CHUNK, D)


def unchunked(x, B, H):
    """[N,B*H,C,D] -> [B,T,H*D]."""
    N, _, C, D = x.shape
    return x.view(N, B, H, C, D).permute(1, 0, 3, 2, 4).reshape(B, N * C, H * D)


def before(x):
    """Sum over the chunks before each one (dimension 0), in f32."""
    N = x.shape[0]
    strict = torch.ones(N, N).tril(-1)
    return (strict @ x.float().reshape(N, -1)).view(x.shape)


def linformer(q, k, v, E, F):
    """Causal prefix form; q, k, v [B,T,H,D], E and F [k,n] -> [B,T,H*D]."""
    B, T, H, D = q.shape
    N, C, slots, BH = T // CHUNK, CHUNK, E.shape[0], B * H
    q, k, v = chunked(q * D ** -0.5), chunked(k), chunked(v)
    Ec = E[:, :T].to(q.dtype).view(slots, N, C).transpose(0, 1)           # [N,k,C]
    Fc = F[:, :T].to(q.dtype).view(slots, N, C).transpose(0, 1)
    causal = torch.ones(C, C, dtype=q.dtype).tril()

    def state(proj, x):
        flat = x.transpose(1, 2).reshape(N, C, BH * D)
        s = before((proj @ flat).view(N, slots, BH, D))
        return s.transpose(1, 2).to(x.dtype)                              # [N,BH,k,D]

    inside = (q @ k.transpose(-1, -2)) * causal                           # [N,BH,C,C]
    logits = (q @ state(Ec, k).transpose(-1, -2)).float()
    logits = logits + (inside.view(N, BH * C, C) @ Ec.transpose(-1, -2)).view(N, BH, C, slots).float()
    p = logits.softmax(-1).to(q.dtype)
    mixed = (p.view(N, BH * C, slots) @ Fc).view(N, BH, C, C) * causal
    return unchunked(p @ state(Fc, v) + mixed @ v, B, H)


def performer(q, k, v, W):
    """FAVOR+ with constant W [m,D]; q, k, v [B,T,H,D] -> [B,T,H*D]. Both maxima cancel exactly, so they are detached."""
    B, T, H, D = q.shape
    x, y, v = chunked(q).float() * D ** -0.25, chunked(k).float() * D ** -0.25, chunked(v)
    low = v.dtype
    N, BH, C = x.shape[0], x.shape[1], CHUNK
    W = W.float()
    keys = y @ W.t() - 0.5 * (y * y).sum(-1, keepdim=True)                # [N,BH,C,m]
    M = keys.detach().amax((0, 2), keepdim=True)                          # [1,BH,1,m]
    Kf = (keys - M).exp()
    a = x @ W.t() + M
    P = (a - a.detach().amax(-1, keepdim=True)).exp()
    causal = torch.ones(C, C, dtype=torch.float32).tril()
    Kb, Pb = Kf.to(low), P.to(low)
    S = before(Kb.transpose(-1, -2) @ v).to(low)                          # [N,BH,m,D]
    z = before(Kf.sum(2, keepdim=True))                                   # [N,BH,1,m]
    inside = (Pb @ Kb.transpose(-1, -2)).float() * causal
    num = (Pb @ S).float() + (inside.to(low) @ v).float()
    den = (P * z).sum(-1, keepdim=True) + inside.sum(-1, keepdim=True)
    return unchunked((num / den).to(low), B, H)


def orthogonal_features(m, width, generator):
    """Draw W [m,width]: blocks of orthonormal rows (sign-fixed QR), each row scaled by an independent chi(width) length."""
    rows = []
    for _ in range(-(-m // width)):
        g = torch.randn(width, width, generator=generator, dtype=torch.float64)
        Q, R = torch.linalg.qr(g)
        rows.append((Q * R.diagonal().sign()).t())
    W = torch.cat(rows)[:m]
    length = torch.randn(m, width, generator=generator, dtype=torch.float64).norm(dim=1, keepdim=True)
    return (W * length).float()
