"""The models that the structure tests serve, and what they have in common: every attention, FFN and sharing as a member.

`all` is tests/golden/quern/all: tiny, random weights, token ids only. `grist` is the model inside the binary; a binary
that was built without it has none to test.
"""
import itertools
import json
import os
import shutil

import pytest

from conftest import REAL, ROOT, Server

ALL = os.path.join(ROOT, "tests", "golden", "quern", "all")
LLAMA = os.path.join(ROOT, "tests", "golden", "models", "llama", "f32.gguf")
ATTENTION = ("mha", "gqa", "mqa", "linformer", "performer")
FFN = ("gelu", "swiglu", "moe")
SHARING = ("none", "all")
THIRTY = [{"attention": a, "ffn": f, "sharing": s} for a, f, s in itertools.product(ATTENTION, FFN, SHARING)]
MODELS = ("all", "grist")

# What may be asked of LLAMA, a dense checkpoint with 4 query heads, 2 KV heads, SwiGLU and 2 layers; the label of it; the
# slot that decides.
DENSE = [
    ({"attention": "mha"}, "exact", None),
    ({"attention": "mqa"}, "untrained", "attention"),
    ({"attention": "performer"}, "approximate", "attention"),
    ({"attention": {"type": "performer", "features": 16, "seed": 9}}, "approximate", "attention"),
    ({"attention": {"type": "performer", "hyperbolic": True, "orthogonal": False}}, "approximate", "attention"),
    ({"attention": "linformer"}, "untrained", "attention"),
    ({"attention": {"type": "linformer", "k": 16}}, "untrained", "attention"),
    ({"ffn": "moe"}, "exact", None),
    ({"ffn": {"type": "moe", "experts": 3, "experts_per_token": 1}}, "exact", None),
    ({"sharing": "all"}, "untrained", "sharing"),
    ({"sharing": "attention"}, "untrained", "sharing"),
    ({"sharing": "ffn"}, "untrained", "sharing"),
    ({"sharing": {"type": "groups", "count": 1}}, "untrained", "sharing"),
    ({"attention": "performer", "ffn": "moe"}, "approximate", "attention"),
    ({"attention": "performer", "ffn": "moe", "sharing": "all"}, "untrained", "attention"),
    ({"attention": {"type": "linformer", "k": 8}, "ffn": "moe", "sharing": "ffn"}, "untrained", "attention"),
]


def need(name):
    """Skips the test in a tree without the model's files, which gives a binary without the model."""
    if name == "grist" and not os.path.exists(os.path.join(ROOT, "model", "zoo", "grist", "model.safetensors")):
        pytest.skip("this binary has no model inside")


class Served:
    """A server with one of the MODELS; `prompt` is a short sequence that it can read."""

    def __init__(self, name, *options):
        need(name)
        self.name = name
        self.server = Server(*options, model=ALL if name == "all" else None, binary=REAL)
        self.about = self.server.get("/v1/models").json()["data"][0]
        assert self.about["id"] == name
        self.prompt = [35, 3, 7, 10, 7, 35, 38, 25, 1, 4, 14] if name == "all" else "ROMEO:\nThe mill is"
        self.vocab, self.context = self.about["vocabulary"], self.about["context"]

    def infer(self, **body):
        body.setdefault("sequence", self.prompt)
        return self.server.infer(**body)

    def rows(self, slot=None):
        rows = self.server.get("/v1/structures").json()["data"][0]["structures"]
        return [r for r in rows if slot in (None, r["slot"])]


def lettered(folder):
    """`all` with a tokenizer beside it, one token for a character; its path."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(os.path.join(ALL, name), folder)
    letters = {c: i + 1 for i, c in enumerate("\u0120abcdefghijklmnopqrstuvwxyz0123456789.,;:!?")}
    with open(os.path.join(folder, "tokenizer.json"), "w") as f:
        json.dump({"added_tokens": [{"id": 0, "content": "<s>", "special": True}], "normalizer": None,
                   "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
                   "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": letters, "merges": []}}, f)
    return str(folder)


def types(structure):
    return {slot: structure[slot]["type"] for slot in ("attention", "ffn", "sharing")}
