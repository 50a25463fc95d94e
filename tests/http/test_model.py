"""The real server on real weights: a tiny random llama from the golden fixtures (ids in, ids out), and SmolLM2 when it
is there and the build is not a sanitizer's."""
import concurrent.futures
import os
import random
import time

import pytest

from conftest import FLAVOUR, REAL, ROOT, SLOW, Server, metric, read_sse

TINY = os.path.join(ROOT, "tests", "golden", "models", "llama", "f32.gguf")


@pytest.fixture(scope="module")
def tiny():
    s = Server("--max-running", "24", "--state-memory", "256KiB", "--step-tokens", "48", "--prefill-chunk", "16",
               model=TINY, binary=REAL)
    yield s
    s.stop()


def stream(server, body, leave_after=None):
    """Token ids of a streamed answer; None when this client left midway."""
    reply = server.post("/v1/infer", dict(body, stream=True), stream=True, timeout=300 * SLOW)
    assert reply.status_code == 200, reply.text
    if leave_after is not None:
        lines = reply.iter_lines(chunk_size=1)
        for _ in range(2 * leave_after):
            if next(lines, None) is None:
                break
        reply.close()
        return None
    events, done = read_sse(reply)
    assert done, events[-1:]
    final = events[-1]
    assert final["object"] == "inference", final
    tokens = [e["token"] for e in events[:-1]]
    assert tokens == final["outputs"][0]["tokens"]
    return tokens


def crowd(server, bodies, leavers):
    """All at once; the answers of those that stay."""
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        jobs = [pool.submit(stream, server, b, leavers.get(i)) for i, b in enumerate(bodies)]
        return [j.result() for j in jobs]


def idle(server):
    server.wait_metric("quern_running", lambda v: v == 0)
    server.wait_metric("quern_queue_depth", lambda v: v == 0)
    assert metric(server.metrics(), "quern_kv_used_bytes") == 0


def bodies_for(seed, vocab, count, longest):
    rng = random.Random(seed)
    shared = [rng.randrange(3, vocab) for _ in range(20)]
    bodies = []
    for i in range(count):
        ids = (shared[:rng.randrange(0, 21)] if i % 3 else []) + [
            rng.randrange(3, vocab) for _ in range(rng.randrange(1, longest))]
        bodies.append({"sequence": ids, "max_tokens": rng.randrange(1, 20), "temperature": rng.choice([0, 0.8]),
                       "seed": rng.randrange(1000), "ignore_eos": True,
                       "attention": rng.choice(["gqa", "mha"])})
    return bodies


@pytest.mark.tsan
def test_crowd_equals_solo_and_loses_nothing(tiny):
    bodies = bodies_for(1, 83, 32, 22)
    solo = [stream(tiny, dict(b, cache=False)) for b in bodies]
    leavers = {i: random.Random(i).randrange(0, 6) for i in range(0, 32, 3)}
    rounds = 2 if FLAVOUR == "tsan" else 5
    rss = []
    for _ in range(rounds):
        answers = crowd(tiny, bodies, leavers)
        for i, (got, want) in enumerate(zip(answers, solo)):
            if i not in leavers:
                assert got == want, f"client {i}: {bodies[i]}"
        idle(tiny)
        rss.append(metric(tiny.metrics(), "process_resident_memory_bytes"))
    if FLAVOUR == "release":
        assert rss[-1] - rss[1] <= 2 << 20, rss


def test_state_follows_kv_heads(tiny):
    ids = list(range(3, 40))
    state = {}
    for attention in ("mha", "gqa", "mqa"):
        r = tiny.infer(sequence=ids, attention=attention, convert=True, max_tokens=1, cache=False).json()
        state[r["structure"]["attention"]["kv_heads"]] = (r["memory"]["state_bytes"], r["memory"]["state_bytes_per_token"])
    smallest = min(state)
    for heads, (held, per_token) in state.items():
        assert held * smallest == state[smallest][0] * heads, state
        assert per_token * smallest == state[smallest][1] * heads, state


@pytest.mark.parametrize("kv,per_value", [("f32", 4), ("f16", 2), ("bf16", 2), ("q8", 1)])
def test_kv_types_hold_what_they_say(start, kv, per_value):
    """Keys and values of a token take head_dim elements each and, as q8, a scale of 4 bytes."""
    s = start("--kv-type", kv, model=TINY, binary=REAL)
    m = s.get("/v1/models").json()["data"][0]
    heads = m["layers"] * m["kv_heads"]
    per_token = 2 * heads * (m["head_dim"] * per_value + (4 if kv == "q8" else 0))
    assert (m["kv_type"], m["state_bytes_per_token"]) == (kv, per_token)
    ids = list(range(3, 40))
    first = s.infer(sequence=ids, max_tokens=12).json()
    assert first["memory"]["state_bytes"] == per_token * 64 and first["memory"]["state_bytes_per_token"] == per_token
    again = s.infer(sequence=ids, max_tokens=12).json()
    assert again["usage"]["cached_tokens"] == 32 and again["outputs"][0]["tokens"] == first["outputs"][0]["tokens"]


