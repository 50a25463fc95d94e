"""Inference over HTTP: replies, streams, tokenizing, logs."""
import concurrent.futures
import json
import re
import time

import pytest
import requests

from conftest import SLOW, check_error, infer_bytes, metric, read_sse

pytestmark = pytest.mark.tsan


def test_reply_has_every_part(srv):
    r = srv.infer(sequence="hello", max_tokens=5)
    assert r.status_code == 200, r.text
    body = r.json()
    assert body["object"] == "inference" and body["id"].startswith("inf-") and body["model"] == "stub"
    assert set(body) >= {"id", "object", "created", "model", "structure", "outputs", "usage", "timings", "memory", "cost"}
    assert body["usage"]["completion_tokens"] == 5 and len(body["outputs"][0]["tokens"]) == 5
    t = body["timings"]
    parts = sum(t[k + "_ms"] for k in ("queue", "tokenize", "convert", "prefill", "decode", "finish"))
    assert abs(parts - t["total_ms"]) <= max(0.5, 0.01 * t["total_ms"])
    names = re.findall(r"(\w+);dur=[\d.]+", r.headers["server-timing"])
    assert names == ["queue", "tokenize", "convert", "prefill", "decode", "finish", "total"]


def test_same_request_same_tokens(srv):
    a, b = (srv.infer(sequence="hello", max_tokens=9).json()["outputs"][0] for _ in range(2))
    assert a["tokens"] == b["tokens"] and a["text"] == b["text"]


def test_batch_and_score(srv):
    body = srv.infer(sequence=["ab", "cde", [1, 2, 3, 4]], max_tokens=2).json()
    assert [o["index"] for o in body["outputs"]] == [0, 1, 2]
    score = srv.infer(sequence="abcdef", task="score").json()["outputs"][0]["score"]
    assert score["tokens"] >= 5 and score["log_prob"] < 0


def test_stream_matches_reply(srv):
    plain = srv.infer(sequence="hello", max_tokens=20).json()
    r = srv.post("/v1/infer", {"sequence": "hello", "max_tokens": 20, "stream": True}, stream=True)
    assert r.headers["content-type"] == "text/event-stream" and r.headers["cache-control"] == "no-cache"
    events, done = read_sse(r)
    assert done
    tokens = [e for e in events if "token" in e]
    assert "".join(e["text"] for e in tokens) == plain["outputs"][0]["text"]
    final = events[-1]
    assert final["object"] == "inference" and final["outputs"][0]["tokens"] == plain["outputs"][0]["tokens"]


def test_stream_headers_come_before_the_first_token(start):
    s = start(env={"STUB_STEP_US": "500000"})
    t0 = time.monotonic()
    r = s.post("/v1/infer", {"sequence": "a", "max_tokens": 2, "stream": True}, stream=True)
    assert r.status_code == 200 and time.monotonic() - t0 < 0.4 * SLOW
    events, done = read_sse(r)
    assert done


def test_stream_keeps_the_connection(srv):
    with requests.Session() as s:
        for _ in range(3):
            r = s.post(srv.url + "/v1/infer", json={"sequence": "k", "max_tokens": 3, "stream": True}, stream=True,
                       timeout=20)
            assert read_sse(r)[1]
        assert s.get(srv.url + "/livez", timeout=10).text == "ok\n"


