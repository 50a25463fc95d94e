"""Small measurements over HTTP: http_probe.py cancel|idle PORT. Prints one line of numbers. Standard library only."""
import json
import re
import resource
import socket
import sys
import time


def connect(port):
    s = socket.create_connection(("127.0.0.1", port))
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s


class Metrics:
    """Asks /metrics over one kept connection."""

    def __init__(self, port):
        self.s = connect(port)

    def value(self, name):
        self.s.sendall(b"GET /metrics HTTP/1.1\r\nHost: b\r\n\r\n")
        data = b""
        while b"\r\n\r\n" not in data:
            data += self.s.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        want = int(re.search(rb"Content-Length: (\d+)", head).group(1))
        while len(body) < want:
            body += self.s.recv(65536)
        return sum(float(v) for v in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$".encode(), body, re.M))


def cancel(port):
    """Milliseconds from close() to the engine having dropped the request; plain and streaming requests in turn."""
    metrics, took = Metrics(port), []
    for i in range(60):
        body = json.dumps({"sequence": f"c{i}", "max_tokens": 3000, "stream": i % 2 == 0}).encode()
        before = metrics.value("quern_cancelled_total")
        s = connect(port)
        s.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while metrics.value("quern_running") < 1:
            pass
        start = time.monotonic()
        s.close()
        while metrics.value("quern_cancelled_total") == before:
            pass
        took.append((time.monotonic() - start) * 1000)
    took.sort()
    print(f"{took[len(took) // 2]:.2f} {took[-1]:.2f}")


def idle(port):
    """Bytes of resident memory per idle kept-alive connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    metrics = Metrics(port)
    for _ in range(20):
        before = metrics.value("process_resident_memory_bytes")
    socks = []
    for _ in range(2000):
        s = connect(port)
        s.sendall(b"GET /livez HTTP/1.1\r\nHost: b\r\n\r\n")
        s.recv(1000)
        socks.append(s)
    after = metrics.value("process_resident_memory_bytes")
    print(f"{(after - before) / len(socks) / 1024:.1f}")


{"cancel": cancel, "idle": idle}[sys.argv[1]](int(sys.argv[2]))
