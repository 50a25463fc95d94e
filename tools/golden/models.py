#!/usr/bin/env python3
"""Makes tests/golden/models: a tiny random model of each family, saved as Hugging Face transformers saves it and as
llama.cpp's converter would, with the logits that transformers computes from it.

    python3 -m venv build/golden-venv && build/golden-venv/bin/pip install -r tools/golden/requirements.txt
    build/golden-venv/bin/python tools/golden/models.py            # rewrites tests/golden/models
    build/golden-venv/bin/python tools/golden/models.py --check    # remakes in build/, compares with what is committed

Every weight is rounded to a value that F32, F16 and BF16 all hold exactly, so one set of logits serves every file of
a model. For each model a list of plausible faults (mutants) is run as well: the script fails if one of them would pass
the test's tolerance, so that a fixture can't be blind to what it is there for.
"""
import argparse
import copy
import json
import os
import shutil
import struct
import sys

# A neighbour in this folder is called tokenizers.py; the package of that name is what transformers needs.
sys.path[:] = [p for p in sys.path if os.path.abspath(p) != os.path.dirname(os.path.abspath(__file__))]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import gguf  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers as tf  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
N_TOKENS = 45  # past two 16-token block bounds and not a multiple of anything
TOLERANCE = 1e-4  # of models_test.c; a mutant must differ by ten times as much (the two forms of GELU by three times)
ACTIVATION_STEPS = 1904  # QN_ACT_STEPS of kernels/act.h

torch.set_num_threads(1)
tf.utils.logging.disable_progress_bar()
torch.use_deterministic_algorithms(True)


# ---- weights ----------------------------------------------------------------------------------------------


def exact(t):
    """Rounds to BF16 and drops what would be subnormal in F16, so that F32, F16 and BF16 hold the same value."""
    t = t.to(torch.bfloat16).to(torch.float32)
    return torch.where(t.abs() < 2.0**-13, torch.zeros_like(t), t)


def randomise(model, seed):
    """Random weights with non-trivial norms and biases, scaled so that logits spread and attention is not uniform."""
    gen = torch.Generator().manual_seed(seed)
    gemma = model.config.model_type == "gemma"
    conv1d = model.config.model_type == "gpt2"
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            r = torch.randn(p.shape, generator=gen)
            if "norm" in name or "ln_" in name:
                centre = 0.0 if gemma or name.endswith("bias") else 1.0
                w = centre + 0.3 * r
            elif "c_fc.bias" in name:  # where the two forms of GELU lie furthest apart
                w = 0.3 * r - 1.5
            elif name.endswith("bias"):
                w = 0.3 * r
            elif "embed" in name or "wte" in name:
                w = 0.1 + 0.1 * r if gemma else 0.5 * r
            elif gemma and "gate_proj" in name:  # the same without a bias: against the embeddings' common part
                w = r / p.shape[1]**0.5 - 3.0 / p.shape[1]
            elif gemma and ("up_proj" in name or "down_proj" in name):
                w = 2.5 * r / p.shape[1]**0.5
            elif "wpe" in name:
                w = 0.3 * r
            else:
                fan_in = p.shape[0] if conv1d else p.shape[-1]
                w = (4.0 if "mlp.c_proj" in name else 1.3) * r / fan_in**0.5
            p.copy_(exact(w))
    model.tie_weights()
    return model.eval()


def build(config, state=None, seed=None):
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    cls = tf.AutoModelForCausalLM._model_mapping[type(config)]
    model = cls(config).to(torch.float32)
    if state is not None:
        model.load_state_dict(state)
        model.tie_weights()
    else:
        randomise(model, seed)
    return model.eval()


def token_ids(vocab, seed):
    """Random ids with repeats, the first and the last id of the vocabulary among them."""
    rng = np.random.RandomState(seed)
    ids = rng.randint(0, vocab, N_TOKENS).astype(np.int32)
    ids[3], ids[17], ids[31] = 0, vocab - 1, ids[5]
    return ids


