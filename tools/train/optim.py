"""Muon for the weight matrices of the blocks, Adam for everything else (tables, norms, routers, Linformer's E and F).

Muon replaces a matrix's momentum by the nearest semi-orthogonal matrix (five Newton-Schulz steps), so every direction
of a weight moves at one rate; on small models it needs about half the steps of Adam. A parameter that a step did not
touch (its structure was not drawn) is left alone, momentum included.
"""

import torch


def orthogonalise(g):
    """Newton-Schulz on a stack [S,out,in], in bf16; singular values end near 1."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.transpose(-1, -2) if tall else x
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).bfloat16()
    for _ in range(5):
        a = x @ x.transpose(-1, -2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return x.transpose(-1, -2) if tall else x


def as_matrices(name, g, cfg):
    """View a stacked gradient as the single matrices it holds (gate, up and each expert apart); returns view and its inverse."""
    L, out, inp = g.shape
    if name.endswith("/up"):
        parts = {"gelu": 1, "swiglu": 2, "moe": 2 * cfg.experts}[name.split("/")[-2]]
        return g.reshape(L * parts, out // parts, inp), lambda u: u.reshape(L, out, inp)
    if name.endswith("moe/down"):
        E = cfg.experts
        split = g.view(L, out, E, inp // E).transpose(1, 2)
        back = lambda u: u.view(L, E, out, inp // E).transpose(1, 2).reshape(L, out, inp)
        return split.reshape(L * E, out, inp // E), back
    return g, lambda u: u


class Optimiser:
    """Both rules over a Supernet's named parameters; state is a plain dictionary of tensors."""

    def __init__(self, net, muon_lr=0.02, adam_lr=3e-3, decay=0.05, momentum=0.95, betas=(0.9, 0.98)):
        self.net, self.muon_lr, self.adam_lr, self.decay = net, muon_lr, adam_lr, decay
        self.momentum, self.betas = momentum, betas
        self.state = {}                                        # complete from the start, so that it can be shared
        for name, p in net.p.items():
            self.state[name + ":m"] = torch.zeros_like(p).detach()
            if not self.is_muon(name):
                self.state[name + ":v"], self.state[name + ":t"] = torch.zeros_like(p).detach(), torch.zeros(())

    def is_muon(self, name):
        """Block projections are Muon's."""
        return name.split("/")[-1] in ("q", "k", "v", "o", "up", "down")

    @torch.no_grad()
    def step(self, factor):
        """Update every parameter that has a gradient; factor scales both learning rates. Clears the gradients."""
        for name, p in self.net.p.items():
            if p.grad is None:
                continue
            if self.is_muon(name):
                self._muon(name, p, factor)
            else:
                self._adam(name, p, factor)
            p.grad = None

    def _muon(self, name, p, factor):
        buf = self.state[name + ":m"]
        buf.lerp_(p.grad, 1 - self.momentum)
        g = p.grad.lerp(buf, self.momentum)
        stack, back = as_matrices(name, g, self.net.cfg)
        u = back(orthogonalise(stack).float())
        lr = self.muon_lr * factor
        scale = max(1.0, stack.shape[-2] / stack.shape[-1]) ** 0.5
        p.mul_(1 - lr * self.decay).add_(u, alpha=-lr * scale)

    def _adam(self, name, p, factor):
        m = self.state[name + ":m"]
        v = self.state[name + ":v"]
        t = self.state[name + ":t"]
        t += 1
        b1, b2 = self.betas
        m.lerp_(p.grad, 1 - b1)
        v.mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
        step = (m / (1 - b1 ** t)) / ((v / (1 - b2 ** t)).sqrt() + 1e-8)
        p.add_(step, alpha=-self.adam_lr * factor)
