"""Start the members that the core deck leaves out from trained ones, inside a training state.

MQA's keys and values become the mean of GQA's (both sharings); each MoE expert becomes one half of SwiGLU's hidden units,
twice over, with doubled output, since two experts share a weight of 1. The layers differ from their sources from the
first steps on; this only spares them the beginning.

    python branch.py --state DIR/state.pt
"""

import argparse
import os

import torch

from config import Config, SHARING


def pool_heads(kv, heads, width):
    """Mean over the heads of a stack [L,heads*width,d] -> [L,width,d]."""
    return kv.view(kv.shape[0], heads, width, -1).mean(1)


def branch(w, cfg, noise=0.02):
    """Overwrite MQA and MoE weights in the dictionary w of stacked parameters."""
    for share in SHARING:
        for part in "kv":
            w[f"{share}/attn/mqa/{part}"].copy_(pool_heads(w[f"{share}/attn/gqa/{part}"], cfg.kv["gqa"], cfg.dh))
        w[f"{share}/attn/mqa/norm"].copy_(w[f"{share}/attn/gqa/norm"])
        L = w[f"{share}/ffn/swiglu/up"].shape[0]
        up = w[f"{share}/ffn/swiglu/up"].view(L, 2, cfg.swiglu, cfg.d)                # [gate, up]
        down = w[f"{share}/ffn/swiglu/down"]
        reach = torch.arange(cfg.experts * cfg.expert) % cfg.swiglu                   # which hidden unit each one copies
        new_up = up[:, :, reach].reshape(L, -1, cfg.d)
        new_down = 2 * down[:, :, reach]
        for name, t in (("up", new_up), ("down", new_down)):
            w[f"{share}/ffn/moe/{name}"].copy_(t + noise * t.std() * torch.randn_like(t))
        w[f"{share}/ffn/moe/norm"].copy_(w[f"{share}/ffn/swiglu/norm"])


def main():
    """Branch the weights and their average; clear the momenta of what changed."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--state", required=True)
    a = p.parse_args()
    s = torch.load(a.state, weights_only=False)
    cfg = Config(**s["cfg"])
    torch.manual_seed(s["step"])
    with torch.no_grad():
        branch(s["net"], cfg)
        torch.manual_seed(s["step"])
        branch(s["ema"], cfg)
        for n, t in s["opt"].items():
            if "/mqa/" in n or "/moe/" in n:
                t.zero_()
    torch.save(s, a.state + ".new")
    os.replace(a.state + ".new", a.state)


if __name__ == "__main__":
    main()
