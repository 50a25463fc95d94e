#!/usr/bin/env python3
"""Writes tests/unit/kernels/quant_golden.h: random blocks of every quantised type and their values as the `gguf`
package (numpy) dequantises them. Run again only when types are added:

    python3 -m venv venv && venv/bin/pip install numpy sentencepiece pyyaml tqdm gguf==0.10.0
    venv/bin/python tools/golden/quants.py > tests/unit/kernels/quant_golden.h
"""
import numpy as np
from gguf import quants
from gguf.constants import GGMLQuantizationType as T

BLOCKS = 3
# type -> (elements, bytes, offsets of f16 fields)
TYPES = {"Q8_0": (32, 34, [0]), "Q4_0": (32, 18, [0]), "Q4_1": (32, 20, [0, 2]), "Q5_0": (32, 22, [0]),
         "Q5_1": (32, 24, [0, 2]), "Q4_K": (256, 144, [0, 2]), "Q5_K": (256, 176, [0, 2]), "Q6_K": (256, 210, [208])}


def lines(values, fmt, per_line):
    for i in range(0, len(values), per_line):
        yield "    " + ", ".join(fmt % v for v in values[i:i + per_line]) + ","


def main():
    rng = np.random.default_rng(11)
    print("/* Made by tools/golden/quants.py from the gguf Python package; do not edit. Values are f32 bits. */")
    print("#ifndef QN_TESTS_QUANT_GOLDEN_H\n#define QN_TESTS_QUANT_GOLDEN_H\n\n#include <stdint.h>\n")
    print(f"#define GOLDEN_BLOCKS {BLOCKS}\n\n/* clang-format off */")
    for name, (n, size, halves) in TYPES.items():
        raw = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for at in halves:
            scale = (rng.normal(size=BLOCKS) * 0.05).astype(np.float16)
            raw[:, at:at + 2] = scale.view(np.uint8).reshape(BLOCKS, 2)
        values = quants.dequantize(raw, T[name]).astype(np.float32).reshape(-1)
        assert values.size == BLOCKS * n
        print(f"static const uint8_t golden_{name.lower()}_bytes[{raw.size}] = {{")
        print("\n".join(lines(raw.reshape(-1).tolist(), "%d", 20)))
        print(f"}};\nstatic const uint32_t golden_{name.lower()}_bits[{values.size}] = {{")
        print("\n".join(lines(values.view(np.uint32).tolist(), "0x%08x", 8)))
        print("};")
    print("/* clang-format on */\n\n#endif")


if __name__ == "__main__":
    main()
