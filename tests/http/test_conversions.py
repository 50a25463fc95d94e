"""Conversions by request: labels, divergence and reuse of state, on random tiny checkpoints of known families, on
synthetic models for long prompts, and on SmolLM2 when it is there."""
import math
import os

import pytest

from conftest import REAL, ROOT, Server, check_error
from members import DENSE, LLAMA, Served, types

GOLDEN = os.path.join(ROOT, "tests", "golden", "models")
LONG = "synthetic:hidden=64,layers=2,heads=4,kv_heads=2,vocab=300,n=704,type=f32,attention="


def logprobs(reply):
    return [(t["id"], t["logprob"]) for t in reply["outputs"][0]["logprobs"]]


def served_file(*parts):
    s = Server(model=os.path.join(GOLDEN, *parts), binary=REAL)
    yield s
    s.stop()


@pytest.fixture(scope="module")
def llama():
    yield from served_file(LLAMA)


@pytest.fixture(scope="module", params=["mixtral", "qwen2_moe", "olmoe"])
def mixture(request):
    yield from served_file(request.param, "f16.gguf")


def check_parameters(part, asked):
    for key, value in asked.items() if isinstance(asked, dict) else [("type", asked)]:
        assert part[key] == value, (part, asked)


def check_conversion(server, asked, label, slot, ids):
    """One structure with every task: the label, what it needs, and whether a divergence comes with it."""
    native = server.infer(sequence=ids, task="score", logprobs=0).json()
    if label == "exact":
        assert server.infer(sequence=ids, max_tokens=1, **asked).status_code == 200
    else:
        e = check_error(server.infer(sequence=ids, **asked), 400, "unsupported_structure", slot)
        assert "convert" in e["message"] and label in e["message"]
    for task in ("generate", "score", "embed"):
        more = {"max_tokens": 5, "ignore_eos": True, "logprobs": 0} if task == "generate" else {}
        more = {"logprobs": 0} if task == "score" else more
        r = server.infer(sequence=ids, task=task, convert=True, **more, **asked)
        assert r.status_code == 200, r.text
        body = r.json()
        structure, out = body["structure"], body["outputs"][0]
        assert structure["origin"] == "converted" and structure["exactness"] == label
        for part in asked:
            check_parameters(structure[part], asked[part])
        d = structure["divergence"]
        if label == "exact" or task == "embed":
            assert d is None
        else:
            assert d["baseline"] == "native" and 0 <= d["top1_agreement"] <= 1
            assert d["mean_kl"] > 1e-6 and math.isfinite(d["mean_kl"])
            assert d["positions"] == len(ids) - 1 + (5 if task == "generate" else 0)
        if task == "embed":
            assert all(map(math.isfinite, out["embedding"]))
            continue
        assert all(math.isfinite(p) and p <= 0 for _, p in logprobs(body))
        if task == "score":
            apart = max(abs(a - b) for (_, a), (_, b) in zip(logprobs(body), logprobs(native)))
            assert (apart < 1e-4) == (label == "exact"), (asked, apart)


@pytest.mark.parametrize("asked,label,slot", DENSE)
def test_conversions_of_a_dense_checkpoint(llama, asked, label, slot):
    check_conversion(llama, asked, label, slot, [5 + (7 * i) % 70 for i in range(40)])


def test_another_number_of_experts(mixture):
    trained = next(r for r in mixture.get("/v1/structures").json()["data"][0]["structures"]
                   if r["structure"]["type"] == "moe")
    assert trained["origin"] == "native"
    used, experts = trained["structure"]["experts_per_token"], trained["structure"]["experts"]
    ids = [5 + (7 * i) % 30 for i in range(24)]
    same = mixture.infer(sequence=ids, max_tokens=2, ffn={"type": "moe", "experts_per_token": used}).json()
    assert same["structure"]["origin"] == "native" and same["structure"]["divergence"] is None
    for other in {1, used + 1, experts} - {used}:
        check_conversion(mixture, {"ffn": {"type": "moe", "experts_per_token": other}}, "approximate", "ffn", ids)


def test_cost_follows_the_experts_that_run(mixture):
    """Fewer experts per token: less arithmetic and fewer bytes per token, the same weights in all."""
    row = next(r for r in mixture.get("/v1/structures").json()["data"][0]["structures"]
               if r["structure"]["type"] == "moe")["structure"]
    assert row["experts"] > row["experts_per_token"] > 1
    ask = lambda n: mixture.infer(sequence=[5, 6, 7, 8], max_tokens=1, cache=False, convert=True,
                                  ffn={"type": "moe", "experts_per_token": n}).json()
    one, more = ask(1), ask(row["experts_per_token"])
    assert one["cost"]["analytic_flops"] < more["cost"]["analytic_flops"]
    assert one["memory"]["weights_active_bytes"] < more["memory"]["weights_active_bytes"]
    assert one["memory"]["weights_bytes"] == more["memory"]["weights_bytes"]


