"""Speculation from the prompt: the same answer with and without, for every structure, streamed or not, and figures that
say what came of it. Weights are random and small: their greedy text runs in circles, which is what guesses live on."""
import random

import pytest

from conftest import REAL, Server, check_error, metric, read_sse

TINY = "synthetic:hidden=64,layers=2,heads=4,kv_heads=2,vocab=16,n=256,attention=gqa,type=f32"


@pytest.fixture(scope="module")
def tiny():
    s = Server("--state-memory", "8MiB", model=TINY, binary=REAL)
    yield s
    s.stop()


def ask(server, **body):
    r = server.infer(**body)
    assert r.status_code == 200, r.text
    return r.json()


def answer(body):
    return [(o["text"], o["tokens"], o["finish_reason"], o["logprobs"]) for o in body["outputs"]]


def prompt(seed, n=14):
    rng = random.Random(seed)
    return [rng.randrange(16) for _ in range(n)] * 2


@pytest.mark.parametrize("attention", ["mha", "gqa", "mqa"])
def test_same_answer_with_and_without(tiny, attention):
    drafted = accepted = 0
    for seed in range(12):
        body = dict(sequence=prompt(seed), max_tokens=60, ignore_eos=seed % 2 == 0, attention=attention, convert=True, n=1 + seed % 2,
                    temperature=0.7 * (seed % 3), seed=seed, logprobs=seed % 3, cache=seed % 4 != 0)
        plain = ask(tiny, **body)
        assert "speculative" not in plain["timings"]
        spec = ask(tiny, **body, speculative={"type": "prompt", "ngram": 1 + seed % 3, "max_draft": 1 + seed})
        assert answer(spec) == answer(plain)
        t = spec["timings"]["speculative"]
        assert set(t) == {"drafted", "accepted", "steps", "reason"} and t["reason"] is None
        assert t["accepted"] <= t["drafted"] and t["steps"] <= t["drafted"]
        tokens = sum(len(o["tokens"]) for o in spec["outputs"])
        assert spec["timings"]["steps"] + t["accepted"] >= tokens - body["n"] + 1  # each step gives one, each guess one more
        if body["n"] > 1:
            assert t["drafted"] == sum(o["timings"]["speculative"]["drafted"] for o in spec["outputs"])
        drafted += t["drafted"]
        accepted += t["accepted"]
    assert accepted > 20, (drafted, accepted)


def test_fewer_steps(tiny):
    body = dict(sequence=[5, 6, 7, 8] * 5, max_tokens=20, ignore_eos=True)
    plain, spec = ask(tiny, **body), ask(tiny, **body, speculative="prompt")
    assert answer(spec) == answer(plain)
    t = spec["timings"]
    assert t["speculative"]["accepted"] > 0
    assert t["steps"] + t["speculative"]["accepted"] == plain["timings"]["steps"]


@pytest.mark.parametrize("attention", ["performer", "linformer"])
def test_structures_that_cannot_go_back_say_so(tiny, attention):
    body = dict(sequence=prompt(3), max_tokens=12, attention=attention, convert=True)
    plain, spec = ask(tiny, **body), ask(tiny, **body, speculative="prompt")
    assert answer(spec) == answer(plain)
    t = spec["timings"]["speculative"]
    assert t["drafted"] == t["accepted"] == t["steps"] == 0 and "cut back" in t["reason"]


def test_stream(tiny):
    body = {"sequence": prompt(5), "max_tokens": 20, "ignore_eos": True, "logprobs": 1}
    plain = ask(tiny, **body)
    before = tiny.metrics()
    reply = tiny.post("/v1/infer", dict(body, stream=True, speculative={"type": "prompt", "ngram": 1}), stream=True)
    events, done = read_sse(reply)
    assert done
    final, tokens = events[-1], [e for e in events if "token" in e]
    assert answer(final) == answer(plain)
    assert [e["token"] for e in tokens] == plain["outputs"][0]["tokens"]
    assert [e["logprob"] for e in tokens] == [p["logprob"] for p in plain["outputs"][0]["logprobs"]]
    t = final["timings"]["speculative"]
    assert t["accepted"] > 0
    after = tiny.metrics()
    for name in "drafted", "accepted":
        full = f"quern_{name}_tokens_total"
        assert metric(after, full) - metric(before, full) == t[name]


def test_off_is_the_default_and_others_are_refused(tiny):
    body = dict(sequence=[1, 2, 3], max_tokens=2)
    for off in (None, False, "off", {"type": "off"}):
        assert "speculative" not in ask(tiny, **body, speculative=off)["timings"]
    for bad, param in (("model", "speculative"), (True, "speculative"), ({"type": "x"}, "speculative.type"),
                       ({"type": "prompt", "ngram": 0}, "speculative.ngram")):
        check_error(tiny.infer(**body, speculative=bad), 400, "invalid_value", param)
    check_error(tiny.infer(sequence=[1, 2], task="score", speculative="prompt"), 400, "invalid_value", "speculative")
    schema = tiny.get("/openapi.json").json()["components"]["schemas"]
    assert "prompt" in schema["InferRequest"]["properties"]["speculative"]["anyOf"][0]["enum"]
    assert set(schema["Speculation"]["required"]) == {"drafted", "accepted", "steps", "reason"}
    assert "speculative" not in schema["Timings"]["required"]
