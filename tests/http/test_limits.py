"""Sizes, deadlines, number of connections: who is refused reads the refusal, others are served meanwhile."""
import json
import re
import socket
import threading
import time

import pytest
import requests

from conftest import SLOW, check_error, infer_bytes, metric


@pytest.mark.tsan
@pytest.mark.parametrize("size", [1048577, 3_000_000, 8_000_000])
def test_too_long_body_is_read_and_answered(srv, size):
    r = srv.post("/v1/infer", b"x" * size)
    check_error(r, 413, "body_too_large")


@pytest.mark.tsan
def test_too_long_body_keeps_the_connection(srv):
    with requests.Session() as s:
        check_error(s.post(srv.url + "/v1/infer", data=b"x" * 2_000_000, timeout=20), 413)
        before = metric(srv.metrics(), "quern_http_connections_total")
        assert s.get(srv.url + "/livez", timeout=10).status_code == 200
    assert metric(srv.metrics(), "quern_http_connections_total") - before <= 1


@pytest.mark.tsan
def test_too_long_chunked_body(srv):
    def chunks():
        for _ in range(40):
            yield b"y" * 65536
    check_error(srv.post("/v1/infer", chunks()), 413, "body_too_large")


def read_despite_reset(s):
    data = b""
    try:
        while chunk := s.recv(65536):
            data += chunk
    except ConnectionError:
        pass
    return data