# --- state of fixed size, found again ---

def check_reuse(server, ids, asked):
    """A prompt of more than 256 tokens for the second time takes over nearly all of its state; one that only begins as
    it does, the copy that is made at every 256 tokens."""
    keys = dict(max_tokens=6, ignore_eos=True, logprobs=0, convert=True, **asked)
    alone = server.infer(sequence=ids, cache=False, **keys).json()
    first = server.infer(sequence=ids, **keys).json()
    again = server.infer(sequence=ids, **keys).json()
    assert first["memory"]["state_bytes_per_token"] == 0 and first["memory"]["state_bytes"] > 0
    assert alone["usage"]["cached_tokens"] == first["usage"]["cached_tokens"] == 0
    assert again["usage"]["cached_tokens"] == len(ids) - 1 > 256
    assert again["memory"]["state_bytes"] == first["memory"]["state_bytes"]
    assert logprobs(alone) == logprobs(first) == logprobs(again)
    other = ids[:280] + [i + 1 for i in ids[280:]]
    part = server.infer(sequence=other, **keys).json()
    whole = server.infer(sequence=other, cache=False, **keys).json()
    assert part["usage"]["cached_tokens"] == 256 and logprobs(part) == logprobs(whole)


IDS = [3 + (i * i + 5 * i) % 200 for i in range(400)]


@pytest.mark.parametrize("native,asked", [
    ("gqa", {"attention": "performer"}), ("gqa", {"attention": {"type": "linformer", "k": 24}}),
    ("performer", {}), ("linformer", {}), ("performer", {"ffn": "moe", "sharing": "all"})])
def test_a_long_prompt_is_found_again(start, native, asked):
    check_reuse(start(model=LONG + native, binary=REAL), IDS, asked)


def test_states_of_other_structures_are_not_taken(start):
    """Another seed, another number of features, another FFN or sharing: nothing of the first one's state fits."""
    s = start(model=LONG + "gqa", binary=REAL)
    first = {"attention": {"type": "performer", "seed": 1, "features": 32}}
    ask = lambda asked: s.infer(sequence=IDS, max_tokens=1, convert=True, **asked).json()["usage"]["cached_tokens"]
    assert ask(first) == 0 and ask(first) == len(IDS) - 1
    for other in ({"attention": {"type": "performer", "seed": 2, "features": 32}},
                  {"attention": {"type": "performer", "seed": 1, "features": 48}}, dict(first, sharing="all"),
                  dict(first, ffn="moe"), {"attention": "linformer"}, {}):
        assert ask(other) == 0, other
    assert ask(first) == len(IDS) - 1


def test_a_long_prompt_is_found_again_by_the_built_in_model():
    s = Served("grist")
    try:
        for attention in ("performer", "linformer"):
            check_reuse(s.server, IDS, {"attention": attention})
    finally:
        s.server.stop()


# --- at full size ---

@pytest.mark.parametrize("asked,label,worst", [
    ({"attention": "performer"}, "approximate", 30), ({"attention": {"type": "linformer", "k": 64}}, "untrained", 30),
    ({"sharing": "all"}, "untrained", 60), ({"ffn": "moe"}, "exact", None),
    ({"attention": "mha", "ffn": {"type": "moe", "experts": 2, "experts_per_token": 2}}, "exact", None)])
def test_real_conversions(smol, asked, label, worst):
    text = "The capital of France is"
    native = smol.infer(sequence=text, max_tokens=8).json()
    body = smol.infer(sequence=text, max_tokens=8, convert=True, ignore_eos=True, **asked).json()
    assert body["structure"]["origin"] == "converted" and body["structure"]["exactness"] == label
    assert types(body["structure"]) == dict(types(native["structure"]), **{
        k: v if isinstance(v, str) else v["type"] for k, v in asked.items()})
    d = body["structure"]["divergence"]
    if label == "exact":
        assert d is None and body["outputs"][0]["tokens"] == native["outputs"][0]["tokens"]
    else:
        assert 0.1 < d["mean_kl"] < worst and d["top1_agreement"] < 0.9 and d["positions"] == 12


def test_real_state_of_fixed_size_is_found_again(smol):
    ids = smol.post("/tokenize", {"prompt": "The mill by the river turns and turns. " * 50}).json()["tokens"][:330]
    ask = lambda: smol.infer(sequence=ids, max_tokens=4, logprobs=0, ignore_eos=True, convert=True,
                             attention={"type": "performer", "features": 32}).json()
    first, again = ask(), ask()
    assert (first["usage"]["cached_tokens"], again["usage"]["cached_tokens"]) == (0, 329)
    assert logprobs(first) == logprobs(again)
