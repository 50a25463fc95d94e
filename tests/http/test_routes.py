"""Routes, methods, headers of every reply, errors."""
import re
import socket

import pytest

from conftest import check_error, metric, parse_metrics

pytestmark = pytest.mark.tsan


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz", "/health", "/"])
def test_open_routes_answer_text(srv, path):
    r = srv.get(path)
    assert r.status_code == 200 and r.text
    assert r.headers["content-type"].startswith("text/plain")
    assert re.fullmatch(r"req-[0-9a-f]{24}", r.headers["x-request-id"])


@pytest.mark.parametrize("path", ["/openapi.json", "/v1/models", "/v1/structures"])
def test_json_routes(srv, path):
    r = srv.get(path)
    assert r.status_code == 200, r.text
    assert r.headers["content-type"] == "application/json"
    assert isinstance(r.json(), dict)


def test_head_has_the_same_headers_without_a_body(srv):
    import requests
    get, head = srv.get("/livez"), requests.head(srv.url + "/livez", timeout=10)
    assert head.status_code == 200 and head.content == b""
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize("path", ["/nope", "/v1", "/v1/", "/v1/models/", "/livez/", "/livez/x", "//livez", "/v1/inferx",
                                  "/%6Civez%00", "/livez%00", "/livez%", "/livez%zz", "/../livez", "/" + "a" * 3000])
def test_unknown_paths(srv, path):
    with srv.connect() as s:
        s.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        data = b""
        while chunk := s.recv(65536):
            data += chunk
    assert data.startswith(b"HTTP/1.1 404 "), data[:200]
    assert b'"code":"not_found"' in data and b'"param":null' in data


