"""Clients that leave: their work ends within a step, wherever it was; slow readers; drips."""
import json
import socket
import struct
import time

import pytest

from conftest import SLOW, infer_bytes, metric

pytestmark = pytest.mark.tsan


@pytest.fixture(scope="module")
def slow():
    from conftest import Server
    s = Server("--max-running", "4", env={"STUB_STEP_US": "10000"})
    yield s
    s.stop()


def cancelled(s, **labels):
    return metric(s.metrics(), "quern_cancelled_total", **labels)


def close(sock, how):
    if how == "reset":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif how == "half":
        sock.shutdown(socket.SHUT_WR)
        return
    sock.close()


@pytest.mark.parametrize("how", ["fin", "reset", "half"])
@pytest.mark.parametrize("stream", [False, True])
def test_running_request_ends_when_its_client_leaves(slow, how, stream):
    before = cancelled(slow)
    with slow.connect() as s:
        s.sendall(infer_bytes({"sequence": "a", "max_tokens": 2000, "stream": stream}))
        slow.wait_metric("quern_running", lambda v: v == 1)
        if stream:
            s.recv(100)
        close(s, how)
        begun = time.monotonic()
        slow.wait_metric("quern_running", lambda v: v == 0)
        assert time.monotonic() - begun < 1 * SLOW
        slow.wait_metric("quern_cancelled_total", lambda v: v == before + 1)
    slow.wait_metric("quern_kv_used_bytes", lambda v: v == 0)


def test_queued_request_ends_when_its_client_leaves(slow):
    holders = []
    for i in range(4):
        s = slow.connect()
        s.sendall(infer_bytes({"sequence": "h%d" % i, "max_tokens": 2000}))
        holders.append(s)
    slow.wait_metric("quern_running", lambda v: v == 4)
    before = cancelled(slow, phase="queued")
    with slow.connect() as s:
        s.sendall(infer_bytes({"sequence": "q", "max_tokens": 10}))
        slow.wait_metric("quern_queue_depth", lambda v: v == 1)
        s.close()
        slow.wait_metric("quern_queue_depth", lambda v: v == 0)
    slow.wait_metric("quern_cancelled_total", lambda v: v == before + 1, phase="queued")
    [s.close() for s in holders]
    slow.wait_metric("quern_running", lambda v: v == 0)


def test_fin_behind_pipelined_requests(slow):
    before = metric(slow.metrics(), "quern_running")
    with slow.connect() as s:
        s.sendall(infer_bytes({"sequence": "a", "max_tokens": 2000}) + infer_bytes({"sequence": "b", "max_tokens": 9}))
        slow.wait_metric("quern_running", lambda v: v == 1)
    slow.wait_metric("quern_running", lambda v: v == before)


def test_hundred_clients_leave_at_once(start):
    s = start("--max-running", "64", "--max-queue", "256", env={"STUB_STEP_US": "5000"})
    socks = []
    for i in range(100):
        c = s.connect()
        c.sendall(infer_bytes({"sequence": "c%d" % i, "max_tokens": 2000, "stream": i % 2 == 0}))
        socks.append(c)
    s.wait_metric("quern_running", lambda v: v >= 50)
    [c.close() for c in socks]
    s.wait_metric("quern_running", lambda v: v == 0)
    s.wait_metric("quern_queue_depth", lambda v: v == 0)
    s.wait_metric("quern_kv_used_bytes", lambda v: v == 0)
    s.wait_metric("quern_cancelled_total", lambda v: v == 100)


def test_left_clients_are_logged_as_499(slow):
    with slow.connect() as s:
        s.sendall(infer_bytes({"sequence": "a", "max_tokens": 2000}, "x-request-id: leaver\r\n"))
        slow.wait_metric("quern_running", lambda v: v == 1)
    line = slow.wait_line("id=leaver").string
    assert "status=499" in line and "cancelled=true" in line


def test_clients_that_close_with_their_request_leave_nothing_behind(start):
    """The end of the stream arrives together with the request, or behind it: no connection lingers."""
    s = start()
    fds = metric(s.metrics(), "process_open_fds")
    wires = [b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n", b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n" * 3, b"GET /li", b"",
             infer_bytes({"sequence": "a", "max_tokens": 3}), infer_bytes({"sequence": "a", "max_tokens": 3})[:-5],
             infer_bytes({"sequence": "a", "max_tokens": 3, "stream": True})]
    for i in range(350):
        c = s.connect()
        c.sendall(wires[i % len(wires)])
        close(c, ["fin", "reset"][i // len(wires) % 2])
        c.close()
    s.wait_metric("process_open_fds", lambda v: v <= fds + 3)
    s.wait_metric("quern_running", lambda v: v == 0)


def test_many_clients_that_left_at_the_same_moment(start):
    """All their ends are waiting when the server looks: it must get past them."""
    import resource
    import signal
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20000), hard))
    s = start()
    socks = [s.connect() for _ in range(2500 if hard >= 8000 else 400)]
    for c in socks:
        c.sendall(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n")
        c.recv(1000)
    s.signal(signal.SIGSTOP)
    [c.close() for c in socks]
    s.signal(signal.SIGCONT)
    assert s.get("/livez").text == "ok\n"


def test_silent_stream_gets_a_comment_every_fifteen_seconds(start):
    s = start(env={"STUB_STEP_US": "16500000"})
    with s.connect() as c:
        c.settimeout(30 * SLOW)
        c.sendall(infer_bytes({"sequence": "a", "max_tokens": 1, "stream": True}, "Connection: close\r\n"))
        data = b""
        while chunk := c.recv(65536):
            data += chunk
    assert data.index(b": ping\n\n") < data.index(b"data: ") and b"data: [DONE]" in data


def test_slow_readers_hold_bounded_memory_and_nobody_else(start):
    """Readers that don't read: the engine pauses them, others stream on, memory stays."""
    s = start(env={"STUB_ASCII": "1"})
    rss = metric(s.metrics(), "process_resident_memory_bytes")
    socks = []
    for i in range(20):
        c = s.connect(rcvbuf=4096)
        c.sendall(infer_bytes({"sequence": "s%d" % i, "max_tokens": 4000, "logprobs": 20, "stream": True}))
        socks.append(c)
    s.wait_metric("quern_paused", lambda v: v >= 15, timeout=30 * SLOW)
    for _ in range(5):
        assert s.infer(sequence="quick", max_tokens=50).status_code == 200
    grown = metric(s.metrics(), "process_resident_memory_bytes") - rss
    assert SLOW > 1 or grown < 64 * 2**20, grown  # sanitizers have memory of their own
    [c.close() for c in socks]
    s.wait_metric("quern_running", lambda v: v == 0)
    s.wait_metric("quern_paused", lambda v: v == 0)


def test_paused_stream_goes_on_when_it_is_read(start):
    s = start(env={"STUB_ASCII": "1"})
    with s.connect(rcvbuf=4096) as c:
        c.sendall(infer_bytes({"sequence": "z", "max_tokens": 3000, "logprobs": 20, "stream": True},
                              "Connection: close\r\n"))
        s.wait_metric("quern_paused", lambda v: v == 1, timeout=30 * SLOW)
        data = b""
        while chunk := c.recv(65536):
            data += chunk
    assert data.rstrip().endswith(b"0") and b"data: [DONE]" in data[-200:]
    assert data.count(b'"token":') >= 3000
