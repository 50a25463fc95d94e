"""Mixed load: sixteen clients at once, each drawing structures, tasks and options at random. Every answer equals, bit for
bit, the one that the same request gets alone, on one thread, without a cache."""
import concurrent.futures
import os
import random
import threading

import pytest

from conftest import REAL, SLOW, Server, metric, read_sse
from members import ALL, DENSE, LLAMA, THIRTY, need

CLIENTS = 16
FLAVOUR = os.environ.get("QUERN_FLAVOUR", "release")
EACH = {"release": 6, "asan": 4, "ubsan": 4, "tsan": 2}[FLAVOUR]  # requests of one client, one after the other

# conversions of models that have all members: other directions, slots, experts and blocks than the trained ones
FURTHER = [
    {"attention": {"type": "performer", "seed": 7}, "convert": True},
    {"attention": {"type": "performer", "seed": 8, "features": 16}, "ffn": "moe", "convert": True},
    {"attention": {"type": "performer", "seed": 7}, "ffn": "gelu", "sharing": "all", "convert": True},
    {"attention": {"type": "linformer", "k": 8}, "convert": True},
    {"ffn": {"type": "moe", "experts_per_token": 1}, "convert": True},
    {"ffn": {"type": "moe", "experts_per_token": 3}, "attention": "linformer", "convert": True},
    {"ffn": "geglu", "attention": "performer"},
    {"sharing": "attention", "ffn": "moe", "convert": True},
    {"sharing": "ffn", "attention": "mqa", "convert": True},
    {"sharing": {"type": "groups", "count": 2}, "attention": "performer", "convert": True},
]
DENSE_BODIES = [dict(asked, convert=True) for asked, _, _ in DENSE] + [{}] * 4

# model, structures, vocabulary to draw from, and limits that hold a few sequences of many
CASES = {"all": (ALL, THIRTY + FURTHER, range(1, 44), 40, "32KiB"),
         "llama": (LLAMA, DENSE_BODIES, range(3, 83), 64, "32KiB"),
         "grist": (None, THIRTY + FURTHER, range(0, 256), 120, "1200KiB")}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """(requests, their answers when each runs alone, the model, state memory for a few sequences)"""
    need(request.param)
    if FLAVOUR == "tsan" and request.param == "grist":
        pytest.skip("the tiny models show the threads what they need")
    each = min(EACH, 3) if request.param == "grist" else EACH
    model, structures, ids, longest, small = CASES[request.param]
    rng = random.Random(20)
    bodies = [draw(rng, structures, ids, longest) for _ in range(CLIENTS * each)]
    alone = Server("--max-running", "1", "--threads", "1", "--prefix-cache", "off", model=model, binary=REAL)
    try:
        solo = [ask(alone, dict(b, stream=False)) for b in bodies]
    finally:
        alone.stop()
    return bodies, solo, model, small


def draw(rng, structures, ids, longest):
    """A request of one to six sequences, which begin as many others do."""
    shared = [ids[(5 * i * i + i) % len(ids)] for i in range(longest)]
    sequences, most = [], longest // 2
    for _ in range(rng.choice([1, 1, 2, 4, 6])):
        n = rng.randrange(2, most)
        same = rng.choice([0, n // 2, n])
        sequences.append(shared[:same] + rng.choices(ids, k=n - same))
    body = dict(rng.choice(structures), sequence=sequences if len(sequences) > 1 else sequences[0])
    if rng.random() < 0.2:
        return dict(body, task="score", logprobs=rng.randrange(4), stream=False)
    return dict(body, max_tokens=rng.randrange(1, longest - most), seed=rng.randrange(100), logprobs=rng.randrange(4),
                temperature=rng.choice([0, 0.9]), ignore_eos=True, n=rng.choice([1, 1, 2]), stream=rng.random() < 0.5)


def check_stream(events, outputs):
    """What came token by token is what the closing reply says."""
    for out in outputs:
        mine = [e for e in events if e["index"] == out["index"]]
        assert [e["token"] for e in mine] == out["tokens"]
        assert [e["logprob"] for e in mine] == [t["logprob"] for t in out["logprobs"]]
        assert "".join(e["text"] for e in mine) == out["text"]


def ask(server, body):
    """The part of an answer that depends on the request alone."""
    reply = server.post("/v1/infer", body, stream=bool(body["stream"]), timeout=300 * SLOW)
    assert reply.status_code == 200, (body, reply.text)
    if body["stream"]:
        events, done = read_sse(reply)
        assert done and events[-1].get("object") == "inference", events[-1:]
        final = events[-1]
        check_stream(events[:-1], final["outputs"])
    else:
        final = reply.json()
    keep = ("index", "tokens", "text", "finish_reason", "logprobs", "score")
    return ({k: v for k, v in final["structure"].items() if k != "divergence"},
            [{k: out[k] for k in keep if k in out} for out in final["outputs"]])


def crowd(server, bodies):
    """The requests in the hands of CLIENTS clients that begin together; the answers in the order of the requests."""
    together = threading.Barrier(CLIENTS)

    def client(number):
        together.wait()
        return [ask(server, b) for b in bodies[number::CLIENTS]]

    answers = [None] * len(bodies)
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        for number, got in enumerate(pool.map(client, range(CLIENTS))):
            answers[number::CLIENTS] = got
    return answers


def check_crowd(server, bodies, solo):
    for number, (got, want) in enumerate(zip(crowd(server, bodies), solo)):
        assert got == want, f"request {number}: {bodies[number]}"
    server.wait_metric("quern_running", lambda v: v == 0)
    server.wait_metric("quern_kv_used_bytes", lambda v: v == 0)


def test_requests_are_of_every_kind(case):
    """The draw itself: all tasks, many structures, and answers that tell one from another."""
    bodies, solo, *_ = case
    assert {b.get("task", "generate") for b in bodies} == {"generate", "score"}
    assert len({str(s) for s, _ in solo}) > 10
    generated = [out["tokens"] for _, outs in solo for out in outs if out["tokens"]]
    assert len({tuple(t) for t in generated}) > len(generated) // 2


@pytest.mark.tsan
def test_crowd_equals_solo(case, start):
    bodies, solo, model, _ = case
    s = start("--max-running", "16", "--step-tokens", "64", "--prefill-chunk", "16", model=model, binary=REAL)
    check_crowd(s, bodies, solo)
    check_crowd(s, bodies[::-1], solo[::-1])  # once more in other company, and with a cache that knows them
    assert metric(s.metrics(), "quern_prefix_cache_hit_tokens_total") > 0


@pytest.mark.tsan
def test_crowd_in_little_memory_equals_solo(case, start):
    """State for a few sequences only, hardly any of it reserved: the newest give theirs up and run again."""
    bodies, solo, model, small = case
    s = start("--max-running", "16", "--state-memory", small, "--reserve-tokens", "1", "--step-tokens", "40",
              "--prefill-chunk", "7", model=model, binary=REAL)
    for _ in range(5):
        check_crowd(s, bodies, solo)
        if metric(s.metrics(), "quern_preemptions_total") > 0:
            break
    assert metric(s.metrics(), "quern_preemptions_total") > 0
