"""POST /v1/compare, divergence in replies and GET /v1/structures: over the fake model, on a tiny random llama, and on
SmolLM2 when it is there."""
import concurrent.futures
import csv
import io
import json
import math
import os
import subprocess
import time

import pytest

from conftest import FLAVOUR, REAL, ROOT, SLOW, SMOL, Server, check_error, metric, read_sse
from members import LLAMA as TINY, MODELS, THIRTY, lettered, need, types

TIMINGS = {"queue_ms", "tokenize_ms", "convert_ms", "prefill_ms", "decode_ms", "finish_ms", "total_ms", "ttft_ms",
           "compute_ms", "prefill_tokens_per_second", "decode_tokens_per_second", "steps", "mean_batch"}
THREE = [{"attention": "gqa"}, {"attention": "mqa", "convert": True}, {"attention": "mha"}]


def compare(server, **body):
    body.setdefault("sequence", "grinding")
    body.setdefault("structures", THREE)
    return server.post("/v1/compare", body, timeout=300 * SLOW)


def check_reply(body, n, repeats, baseline=0):
    assert body["object"] == "comparison" and body["id"].startswith("cmp-")
    assert body["baseline"] == baseline and body["repeats"] == repeats and len(body["results"]) == n
    t = body["timings"]
    parts = sum(v for k, v in t.items() if k != "total_ms")
    assert abs(parts - t["total_ms"]) <= max(0.5, 0.01 * t["total_ms"]), t
    for r in body["results"]:
        assert set(r) == {"structure", "outputs", "warmup", "samples", "median", "spread", "memory", "cost", "fidelity"}
        assert len(r["samples"]) == repeats and len(r["outputs"]) == 1
        for t in [r["warmup"]["timings"], *(s["timings"] for s in r["samples"])]:
            assert set(t) == TIMINGS
            parts = sum(t[k + "_ms"] for k in ("queue", "tokenize", "convert", "prefill", "decode", "finish"))
            assert abs(parts - t["total_ms"]) <= max(0.5, 0.01 * t["total_ms"]), t
            assert t["mean_batch"] == 1
        totals = sorted(s["timings"]["total_ms"] for s in r["samples"])
        middle = (totals[(repeats - 1) // 2] + totals[repeats // 2]) / 2
        assert abs(r["median"]["total_ms"] - middle) < 2e-3 and r["spread"]["total_ms"] <= totals[-1] - totals[0] + 2e-3
        assert r["memory"]["state_bytes"] > 0 and r["cost"]["analytic_flops"] > 0


@pytest.mark.tsan
def test_comparison_has_every_part(srv):
    r = compare(srv, max_tokens=6, repeats=3)
    assert r.status_code == 200, r.text
    assert "total;dur=" in r.headers["server-timing"]
    body = r.json()
    check_reply(body, 3, 3)
    native, mqa, mha = body["results"]
    assert [x["structure"]["exactness"] for x in body["results"]] == ["exact", "untrained", "exact"]
    assert native["fidelity"] == {"mean_kl": 0, "top1_agreement": 1, "bits_per_byte_delta": 0, "positions": 13}
    assert mha["fidelity"] == native["fidelity"]
    assert mqa["fidelity"]["mean_kl"] > 0 and mqa["fidelity"]["positions"] == 13
    assert body["usage"]["completion_tokens"] == 3 * 4 * 6
    for given, result in zip(THREE, body["results"]):
        alone = srv.infer(sequence="grinding", max_tokens=6, convert=True, attention=given["attention"]).json()
        assert result["outputs"][0]["tokens"] == alone["outputs"][0]["tokens"]
        assert result["outputs"][0]["text"] == alone["outputs"][0]["text"]


def test_score_agrees_with_infer(srv):
    body = compare(srv, task="score", repeats=2, baseline=1, convert=True,
                   structures=[{}, {"attention": "mqa"}, {"attention": "performer"}]).json()
    check_reply(body, 3, 2, baseline=1)
    scores = [r["outputs"][0]["score"] for r in body["results"]]
    for r, s in zip(body["results"], scores):
        delta = s["bits_per_byte"] - scores[1]["bits_per_byte"]
        assert abs(r["fidelity"]["bits_per_byte_delta"] - delta) < 1e-5
        assert r["fidelity"]["positions"] == s["tokens"] == 7
        assert r["median"]["ttft_ms"] is None and r["median"]["decode_tokens_per_second"] is None
    assert body["results"][1]["fidelity"]["mean_kl"] == 0 < body["results"][0]["fidelity"]["mean_kl"]


@pytest.mark.tsan
def test_stream_tells_every_run_and_then_all(srv):
    r = srv.post("/v1/compare", {"sequence": "a stream", "structures": THREE, "repeats": 2, "max_tokens": 3,
                                 "stream": True}, stream=True)
    assert r.headers["content-type"] == "text/event-stream"
    events, done = read_sse(r)
    assert done and len(events) == 3 * 3 + 1
    order = [(e["structure"], e["sample"], e["warmup"]) for e in events[:-1]]
    assert order == [(i, 0, True) for i in range(3)] + [(i, k, False) for k in range(2) for i in range(3)]
    assert all(e["of"] == 2 and set(e["timings"]) == TIMINGS for e in events[:-1])
    check_reply(events[-1], 3, 2)
    assert events[4]["timings"] == events[-1]["results"][1]["samples"][0]["timings"]


def test_refusals_name_their_place(srv):
    check_error(compare(srv, structuers=[]), 400, "unknown_field", "structuers")
    e = check_error(compare(srv, structures=[{}, {"attention": "nope"}]), 400, "unsupported_structure",
                    "structures[1].attention")
    assert "structures[1]" in e["message"] and "gqa (native)" in e["message"]
    check_error(compare(srv, structures=[{}, {}, {"attention": "mqa"}]), 400, None, "structures[2].convert")
    check_error(compare(srv, structures=[{"attention": {"type": "linformer", "causal": False}}]), 400,
                "unsupported_structure", "structures[0].attention")
    check_error(compare(srv, baseline=3), 400, None, "baseline")
    check_error(compare(srv, sequence=["a", "b"]), 400, None, "sequence")
    check_error(compare(srv, sequence="x" * 5000), 400, "context_length_exceeded", "sequence")
    check_error(compare(srv, model="nope"), 404, "model_not_found", "model")
    e = check_error(compare(srv, structures=[{}] * 32, repeats=50, max_tokens=2000), 400, "request_too_large", "repeats")
    assert "262144" in e["message"]
    assert srv.get("/v1/compare").status_code == 405


def test_what_can_never_fit_is_refused_at_once(start):
    s = start("--state-memory", "8KiB")
    e = check_error(compare(s, max_tokens=200, sequence="long"), 400, "request_too_large", "structures[0]")
    assert "8192" in e["message"]
    # one sequence fits, two do not: the measurements come, without fidelity
    body = compare(s, max_tokens=100, sequence="short", repeats=1).json()
    assert body["results"][1]["fidelity"] is None and body["results"][0]["fidelity"]["mean_kl"] == 0


@pytest.mark.tsan
def test_comparisons_run_among_other_requests(start):
    s = start("--max-running", "4", env={"STUB_STEP_US": "300", "STUB_ASCII": "1"})
    alone = compare(s, max_tokens=8, repeats=2).json()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        comparisons = [pool.submit(compare, s, max_tokens=8, repeats=2) for _ in range(4)]
        others = [pool.submit(s.infer, sequence=f"request {i}", max_tokens=40) for i in range(12)]
        assert all(o.result().status_code == 200 for o in others)
        for c in comparisons:
            body = c.result().json()
            check_outputs = [(r["outputs"], r["fidelity"]) for r in body["results"]]
            assert check_outputs == [(r["outputs"], r["fidelity"]) for r in alone["results"]]
    s.wait_metric("quern_running", lambda v: v == 0)
    s.wait_metric("quern_kv_used_bytes", lambda v: v == 0)
    m = s.metrics()
    assert metric(m, "quern_requests_total", task="compare") == 5
    assert metric(m, "quern_requests_total", task="generate") == 12


def test_full_queue_is_429_and_a_running_comparison_goes_on(start):
    s = start("--max-running", "1", "--max-queue", "1", env={"STUB_STEP_US": "3000"})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        holder = pool.submit(s.infer, sequence="holds the only place", max_tokens=200)
        s.wait_metric("quern_running", lambda v: v == 1)
        first = pool.submit(compare, s, max_tokens=20, repeats=2)
        s.wait_metric("quern_queue_depth", lambda v: v == 1)
        check_error(compare(s, max_tokens=1, repeats=1, structures=[{}]), 429, "queue_full")
        assert holder.result().status_code == 200
        while not first.done():  # others fill the queue; the comparison's own next runs still enter
            assert s.infer(sequence="b", max_tokens=2).status_code in (200, 429)
        assert first.result().status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_ends_it(start, stream):
    s = start(env={"STUB_STEP_US": "20000"})
    with s.connect() as c:
        body = b'{"sequence":"abc","structures":[{},{"attention":"mha"}],"max_tokens":500,"repeats":50%s}' % (
            b',"stream":true' if stream else b"")
        c.sendall(b"POST /v1/compare HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        s.wait_metric("quern_running", lambda v: v == 1)
    s.wait_metric("quern_running", lambda v: v == 0, timeout=3 * SLOW)
    s.wait_metric("quern_kv_used_bytes", lambda v: v == 0)
    assert s.infer(sequence="a", max_tokens=1).status_code == 200


def test_deadline(start):
    s = start(env={"STUB_STEP_US": "20000"})
    t0 = time.monotonic()
    check_error(compare(s, max_tokens=100, repeats=50, timeout_ms=300), 408, "timeout")
    assert time.monotonic() - t0 < 5 * SLOW
    r = s.post("/v1/compare", {"sequence": "a", "structures": [{}], "max_tokens": 1, "repeats": 50, "timeout_ms": 300,
                               "stream": True}, stream=True)
    events, done = read_sse(r)
    assert done and events[-1]["error"]["code"] == "timeout" and events[0]["warmup"] is True


def test_drain_lets_it_finish(start):
    s = start(env={"STUB_STEP_US": "5000"})
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        job = pool.submit(compare, s, max_tokens=10, repeats=2)
        s.wait_metric("quern_running", lambda v: v == 1)
        s.signal()
        assert job.result().status_code == 200
    assert s.wait() == 0


def test_failed_step_ends_it(start):
    s = start(env={"STUB_FAIL": "1"})
    check_error(compare(s, max_tokens=2), 500, "internal")
    assert compare(s, max_tokens=2).status_code == 200


def test_log_line(start):
    s = start()
    s.post("/v1/compare", {"sequence": "Zwielicht", "structures": THREE, "repeats": 1, "max_tokens": 1},
           headers={"x-request-id": "logged"})
    line = s.wait_line("id=logged.*").group(0)
    assert "route=/v1/compare" in line and "structures=3" in line and "Zwielicht" not in s.log()


def test_large_bodies_on_workers(srv):
    r = compare(srv, sequence="a" * 3000, structures=[{}] * 2, repeats=1, max_tokens=1, task="generate",
                model=None, convert=False, timeout_ms=None)
    assert r.status_code == 200
    body = '{"sequence":"ab","structures":[{}],"repeats":1,"max_tokens":1%s}' % (" " * 70000)
    assert srv.post("/v1/compare", body.encode()).status_code == 200


# --- divergence in the replies of an inference ---

def test_divergence_of_what_is_not_exact(srv):
    plain = srv.infer(sequence="hello", max_tokens=5).json()
    assert plain["structure"]["divergence"] is None
    d = srv.infer(sequence="hello", max_tokens=5, attention="mqa", convert=True).json()["structure"]["divergence"]
    assert set(d) == {"baseline", "mean_kl", "top1_agreement", "positions"}
    assert d["baseline"] == "native" and d["mean_kl"] > 0 and 0 < d["top1_agreement"] < 1 and d["positions"] == 9
    two = srv.infer(sequence=["hello", "x" * 300], task="score", attention="mqa", convert=True).json()
    each = [o["divergence"] for o in two["outputs"]]
    assert [d["positions"] for d in each] == [4, 255]
    whole = two["structure"]["divergence"]
    assert whole["positions"] == 259
    mean = sum(d["mean_kl"] * d["positions"] for d in each) / 259
    assert math.isclose(whole["mean_kl"], mean, rel_tol=1e-5)
    r = srv.post("/v1/infer", {"sequence": "hello", "max_tokens": 5, "attention": "mqa", "convert": True,
                               "stream": True}, stream=True)
    events, done = read_sse(r)
    assert done and events[-1]["structure"]["divergence"]["positions"] == 9


# --- structures that look at later tokens ---

def test_not_causal_embeds_only(start):
    s = start("--step-tokens", "64", "--prefill-chunk", "16", "--max-running", "8")
    both = {"type": "linformer", "causal": False}
    for task in ("generate", "score"):
        check_error(s.infer(sequence="abc", attention=both, task=task), 400, "unsupported_structure", "attention")
    assert s.infer(sequence="abc", attention=both, task="embed").status_code == 200
    e = check_error(s.infer(sequence="x" * 65, attention=both, task="embed"), 400, "context_length_exceeded", "sequence")
    assert "65" in e["message"] and "64" in e["message"]
    assert s.infer(sequence=["x" * 64] * 5, attention=both, task="embed").status_code == 200


# --- GET /v1/structures ---

def test_structures_of_the_fake(srv):
    model = srv.get("/v1/structures").json()["data"][0]
    assert model["held_out"] == [{"attention": "gqa", "ffn": "swiglu", "sharing": "none", "nats_per_byte": 1.5,
                                  "bits_per_byte": 2.164}]
    assert model["context"] == 4096
    rows = {r["structure"]["type"]: r for r in model["structures"]}
    assert rows["linformer"]["causal"] is False and rows["gqa"]["causal"] is True
    assert {r["slot"] for r in model["structures"]} == {"attention"}
    assert rows["gqa"]["state_bytes"] == [{"tokens": n, "bytes": 64 * n} for n in (1024, 4096, 16384)]


# --- real weights ---

def test_structures_of_a_model(tiny):
    model = tiny.get("/v1/structures").json()["data"][0]
    assert model["held_out"] == []
    for r in model["structures"]:
        assert (r["state_bytes"] is None) == (r["slot"] != "attention")
        if r["slot"] != "attention":
            assert r["causal"] and r["rollback"]
            continue
        may = {p["name"]: p for p in r["parameters"]}
        assert r["exactness"] == "unavailable" or may["causal"] == {"name": "causal", "type": "boolean", "default": True}
        if r["structure"]["type"] == "linformer":
            assert may["k"]["minimum"] == 1 and may["k"]["maximum"] == min(4096, model["context"])
        if not r["causal"]:
            assert r["structure"]["causal"] is False and r["exactness"] == "untrained" and not r["rollback"]
        sizes = [s["bytes"] - r["state_fixed_bytes"] for s in r["state_bytes"]]
        assert sizes == [n * r["state_bytes_per_token"] for n in (1024, 4096, 16384)]
        if r["causal"]:
            assert (r["state_bytes_per_token"] == 0) == (r["state_fixed_bytes"] > 0)
    whole = [r["structure"]["type"] for r in model["structures"] if not r["causal"]]
    assert {"gqa", "linformer", "performer"} <= set(whole)


@pytest.fixture(scope="module")
def tiny():
    s = Server("--max-running", "24", "--state-memory", "1MiB", "--step-tokens", "48", "--prefill-chunk", "16",
               model=TINY, binary=REAL)
    yield s
    s.stop()


def softmax(logprobs):
    return {t["id"]: t["logprob"] for t in logprobs}


@pytest.mark.tsan
def test_tiny_outputs_equal_infer_bit_for_bit(tiny):
    ids = list(range(5, 30))
    body = compare(tiny, sequence=ids, max_tokens=12, repeats=2, ignore_eos=True)
    assert body.status_code == 200, body.text
    body = body.json()
    check_reply(body, 3, 2)
    for given, result in zip(THREE, body["results"]):
        alone = tiny.infer(sequence=ids, max_tokens=12, ignore_eos=True, cache=False, **given).json()
        assert result["outputs"][0]["tokens"] == alone["outputs"][0]["tokens"]
        assert result["structure"] == {k: v for k, v in alone["structure"].items() if k != "divergence"}
        assert result["memory"]["state_bytes"] == alone["memory"]["state_bytes"]
        assert result["cost"]["analytic_flops"] == alone["cost"]["analytic_flops"]
    # mha from repeated KV heads is exact: no more than rounding apart
    exact, other = body["results"][2]["fidelity"], body["results"][1]["fidelity"]
    assert exact["top1_agreement"] == 1 and exact["mean_kl"] < 1e-9 and abs(exact["bits_per_byte_delta"] or 0) < 1e-5
    assert other["mean_kl"] > 1e-6 and other["positions"] == 36


@pytest.mark.tsan
def test_tiny_fidelity_equals_what_logprobs_say(tiny):
    """KL from the top 20 of both distributions bounds the reported one from below; the token log-probabilities are the
    same numbers."""
    ids = [7 + (i * 5) % 60 for i in range(40)]
    body = compare(tiny, sequence=ids, task="score", repeats=1, structures=THREE[:2]).json()
    f = body["results"][1]["fidelity"]
    score = [tiny.infer(sequence=ids, task="score", logprobs=20, **s).json()["outputs"][0] for s in THREE[:2]]
    for result, alone in zip(body["results"], score):
        assert result["outputs"][0]["score"] == alone["score"]
    same = sum(a["top"][0]["id"] == b["top"][0]["id"] for a, b in zip(score[0]["logprobs"], score[1]["logprobs"]))
    assert math.isclose(f["top1_agreement"], same / f["positions"], abs_tol=1e-6)
    low = 0
    for a, b in zip(score[0]["logprobs"], score[1]["logprobs"]):
        p, q = softmax(a["top"]), softmax(b["top"])
        common = set(p) & set(q)
        kl = sum(math.exp(p[i]) * (p[i] - q[i]) for i in common)
        rest_p, rest_q = 1 - sum(math.exp(p[i]) for i in common), 1 - sum(math.exp(q[i]) for i in common)
        low += kl + (rest_p * math.log(rest_p / rest_q) if rest_p > 1e-9 and rest_q > 1e-9 else 0)
    low /= f["positions"]
    assert 0 < low <= f["mean_kl"] * (1 + 1e-4) and f["mean_kl"] < 50 * low


def test_tiny_divergence_equals_the_comparison(tiny):
    ids = list(range(9, 60))
    d = tiny.infer(sequence=ids, task="score", attention="mqa", convert=True).json()["structure"]["divergence"]
    f = compare(tiny, sequence=ids, task="score", repeats=1, structures=THREE[:2]).json()["results"][1]["fidelity"]
    assert d["positions"] == f["positions"] == 50
    assert d["mean_kl"] == f["mean_kl"] and d["top1_agreement"] == f["top1_agreement"]


@pytest.mark.tsan
def test_tiny_crowd_of_comparisons_equals_solo(tiny):
    ids = [list(range(5 + i, 40 + i)) for i in range(4)]
    args = [dict(sequence=s, max_tokens=5, repeats=1, ignore_eos=True) for s in ids]
    keep = lambda r: [(x["outputs"], x["fidelity"], x["structure"]) for x in r.json()["results"]]
    solo = [keep(compare(tiny, **a)) for a in args]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        others = [pool.submit(tiny.infer, sequence=s, max_tokens=30, attention="mqa", convert=True) for s in ids]
        assert [keep(c) for c in pool.map(lambda a: compare(tiny, **a), args)] == solo
        assert all(o.result().status_code == 200 for o in others)
    tiny.wait_metric("quern_kv_used_bytes", lambda v: v == 0)


def test_real_comparison(smol):
    prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    body = compare(smol, sequence=prompt, max_tokens=12, repeats=3).json()
    check_reply(body, 3, 3)
    native, mqa, mha = body["results"]
    assert "Paris" in native["outputs"][0]["text"] and native["outputs"][0]["tokens"] == mha["outputs"][0]["tokens"]
    assert mha["memory"]["state_bytes"] == 3 * native["memory"]["state_bytes"]
    assert mha["fidelity"]["mean_kl"] < 1e-6 and mha["fidelity"]["top1_agreement"] == 1
    assert mqa["fidelity"]["mean_kl"] > 1 and mqa["fidelity"]["bits_per_byte_delta"] > 0.5
    alone = smol.infer(sequence=prompt, max_tokens=12, attention="mqa", convert=True).json()
    assert alone["outputs"][0]["tokens"] == mqa["outputs"][0]["tokens"]
    assert alone["structure"]["divergence"]["mean_kl"] > 1


# --- quern compare ---

def command(*args, model=SMOL, **kw):
    return subprocess.run([REAL, "compare", *(["--model", model] if model else []), *map(str, args)], timeout=300 * SLOW,
                          capture_output=True, text=True, **kw)


@pytest.mark.parametrize("args,why", [
    ([], "--prompt"), (["--prompt", "x", "--file", "y"], "--prompt"), (["--prompt", "x", "--structures", "gqa+"], "tokenizer"),
    (["--prompt", "x", "--structures", "gqa((", ], "character 5"), (["--prompt", "x", "--repeats", "51"], "50"),
    (["--prompt", "x", "--task", "embed"], "task"), (["--prompt", "x", "--json", "--csv"], "not both"),
    (["--prompt", "x", "--structures", "gqa,nope"], "structures[1]"), (["--prompt", "x", "--baseline", "4"], "baseline")])
def test_command_usage_is_2(args, why):
    p = command(*args, model=TINY)
    assert p.returncode == 2 and why in p.stderr and p.stdout == "", p.stderr


def test_command_cannot_read_is_1(tmp_path):
    assert command("--file", tmp_path / "none", model=TINY).returncode == 1
    assert command("--prompt", "x", model=str(tmp_path / "none.gguf")).returncode == 1


# --- quern compare on models with several structures, in every build ---

SYNTHETIC = "synthetic:hidden=64,layers=3,heads=4,kv_heads=2,vocab=300,n=128,attention=gqa,type=q8_0"
SHORT = ["--prompt", "the mill", "--max-tokens", 3, "--repeats", 2]


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    return lettered(tmp_path_factory.mktemp("letters"))


def three_forms(model, *args):
    """What the table, the JSON and the CSV of one comparison say: (rows of the table, body, rows of the CSV)."""
    table, body, rows = (command(*SHORT, *args, *form, model=model) for form in ([], ["--json"], ["--csv"]))
    for p in (table, body, rows):
        assert p.returncode == 0 and p.stderr == "", p.stderr
    lines = table.stdout.splitlines()
    return lines[1:lines.index("")], json.loads(body.stdout), list(csv.DictReader(io.StringIO(rows.stdout, newline="")))


def check_forms(lines, body, rows, positions):
    """The same structures in the same order everywhere, no two under one name, every figure there and finite."""
    assert len(lines) == len(body["results"]) == len(rows) == len({line.split()[0] for line in lines})
    check_reply(body, len(lines), 2)
    for line, r, row in zip(lines, body["results"], rows):
        kinds = types(r["structure"])
        for word, (slot, kind) in zip(line.split()[0].split("+"), kinds.items()):
            assert word.split("(")[0] == row[slot].split("(")[0] == kind, line
        assert row["origin"] == r["structure"]["origin"] and row["exactness"] == r["structure"]["exactness"]
        assert len(r["outputs"][0]["tokens"]) == 3 and row["text"] == r["outputs"][0]["text"]
        for name in ("prefill_ms", "total_ms", "compute_ms", "decode_tokens_per_second"):
            assert r["median"][name] > 0, (line, name)
        for name in ("total_ms", "prefill_ms", "state_bytes", "weights_bytes", "analytic_flops", "analytic_bytes"):
            assert float(row[name]) > 0, (line, name)
        f = r["fidelity"]
        assert f["mean_kl"] >= 0 and 0 <= f["top1_agreement"] <= 1 and f["positions"] == positions
        assert math.isclose(float(row["mean_kl"]), f["mean_kl"], rel_tol=1e-6, abs_tol=1e-9)
    assert body["results"][0]["fidelity"]["mean_kl"] == 0


@pytest.mark.parametrize("name", MODELS)
def test_command_compares_thirty_structures(letters, name):
    need(name)
    lines, body, rows = three_forms(letters if name == "all" else None, "--ignore-eos")
    check_forms(lines, body, rows, 8 + 3 - (1 if name == "all" else 0))
    assert [line.split()[1] for line in lines] == ["native"] * 30
    assert lines[0].split()[0] == "gqa+swiglu+none"
    assert {line.split()[0] for line in lines} == {"+".join(s.values()) for s in THIRTY}
    assert len({r["fidelity"]["mean_kl"] for r in body["results"]}) == 30  # thirty functions, not one of them twice
    assert all(r["outputs"][0]["text"] for r in body["results"])


def test_command_scores(letters):
    score = command(*SHORT[:2], "--task", "score", "--repeats", 1, "--csv",
                    "--structures", "gqa,performer+moe+all", model=letters)
    assert score.returncode == 0, score.stderr
    rows = list(csv.DictReader(io.StringIO(score.stdout, newline="")))
    assert all(float(r["bits_per_byte"]) > 0 for r in rows) and len(rows) == 2


def test_command_with_conversions():
    names = ["gqa", "mha", "mqa+swiglu", "performer(features=32)", "performer(seed=5)+moe", "linformer(k=16)+swiglu+all",
             "gqa+moe(experts=3,experts_per_token=1)", "gqa+swiglu+groups(count=2)"]
    lines, body, rows = three_forms(SYNTHETIC, "--convert", "--structures", ",".join(names), "--baseline", 0)
    check_forms(lines, body, rows, 9 + 3 - 1)  # a beginning-of-sequence token
    assert [r["structure"]["exactness"] for r in body["results"]] == [
        "exact", "exact", "untrained", "approximate", "approximate", "untrained", "exact", "untrained"]
    assert [r["structure"]["origin"] for r in body["results"]] == ["synthetic"] + ["converted"] * 7
    for r in body["results"]:
        assert (r["fidelity"]["mean_kl"] < 1e-6) == (r["structure"]["exactness"] == "exact")
    refused = command(*SHORT, "--structures", ",".join(names), model=SYNTHETIC)
    assert refused.returncode == 2 and "structures[2]" in refused.stderr and "convert" in refused.stderr


def test_command_takes_all_of_a_model():
    """Without conversions that need leave: the model's own structure first, then what is exactly the same function."""
    lines, body, rows = three_forms(SYNTHETIC, "--ignore-eos")
    check_forms(lines, body, rows, 9 + 3 - 1)  # a beginning-of-sequence token
    assert len(lines) > 2 and lines[0].split()[0] == "gqa+swiglu+none"
    assert {types(r["structure"])["attention"] for r in body["results"]} == {"gqa", "mha"}
    assert {types(r["structure"])["ffn"] for r in body["results"]} == {"swiglu", "moe"}
    assert all(r["structure"]["exactness"] == "exact" and r["fidelity"]["mean_kl"] < 1e-6 for r in body["results"])


def test_command_takes_all_conversions_one_part_at_a_time():
    lines, body, rows = three_forms(SYNTHETIC, "--ignore-eos", "--convert")
    check_forms(lines, body, rows, 9 + 3 - 1)
    own, *others = [types(r["structure"]) for r in body["results"]]
    assert own == {"attention": "gqa", "ffn": "swiglu", "sharing": "none"}
    assert all(sum(own[slot] != other[slot] for slot in own) == 1 for other in others)
    assert {o["attention"] for o in others} == {"gqa", "mha", "mqa", "linformer", "performer"}
    assert {o["ffn"] for o in others} == {"swiglu", "moe"}
    assert {o["sharing"] for o in others} == {"none", "all", "attention", "ffn", "groups"}
    labels = {r["structure"]["exactness"] for r in body["results"]}
    assert labels == {"exact", "approximate", "untrained"}


@pytest.fixture
def real_model():
    if FLAVOUR != "release" or not os.path.exists(SMOL):
        pytest.skip("needs the release build and models/SmolLM2 (make model)")


def test_command_table_json_and_csv(real_model, tmp_path, smol):
    text = tmp_path / "prompt.txt"
    text.write_text("The mill by the river")
    args = ["--file", text, "--structures", "gqa,mha,mqa+swiglu", "--convert", "--max-tokens", 5, "--repeats", 2]
    table = command(*args)
    assert table.returncode == 0 and table.stderr == "", table.stderr
    lines = table.stdout.splitlines()
    assert [l.split()[0] for l in lines[1:4]] == ["gqa+swiglu+none", "mha+swiglu+none", "mqa+swiglu+none"]
    assert [l.split()[1] for l in lines[1:4]] == ["native", "exact", "untrained"]
    body = json.loads(command(*args, "--json").stdout)
    check_reply(body, 3, 2)
    rows = list(csv.DictReader(io.StringIO(command(*args, "--csv").stdout, newline="")))
    served = compare(smol, sequence="The mill by the river", structures=THREE[:1] + THREE[2:] + THREE[1:2], max_tokens=5,
                     repeats=2).json()
    for row, mine, theirs in zip(rows, body["results"], served["results"]):
        assert mine["outputs"] == theirs["outputs"] and mine["fidelity"] == theirs["fidelity"]
        assert mine["structure"] == theirs["structure"]
        assert row["text"] == mine["outputs"][0]["text"]
        assert math.isclose(float(row["mean_kl"]), mine["fidelity"]["mean_kl"], rel_tol=1e-6, abs_tol=1e-9)
    everything = command("--prompt", "The mill", "--max-tokens", 2, "--repeats", 1).stdout.splitlines()
    assert everything[1].split()[:2] == ["gqa+swiglu+none", "native"]
    assert {l.split()[1] for l in everything[2:everything.index("")]} == {"exact"}
    score = command("--file", "-", "--structures", "gqa", "--task", "score", "--repeats", 1, input="The mill")
    assert score.returncode == 0 and "bits/byte" in score.stdout
