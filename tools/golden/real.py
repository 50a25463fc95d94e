#!/usr/bin/env python3
"""Makes tests/golden/real/smollm2.bin: what Hugging Face transformers computes from the file that `make model` puts
into models/, for ten chat prompts: token ids, the greedy continuation, and the head of the next-token distribution at
the first 64 positions.

    build/golden-venv/bin/python tools/golden/real.py            # rewrites the fixture (about a minute)
    build/golden-venv/bin/python tools/golden/real.py --verify   # checks the reference itself, writes nothing

The reference is transformers' own GGUF import in float32. --verify holds it against two other readings of the same
file: every tensor against the gguf package's dequantisation, the tokenizer against its import, and the logits against a plain numpy forward pass that
works on the file's own row order (adjacent RoPE pairs) instead of transformers' (rotated halves).
"""
import argparse
import os
import struct
import sys

# A neighbour in this folder is called tokenizers.py; the package of that name is what transformers needs.
sys.path[:] = [p for p in sys.path if os.path.abspath(p) != os.path.dirname(os.path.abspath(__file__))]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")

import gguf  # noqa: E402
import numpy as np  # noqa: E402
import tokenizers as tk  # noqa: E402
import torch  # noqa: E402
import transformers as tf  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_DIR = os.environ.get("QUERN_MODEL_DIR", os.path.join(ROOT, "models"))
OUT = os.path.join(ROOT, "tests", "golden", "real", "smollm2.bin")
STEPS, POSITIONS, TOP = 64, 64, 64

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QUESTIONS = [
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Add 12345 and 67890, then write the result in words.",
    "Write a C function that returns the larger of two integers.",
    "Translate to English: « Où est la bibliothèque ? » — naïve café, 日本語, 🙂🚀",
    "List three fruits,\n  three colours,\n\n\tand three animals.",
    "I can't find my keys; where should I've looked? Don't say 'everywhere'.",
    "Once upon a time, in a mill by the river, there lived",
    "def fib(n):\n    if n < 2:\n        return n\n    return",
    "Summarise: A quern is a hand mill for grinding grain. It has two round stones; the upper one turns on the lower.",
]

torch.set_num_threads(1)
tf.utils.logging.disable_progress_bar()


def chat(question):
    return (f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n"
            "<|im_start|>assistant\n")


def tokenizer(reader):
    """The tokenizer as SmolLM2's tokenizer.json defines it (digits one by one, then byte-level BPE), with the GGUF
    file's vocabulary and merges; --verify holds it against transformers' own import."""
    field = lambda k: reader.fields["tokenizer.ggml." + k].contents()  # noqa: E731
    pieces, kinds = field("tokens"), field("token_type")
    t = tk.Tokenizer(tk.models.BPE({p: i for i, p in enumerate(pieces)},
                                   [tuple(m.split(" ", 1)) for m in field("merges")]))
    t.pre_tokenizer = tk.pre_tokenizers.Sequence([tk.pre_tokenizers.Digits(individual_digits=True),
                                                  tk.pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = tk.decoders.ByteLevel()
    t.add_special_tokens([tk.AddedToken(p, normalized=False, special=True)
                          for p, k in zip(pieces, kinds) if k == gguf.TokenType.CONTROL])
    return t


def load():
    model = tf.AutoModelForCausalLM.from_pretrained(MODEL_DIR, gguf_file=FILE, dtype=torch.float32,
                                                    attn_implementation="eager")
    return model.eval()


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]), use_cache=False).logits[0].numpy()


def greedy(model, ids, stop):
    """Up to STEPS ids, the stop id included, with top-1 minus top-2 at each step."""
    out, margins, past, x = [], [], None, torch.tensor([ids])
    with torch.no_grad():
        while len(out) < STEPS:
            r = model(x, past_key_values=past, use_cache=True)
            past = r.past_key_values
            top = torch.topk(r.logits[0, -1], 2)
            out.append(int(top.indices[0]))
            margins.append(float(top.values[0] - top.values[1]))
            if out[-1] == stop:
                break
            x = torch.tensor([[out[-1]]])
    return out, margins


def record(f, text, ids, more, margins, logits):
    """One prompt: see tests/golden/README.md for the layout."""
    raw = text.encode()
    f.write(struct.pack("<I", len(raw)) + raw + bytes(-len(raw) % 4))
    f.write(struct.pack("<I", len(ids)) + np.array(ids, "<i4").tobytes())
    f.write(struct.pack("<I", len(more)) + np.array(more, "<i4").tobytes() + np.array(margins, "<f4").tobytes())
    f.write(struct.pack("<I", len(logits)))
    for row in logits.astype(np.float64):
        order = np.argsort(-row, kind="stable")[:TOP]
        lse = row.max() + np.log(np.exp(row - row.max()).sum())
        f.write(struct.pack("<ff", lse, row[order[0]] - row[order[1]]))
        f.write(order.astype("<i4").tobytes() + row[order].astype("<f4").tobytes())


