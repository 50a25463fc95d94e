"""Write a training state as a served checkpoint: config.json, model.safetensors (F16), tokenizer.json, and the held-out table.

    python export.py --state DIR/state.pt --out EXPORT [--text FILE] [--windows N] [--live]

With --text every structure is measured in f32 on the whole held-out part, after the rounding to F16, and table.json and
table.md are written next to the weights. --live exports the plain weights in place of their moving average.
"""

import argparse
import json
import math
import os

import torch
import torch.multiprocessing as mp
from safetensors.torch import save_file

from config import ATTENTION, BOS, FFN, SHARING, STRUCTURES, VOCAB, Config
import data
from model import Supernet


def load_net(path, live=False):
    """Build the supernet from a training state, with weights rounded to F16, computing in f32."""
    s = torch.load(path, weights_only=False)
    net = Supernet(Config(**s["cfg"]))
    with torch.no_grad():
        for n, p in net.p.items():
            p.copy_(s["net" if live else "ema"][n].detach().half().float())
        net.features.copy_(s["features"].half().float())
    net.low = torch.float32
    return net, s


def config_json(c, held_out):
    """Describe the checkpoint in the form the loader reads."""
    attention = {a: {"kv_heads": c.kv[a]} for a in ATTENTION}
    attention["linformer"] |= {"k": c.k}
    attention["performer"] |= {"features": c.m, "kernel": "favor+"}
    for a in ATTENTION:
        attention[a]["rope"] = c.rope[a]
    return {"model_type": "quern", "architectures": ["QuernForCausalLM"], "hidden_size": c.d,
            "num_hidden_layers": c.layers, "num_attention_heads": c.heads, "head_dim": c.dh, "vocab_size": VOCAB,
            "max_position_embeddings": c.context, "rms_norm_eps": c.eps, "rope_theta": c.theta,
            "tie_word_embeddings": True, "bos_token_id": BOS, "torch_dtype": "float16", "embedding_lags": c.lags,
            "attention": attention,
            "ffn": {"swiglu": {"intermediate_size": c.swiglu},
                    "gelu": {"intermediate_size": c.gelu, "activation": "gelu"},
                    "moe": {"expert": "swiglu", "num_experts": c.experts, "num_experts_per_tok": c.top,
                            "intermediate_size": c.expert, "gating": "B"}},
            "sharing": list(SHARING), "held_out": held_out}


def block_tensors(net, share, j, block):
    """Yield (name, tensor) of one block; softmax members share q and o under the name without a member."""
    c, get = net.cfg, lambda name: net.get(f"{share}.{name}")[j]
    for a in ATTENTION:
        yield f"{block}.attn.{a}.norm.weight", get(f"attn.{a}.norm")
        for part in "kv":
            yield f"{block}.attn.{a}.{part}_proj.weight", get(f"attn.{a}.{part}")
    for g in ("softmax", "linformer", "performer"):
        at = f"{block}.attn" if g == "softmax" else f"{block}.attn.{g}"
        for part in "qo":
            yield f"{at}.{part}_proj.weight", get(f"attn.{g}.{part}")
    yield f"{block}.attn.performer.features.weight", net.features[j]
    if c.ef_per_block:
        for part in "ef":
            yield f"{block}.attn.linformer.{part}.weight", get(part)
    for f in FFN:
        yield f"{block}.ffn.{f}.norm.weight", get(f"ffn.{f}.norm")
    gate, up = get("ffn.swiglu.up").chunk(2)
    for name, t in (("gate", gate), ("up", up), ("down", get("ffn.swiglu.down"))):
        yield f"{block}.ffn.swiglu.{name}_proj.weight", t
    for name in ("up", "down"):
        yield f"{block}.ffn.gelu.{name}_proj.weight", get(f"ffn.gelu.{name}")
    yield f"{block}.ffn.moe.router.weight", get("ffn.moe.router")
    gate, up = (t.chunk(c.experts) for t in get("ffn.moe.up").chunk(2))
    down = get("ffn.moe.down").chunk(c.experts, 1)
    for e in range(c.experts):
        for name, t in (("gate", gate[e]), ("up", up[e]), ("down", down[e])):
            yield f"{block}.ffn.moe.experts.{e}.{name}_proj.weight", t


def tensors(net):
    """Collect every tensor of the checkpoint under its public name, in F16."""
    out = {}
    tables = net.get("table").chunk(net.cfg.lags + 1)
    out["model.embed_tokens.weight"] = tables[0]
    for i in range(1, net.cfg.lags + 1):
        out[f"model.embed_lags.{i}.weight"] = tables[i]
    out["model.norm.weight"] = net.get("norm")
    if not net.cfg.ef_per_block:
        out["model.linformer.e.weight"], out["model.linformer.f.weight"] = net.get("e"), net.get("f")
    for j in range(net.cfg.layers):
        out.update(block_tensors(net, "none", j, f"model.layers.{j}"))
    out.update(block_tensors(net, "all", 0, "model.shared"))
    return {n: t.detach().half().contiguous() for n, t in out.items()}


