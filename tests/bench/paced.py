"""GET /livez at a fixed rate while prompts are read in: paced.py PORT RATE SECONDS. A request's time counts from when it
was due, not from when it was sent, so that a stall is not left out of the figures. Standard library only."""
import json
import socket
import sys
import threading
import time
import urllib.request

CONNECTIONS, PROMPT = 16, 2048
REQUEST = b"GET /livez HTTP/1.1\r\nHost: b\r\n\r\n"


def prompts(port, stop, seen):
    k = 0
    while not stop.is_set():
        k += 1
        ids = [1000 + (k * 7919 + i * 104729) % 30000 for i in range(PROMPT)]
        body = {"sequence": ids, "max_tokens": 1, "cache": False}
        urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/v1/infer", json.dumps(body).encode()),
                               timeout=600).read()
        seen.append(k)


def worker(port, first, plan, late):
    """Requests first, first + CONNECTIONS, … of the plan, each at its time or as soon after it as this connection can."""
    start, rate, total = plan
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(first, total, CONNECTIONS):
            due = start + i / rate
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            s.sendall(REQUEST)
            data = b""
            while not data.endswith(b"ok\n"):
                got = s.recv(4096)
                if not got:
                    raise SystemExit("paced: the server closed a connection")
                data += got
            late.append(time.monotonic() - due)


def main():
    port, rate, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    stop, seen, late = threading.Event(), [], []
    load = threading.Thread(target=prompts, args=(port, stop, seen))
    load.start()
    time.sleep(0.2)
    plan = (time.monotonic() + 0.1, rate, int(rate * seconds))
    threads = [threading.Thread(target=worker, args=(port, k, plan, late)) for k in range(CONNECTIONS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    stop.set()
    load.join()
    late.sort()
    at = {p: 1e3 * late[min(len(late) - 1, int(len(late) * p))] for p in (0.5, 0.99, 1.0)}
    print(f"GET /livez at {rate} requests/s beside {PROMPT}-token prompts: {len(late)} answers, {len(seen)} prompts, "
          f"p50 {at[0.5]:.2f} ms, p99 {at[0.99]:.2f} ms (goal 10), worst {at[1.0]:.2f} ms")


main()