def run(model, ids):
    """Logits [n, vocab] and the mean of the last hidden states (after the final norm) [d]."""
    with torch.no_grad():
        x = torch.tensor(ids[None].astype(np.int64))
        logits = model(x, use_cache=False).logits[0]
        hidden = model.base_model(x, use_cache=False).last_hidden_state[0]
    return logits.numpy(), hidden.numpy()


def round_activations(model):
    """Every product's input as quern's integer kernels see it: blocks of 32 values in ACTIVATION_STEPS steps up to
    the largest. Of values k and k + 4 the second is a whole number of steps; the first is off by as many sixteenths as
    that number leaves over when divided by 16 (kernels/act.h)."""
    def hook(_, args):
        x = args[0].unflatten(-1, (-1, 4, 2, 4))  # blocks, j, first or second, i: k = 8 j + 4 second + i
        amax = x.abs().amax((-3, -2, -1), keepdim=True)
        inverse = torch.where(amax > 0, ACTIVATION_STEPS / amax, 0).double()
        second = torch.round(x[..., 1:, :] * inverse)
        low = (second + 8) % 16 - 8
        first = torch.round(x[..., :1, :] * inverse - low / 16) + low / 16
        v = torch.cat([first, second], -2) * (amax / ACTIVATION_STEPS)
        return (v.float().flatten(-4),)
    for m in model.modules():
        if isinstance(m, torch.nn.Linear):
            m.register_forward_pre_hook(hook)
    return model


def routing_gap(model, ids):
    """The smallest difference between the last expert chosen and the first one left, over all rows and layers."""
    gaps, used = [np.inf], getattr(model.config, "num_experts_per_tok", None)

    def hook(module, args):
        logits = args[0].reshape(-1, args[0].shape[-1]) @ module.weight.T
        best = logits.sort(dim=-1, descending=True).values
        if used < best.shape[-1]:
            gaps.append(float((best[:, used - 1] - best[:, used]).min()))
    hooks = [m.register_forward_pre_hook(hook) for n, m in model.named_modules() if n.endswith("mlp.gate")] if used else []
    run(model, ids)
    for h in hooks:
        h.remove()
    return min(gaps)


def write_golden(path, ids, logits, hidden):
    """Little-endian: "QNGOLD01", u32 n, vocab, d; i32 ids[n]; f32 logits[n][vocab]; f32 mean hidden[d]."""
    n, vocab = logits.shape
    with open(path, "wb") as f:
        f.write(b"QNGOLD01")
        f.write(struct.pack("<III", n, vocab, hidden.shape[1]))
        f.write(ids.astype("<i4").tobytes())
        f.write(logits.astype("<f4").tobytes())
        f.write(hidden.astype(np.float64).mean(axis=0).astype("<f4").tobytes())


def kl(a, b):
    """Mean KL divergence of two sets of logits."""
    p, q = (torch.log_softmax(torch.tensor(x).double(), -1) for x in (a, b))
    return float((p.exp() * (p - q)).sum(-1).mean())


