"""Structures by request on models that have them all: thirty native combinations, what GET /v1/structures offers held
against what is accepted, what is refused and how, and forms that see the whole sequence."""
import itertools
import json
import math
import os
import struct

import pytest

from conftest import REAL, check_error
from members import ALL, ATTENTION, FFN, MODELS, SHARING, THIRTY, Served, types



@pytest.fixture(scope="module", params=MODELS)
def served(request):
    s = Served(request.param)
    yield s
    s.server.stop()


def name_of(s):
    return "+".join(s[k] for k in ("attention", "ffn", "sharing"))


# --- the thirty ---

def test_thirty_combinations_are_native(served):
    seen = {}
    for s in THIRTY:
        r = served.infer(max_tokens=6, logprobs=2, ignore_eos=True, **s)
        assert r.status_code == 200, (s, r.text)
        body = r.json()
        assert types(body["structure"]) == s and body["structure"]["attention"]["causal"] is True
        assert body["structure"]["origin"] == "native" and body["structure"]["exactness"] == "exact"
        assert body["structure"]["divergence"] is None
        out = body["outputs"][0]
        assert len(out["tokens"]) == 6 and out["finish_reason"] == "length" and isinstance(out["text"], str)
        assert [l["id"] for l in out["logprobs"]] == out["tokens"]
        for l in out["logprobs"]:
            first, second = l["top"]
            assert first["id"] == l["id"] and first["logprob"] == l["logprob"]
            assert 0 >= first["logprob"] >= second["logprob"] and math.isfinite(second["logprob"])
        if isinstance(served.prompt, str):
            assert out["text"]
        assert body["memory"]["state_bytes"] > 0 and body["cost"]["analytic_flops"] > 0
        seen[name_of(s)] = tuple(l["logprob"] for l in out["logprobs"])
    assert len(set(seen.values())) == 30  # each ran its own weights


def test_thirty_scores(served):
    seen = {}
    for s in THIRTY:
        body = served.infer(task="score", logprobs=0, **s).json()
        assert types(body["structure"]) == s and body["structure"]["origin"] == "native"
        score = body["outputs"][0]["score"]
        sum_ = sum(t["logprob"] for t in body["outputs"][0]["logprobs"])
        assert score["tokens"] == len(body["outputs"][0]["logprobs"]) > 0
        assert math.isfinite(score["log_prob"]) and abs(sum_ - score["log_prob"]) < 1e-3
        seen[name_of(s)] = score["log_prob"]
    assert len(set(seen.values())) == 30


def golden():
    """ids, {structure: rows of logits} of the fixture, as an independent float64 implementation computes them."""
    with open(os.path.join(ALL, "golden.bin"), "rb") as f:
        data = f.read()
    n, vocab, count = struct.unpack_from("<3I", data, 8)
    ids = struct.unpack_from(f"<{n}i", data, 20)
    at, found = 20 + 4 * n, {}
    for _ in range(count):
        a, f, s = (data[at + 16 * i:at + 16 * (i + 1)].rstrip(b"\0").decode() for i in range(3))
        flat = struct.unpack_from(f"<{n * vocab}f", data, at + 48)
        found[a, f, s] = [flat[i * vocab:(i + 1) * vocab] for i in range(n)]
        at += 48 + 4 * n * vocab
    assert at == len(data)
    return list(ids), found


def test_scores_are_those_of_the_reference(start):
    """What a request names is what runs: log-probabilities over HTTP against the reference of that very combination."""
    ids, reference = golden()
    s = start("--state-type", "f32", model=ALL, binary=REAL)
    assert set(reference) == set(itertools.product(ATTENTION, FFN, SHARING))
    for (a, f, h), rows in reference.items():
        out = s.infer(sequence=ids, task="score", logprobs=0, attention=a, ffn=f, sharing=h).json()["outputs"][0]
        assert [t["id"] for t in out["logprobs"]] == ids[1:]
        for t, row in zip(out["logprobs"], rows):
            top = max(row)
            want = row[t["id"]] - top - math.log(sum(math.exp(x - top) for x in row))
            assert abs(t["logprob"] - want) < 2e-4, (a, f, h, t, want)