def make(model, tok, stop):
    os.makedirs(os.path.dirname(OUT), exist_ok=True)
    with open(OUT + ".tmp", "wb") as f:
        f.write(b"QNREAL01" + struct.pack("<II", len(QUESTIONS), TOP))
        for q in QUESTIONS:
            text = chat(q)
            ids = tok.encode(text, add_special_tokens=False).ids
            more, margins = greedy(model, ids, stop)
            logits = logits_of(model, (ids + more)[:POSITIONS])
            record(f, text, ids, more, margins, logits)
            print(f"{len(ids)} + {len(more)} tokens, least margin {min(margins):.3f}: {tok.decode(more)!r}")
    os.replace(OUT + ".tmp", OUT)
    print(f"{OUT}: {os.path.getsize(OUT)} bytes")


# ---- is the reference right? -------------------------------------------------------------------------------


def rms(x, g, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * g


def rope_pairs(x, base):
    """Rotates adjacent pairs, as the rows of a llama GGUF lie. x [n, heads, dim]."""
    n, _, dim = x.shape
    angle = np.arange(n)[:, None] * base ** (-np.arange(0, dim, 2) / dim)[None]
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    out = np.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * c - x[..., 1::2] * s
    out[..., 1::2] = x[..., 0::2] * s + x[..., 1::2] * c
    return out


def plain_forward(reader, w, ids):
    """llama on the file's own tensors in float64, nothing shared with transformers."""
    key = lambda k: reader.fields["llama." + k].contents()  # noqa: E731
    h, g, eps = (key("attention." + k) for k in ("head_count", "head_count_kv", "layer_norm_rms_epsilon"))
    base, n = key("rope.freq_base"), len(ids)
    x = w["token_embd.weight"][ids].astype(np.float64)
    mask = np.triu(np.full((n, n), -np.inf), 1)
    for i in range(key("block_count")):
        t = lambda k: w[f"blk.{i}.{k}.weight"].astype(np.float64)  # noqa: B023, E731
        y = rms(x, t("attn_norm"), eps)
        q = rope_pairs((y @ t("attn_q").T).reshape(n, h, -1), base)
        k = rope_pairs((y @ t("attn_k").T).reshape(n, g, -1), base).repeat(h // g, axis=1)
        v = (y @ t("attn_v").T).reshape(n, g, -1).repeat(h // g, axis=1)
        s = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(q.shape[-1]) + mask
        p = np.exp(s - s.max(-1, keepdims=True))
        o = np.einsum("hij,jhd->ihd", p / p.sum(-1, keepdims=True), v).reshape(n, -1)
        x = x + o @ t("attn_output").T
        y = rms(x, t("ffn_norm"), eps)
        gate = y @ t("ffn_gate").T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ t("ffn_up").T)) @ t("ffn_down").T
    return rms(x, w["output_norm.weight"], eps) @ w["token_embd.weight"].astype(np.float64).T


def unpermute(a, heads):
    return a.reshape(heads, a.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(a.shape)


def verify(model, reader, tok):
    w = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    state, c = model.state_dict(), model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.num_hidden_layers)
    for hf, t in state.items():
        name = names.get_name(hf, try_suffixes=(".weight", ".bias"))
        if name == "output.weight" and name not in w:
            name = "token_embd.weight"
        a = w[name]
        if "attn_q" in name:
            a = unpermute(a, c.num_attention_heads)
        if "attn_k" in name:
            a = unpermute(a, c.num_key_value_heads)
        if not np.array_equal(a, t.numpy()):
            sys.exit(f"{hf} is not {name} dequantised")
    print(f"{len(state)} tensors equal the gguf package's dequantisation, value for value")
    theirs = tf.AutoTokenizer.from_pretrained(MODEL_DIR, gguf_file=FILE)
    for q in QUESTIONS:
        a, b = tok.encode(chat(q), add_special_tokens=False).ids, theirs.encode(chat(q), add_special_tokens=False)
        if a != b:
            sys.exit(f"transformers' imported tokenizer differs on {q!r}: {len(b)} ids, not {len(a)}")
    print(f"{len(QUESTIONS)} prompts have the same ids from transformers' import of the tokenizer")
    ids = tok.encode(chat(QUESTIONS[0]), add_special_tokens=False).ids
    a, b = logits_of(model, ids), plain_forward(reader, w, ids)
    print(f"logits against the plain forward pass: within {np.abs(a - b).max():.1e} of values up to {np.abs(b).max():.1f}")
    if np.abs(a - b).max() > 1e-3:
        sys.exit("transformers and the plain forward pass disagree")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verify", action="store_true", help="check the reference itself, write nothing")
    args = parser.parse_args()
    reader = gguf.GGUFReader(os.path.join(MODEL_DIR, FILE))
    tok, model = tokenizer(reader), load()
    if args.verify:
        verify(model, reader, tok)
    else:
        make(model, tok, reader.fields["tokenizer.ggml.eos_token_id"].contents())


if __name__ == "__main__":
    main()
