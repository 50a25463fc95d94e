#!/usr/bin/env python3
"""Writes tests/twin/linear.bin: random q, k, v and weights, and what the plain numpy twins of Performer and Linformer
(tests/twin/twin.py) make of them. Needs numpy only; the layout is described in tests/golden/README.md.

    build/golden-venv/bin/python tools/golden/linear.py [--check]

--check compares with the committed file instead of writing it.
"""
import pathlib
import struct
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE = ROOT / "tests/twin/linear.bin"
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tests/twin"))
import twin  # noqa: E402

# kind, heads, kv_heads, head_dim, tokens, features or slots, projections, standard deviation of q and k, options
CASES = [
    ("performer", 4, 2, 16, 41, 32, 1, 1.0, {}),
    ("performer", 2, 2, 8, 70, 24, 2, 2.0, {}),
    ("performer", 3, 1, 32, 37, 19, 1, 1.5, {}),
    ("performer", 4, 4, 16, 35, 20, 1, 1.0, {"kernel": "relu"}),
    ("performer", 2, 1, 16, 35, 20, 1, 1.0, {"causal": False}),
    ("linformer", 4, 2, 16, 41, 12, 1, 1.0, {}),
    ("linformer", 2, 2, 8, 70, 33, 2, 2.0, {}),
    ("linformer", 3, 1, 24, 37, 8, 1, 1.0, {"shared": True}),
    ("linformer", 2, 2, 16, 35, 10, 1, 1.0, {"causal": False}),
]
CONTEXT = 72


def case(rng, kind, heads, groups, dh, n, size, proj, std, options):
    """One case as bytes: 11 integers, then float arrays."""
    f4 = np.float32
    q, k = (rng.normal(0, std, (n, h, dh)).astype(f4) for h in (heads, groups))
    v = rng.normal(size=(n, groups, dh)).astype(f4)
    causal, relu = options.get("causal", True), options.get("kernel") == "relu"
    wide = [a.astype(np.float64) for a in (q, k, v)]
    if kind == "performer":
        W = rng.normal(size=(proj, size, dh)).astype(f4)
        out = twin.performer(*wide, W.astype(np.float64), options.get("kernel", "favor+"), causal)
        weights = [W.transpose(0, 2, 1)]
    else:
        E = rng.normal(0, size ** -0.5, (proj, size, CONTEXT)).astype(f4)
        F = E if options.get("shared") else rng.normal(0, size ** -0.5, E.shape).astype(f4)
        out = twin.linformer(*wide, E.astype(np.float64), F.astype(np.float64), causal)
        weights = [E.transpose(0, 2, 1), F.transpose(0, 2, 1)]
    head = struct.pack("<11I", kind == "linformer", heads, groups, dh, n, size, proj, CONTEXT, relu, causal,
                       bool(options.get("shared")))
    return head + b"".join(np.ascontiguousarray(a, "<f4").tobytes() for a in (q, k, v, *weights, out))


def main():
    rng = np.random.default_rng(20240229)
    data = b"QTWIN001" + struct.pack("<I", len(CASES)) + b"".join(case(rng, *c) for c in CASES)
    if "--check" not in sys.argv[1:]:
        FILE.write_bytes(data)
        return
    ints = len(data) // 4 * 4
    a, b = (np.frombuffer(x[8:ints], "<f4") for x in (data, FILE.read_bytes()))
    assert len(data) == FILE.stat().st_size and np.allclose(a, b, rtol=1e-6, atol=1e-7, equal_nan=True), "differs"
    print(f"{FILE.name}: {len(CASES)} cases as the twins make them")


main()
