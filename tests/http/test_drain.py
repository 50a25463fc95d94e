"""SIGTERM: what is served, what is refused, what is finished, and how long it takes."""
import signal
import subprocess
import threading
import time

import pytest
import requests

from conftest import REAL, SLOW, Server, check_error, infer_bytes, read_sse

pytestmark = pytest.mark.tsan


def test_idle_server_leaves_at_once(start):
    s = start()
    with s.connect() as idle:
        begun = time.monotonic()
        s.stop()
        assert time.monotonic() - begun < 2 * SLOW
        assert idle.recv(10) == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_requests_finish(start, number):
    s = start(env={"STUB_STEP_US": "10000"})
    results = []

    def run(stream):
        r = s.post("/v1/infer", {"sequence": "a", "max_tokens": 60, "stream": stream}, stream=stream)
        if stream:
            events, done = read_sse(r)
            results.append(done and events[-1]["outputs"][0]["finish_reason"] == "length")
        else:
            results.append(r.status_code == 200 and len(r.json()["outputs"][0]["tokens"]) == 60)

    threads = [threading.Thread(target=run, args=(i % 2 == 0,)) for i in range(10)]
    [t.start() for t in threads]
    s.wait_metric("quern_running", lambda v: v == 10)
    s.signal(number)
    assert s.wait() == 0, s.log()
    [t.join() for t in threads]
    assert results == [True] * 10


def test_delay_serves_on_and_says_so(start):
    s = start("--drain-delay", "1500ms")
    with requests.Session() as session:
        assert session.get(s.url + "/readyz", timeout=5).status_code == 200
        s.signal()
        s.wait_line("leaving")
        r = s.get("/readyz")
        assert r.status_code == 503 and r.text == "draining\n"
        assert r.headers["connection"].lower() == "close"
        live = s.get("/livez")
        assert live.status_code == 200 and live.headers["connection"].lower() == "close"
        r = s.infer(sequence="a", max_tokens=2)  # new work is still welcome
        assert r.status_code == 200 and r.headers["connection"].lower() == "close"
    assert s.wait() == 0
    with pytest.raises(requests.ConnectionError):
        s.get("/livez")


def test_requests_on_open_connections_are_refused_while_draining(start):
    s = start(env={"STUB_STEP_US": "10000"})
    with s.connect() as busy, s.connect() as other:
        busy.sendall(infer_bytes({"sequence": "a", "max_tokens": 150}))
        s.wait_metric("quern_running", lambda v: v == 1)
        other.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 33\r\n\r\n")  # head only: in flight
        time.sleep(0.2)
        s.signal()
        s.wait_line("draining")
        other.sendall(b'{"sequence":"ab","max_tokens": 1}')
        data = other.recv(10000)
        assert data.startswith(b"HTTP/1.1 503 ") and b'"code":"draining"' in data and b"Retry-After" in data
        assert busy.recv(100).startswith(b"HTTP/1.1 200 ")
    assert s.wait() == 0


def test_deadline_cancels_with_a_last_event(start):
    s = start("--drain-timeout", "600ms", env={"STUB_STEP_US": "20000"})
    r = s.post("/v1/infer", {"sequence": "a", "max_tokens": 3000, "stream": True}, stream=True)
    with s.connect() as c:
        c.sendall(infer_bytes({"sequence": "b", "max_tokens": 3000}))
        s.wait_metric("quern_running", lambda v: v == 2)
        begun = time.monotonic()
        s.signal()
        events, done = read_sse(r)
        assert done and events[-1]["error"]["code"] == "draining"
        data = c.recv(10000)
        assert data.startswith(b"HTTP/1.1 503 ") and b'"code":"draining"' in data
        assert s.wait() == 0
        assert 0.5 < time.monotonic() - begun < 2.5 * SLOW


def test_client_that_never_reads_does_not_hold_up_the_end(start):
    s = start("--drain-timeout", "300ms", env={"STUB_ASCII": "1"})
    with s.connect(rcvbuf=4096) as c:
        c.sendall(infer_bytes({"sequence": "b", "max_tokens": 4000, "logprobs": 20, "stream": True}))
        s.wait_metric("quern_paused", lambda v: v == 1, timeout=30 * SLOW)
        begun = time.monotonic()
        s.signal()
        assert s.wait() == 0
        assert time.monotonic() - begun < 3 * SLOW


def test_half_sent_request_does_not_hold_up_the_end(start):
    s = start("--drain-timeout", "300ms")
    with s.connect() as c, s.connect() as d:
        c.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n{")
        d.sendall(b"GET /livez HTT")
        time.sleep(0.2)
        begun = time.monotonic()
        s.stop()
        assert time.monotonic() - begun < 3 * SLOW


def test_second_signal_leaves_now(start):
    s = start(env={"STUB_STEP_US": "20000"})
    with s.connect() as c:
        c.sendall(infer_bytes({"sequence": "b", "max_tokens": 3000}))
        s.wait_metric("quern_running", lambda v: v == 1)
        s.signal()
        s.wait_line("draining")
        begun = time.monotonic()
        s.signal()
        assert s.wait() == 1
        assert time.monotonic() - begun < 1 * SLOW


def test_stopping_under_load_cuts_no_reply(start):
    """Clients hammer through SIGTERM with a drain delay: every request that got an answer got a whole one."""
    s = start("--drain-delay", "500ms", env={"STUB_STEP_US": "1000"})
    bad, good, stop = [], [0], threading.Event()

    def run():
        while not stop.is_set():
            try:
                r = s.infer(sequence="load", max_tokens=5)
                if r.status_code == 200 and len(r.json()["outputs"][0]["tokens"]) == 5:
                    good[0] += 1
                elif r.status_code != 503:
                    bad.append(r.text)
            except requests.ConnectionError as e:
                if s.proc.poll() is None and "Connection refused" not in str(e) and "reset" not in str(e).lower():
                    bad.append(str(e))
                return

    threads = [threading.Thread(target=run) for _ in range(8)]
    [t.start() for t in threads]
    time.sleep(0.5)
    s.signal()
    assert s.wait() == 0
    stop.set()
    [t.join() for t in threads]
    assert not bad and good[0] > 20


def test_signals_do_not_end_a_server_that_is_ending():
    """Once the drain is over nothing is left to hurry: the exit status stays 0, however many signals come."""
    for _ in range(5):
        s = Server("--threads", 1, model="grist", binary=REAL)
        s.signal()
        s.wait_line("draining: 0 requests")
        while s.proc.poll() is None:
            s.signal()
        assert s.wait() == 0


def test_sd_notify(start, tmp_path):
    import socket
    path = str(tmp_path / "notify")
    n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    n.bind(path)
    n.settimeout(10 * SLOW)
    s = start(env={"NOTIFY_SOCKET": path})
    assert n.recv(1000).startswith(b"READY=1")
    s.stop()
    assert n.recv(1000) == b"STOPPING=1"