# --- what is possible ---

def test_every_row_is_listed(served):
    listed = served.server.get("/v1/structures").json()["data"]
    assert len(listed) == 1 and listed[0]["context"] == served.context
    native = {slot: {r["structure"]["type"] for r in served.rows(slot) if r["origin"] == "native"}
              for slot in ("attention", "ffn", "sharing")}
    assert native["attention"] == set(ATTENTION) and native["ffn"] == set(FFN) and native["sharing"] >= set(SHARING)
    for r in served.rows():
        assert r["exactness"] in ("exact", "approximate", "untrained", "unavailable")
        assert (r["why"] is None) == (r["origin"] == "native"), r
    ahead = {r["structure"]["type"]: r["exactness"] for r in served.rows("attention") if not r["causal"]}
    assert ahead == {a: "untrained" for a in ATTENTION}
    for r in served.rows("attention"):
        if r["origin"] == "native":
            assert r["rollback"] == (r["structure"]["type"] not in ("linformer", "performer"))
            assert (r["state_bytes_per_token"] == 0) == (r["state_fixed_bytes"] > 0) == (not r["rollback"])


@pytest.fixture(scope="module", params=MODELS)
def roomy(request):
    """One that can hold the largest conversions."""
    s = Served(request.param, "--convert-memory", "256MiB")
    yield s
    s.server.stop()


def test_advertised_parameters_are_what_is_accepted(roomy):
    """Every bound and default of GET /v1/structures: at the bounds a structure runs, beyond them it is refused."""
    tried = set()
    for r in roomy.rows():
        if r["exactness"] == "unavailable" or (r["slot"] == "attention" and r["origin"] == "converted" and r["causal"]):
            continue
        slot, own = r["slot"], {"type": r["structure"]["type"]}
        if r["causal"] is False:
            own["causal"] = False
        task = {"task": "score" if r["causal"] else "embed", "convert": True}
        usual = roomy.infer(**{slot: own}, **task).json()["structure"][slot]
        for p in r["parameters"]:
            if p["name"] == "causal" or "minimum" not in p:
                continue
            assert p["default"] is None or p["default"] == usual[p["name"]], (r, p)
            tried.add(p["name"])
            for value in (p["minimum"], p["maximum"]):
                body = roomy.infer(**{slot: dict(own, **{p["name"]: value})}, **task)
                assert body.status_code == 200, (r, p, body.text)
                if body.json()["structure"][slot]["type"] == own["type"]:  # gqa with all its heads is called mha
                    assert body.json()["structure"][slot][p["name"]] == value
            for value in (p["minimum"] - 1, p["maximum"] + 1, p["minimum"] + 0.5, "many"):
                e = check_error(roomy.infer(**{slot: dict(own, **{p["name"]: value})}, **task), 400)
                assert e["param"] in (slot, f"{slot}.{p['name']}") and p["name"] in e["message"], (p, e)
    assert tried >= {"kv_heads", "k", "features", "seed", "experts_per_token", "count"}


def test_measured_table_comes_through(served):
    held = served.server.get("/v1/structures").json()["data"][0]["held_out"]
    if served.name == "all":
        with open(os.path.join(ALL, "config.json")) as f:
            assert held == json.load(f)["held_out"] and len(held) == 2
        return
    assert sorted(name_of(h) for h in held) == sorted(name_of(s) for s in THIRTY)
    for h in held:
        assert 0 < h["nats_per_byte"] < 5 and math.isclose(h["bits_per_byte"], h["nats_per_byte"] / math.log(2),
                                                           rel_tol=1e-3)


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize("slot,names", [("attention", ATTENTION), ("ffn", FFN), ("sharing", SHARING)])
def test_unknown_names_are_refused_with_a_list(served, slot, names, convert):
    for unknown in ("nope", {"type": "nope"}, {"type": "nope", "k": 4}):
        e = check_error(served.infer(convert=convert, **{slot: unknown}), 400, "unsupported_structure", slot)
        assert "nope" in e["message"]
        for name in names:
            assert name in e["message"].split("can run", 1)[1], (name, e["message"])