def test_escaped_path_is_the_same_path(srv):
    with srv.connect() as s:
        s.sendall(b"GET /%6Civez HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert s.recv(100).startswith(b"HTTP/1.1 200 ")


def test_query_is_ignored(srv):
    for query in ("verbose=1&x=%00", "model=", "model=%00"):
        assert srv.get("/livez?" + query).status_code == 200, query


@pytest.mark.parametrize("method,path,allow", [
    ("POST", "/livez", "GET, HEAD, OPTIONS"), ("DELETE", "/v1/models", "GET, HEAD, OPTIONS"),
    ("GET", "/v1/infer", "POST, OPTIONS"), ("HEAD", "/v1/infer", "POST, OPTIONS"),
    ("PUT", "/tokenize", "POST, OPTIONS"), ("PATCH", "/v1/models/x", "GET, HEAD, OPTIONS"),
    ("TRACE", "/livez", "GET, HEAD, OPTIONS"), ("BREW", "/livez", "GET, HEAD, OPTIONS")])
def test_wrong_method(srv, method, path, allow):
    import requests
    r = requests.request(method, srv.url + path, timeout=10)
    assert r.status_code == 405 and r.headers["allow"] == allow
    if method != "HEAD":
        check_error(r, 405, "method_not_allowed")


def test_wrong_method_keeps_the_connection(srv):
    import requests
    with requests.Session() as s:
        assert s.put(srv.url + "/livez", data=b"x" * 1000, timeout=10).status_code == 405
        assert s.get(srv.url + "/livez", timeout=10).status_code == 200


def test_cors_preflight_and_reply(srv):
    import requests
    asked = "authorization,content-type,x-stainless-os"
    r = requests.options(srv.url + "/v1/infer", headers={"Origin": "http://a.example",
                                                         "Access-Control-Request-Method": "POST",
                                                         "Access-Control-Request-Headers": asked}, timeout=10)
    assert r.status_code == 204 and r.content == b""
    assert r.headers["access-control-allow-origin"] == "*"
    assert r.headers["access-control-allow-headers"] == asked
    assert "POST" in r.headers["access-control-allow-methods"]
    r = srv.get("/livez", headers={"Origin": "http://a.example"})
    assert r.headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in r.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in srv.get("/livez").headers


def test_plain_options(srv):
    import requests
    r = requests.options(srv.url + "/v1/infer", timeout=10)
    assert r.status_code == 204 and r.headers["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize("given", ["abc", "A-1._:/+=@z", "x" * 128])
def test_request_id_is_taken(srv, given):
    assert srv.get("/livez", headers={"x-request-id": given}).headers["x-request-id"] == given
    assert srv.get("/nope", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\"b", "<script>", "é".encode()])
def test_request_id_is_replaced(srv, given):
    r = srv.get("/livez", headers={"x-request-id": given})
    assert re.fullmatch(r"req-[0-9a-f]{24}", r.headers["x-request-id"])


def test_request_ids_differ(srv):
    ids = {srv.get("/livez").headers["x-request-id"] for _ in range(50)}
    assert len(ids) == 50


def test_unknown_model_escaped_slash(srv):
    e = check_error(srv.get("/v1/models/org%2Fname"), 404, "model_not_found", "model")
    assert "org/name" in e["message"]


def test_model_by_id(srv):
    listing = srv.get("/v1/models").json()
    assert listing["object"] == "list" and listing["data"]
    one = srv.get("/v1/models/" + listing["data"][0]["id"])
    assert one.status_code == 200 and one.json()["id"] == listing["data"][0]["id"]


def test_pipelined_requests_are_answered_in_order(srv):
    paths = ["/livez", "/nope", "/readyz", "/v1/models", "/livez"] * 4
    with srv.connect() as s:
        wire = b"".join(f"GET {p} HTTP/1.1\r\nHost: t\r\nx-request-id: n{i}\r\n\r\n".encode()
                        for i, p in enumerate(paths))
        s.sendall(wire[:-2] + b"Connection: close\r\n\r\n")
        data = b""
        while chunk := s.recv(65536):
            data += chunk
    ids = re.findall(rb"x-request-id: n(\d+)", data)
    assert [int(i) for i in ids] == list(range(len(paths)))
    codes = re.findall(rb"HTTP/1.1 (\d+)", data)
    assert codes == [b"404" if p == "/nope" else b"200" for p in paths]


def test_http_10_gets_no_chunks_and_a_close(srv):
    data, closed = srv.raw(b"GET /livez HTTP/1.0\r\n\r\n")
    assert closed and data.startswith(b"HTTP/1.") and b" 200 " in data and data.endswith(b"\r\n\r\nok\n")
    assert b"chunked" not in data


def test_half_closed_client_gets_what_needs_no_waiting(srv):
    data, closed = srv.raw(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n", half_close=True)
    assert closed and data.endswith(b"ok\n")


def test_metrics_page(srv):
    srv.get("/livez")
    r = srv.get("/metrics")
    assert r.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    values = parse_metrics(r.text)
    for name in ("quern_http_requests_total", "quern_queue_depth", "quern_queue_tokens", "quern_running",
                 "quern_kv_used_bytes", "quern_kv_budget_bytes", "quern_kv_utilization_ratio", "quern_bytes",
                 "quern_build_info", "quern_ready", "quern_time_to_first_token_seconds_bucket",
                 "quern_inter_token_seconds_bucket", "quern_phase_seconds_bucket", "quern_request_seconds_sum",
                 "quern_step_seconds_count", "quern_refused_total", "process_cpu_seconds_total",
                 "process_resident_memory_bytes", "process_open_fds", "process_max_fds",
                 "process_start_time_seconds"):
        assert any(n == name for n, _ in values), name
    assert metric(values, "quern_ready") == 1
    assert metric(values, "quern_http_requests_total") >= 2
    phases = {dict(l)["phase"] for n, l in values if n == "quern_phase_seconds_count"}
    assert phases == {"queue", "tokenize", "convert", "prefill", "decode", "finish"}
    kinds = {dict(l)["kind"] for n, l in values if n == "quern_bytes"}
    assert kinds == {"weights", "converted", "state_used", "state_cached", "state_budget", "scratch", "tokenizer"}


def test_histogram_buckets_are_cumulative(srv):
    srv.infer(sequence="abc", max_tokens=3)
    values = srv.metrics()
    rows = {}
    for (n, l), v in values.items():
        if n == "quern_request_seconds_bucket":
            rows[float(dict(l)["le"].replace("+Inf", "inf"))] = v
    ordered = [rows[k] for k in sorted(rows)]
    assert ordered == sorted(ordered) and len(ordered) == 19
    assert ordered[-1] == metric(values, "quern_request_seconds_count") >= 1
