"""Server against server: streaming clients with 64-token prompts and 64 new tokens each, quern and a llama-server in
turns on the same file. Used by peer.py. Standard library only."""
import http.client
import json
import socket
import statistics
import subprocess
import threading
import time

PROMPT, NEW = 64, 64


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def command(o, side, model, port):
    if side == "quern":
        return [o.quern, "serve", "--model", model, "--listen", f"127.0.0.1:{port}", "--threads", str(o.threads),
                "--access-log", "off"]
    return [o.peer_server, "-m", model, "--host", "127.0.0.1", "--port", str(port), "-t", str(o.threads),
            "-tb", str(o.threads), "-np", str(o.clients), "-c", str(o.clients * 256), "-fa", "on"]


def ready(port, path, process):
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            c.request("GET", path)
            if c.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.02)
    raise SystemExit(f"peer: the server on port {port} did not become ready")


def resident_mb(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith("VmRSS"))


def body(side, k):
    """Prompts differ from the first token on: no prefix is shared."""
    ids = [1000 + (k * 7919 + i * 104729) % 30000 for i in range(PROMPT)]
    if side == "quern":
        return "/v1/infer", {"sequence": ids, "max_tokens": NEW, "ignore_eos": True, "stream": True, "cache": False}
    return "/completion", {"prompt": ids, "n_predict": NEW, "ignore_eos": True, "stream": True, "cache_prompt": False,
                           "temperature": 0}


def is_token(side, event):
    return "token" in event if side == "quern" else not event.get("stop")


def client(side, port, k, start, out):
    """One stream: out[k] = (first token, end, tokens), in seconds after `start` was passed; None on failure."""
    path, request = body(side, k)
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    c.connect()
    start.wait()
    begin, first, tokens = time.monotonic(), None, 0
    try:
        c.request("POST", path, json.dumps(request), {"Content-Type": "application/json"})
        reply = c.getresponse()
        for line in reply:
            if not line.startswith(b"data: {"):
                continue
            if is_token(side, json.loads(line[6:])):
                tokens += 1
                first = first or time.monotonic() - begin
        if reply.status == 200 and tokens >= NEW - 1: # a peer may send two tokens in one event at the end of a character
            out[k] = (first, time.monotonic() - begin, NEW)
    except (OSError, ValueError, http.client.HTTPException):
        pass


def crowd(side, port, clients, offset):
    """All clients at once; (seconds from the common start to the last end, results)."""
    start, out = threading.Barrier(clients + 1), [None] * clients
    slots = [{} for _ in range(clients)]
    threads = [threading.Thread(target=client, args=(side, port, offset + k, start, slots[k])) for k in range(clients)]
    for t in threads:
        t.start()
    start.wait()
    begin = time.monotonic()
    for t in threads:
        t.join()
    seconds = time.monotonic() - begin
    for k, slot in enumerate(slots):
        out[k] = slot.get(offset + k)
    return seconds, out


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p))]


def one(o, side, model, k):
    port = free_port()
    began = time.monotonic()
    with subprocess.Popen(command(o, side, model, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            ready(port, "/readyz" if side == "quern" else "/health", server)
            start = time.monotonic() - began
            crowd(side, port, 1, 0)  # warm
            seconds, got = crowd(side, port, o.clients, 1000 * (k + 1))
            rss = resident_mb(server.pid)
        finally:
            server.terminate()
    done = [g for g in got if g]
    failed = len(got) - len(done)
    if not done:
        raise SystemExit(f"peer: no stream of {side} was answered")
    return {"start s": start, "tokens/s": sum(g[2] for g in done) / seconds,
            "TTFT p50 ms": 1e3 * percentile([g[0] for g in done], 0.5),
            "TTFT p99 ms": 1e3 * percentile([g[0] for g in done], 0.99), "resident MB": rss, "failed": failed}


def compare(o):
    print(f"Servers, {o.clients} streaming clients at once, {PROMPT}-token prompts, {NEW} new tokens:\n")
    print("| file | figure | quern | peer | ratio |\n|---|---|---:|---:|---:|")
    for model in o.models:
        rows = {"quern": [], "peer": []}
        for k in range(o.rounds):
            for side in (("quern", "peer") if k % 2 == 0 else ("peer", "quern")):
                rows[side].append(one(o, side, model, k))
        for name in rows["quern"][0]:
            a, b = (statistics.median(r[name] for r in rows[s]) for s in ("quern", "peer"))
            ratio = f"{a / b:.2f}" if b else "–"
            print(f"| {model.rsplit('/', 1)[-1]} | {name} | {a:.2f} | {b:.2f} | {ratio} |", flush=True)
    print()
