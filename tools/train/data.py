"""The text as bytes, its training windows, and the held-out measure.

Held out is the last tenth of the file by bytes. It is scored in consecutive non-overlapping windows of 1,024 bytes, each
from an empty state with the beginning-of-sequence token in front, so that every byte is scored.
"""

import numpy as np
import torch

from config import BOS

WINDOW = 1024


def load(path):
    """Return (train, held out) as int64 tensors of byte values."""
    raw = torch.from_numpy(np.fromfile(path, dtype=np.uint8).astype(np.int64))
    cut = raw.numel() * 9 // 10
    return raw[:cut], raw[cut:]


def draw(text, B, T, generator):
    """Draw B random windows: tokens [B,T] = BOS and T-1 bytes, target [B,T] = T bytes."""
    at = torch.randint(0, text.numel() - T + 1, (B, 1), generator=generator)
    target = text[at + torch.arange(T)]
    tokens = torch.cat((torch.full((B, 1), BOS), target[:, :-1]), 1)
    return tokens, target


def held_out_windows(text):
    """Return (tokens, target, length) of every window; the last, short one is padded to a multiple of 64."""
    out = []
    for a in range(0, text.numel(), WINDOW):
        w = text[a:a + WINDOW]
        n = w.numel()
        w = torch.cat((w, w.new_zeros(-n % 64)))
        out.append((torch.cat((torch.tensor([BOS]), w[:-1])), w, n))
    return out


@torch.no_grad()
def measure(net, text, structure, windows=None, batch=4, bins=4):
    """Return (nats per byte, [nats per byte in each quarter of the window]) on the first `windows` held-out windows."""
    todo = held_out_windows(text)[:windows]
    total, count = torch.zeros(WINDOW, dtype=torch.float64), torch.zeros(WINDOW, dtype=torch.float64)
    net.pool = None
    while todo:
        T = todo[0][0].numel()
        part = [w for w in todo[:batch] if w[0].numel() == T]
        todo = todo[len(part):]
        each = net(torch.stack([w[0] for w in part]), torch.stack([w[1] for w in part]), structure)[1]
        for row, (_, _, n) in zip(each, part):
            total[:n] += row[:n].double()
            count[:n] += 1
    quarter = [(total[a:a + WINDOW // bins].sum() / count[a:a + WINDOW // bins].sum().clamp(min=1)).item()
               for a in range(0, WINDOW, WINDOW // bins)]
    return (total.sum() / count.sum()).item(), quarter