@pytest.mark.parametrize("head", [b"Content-Length: 100000000\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_endless_body_is_answered_and_closed(srv, head):
    """A client that never stops sending: 413, and the connection ends after 8 MiB or 2 s."""
    with srv.connect() as s:
        s.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: t\r\n" + head + b"\r\n")
        block = b"10000\r\n" + b"z" * 65536 + b"\r\n" if b"chunked" in head else b"z" * 65536
        sent, start = 0, time.monotonic()
        try:
            while time.monotonic() - start < 10 * SLOW:
                s.sendall(block)
                sent += len(block)
        except OSError:
            pass
        assert time.monotonic() - start < 8 * SLOW and sent < 64 * 2**20
        assert read_despite_reset(s).startswith(b"HTTP/1.1 413 ")


def test_refused_body_that_stalls_is_answered_within_two_seconds(srv):
    with srv.connect() as s:
        s.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 1000)
        start = time.monotonic()
        data = read_despite_reset(s)
    assert data.startswith(b"HTTP/1.1 413 ") and b"body_too_large" in data
    assert time.monotonic() - start < 4 * SLOW


def test_expect_continue_with_a_refused_body_sends_no_100(srv):
    with srv.connect() as s:
        s.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 2000000\r\n\r\n")
        data = read_despite_reset(s)
    assert data.startswith(b"HTTP/1.1 413 ")


def test_max_body_option(start):
    s = start("--max-body", "2KiB")
    assert s.infer(sequence="a" * 1000, max_tokens=1).status_code == 200
    check_error(s.infer(sequence="a" * 2100, max_tokens=1), 413)


@pytest.mark.tsan
@pytest.mark.parametrize("n", [65536, 65537, 300_000, 1_000_000])
def test_large_bodies_on_workers(srv, n):
    """Above 64 KiB a worker thread parses; the answer is the same kind of answer."""
    r = srv.post("/tokenize", {"prompt": "w" * n})
    assert r.status_code == 200 and r.json()["count"] == n
    check_error(srv.infer(sequence="w" * n, max_tokens=1), 400, "context_length_exceeded")
    check_error(srv.post("/v1/infer", b"{" + b" " * n), 400, "invalid_json")


@pytest.mark.tsan
def test_large_bodies_do_not_stop_others(srv):
    body = json.dumps({"prompt": "v" * 900_000}).encode()
    stop = threading.Event()

    def load():
        while not stop.is_set():
            srv.post("/tokenize", body)

    threads = [threading.Thread(target=load) for _ in range(4)]
    [t.start() for t in threads]
    worst = 0
    for _ in range(50):
        t0 = time.monotonic()
        assert srv.get("/livez").status_code == 200
        worst = max(worst, time.monotonic() - t0)
    stop.set()
    [t.join() for t in threads]
    assert worst < 2 * SLOW


def test_client_that_leaves_while_a_worker_parses(srv):
    body = json.dumps({"sequence": "u" * 900_000}).encode()
    for _ in range(10):
        with srv.connect() as s:
            s.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert srv.get("/livez").status_code == 200


# --- deadlines ---

def test_dripping_connections_end_while_others_are_served(start):
    """200 connections that send a byte now and then: all gone at the header deadline."""
    s = start("--header-timeout", "2s")
    socks = [s.connect() for _ in range(200)]
    head = b"GET /livez HTTP/1.1\r\nHost: t\r\nX-Slow: " + b"y" * 1000
    begun = time.monotonic()
    worst = 0
    alive = list(socks)
    i = 0
    while alive and time.monotonic() - begun < 12 * SLOW:
        for c in list(alive):
            try:
                c.sendall(head[i:i + 1])
                c.setblocking(False)
                try:
                    if c.recv(100) == b"":
                        alive.remove(c)
                except BlockingIOError:
                    pass
                c.setblocking(True)
            except OSError:
                alive.remove(c)
        t0 = time.monotonic()
        assert s.get("/livez").status_code == 200
        worst = max(worst, time.monotonic() - t0)
        i += 1
        time.sleep(0.2)
    took = time.monotonic() - begun
    [c.close() for c in socks]
    assert not alive, f"{len(alive)} still open"
    assert 1.5 < took < 6 * SLOW and worst < 1 * SLOW


def test_silent_connection_is_closed(fast):
    with fast.connect() as s:
        start_t = time.monotonic()
        assert s.recv(10) == b""
        assert time.monotonic() - start_t < 4 * SLOW


def test_dripping_body_gets_408(fast):
    with fast.connect() as s:
        s.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n")
        begun = time.monotonic()
        data = b""
        s.settimeout(0.1)
        while time.monotonic() - begun < 8 * SLOW:
            try:
                s.sendall(b"x")
            except OSError:
                break
            try:
                chunk = s.recv(1000)
                data += chunk
                if not chunk:
                    break
            except socket.timeout:
                pass
            except ConnectionError:
                break
        assert data.startswith(b"HTTP/1.1 408 ") and b'"code":"timeout"' in data
        assert time.monotonic() - begun < 4 * SLOW


def test_idle_keepalive_is_closed_after_its_time(fast):
    with fast.connect() as s:
        s.sendall(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n")
        begun = time.monotonic()
        data = b""
        while chunk := s.recv(1000):
            data += chunk
        assert data.endswith(b"ok\n") and 0.8 < time.monotonic() - begun < 4 * SLOW


# --- connections ---

def test_connections_above_the_limit_read_503(start):
    s = start("--max-connections", "8", "--header-timeout", "30s")
    idle = [s.connect() for _ in range(8)]
    time.sleep(0.2)
    for _ in range(5):
        with s.connect() as c:
            c.sendall(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n")
            data = read_despite_reset(c)
        assert data.startswith(b"HTTP/1.1 503 "), data
        assert b"too_many_connections" in data and b"Retry-After: " in data
    for c in idle:  # those below the limit still work
        c.sendall(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n")
        assert c.recv(1000).startswith(b"HTTP/1.1 200 ")
        c.close()
    time.sleep(0.2)
    assert s.get("/livez").status_code == 200


def test_connections_above_the_limit_post_503(start):
    s = start("--max-connections", "1")
    with s.connect():
        time.sleep(0.2)
        check_error(s.infer(sequence="abc", max_tokens=1), 503, "too_many_connections")


def test_silent_connection_above_the_limit_is_closed_soon(start):
    s = start("--max-connections", "1")
    with s.connect(), s.connect() as c:
        begun = time.monotonic()
        assert c.recv(10) == b"" and time.monotonic() - begun < 5 * SLOW


def test_five_thousand_connections_at_once(start):
    """Up to the limit each is answered, those above read a 503, and all descriptors come back."""
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20000), hard))
    n, limit = (5000, 4096) if hard >= 8000 else (800, 400)
    s = start("--max-connections", limit)
    fds = metric(s.metrics(), "process_open_fds")
    socks = [s.connect() for _ in range(n)]
    for c in socks:
        c.sendall(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n")
    codes = []
    for c in socks:
        codes.append(c.recv(1000)[9:12])
    assert set(codes) <= {b"200", b"503"} and limit - 5 <= codes.count(b"200") <= limit
    [c.close() for c in socks]
    s.wait_metric("process_open_fds", lambda v: v <= fds + 3)


# --- the queue ---

@pytest.mark.tsan
def test_full_queue_is_429_with_retry_after(start):
    s = start("--max-queue", "1", "--max-running", "1", env={"STUB_STEP_US": "20000"})
    streams = [s.post("/v1/infer", {"sequence": "a", "max_tokens": 500, "stream": True}, stream=True)]
    s.wait_metric("quern_running", lambda v: v == 1)
    with s.connect() as queued:
        queued.sendall(infer_bytes({"sequence": "b", "max_tokens": 1}))
        s.wait_metric("quern_queue_depth", lambda v: v == 1)
        for _ in range(3):
            check_error(s.infer(sequence="c", max_tokens=1), 429, "queue_full")
        big = s.infer(sequence="c" * 3000, max_tokens=1)  # its body is read before the refusal
        check_error(big, 429, "queue_full")
        assert metric(s.metrics(), "quern_refused_total", reason="queue_full") == 4
        [r.close() for r in streams]
        assert queued.recv(100).startswith(b"HTTP/1.1 200 ")


def test_429_keeps_the_connection(start):
    s = start("--max-queue", "1", "--max-running", "1", env={"STUB_STEP_US": "20000"})
    r = s.post("/v1/infer", {"sequence": "a", "max_tokens": 500, "stream": True}, stream=True)
    s.wait_metric("quern_running", lambda v: v == 1)
    with s.connect() as queued, s.connect() as c:
        queued.sendall(infer_bytes({"sequence": "b", "max_tokens": 1}))
        s.wait_metric("quern_queue_depth", lambda v: v == 1)
        for _ in range(2):
            c.sendall(infer_bytes({"sequence": "c"}))
            data = c.recv(10000)
            assert data.startswith(b"HTTP/1.1 429 ") and b"close" not in data.lower()
    r.close()


def test_work_that_can_never_fit_is_400(start):
    s = start("--state-memory", "64KiB")
    check_error(s.infer(sequence="a" * 3000, max_tokens=1000), 400, "request_too_large")