def byte_alphabet():
    """Return GPT-2's printable character for each byte value."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {b: chr(b) for b in keep}, 256
    for b in range(256):
        if b not in table:
            table[b], extra = chr(extra), extra + 1
    return [table[b] for b in range(256)]


def write_tokenizer(out):
    """Write tokenizer.json (byte-level BPE without merges, BOS in front) and tokenizer_config.json; check them."""
    bos = "<|bos|>"
    special = {"id": BOS, "content": bos, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
               "special": True}
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    seq = lambda name, t: {"Sequence": {"id": name, "type_id": t}}
    spec = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [special], "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            "post_processor": {"type": "TemplateProcessing", "single": [first, seq("A", 0)],
                               "pair": [first, seq("A", 0), seq("B", 1)],
                               "special_tokens": {bos: {"id": bos, "ids": [BOS], "tokens": [bos]}}},
            "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {c: i for i, c in enumerate(byte_alphabet())}, "merges": []}}
    path = os.path.join(out, "tokenizer.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(spec, f, ensure_ascii=False, indent=1)
    with open(os.path.join(out, "tokenizer_config.json"), "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "model_max_length": Config().context,
                   "clean_up_tokenization_spaces": False}, f, indent=1)
    from tokenizers import Tokenizer
    t = Tokenizer.from_file(path)
    assert t.encode("é\n").ids == [BOS, 195, 169, 10]
    assert t.decode([BOS, 195, 169, 10]) == "é\n"


def measure_one(structure):
    """Measure one structure in a forked worker, which inherits the job (net, held-out text, windows)."""
    net, held, windows = JOB
    nats, quarter = data.measure(net, held, structure, windows)
    print(f"{'+'.join(structure):24} {nats:.4f} nats/byte, by quarter {[round(x, 3) for x in quarter]}", flush=True)
    return nats, quarter


def measure_all(net, held, windows, workers):
    """Measure all 30 structures. Returns (rows for config.json, loss by quarter of the window per structure)."""
    global JOB
    JOB = net, held, windows
    with mp.get_context("fork").Pool(workers) as pool:
        found = pool.map(measure_one, STRUCTURES, chunksize=1)
    rows, quarters = [], {}
    for (a, f, s), (nats, quarter) in zip(STRUCTURES, found):
        rows.append({"attention": a, "ffn": f, "sharing": s, "nats_per_byte": round(nats, 4),
                     "bits_per_byte": round(nats / math.log(2), 4)})
        quarters[f"{a}+{f}+{s}"] = [round(x, 4) for x in quarter]
    return rows, quarters


def write_tables(out, rows, quarters, state):
    """Write table.json and table.md."""
    about = {"step": state["step"], "characters": state["seen"], "train_seconds": round(state["seconds"])}
    with open(os.path.join(out, "table.json"), "w") as f:
        json.dump({"training": about, "held_out": rows, "by_quarter": quarters}, f, indent=1)
    lines = [f"After {state['step']} steps, {state['seen']} characters, {state['seconds'] / 3600:.2f} hours on two cores.",
             "Held out: the last 10 % of the text, windows of 1,024 bytes, weights rounded to F16.", "",
             "| attention | ffn | sharing | nats/byte | bits/byte | 1-256 | 257-512 | 513-768 | 769-1024 |",
             "|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        q = quarters[f"{r['attention']}+{r['ffn']}+{r['sharing']}"]
        lines.append(f"| {r['attention']} | {r['ffn']} | {r['sharing']} | {r['nats_per_byte']:.4f} | {r['bits_per_byte']:.4f} | "
                     + " | ".join(f"{x:.3f}" for x in q) + " |")
    with open(os.path.join(out, "table.md"), "w") as f:
        f.write("\n".join(lines) + "\n")


def main():
    """Export, and measure if a text is given."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--state", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--text")
    p.add_argument("--windows", type=int, help="only the first N held-out windows")
    p.add_argument("--live", action="store_true")
    p.add_argument("--workers", type=int, default=2, help="processes that measure, one thread each")
    a = p.parse_args()
    torch.set_num_threads(1)                            # before any product: the workers are forked
    os.makedirs(a.out, exist_ok=True)
    net, state = load_net(a.state, a.live)
    t = tensors(net)
    save_file(t, os.path.join(a.out, "model.safetensors"), metadata={"format": "pt"})
    size = os.path.getsize(os.path.join(a.out, "model.safetensors"))
    print(f"{len(t)} tensors, {sum(x.numel() for x in t.values())} numbers, {size} bytes")
    assert size <= 24 << 20
    rows = []
    if a.text:
        rows, quarters = measure_all(net, data.load(a.text)[1], a.windows, a.workers)
        write_tables(a.out, rows, quarters, state)
    with open(os.path.join(a.out, "config.json"), "w") as f:
        json.dump(config_json(net.cfg, rows), f, indent=1)
    write_tokenizer(a.out)


if __name__ == "__main__":
    main()
