"""Fixtures: real server processes on free ports, raw sockets, SSE reading.

QUERN_STUB_BIN names the server that is linked with the fake model (build/<flavour>/tests/stub_server). Each server is
stopped with SIGTERM and must then exit with 0, without a sanitizer report on stderr.
"""
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest
import requests

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
REAL = os.environ.get("QUERN_BIN", os.path.join(ROOT, "build", "release", "quern"))
STUB = os.environ.get("QUERN_STUB_BIN", os.path.join(ROOT, "build", "release", "tests", "stub_server"))
FLAVOUR = os.environ.get("QUERN_FLAVOUR", "release")
SMOL = os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
SLOW = 4 if FLAVOUR in ("asan", "tsan") else 1  # patience, not a measurement
REPORTS = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer", "runtime error:")


class Server:
    def __init__(self, *args, env=None, model="stub", ready=True, binary=None):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("QUERN_") or k == "QUERN_ISA"}
        environment.update(env or {})
        cmd = ([binary, "serve"] if binary else [STUB]) + (["--model", model] if model else [])
        if not any(str(a).startswith("--listen") for a in args):
            cmd += ["--listen", "127.0.0.1:0"]
        self.proc = subprocess.Popen(cmd + [str(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE, env=environment)
        self.lines = []
        self.cond = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.port = int(self.wait_line(r"listening on \S+ port (\d+)").group(1))
        self.url = f"http://127.0.0.1:{self.port}"
        if ready:
            self.wait_line(r"ready after")

    def _read(self):
        for raw in self.proc.stderr:
            with self.cond:
                self.lines.append(raw.decode("utf-8", "replace"))
                self.cond.notify_all()
        with self.cond:
            self.lines.append(None)
            self.cond.notify_all()

    def wait_line(self, pattern, timeout=20 * SLOW):
        end = time.monotonic() + timeout
        at = 0
        with self.cond:
            while True:
                for line in self.lines[at:]:
                    if line is None:
                        raise AssertionError(f"server ended before {pattern!r}:\n{self.log()}")
                    m = re.search(pattern, line)
                    if m:
                        return m
                at = len(self.lines)
                left = end - time.monotonic()
                if left <= 0 or not self.cond.wait(left):
                    raise AssertionError(f"no line {pattern!r} in time:\n{self.log()}")

    def log(self):
        return "".join(l for l in self.lines if l)

    def signal(self, number=signal.SIGTERM):
        self.proc.send_signal(number)

    def wait(self, timeout=30 * SLOW):
        code = self.proc.wait(timeout)
        self.reader.join(5)
        text = self.log()
        for mark in REPORTS:
            assert mark not in text, text
        return code

    def stop(self):
        if self.proc.poll() is None:
            self.signal()
        try:
            code = self.wait()
        except subprocess.TimeoutExpired:
            self.proc.kill()
            raise AssertionError("server did not stop:\n" + self.log())
        assert code == 0, (code, self.log())

    # --- clients ---
    def get(self, path, **kw):
        kw.setdefault("timeout", 20 * SLOW)
        return requests.get(self.url + path, **kw)

    def post(self, path, body, **kw):
        kw.setdefault("timeout", 60 * SLOW)
        if isinstance(body, (dict, list)):
            return requests.post(self.url + path, json=body, **kw)
        return requests.post(self.url + path, data=body, **kw)

    def infer(self, **body):
        headers = body.pop("headers", None)
        return self.post("/v1/infer", body, headers=headers)

    def metrics(self):
        return parse_metrics(self.get("/metrics").text)

    def wait_metric(self, name, test, timeout=10 * SLOW, **labels):
        end = time.monotonic() + timeout
        while True:
            value = metric(self.metrics(), name, **labels)
            if test(value):
                return value
            assert time.monotonic() < end, f"{name}{labels} = {value}"
            time.sleep(0.02)

    def connect(self, rcvbuf=None):
        s = socket.socket()
        if rcvbuf:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        s.settimeout(20 * SLOW)
        s.connect(("127.0.0.1", self.port))
        return s

    def raw(self, payload, timeout=5 * SLOW, half_close=False):
        """Sends bytes, returns all that comes until the server closes or `timeout` passes (None: never closed)."""
        with self.connect() as s:
            s.settimeout(timeout)
            got = b""
            try:
                s.sendall(payload)
                if half_close:
                    s.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused early: the reply can be read all the same
            try:
                while True:
                    chunk = s.recv(65536)
                    if not chunk:
                        return got, True
                    got += chunk
            except socket.timeout:
                return got, False
            except ConnectionError:
                return got, True


def infer_bytes(body, extra=""):
    data = json.dumps(body).encode()
    return (f"POST /v1/infer HTTP/1.1\r\nHost: t\r\nContent-Length: {len(data)}\r\n{extra}\r\n".encode() + data)


def parse_metrics(text):
    """{(name, frozenset(labels))}: value; asserts the text format's rules on the way."""
    values, typed, helped = {}, {}, set()
    last = None
    for line in text.splitlines():
        m = re.match(r"# HELP (\S+) (.+)$", line)
        if m:
            assert m.group(1) not in helped, line
            helped.add(m.group(1))
            continue
        m = re.match(r"# TYPE (\S+) (counter|gauge|histogram)$", line)
        if m:
            assert m.group(1) in helped and m.group(1) not in typed, line
            typed[m.group(1)] = m.group(2)
            last = m.group(1)
            continue
        m = re.match(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(.*)\})? (\S+)$', line)
        assert m, f"not a sample: {line!r}"
        name = m.group(1)
        base = re.sub(r"_(bucket|sum|count)$", "", name) if typed.get(last) == "histogram" else name
        assert base == last, f"{line!r} stands outside its group {last}"
        if typed[base] == "counter":
            assert name.endswith("_total"), name
        labels = frozenset(re.findall(r'([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"', m.group(3) or ""))
        key = (name, labels)
        assert key not in values, f"twice: {line!r}"
        values[key] = float(m.group(4))
    return values


def metric(values, name, **labels):
    want = {(k, str(v)) for k, v in labels.items()}
    found = [v for (n, l), v in values.items() if n == name and want <= set(l)]
    return sum(found) if found else 0.0


def read_sse(response):
    """(events, done): parsed data lines, and whether [DONE] came last."""
    events, done = [], False
    for line in response.iter_lines(chunk_size=1):
        if not line:
            continue
        line = line.decode()
        if line.startswith(":"):
            continue
        assert line.startswith("data: "), line
        assert not done, "data after [DONE]"
        if line == "data: [DONE]":
            done = True
        else:
            events.append(json.loads(line[6:]))
    return events, done


def check_error(reply, status, code=None, param="unset"):
    assert reply.status_code == status, (reply.status_code, reply.text)
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}, body
    assert isinstance(body["error"]["message"], str) and body["error"]["message"]
    if code:
        assert body["error"]["code"] == code, body
    if param != "unset":
        assert body["error"]["param"] == param, body
    assert reply.headers.get("x-request-id")
    if status in (429, 503):
        assert 1 <= int(reply.headers["retry-after"]) <= 30
    return body["error"]


@pytest.fixture(scope="module")
def smol():
    """SmolLM2 when it is there; under a sanitizer it would take too long."""
    if FLAVOUR != "release" or not os.path.exists(SMOL):
        pytest.skip("needs the release build and models/SmolLM2 (make model)")
    s = Server("--state-memory", "512MiB", model=SMOL, binary=REAL)
    yield s
    s.stop()


@pytest.fixture
def start():
    """start(*options, env=…) -> Server; stopped and checked at the end."""
    servers = []

    def make(*args, **kw):
        s = Server(*args, **kw)
        servers.append(s)
        return s

    yield make
    for s in servers:
        if s.proc.poll() is None:
            s.stop()


@pytest.fixture(scope="session")
def srv():
    """One server with default options for tests that leave no trace."""
    s = Server("--access-log", "on")
    yield s
    s.stop()


@pytest.fixture(scope="session")
def fast():
    """One server with short deadlines."""
    s = Server("--header-timeout", "800ms", "--body-timeout", "900ms", "--idle-timeout", "1s")
    yield s
    s.stop()