def distance(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


# ---- Hugging Face layout ----------------------------------------------------------------------------------


def save_hf(model, path, dtype=torch.float32, shard=None):
    m = copy.deepcopy(model).to(dtype)
    m.config.dtype = dtype
    m.save_pretrained(path, **({"max_shard_size": shard} if shard else {}))
    for extra in ("generation_config.json",):
        if os.path.exists(os.path.join(path, extra)):
            os.remove(os.path.join(path, extra))


def write_json(path, obj):
    with open(path, "w") as f:
        json.dump(obj, f, indent=2)
        f.write("\n")


def save_llama_old(model, path):
    """config.json as the 4.4x releases wrote it: rope_theta and rope_scaling at top level, torch_dtype, no head_dim."""
    c = model.config
    rope = dict(c.rope_parameters)
    theta = rope.pop("rope_theta")
    os.makedirs(path)
    save_file({k: v.to(torch.float16).contiguous() for k, v in model.state_dict().items()},
              os.path.join(path, "model.safetensors"), metadata={"format": "pt"})
    write_json(os.path.join(path, "config.json"), {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 1, "eos_token_id": [2, 3], "hidden_act": "silu", "hidden_size": c.hidden_size,
        "initializer_range": 0.02, "intermediate_size": c.intermediate_size,
        "max_position_embeddings": c.max_position_embeddings, "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": c.num_attention_heads, "num_hidden_layers": c.num_hidden_layers,
        "num_key_value_heads": c.num_key_value_heads, "pretraining_tp": 1, "rms_norm_eps": c.rms_norm_eps,
        "rope_scaling": rope, "rope_theta": theta, "tie_word_embeddings": False, "torch_dtype": "float16",
        "transformers_version": "4.43.3", "use_cache": True, "vocab_size": c.vocab_size})


def save_gpt2_hub(model, path):
    """As the hub's gpt2: names without "transformer.", causal-mask buffers among the tensors, an early config.json."""
    c = model.config
    tensors = {k.removeprefix("transformer."): v.to(torch.float16).contiguous()
               for k, v in model.state_dict().items() if k != "lm_head.weight"}
    for i in range(c.n_layer):
        tensors[f"h.{i}.attn.bias"] = torch.tril(torch.ones(1, 1, c.n_positions, c.n_positions, dtype=torch.uint8))
    os.makedirs(path)
    save_file(tensors, os.path.join(path, "model.safetensors"), metadata={"format": "pt"})
    write_json(os.path.join(path, "config.json"), {
        "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1,
        "bos_token_id": 0, "embd_pdrop": 0.1, "eos_token_id": 0, "initializer_range": 0.02,
        "layer_norm_epsilon": c.layer_norm_epsilon, "model_type": "gpt2", "n_ctx": c.n_positions,
        "n_embd": c.n_embd, "n_head": c.n_head, "n_inner": c.n_inner, "n_layer": c.n_layer,
        "n_positions": c.n_positions, "resid_pdrop": 0.1, "summary_type": "cls_index", "vocab_size": c.vocab_size})


def save_fused(model, path):
    """The tensors as the modules of current releases hold them: experts stacked, gate above up."""
    os.makedirs(path)
    save_file({k: v.to(torch.float16).contiguous() for k, v in model.state_dict().items()
               if not (k == "lm_head.weight" and model.config.tie_word_embeddings)},
              os.path.join(path, "model.safetensors"), metadata={"format": "pt"})
    write_json(os.path.join(path, "config.json"), model.config.to_diff_dict())


# ---- GGUF as llama.cpp's converter writes it --------------------------------------------------------------


def permute(w, heads):
    """llama architecture: rotate-half rows to adjacent pairs."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def rope_factors(config):
    """The rope_freqs tensor that stands for llama3 scaling: divisors of the plain frequencies."""
    r = config.rope_parameters
    dim = config.head_dim
    base, factor = r["rope_theta"], r["factor"]
    low, high, old = r["low_freq_factor"], r["high_freq_factor"], r["original_max_position_embeddings"]
    out = []
    for f in 1.0 / base ** (np.arange(0, dim, 2, dtype=np.float64) / dim):
        wavelen = 2 * np.pi / f
        if wavelen < old / high:
            out.append(1.0)
        elif wavelen > old / low:
            out.append(factor)
        else:
            smooth = (old / wavelen - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, dtype=np.float32)


def gguf_header(w, c, arch, name):
    """Hyper-parameters under the keys that the converter uses for each architecture."""
    get = lambda *names: next(getattr(c, n) for n in names if getattr(c, n, None) is not None)  # noqa: E731
    heads = get("num_attention_heads")
    w.add_name(name)
    w.add_context_length(get("max_position_embeddings"))
    w.add_embedding_length(get("hidden_size"))
    w.add_block_count(get("num_hidden_layers"))
    inner = getattr(c, "intermediate_size", None) or getattr(c, "n_inner", None) or 4 * c.hidden_size
    w.add_feed_forward_length(inner)
    w.add_head_count(heads)
    if arch == "starcoder":
        w.add_head_count_kv(1)
    if arch in ("gpt2", "starcoder"):
        w.add_layer_norm_eps(c.layer_norm_epsilon)
        return
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    dim = getattr(c, "head_dim", None) or c.hidden_size // heads
    if arch in ("qwen3", "gemma") or dim * heads != c.hidden_size:
        w.add_key_length(dim)
        w.add_value_length(dim)
    if arch != "gemma":
        w.add_rope_freq_base(c.rope_parameters["rope_theta"])
    if arch == "llama":
        w.add_rope_dimension_count(dim)
        w.add_vocab_size(c.vocab_size)
    if getattr(c, "sliding_window", None):
        w.add_sliding_window(c.sliding_window)
    if getattr(c, "num_experts_per_tok", None):
        w.add_expert_count(get("num_local_experts", "num_experts"))
        w.add_expert_used_count(c.num_experts_per_tok)
    if getattr(c, "moe_intermediate_size", None):
        w.add_expert_feed_forward_length(c.moe_intermediate_size)
    if getattr(c, "shared_expert_intermediate_size", None):
        w.add_expert_shared_feed_forward_length(c.shared_expert_intermediate_size)


def split_experts(state, layout):
    """The state with stacked experts under the names that the converter gives them; layout "split": as before
    2024, one tensor for each expert; "merged": gate above up in one tensor."""
    for name, t in state.items():
        base = name.rsplit(".", 1)[0]
        if ".mlp.experts." not in name:
            yield name, None, t
            continue
        parts = {"down": t} if name.endswith("down_proj") else dict(zip(("gate", "up"), t.chunk(2, dim=1)))
        if layout == "merged" and len(parts) == 2:
            parts = {"gate_up": t}
        for what, part in parts.items():
            block = name.split(".")[2]
            if layout == "split":
                for e in range(t.shape[0]):
                    yield None, f"blk.{block}.ffn_{what}.{e}.weight", part[e]
            elif what == "gate_up":
                yield None, f"blk.{block}.ffn_gate_up_exps.weight", part
            else:
                yield f"{base}.{what}_proj.weight", None, part


def save_gguf(model, path, arch, ftype, name, layout="stacked"):
    c = model.config
    w = gguf.GGUFWriter(path, arch)
    gguf_header(w, c, arch, name)
    kind = next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)
    names = gguf.get_tensor_name_map(kind, c.num_hidden_layers)
    for hf_name, new, t in split_experts(model.state_dict(), layout):
        if hf_name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        new = new or names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        hf_name = hf_name or new
        a = t.numpy()
        if arch == "llama" and (".q_proj." in hf_name or ".k_proj." in hf_name):
            a = permute(a, c.num_attention_heads if ".q_proj." in hf_name else c.num_key_value_heads)
        if arch == "gemma" and "norm" in hf_name:
            a = a + np.float32(1)
        if arch == "gpt2" and a.ndim == 2 and ".h." in hf_name:
            a = a.T  # Conv1D
        half = ftype == "F16" and a.ndim >= 2 and new != "position_embd.weight" and "_inp" not in new
        w.add_tensor(new, np.ascontiguousarray(a.astype(np.float16 if half else np.float32)))
    if arch == "llama" and c.rope_parameters.get("rope_type") == "llama3":
        w.add_tensor("rope_freqs.weight", rope_factors(c))
    finish(w)


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


# ---- quantised models: the file's blocks first, transformers on their dequantised values ------------------

Q = gguf.GGMLQuantizationType


def random_blocks(qtype, rows, cols, rng):
    """K-quant blocks with random quants and scales whose dequantised values spread by about cols**-0.5."""
    nb = rows * cols // 256
    target = 1.3 / cols**0.5

    def f16(mean):
        return (mean * rng.uniform(0.6, 1.4, nb)).astype(np.float16).view(np.uint8).reshape(nb, 2)

    def raw(n):
        return rng.randint(0, 256, (nb, n)).astype(np.uint8)

    if qtype == Q.Q4_K:  # d, dmin, scales[12], qs[128]
        blocks = [f16(target / 250), f16(target / 250 * 7.5), raw(12 + 128)]
    elif qtype == Q.Q5_K:  # d, dmin, scales[12], qh[32], qs[128]
        blocks = [f16(target / 500), f16(target / 500 * 15.5), raw(12 + 32 + 128)]
    else:  # Q6_K: ql[128], qh[64], scales[16], d
        blocks = [raw(128 + 64 + 16), f16(target / 1370)]
    return np.concatenate(blocks, axis=1).reshape(rows, -1)


def quantised(config, seed, types, path, name):
    """Writes a llama GGUF whose matrices have the given types; returns the model of the dequantised values."""
    model = build(config, seed=seed)
    c = model.config
    rng = np.random.RandomState(seed)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, c.num_hidden_layers)
    w = gguf.GGUFWriter(path, "llama")
    gguf_header(w, c, "llama", name)
    state = {}
    for hf_name, t in model.state_dict().items():
        new = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        a = t.numpy()
        heads = {"attn_q": c.num_attention_heads, "attn_k": c.num_key_value_heads}.get(new.split(".")[-2])
        qtype = types.get(new.split(".")[-2], types.get("*")) if a.ndim == 2 else None
        if qtype is None:
            w.add_tensor(new, a)
            state[hf_name] = t
            continue
        if qtype in (Q.Q4_K, Q.Q5_K, Q.Q6_K):
            blocks = random_blocks(qtype, *a.shape, rng)
        else:
            blocks = gguf.quants.quantize(np.ascontiguousarray(permute(a, heads) if heads else a), qtype)
        w.add_tensor(new, blocks, raw_dtype=qtype)
        d = gguf.quants.dequantize(blocks, qtype).reshape(a.shape)
        state[hf_name] = torch.tensor(np.ascontiguousarray(unpermute(d, heads) if heads else d))
    finish(w)
    return build(config, state)


# ---- faults that a fixture must see ------------------------------------------------------------------------


def with_config(**changes):
    def f(config, state):
        c = copy.deepcopy(config)
        for k, v in changes.items():
            setattr(c, k, v)
        return c, state
    return f


def with_rope(**changes):
    def f(config, state):
        c = copy.deepcopy(config)
        c.rope_parameters = {**c.rope_parameters, **changes}
        return c, state
    return f


def with_state(edit):
    def f(config, state):
        s = {k: v.clone() for k, v in state.items()}
        for k in s:
            s[k] = edit(k, s[k], state)
        return config, s
    return f


def tile_kv(config, state):
    """Query head i reads KV head i mod g: the same as regrouping the query heads (and columns of o)."""
    h, g = config.num_attention_heads, config.num_key_value_heads
    dim = config.head_dim if getattr(config, "head_dim", None) else config.hidden_size // h
    order = torch.tensor([i for j in range(g) for i in range(j, h, g)])
    s = dict(state)
    for k in state:
        if "q_proj" in k:
            s[k] = state[k].unflatten(0, (h, dim))[order].flatten(0, 1)
        if "o_proj" in k:
            s[k] = state[k].unflatten(1, (h, dim))[:, order].flatten(1, 2)
    return config, s


swap_gate_up = with_state(lambda k, t, s: s[k.replace("gate_proj", "up_proj")] if "gate_proj" in k else
                          s[k.replace("up_proj", "gate_proj")] if "up_proj" in k else t)
drop_bias = with_state(lambda k, t, s: torch.zeros_like(t) if k.endswith("bias") and "ln" not in k else t)
drop_norm_bias = with_state(lambda k, t, s: torch.zeros_like(t) if k.endswith("bias") and "ln_" in k else t)
drop_qk_norm = with_state(lambda k, t, s: torch.ones_like(t) if "q_norm" in k or "k_norm" in k else t)
shift_positions = with_state(lambda k, t, s: torch.roll(t, 1, 0) if "wpe" in k else t)
permuted_qk = with_state(lambda k, t, s: torch.tensor(permute(t.numpy(), t.shape[0] // 8).copy())
                         if "q_proj" in k or "k_proj" in k else t)
plus_one = with_state(lambda k, t, s: t - 1 if "norm" in k else t)


def swap_expert_gate_up(config, state):
    return config, {k: torch.cat(t.chunk(2, dim=1)[::-1], dim=1) if k.endswith("experts.gate_up_proj") else t
                    for k, t in state.items()}


roll_experts = with_state(lambda k, t, s: t.roll(1, 0) if ".mlp.experts." in k else t)
drop_shared_gate = with_state(lambda k, t, s: torch.zeros_like(t) if "shared_expert_gate" in k else t)
drop_shared = with_state(lambda k, t, s: torch.zeros_like(t) if "shared_expert.down" in k else t)
shift_qk_norm = with_state(lambda k, t, s: t.roll(8, 0) if "q_norm" in k or "k_norm" in k else t)


def embed_scale(config, state):
    """Embeddings enter at half their size while the output matrix stays."""
    config, state = with_config(tie_word_embeddings=False)(config, state)
    return config, {k: t * 0.5 if "embed" in k else t for k, t in state.items()}


# ---- the models -------------------------------------------------------------------------------------------


def models():
    """name, config, GGUF architecture, files, mutants."""
    small = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, vocab_size=83, max_position_embeddings=64, rms_norm_eps=1e-3,
                 bos_token_id=1, eos_token_id=2, pad_token_id=None, tie_word_embeddings=False)
    theta = {"rope_type": "default", "rope_theta": 10000.0}
    rms = {"kv heads tiled": tile_kv, "gate and up swapped": swap_gate_up,
           "epsilon": with_config(rms_norm_eps=1e-5), "theta": with_rope(rope_theta=20000.0)}
    gpt = {"biases dropped": drop_bias, "norm biases dropped": drop_norm_bias, "positions off by one": shift_positions,
           "erf gelu": with_config(activation_function="gelu"), "epsilon": with_config(layer_norm_epsilon=1e-5)}
    gpt_small = dict(n_layer=2, n_positions=64, vocab_size=83, layer_norm_epsilon=1e-3, bos_token_id=1,
                     eos_token_id=2)
    yield ("llama", tf.LlamaConfig(**small, rope_parameters=theta), "llama",
           ["f32", "sharded", "f32.gguf", "f16.gguf"], {**rms, "q and k left permuted": permuted_qk})
    yield ("llama3", tf.LlamaConfig(**{**small, "max_position_embeddings": 256, "num_attention_heads": 2,
                                       "num_key_value_heads": 1}, rope_parameters={
        "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}), "llama", ["bf16", "old", "f16.gguf"],
        {"no scaling": with_config(rope_parameters=theta),
         "factor": with_rope(factor=4.0), "low": with_rope(low_freq_factor=2.0), "high": with_rope(high_freq_factor=8.0)})
    yield ("mistral", tf.MistralConfig(**{**small, "num_key_value_heads": 1, "hidden_size": 40,
                                          "num_attention_heads": 5}, rope_parameters=theta, sliding_window=20),
           "llama", ["bf16", "f16.gguf"],
           {"no window": with_config(sliding_window=None), "window off by one": with_config(sliding_window=21)})
    yield ("qwen2", tf.Qwen2Config(**{**small, "hidden_size": 48, "num_attention_heads": 6, "tie_word_embeddings": True},
                                   rope_parameters={**theta, "rope_theta": 1000000.0}), "qwen2", ["bf16", "f16.gguf"],
           {**rms, "biases dropped": drop_bias, "theta": with_rope(rope_theta=10000.0)})
    yield ("qwen3", tf.Qwen3Config(**{**small, "tie_word_embeddings": True}, head_dim=16,
                                   rope_parameters={**theta, "rope_theta": 1000000.0}), "qwen3", ["f32", "f16.gguf"],
           {**rms, "q and k norm weights dropped": drop_qk_norm, "theta": with_rope(rope_theta=10000.0)})
    yield ("gemma", tf.GemmaConfig(**{**small, "num_key_value_heads": 1, "tie_word_embeddings": True}, head_dim=16,
                                   rope_parameters=theta, hidden_act="gelu_pytorch_tanh"), "gemma", ["bf16", "f16.gguf"],
           {"erf gelu": with_config(hidden_act="gelu"), "norm without 1+": plus_one, "embedding scale": embed_scale,
            "gate and up swapped": swap_gate_up, "epsilon": with_config(rms_norm_eps=1e-5)})
    yield ("gpt2", tf.GPT2Config(**gpt_small, n_embd=32, n_head=4, n_inner=56), "gpt2", ["f32", "hub", "f16.gguf"], gpt)
    yield ("gpt_bigcode", tf.GPTBigCodeConfig(**gpt_small, n_embd=32, n_head=2, n_inner=56, multi_query=True),
           "starcoder", ["f16", "f16.gguf"], gpt)
    yield ("gpt_bigcode_mha", tf.GPTBigCodeConfig(**gpt_small, n_embd=32, n_head=2, n_inner=40, multi_query=False),
           None, ["f16"], gpt)
    moe = {"experts rolled": roll_experts, "expert gate and up swapped": swap_expert_gate_up,
           "one expert more": with_config(num_experts_per_tok=3), "one expert less": with_config(num_experts_per_tok=1),
           "epsilon": with_config(rms_norm_eps=1e-5)}
    yield ("mixtral", tf.MixtralConfig(**{**small, "intermediate_size": 24}, rope_parameters=theta, sliding_window=None,
                                       num_local_experts=4, num_experts_per_tok=2), "llama",
           ["f16", "fused", "f16.gguf", "split.gguf", "merged.gguf"], moe)
    yield ("qwen2_moe", tf.Qwen2MoeConfig(**small, rope_parameters=theta, num_experts=6, num_experts_per_tok=2,
                                          moe_intermediate_size=16, shared_expert_intermediate_size=24,
                                          norm_topk_prob=False), "qwen2moe", ["bf16", "f16.gguf"],
           {**moe, "renormalised": with_config(norm_topk_prob=True), "shared expert dropped": drop_shared,
            "shared gate dropped": drop_shared_gate, "biases dropped": drop_bias})
    yield ("qwen3_moe", tf.Qwen3MoeConfig(**{**small, "tie_word_embeddings": True}, head_dim=16, rope_parameters=theta,
                                          num_experts=8, num_experts_per_tok=2, moe_intermediate_size=16,
                                          norm_topk_prob=True), "qwen3moe", ["bf16", "fused", "f16.gguf"],
           {**moe, "not renormalised": with_config(norm_topk_prob=False)})
    yield ("olmoe", tf.OlmoeConfig(**{**small, "intermediate_size": 16, "num_key_value_heads": 4}, rope_parameters=theta,
                                   num_experts=8, num_experts_per_tok=2, norm_topk_prob=False), "olmoe",
           ["f16", "f16.gguf"], {**moe, "renormalised": with_config(norm_topk_prob=True),
                                 "q and k norm by another head": shift_qk_norm,
                                 "q and k norm weights dropped": drop_qk_norm})
    yield ("olmoe_norm", tf.OlmoeConfig(**{**small, "intermediate_size": 16}, rope_parameters=theta,
                                        num_experts=8, num_experts_per_tok=2, norm_topk_prob=True), None,
           ["f16"], {"not renormalised": with_config(norm_topk_prob=False)})


def quantised_models():
    small = dict(num_attention_heads=4, num_key_value_heads=2, vocab_size=83, max_position_embeddings=64,
                 rms_norm_eps=1e-5, tie_word_embeddings=False, head_dim=8,
                 rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    yield ("llama_q8_0", tf.LlamaConfig(**small, hidden_size=32, intermediate_size=64, num_hidden_layers=2),
           {"*": Q.Q8_0})
    yield ("llama_mixed", tf.LlamaConfig(**small, hidden_size=256, intermediate_size=64, num_hidden_layers=1),
           {"attn_q": Q.Q4_0, "attn_k": Q.Q4_1, "attn_v": Q.Q5_0, "attn_output": Q.Q5_1, "ffn_gate": Q.Q4_K,
            "ffn_up": Q.Q5_K, "ffn_down": Q.Q8_0, "token_embd": Q.Q8_0, "output": Q.Q6_K})


def make(out):
    for i, (name, config, arch, files, mutants) in enumerate(models()):
        model = build(config, seed=100 + i)
        state = model.state_dict()
        ids = token_ids(config.vocab_size, 200 + i)
        logits, hidden = run(model, ids)
        path = os.path.join(out, name)
        os.makedirs(path)
        write_golden(os.path.join(path, "golden.bin"), ids, logits, hidden)
        for f in files:
            at = os.path.join(path, f)
            if f in ("f32", "f16", "bf16"):
                save_hf(model, at, {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[f])
            elif f == "sharded":
                save_hf(model, at, torch.float16, shard="16KB")
            elif f == "old":
                save_llama_old(model, at)
            elif f == "hub":
                save_gpt2_hub(model, at)
            elif f == "fused":
                save_fused(model, at)
            elif f in ("split.gguf", "merged.gguf"):
                save_gguf(model, at, arch, "F16", f"{name} tiny", f.removesuffix(".gguf"))
            else:
                save_gguf(model, at, arch, f[:3].upper(), f"{name} tiny")
        noise = distance(run(build(config, state).double(), ids)[0], logits)
        print(f"{name}: logits within {np.abs(logits).max():.2f}, spread {logits.std():.2f}, f32 noise {noise:.1e}")
        if routing_gap(model, ids) < TOLERANCE:
            sys.exit(f"{name}: a choice of experts is too close to call")
        if noise > TOLERANCE / 10:
            sys.exit(f"{name} is too badly conditioned for its tolerance")
        for what, change in mutants.items():
            seen = distance(run(build(*change(config, state)), ids)[0], logits)
            print(f"    {what}: {seen:.1e}")
            if seen < (3 if "gelu" in what else 10) * TOLERANCE:
                sys.exit(f"{name} would not notice: {what}")
    for i, (name, config, types) in enumerate(quantised_models()):
        path = os.path.join(out, name)
        os.makedirs(path)
        model = quantised(config, 300 + i, types, os.path.join(path, "quantised.gguf"), f"{name} tiny")
        ids = token_ids(config.vocab_size, 400 + i)
        plain, hidden = run(model, ids)
        logits = run(round_activations(model), ids)[0]
        write_golden(os.path.join(path, "golden.bin"), ids, logits, hidden)
        print(f"{name}: logits within {np.abs(logits).max():.2f}, spread {logits.std():.2f}, "
              f"moved by rounding activations {distance(logits, plain):.1e}, mean KL {kl(plain, logits):.1e}")


def same(a, b):
    """True when both trees hold the same files, golden.bin within 1e-5 and all else byte for byte."""
    bad = []
    listing = lambda r: {os.path.relpath(os.path.join(d, f), r) for d, _, fs in os.walk(r) for f in fs}  # noqa: E731
    for f in sorted(listing(a) ^ listing(b)):
        bad.append(f"only on one side: {f}")
    for f in sorted(listing(a) & listing(b)):
        x, y = (open(os.path.join(r, f), "rb").read() for r in (a, b))
        if x == y:
            continue
        if f.endswith("golden.bin") and len(x) == len(y):
            n = 20 + 4 * struct.unpack("<I", x[8:12])[0]
            if x[:n] == y[:n] and distance(np.frombuffer(x[n:], "<f4"), np.frombuffer(y[n:], "<f4")) < 1e-5:
                continue
        bad.append(f"differs: {f}")
    print("\n".join(bad) if bad else "the committed fixtures are what this script makes")
    return not bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with what is committed instead of writing it")
    args = parser.parse_args()
    committed = os.path.join(ROOT, "tests", "golden", "models")
    out = os.path.join(ROOT, "build", "golden-check", "models") if args.check else committed
    shutil.rmtree(out, ignore_errors=True)
    make(out)
    if args.check and not same(committed, out):
        sys.exit(1)


if __name__ == "__main__":
    main()