def test_impossible_structures_are_refused_with_a_list(served):
    heads, layers = served.about["heads"], served.about["layers"]
    for attention in ({"type": "gqa", "kv_heads": heads - 1}, {"type": "gqa", "kv_heads": heads + 1}):
        e = check_error(served.infer(attention=attention, convert=True), 400, "unsupported_structure", "attention")
        assert "kv_heads" in e["message"]
        if attention["kv_heads"] < heads:  # a number that can be, but not here; the other one is out of range
            assert all(a in e["message"].split("can run", 1)[1] for a in ATTENTION)
    for ffn in ("relu", "reglu", "glu", "bilinear"):
        e = check_error(served.infer(ffn=ffn, convert=True), 400, "unsupported_structure", "ffn")
        assert ffn in e["message"] and all(f in e["message"].split("can run", 1)[1] for f in FFN)
    e = check_error(served.infer(sharing={"type": "groups", "count": layers + 1}, convert=True), 400,
                    "unsupported_structure", "sharing")
    assert "count" in e["message"] and str(layers) in e["message"]
    e = check_error(served.infer(ffn={"type": "moe", "experts_per_token": 10 ** 6}, convert=True), 400,
                    "unsupported_structure", "ffn")
    assert "experts_per_token" in e["message"]
    for slot, part in (("attention", {"type": "performer", "k": 3}), ("ffn", {"type": "swiglu", "experts": 2}),
                       ("sharing", {"type": "all", "count": 2})):
        check_error(served.infer(convert=True, **{slot: part}), 400, None, slot)


@pytest.mark.parametrize("attention", ATTENTION)
def test_whole_sequence_forms_only_embed(served, attention):
    both = {"type": attention, "causal": False}
    for task, stream, convert in itertools.product(("generate", "score"), (False, True), (False, True)):
        e = check_error(served.infer(attention=both, task=task, stream=stream, convert=convert), 400,
                        "unsupported_structure", "attention")
        assert "causal" in e["message"] and "convert" not in e["message"]  # leave to convert would not help
    r = served.infer(attention=both, task="embed", convert=True)
    assert r.status_code == 200, r.text
    body = r.json()
    assert body["structure"]["attention"]["type"] == attention and body["structure"]["attention"]["causal"] is False
    assert body["structure"]["exactness"] == "untrained" and body["structure"]["divergence"] is None
    vector = body["outputs"][0]["embedding"]
    causal = served.infer(attention=attention, task="embed").json()["outputs"][0]["embedding"]
    assert len(vector) == len(causal) == served.about["d_model"] and all(map(math.isfinite, vector + causal))
    assert max(abs(a - b) for a, b in zip(vector, causal)) > 1e-3  # later tokens do count


def test_other_forms_come_from_the_member_of_that_name(served):
    """Not from the first member that could be converted: a mixture with another number of experts is the trained one."""
    trained = {r["structure"]["type"]: r["structure"] for r in served.rows() if r["origin"] == "native"}
    moe, performer, linformer = trained["moe"], trained["performer"], trained["linformer"]
    for used in {1, moe["experts_per_token"] + 1}:
        ffn = {"type": "moe", "experts_per_token": used}
        e = check_error(served.infer(ffn=ffn), 400, "unsupported_structure", "ffn")
        assert "approximate" in e["message"] and "convert" in e["message"]
        given = served.infer(ffn=ffn, convert=True, max_tokens=4, ignore_eos=True).json()["structure"]
        assert given["ffn"] == dict(moe, experts_per_token=used)
        assert given["exactness"] == "approximate" and given["divergence"]["mean_kl"] > 0
    given = served.infer(attention={"type": "performer", "seed": 3}, convert=True, max_tokens=4).json()["structure"]
    assert given["exactness"] == "approximate" and given["attention"]["seed"] == 3
    assert all(given["attention"][key] == performer[key] for key in ("kv_heads", "features"))
    given = served.infer(attention={"type": "linformer", "causal": False}, convert=True, task="embed").json()["structure"]
    assert given["attention"] == dict(linformer, causal=False)