def test_untrained_needs_leave_and_is_labelled(tiny):
    refused = tiny.infer(sequence=[5, 6, 7], attention="mqa")
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "attention"
    assert "convert" in refused.json()["error"]["message"]
    given = tiny.infer(sequence=[5, 6, 7], attention="mqa", convert=True, max_tokens=2).json()
    assert given["structure"]["origin"] == "converted" and given["structure"]["exactness"] == "untrained"
    exact = tiny.infer(sequence=[5, 6, 7], attention="mha", max_tokens=2).json()
    assert exact["structure"]["exactness"] == "exact" and exact["structure"]["origin"] == "converted"


def test_phases_add_up_and_cache_is_counted(tiny):
    ids = [7 + i % 50 for i in range(52)]
    first = tiny.infer(sequence=ids, max_tokens=4).json()
    second = tiny.infer(sequence=ids, max_tokens=4).json()
    assert second["outputs"][0]["tokens"] == first["outputs"][0]["tokens"]
    assert second["usage"]["cached_tokens"] == 48 and second["memory"]["state_shared_bytes"] >= 0
    for reply in (first, second):
        t = reply["timings"]
        parts = sum(t[k + "_ms"] for k in ("queue", "tokenize", "convert", "prefill", "decode", "finish"))
        assert abs(parts - t["total_ms"]) <= max(0.5, 0.01 * t["total_ms"]), t


def test_context_and_vocabulary_are_refused(tiny):
    context = tiny.get("/v1/models").json()["data"][0]["context"]
    too_long = tiny.infer(sequence=[5] * (context + 1))
    assert too_long.status_code == 400 and too_long.json()["error"]["code"] == "context_length_exceeded"
    unknown = tiny.infer(sequence=[10 ** 6])
    assert unknown.status_code == 400 and unknown.json()["error"]["param"].startswith("sequence")


def test_embed_and_score(tiny):
    r = tiny.infer(sequence=[[5, 6, 7, 8], [9, 10]], task="embed").json()
    d = tiny.get("/v1/models").json()["data"][0]["d_model"]
    assert [len(o["embedding"]) for o in r["outputs"]] == [d, d]
    assert r["timings"]["ttft_ms"] is None
    whole = tiny.infer(sequence=[5, 6, 7, 8], task="score", logprobs=0).json()["outputs"][0]
    assert whole["score"]["tokens"] == len(whole["logprobs"])
    assert abs(sum(t["logprob"] for t in whole["logprobs"]) - whole["score"]["log_prob"]) < 1e-3


def test_real_text(smol):
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    r = smol.infer(sequence=prompt, max_tokens=32).json()
    assert "Paris" in r["outputs"][0]["text"] and r["outputs"][0]["finish_reason"] == "stop"
    exact = smol.infer(sequence=prompt, max_tokens=32, attention="mha").json()
    assert exact["outputs"][0]["tokens"] == r["outputs"][0]["tokens"]
    assert exact["memory"]["state_bytes"] == 3 * r["memory"]["state_bytes"]


def test_real_crowd_equals_solo(smol):
    words = "grain stone water wheel flour river bread miller slow turning".split()
    rng = random.Random(3)
    bodies = [{"sequence": " ".join(rng.choice(words) for _ in range(rng.randrange(3, 60))),
               "max_tokens": rng.randrange(2, 16), "ignore_eos": True} for _ in range(32)]
    solo = [stream(smol, dict(b, cache=False)) for b in bodies]
    gone = metric(smol.metrics(), "quern_cancelled_total")
    leavers = {i: 1 for i in range(0, 32, 3)}
    for i in leavers:
        bodies[i]["max_tokens"] = 400  # certain to be running when its client leaves
    answers = crowd(smol, bodies, leavers)
    assert all(got == want for i, (got, want) in enumerate(zip(answers, solo)) if i not in leavers)
    idle(smol)
    assert metric(smol.metrics(), "quern_cancelled_total") == gone + len(leavers)


def test_readiness_during_a_long_prompt(smol):
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        job = pool.submit(smol.infer, sequence="mill " * 1500, max_tokens=1, cache=False)
        time.sleep(0.2)
        for _ in range(5):
            assert smol.get("/livez").status_code == 200 and smol.get("/readyz").status_code == 200
        assert job.result().status_code == 200