def test_http_10_stream_ends_with_the_connection(srv):
    body = json.dumps({"sequence": "a", "max_tokens": 3, "stream": True}).encode()
    data, closed = srv.raw(b"POST /v1/infer HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert closed and data.rstrip().endswith(b"data: [DONE]") and b"chunked" not in data


def test_pipelined_inference_in_order(srv):
    wire = b"".join(infer_bytes({"sequence": "p%d" % i, "max_tokens": 2, "stream": i % 3 == 0},
                                f"x-request-id: q{i}\r\n" + ("Connection: close\r\n" if i == 11 else ""))
                    for i in range(12))
    data, closed = srv.raw(wire, timeout=20)
    assert closed
    assert [int(i) for i in re.findall(rb"x-request-id: q(\d+)", data)] == list(range(12))


def test_forty_streams_at_once_equal_their_solo_runs(start):
    s = start(env={"STUB_STEP_US": "1000"})
    prompts = [f"prompt number {i} " * (1 + i % 5) for i in range(40)]
    solo = [s.infer(sequence=p, max_tokens=10 + i % 30).json()["outputs"][0]["tokens"] for i, p in enumerate(prompts)]

    def run(i):
        r = s.post("/v1/infer", {"sequence": prompts[i], "max_tokens": 10 + i % 30, "stream": True}, stream=True)
        if i % 3 == 2:  # leaves midway
            next(r.iter_lines(chunk_size=1))
            r.close()
            return None
        events, done = read_sse(r)
        assert done
        return events[-1]["outputs"][0]["tokens"]

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        results = list(pool.map(run, range(40)))
    for i, got in enumerate(results):
        assert got is None or got == solo[i]
    s.wait_metric("quern_running", lambda v: v == 0)
    s.wait_metric("quern_kv_used_bytes", lambda v: v == 0)


def test_errors_name_the_field(srv):
    check_error(srv.infer(sequence="a", temprature=1), 400, "unknown_field", "temprature")
    check_error(srv.infer(max_tokens=1), 400, None, "sequence")
    check_error(srv.infer(sequence="a", model="nope"), 404, "model_not_found", "model")
    check_error(srv.infer(sequence="a", attention="nope"), 400)
    check_error(srv.post("/v1/infer", b"{"), 400, "invalid_json")
    check_error(srv.post("/v1/infer", b""), 400, "invalid_json")
    check_error(srv.infer(sequence="a" * 5000, max_tokens=1), 400, "context_length_exceeded")


def test_error_in_mid_stream_is_an_event(start):
    s = start(env={"STUB_FAIL": "1", "STUB_STEP_US": "1000"})
    r = s.post("/v1/infer", {"sequence": "a", "max_tokens": 5, "stream": True}, stream=True)
    assert r.status_code == 200
    events, done = read_sse(r)
    assert done and set(events[-1]) == {"error"} and set(events[-1]["error"]) == {"message", "type", "param", "code"}
    assert s.infer(sequence="a", max_tokens=2).status_code == 200


def test_failed_step_is_500(start):
    s = start(env={"STUB_FAIL": "1"})
    check_error(s.infer(sequence="a", max_tokens=5), 500, "internal")
    assert s.infer(sequence="a", max_tokens=2).status_code == 200


def test_timeout_before_output_is_408_and_after_it_a_reason(start):
    s = start("--max-running", "1", env={"STUB_STEP_US": "50000"})
    r = s.infer(sequence="a", max_tokens=100, timeout_ms=400)
    assert r.status_code == 200 and r.json()["outputs"][0]["finish_reason"] == "timeout"
    hold = s.post("/v1/infer", {"sequence": "a", "max_tokens": 200, "stream": True}, stream=True)
    s.wait_metric("quern_running", lambda v: v == 1)
    check_error(s.infer(sequence="b", max_tokens=1, timeout_ms=150), 408, "timeout")
    hold.close()


def test_request_timeout_option(start):
    s = start("--request-timeout", "300ms", env={"STUB_STEP_US": "50000"})
    assert s.infer(sequence="a", max_tokens=100).json()["outputs"][0]["finish_reason"] == "timeout"


def test_tokenize_and_back(srv):
    t = srv.post("/tokenize", {"prompt": "abc"}).json()
    assert t["count"] == 3 and len(t["tokens"]) == 3
    assert srv.post("/detokenize", {"tokens": t["tokens"]}).json()["text"] == "abc"
    check_error(srv.post("/detokenize", {"tokens": [1, 10**6]}), 400, None, "tokens")
    check_error(srv.post("/tokenize", {"prompt": "a", "model": "nope"}), 404, "model_not_found")
    check_error(srv.post("/tokenize", {}), 400)


def test_requests_are_counted(srv):
    before = srv.metrics()
    srv.infer(sequence="hello", max_tokens=7)
    after = srv.metrics()
    grown = lambda name, **l: metric(after, name, **l) - metric(before, name, **l)
    assert grown("quern_requests_total", task="generate") == 1
    assert grown("quern_generated_tokens_total") == 7
    assert grown("quern_request_seconds_count") == 1
    assert grown("quern_phase_seconds_count", phase="prefill") == 1
    assert grown("quern_time_to_first_token_seconds_count") == 1
    assert grown("quern_http_responses_total", code=200) >= 2


SECRET = "Zwielichtgestalt"


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_has_a_line_per_request_and_no_prompt(start, form):
    s = start("--log-format", form, env={"STUB_ASCII": "1"})
    s.infer(sequence=SECRET, max_tokens=3, headers={"x-request-id": "logged-1"})
    s.post("/v1/infer", {"sequence": SECRET, "stream": True, "max_tokens": 2}, headers={"x-request-id": "logged-2"})
    s.post("/v1/infer", ('{"sequence": "%s" nonsense' % SECRET).encode(), headers={"x-request-id": "logged-3"})
    s.infer(sequence=SECRET, unknown=1, headers={"x-request-id": "logged-4"})
    s.get("/" + SECRET + "?q=" + SECRET, headers={"x-request-id": "logged-5"})
    s.post("/tokenize", {"prompt": SECRET}, headers={"x-request-id": "logged-6"})
    s.get("/livez", headers={"x-request-id": "health-1"})
    s.get("/metrics", headers={"x-request-id": "health-2"})
    for i in range(1, 7):
        s.wait_line(f"logged-{i}")
    text = s.log()
    assert SECRET not in text and "health-" not in text
    lines = [l for l in text.splitlines() if "logged-1" in l]
    assert len(lines) == 1
    if form == "json":
        rows = [json.loads(l) for l in text.splitlines()]
        row = [r for r in rows if r.get("id") == "logged-1"][0]
        assert row["status"] == 200 and row["route"] == "/v1/infer" and row["model"] == "stub"
        assert row["attention"] == "gqa" and row["completion_tokens"] == 3 and row["state_bytes"] > 0
        assert {"queue_ms", "prefill_ms", "decode_ms", "prompt_tokens", "time", "level"} <= set(row)
        assert [r for r in rows if r.get("id") == "logged-2"][0]["stream"] is True
        assert [r for r in rows if r.get("id") == "logged-3"][0]["error"] == "invalid_json"


def test_access_log_can_be_off(start):
    s = start("--access-log", "off")
    s.infer(sequence="a", max_tokens=1, headers={"x-request-id": "unseen"})
    s.stop()
    assert "unseen" not in s.log()
