"""Slow, plain twins of causal Performer and Linformer attention: numpy in double, one token at a time, written from
the papers' formulas and sharing nothing with quern. tools/golden/linear.py runs them over random inputs; the C test
tests/golden/linear_test.c compares quern with what they gave.

Shapes: q [n, heads, dh], k and v [n, kv_heads, dh]; query head i reads KV head floor(i * kv_heads / heads).
"""
import numpy as np


def performer(q, k, v, W, kernel="favor+", causal=True):
    """W [proj, m, dh], proj 1 (all heads) or kv_heads. Choromanski et al. 2021, no epsilon in favor+."""
    n, heads, dh = q.shape
    groups = k.shape[1]
    out = np.zeros_like(q)

    def phi(u, w):  # u [dh] already scaled by dh^-1/4
        if kernel == "relu":
            return np.maximum(w @ u, 0) + 1e-3
        return np.exp(w @ u - u @ u / 2) / np.sqrt(len(w))

    for h in range(heads):
        g = h * groups // heads
        w = W[g if len(W) > 1 else 0]
        S, z = np.zeros((len(w), dh)), np.zeros(len(w))
        keys = [phi(k[t, g] * dh ** -0.25, w) for t in range(n)]
        if not causal:
            for t in range(n):
                S, z = S + np.outer(keys[t], v[t, g]), z + keys[t]
        for t in range(n):
            if causal:
                S, z = S + np.outer(keys[t], v[t, g]), z + keys[t]
            query = phi(q[t, h] * dh ** -0.25, w)
            out[t, h] = query @ S / (query @ z)
    return out


def linformer(q, k, v, E, F, causal=True):
    """E, F [proj, slots, n_max]. Wang et al. 2020; causal: row t is the published operator on tokens 0..t."""
    n, heads, dh = q.shape
    groups = k.shape[1]
    out = np.zeros_like(q)
    for h in range(heads):
        g = h * groups // heads
        e, f = E[g if len(E) > 1 else 0], F[g if len(F) > 1 else 0]
        for t in range(n):
            seen = t + 1 if causal else n
            kbar, vbar = e[:, :seen] @ k[:seen, g], f[:, :seen] @ v[:seen, g]
            scores = kbar @ q[t, h] / np.sqrt(dh)
            p = np.exp(scores - scores.max())
            out[t, h] = p @ vbar / p.sum()
    return out
