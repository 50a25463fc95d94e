"""quern run and quern compare on a server (--url): the same texts as here, the server's errors, servers that misbehave."""
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading

import pytest

from conftest import REAL, REPORTS, SLOW, Server
from test_cli import QUERN

pytestmark = pytest.mark.skipif(not os.access(QUERN, os.X_OK), reason="no quern binary")


def environment(env=None):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("QUERN_") and not k.lower().endswith("_proxy")}
    return {**clean, **(env or {})}


def run(*args, env=None, stdin=subprocess.DEVNULL, timeout=60 * SLOW):
    p = subprocess.run([QUERN, *map(str, args)], capture_output=True, timeout=timeout, env=environment(env), stdin=stdin)
    for mark in REPORTS:
        assert mark not in p.stderr.decode(), p.stderr.decode()
    assert p.returncode in (0, 1, 2), (p.returncode, p.stderr)
    p.stdout, p.stderr = p.stdout.decode("utf-8", "replace"), p.stderr.decode("utf-8", "replace")
    return p


@pytest.fixture(scope="module")
def real():
    s = Server("--state-memory", "64MiB", model="grist", binary=REAL)
    yield s
    s.stop()


def shape(text):
    """Without figures, which differ from run to run."""
    return re.sub(r" +", " ", re.sub(r"[0-9.]+( [KMG]iB)?", "0", text))


@pytest.mark.parametrize("args", [
    ["ROMEO:", "--max-tokens", 24],
    ["ROMEO:", "--max-tokens", 24, "--attention", "mqa", "--ffn", "moe", "--sharing", "all"],
    ["ROMEO:", "--max-tokens", 24, "--attention", '{"type":"gqa","kv_heads":1}', "--convert", "on"],
    ["ROMEO:", "--max-tokens", 16, "--temperature", 0.9, "--seed", 5, "--top-k", 12, "--top-p", 0.95, "--min-p", 0.01],
    ["ROMEO:", "--max-tokens", 9, "--temperature", 1, "--seed", 9007199254740991, "--n", 3],
    ["ROMEO:", "--max-tokens", 30, "--stop", "the", "--stop", "\n\n", "--repetition-penalty", 1.3],
    ["ROMEO:", "--max-tokens", 20, "--presence-penalty", -1.5, "--frequency-penalty", 0.25, "--ignore-eos", "on"],
    ["a b c a b c a b c", "--max-tokens", 12, "--speculative", '{"type":"prompt","max_draft":4,"ngram":2}', "--logprobs", 2],
    ["ROMEO:", "--task", "score"],
    ["ROMEO:", "--task", "embed"],
    ["ROMEO:", "--max-tokens", 0],
    ["\u00e9\u2028 \"quoted\" \\ \t", "--max-tokens", 8],
], ids=lambda a: "-".join(str(x) for x in a[1:])[:40])
def test_run_gives_what_it_gives_here(real, args):
    here, there = run("run", *args), run("run", *args, "--url", real.url)
    assert here.returncode == there.returncode == 0, there.stderr
    assert there.stdout == here.stdout and (len(there.stdout) > 1 or args[-1] == 0)
    assert shape(there.stderr) == shape(here.stderr)
    assert "weights" in there.stderr and "tokens/s" in there.stderr or args[-1] in (0, "score", "embed")


def test_run_prints_the_reply_as_json(real):
    p = run("run", "ROMEO:", "--max-tokens", 5, "--json", "--url", real.url + "/")
    assert p.returncode == 0 and p.stderr == "", p.stderr
    reply = json.loads(p.stdout)
    assert reply["object"] == "inference" and reply["usage"]["completion_tokens"] == 5
    assert run("run", "ROMEO:", "--max-tokens", 5, "--quiet", "--url", real.url).stderr == ""


def test_run_reads_standard_input(real, tmp_path):
    f = tmp_path / "prompt"
    f.write_text("ROMEO:")
    with open(f) as text:
        assert run("run", "--max-tokens", 5, "--url", real.url, stdin=text).stdout == \
            run("run", "ROMEO:", "--max-tokens", 5).stdout


def texts(table):
    """Structure, label, fidelity and text of each row: what does not differ from run to run."""
    rows = [re.split("  +", line.strip(), maxsplit=10) for line in table.splitlines()[1:] if "\u00b1" in line and "  " in line]
    return {r[0]: (r[1], *r[5:]) for r in rows}


@pytest.mark.parametrize("args", [
    ["--structures", "gqa,mqa+moe,performer++all"],
    ["--structures", "gqa(kv_heads=1),gqa,performer(features=32)", "--convert", "--baseline", 1],
    ["--structures", "mqa,gqa", "--task", "score"],
    [],
    ["--convert"],
], ids=str)
def test_compare_gives_what_it_gives_here(real, args):
    args = ["compare", "--prompt", "ROMEO:", "--repeats", 1, *(["--max-tokens", 6] if "--task" not in args else []), *args]
    here, there = run(*args), run(*args, "--url", real.url)
    assert here.returncode == there.returncode == 0, there.stderr
    a, b = here.stdout.splitlines(), there.stdout.splitlines()
    assert len(a) == len(b) and a[-1] == b[-1] and re.split(" +", a[0]) == re.split(" +", b[0])
    assert texts(here.stdout) == texts(there.stdout) and len(texts(there.stdout)) >= 2
    if "--structures" not in args and "--convert" not in args:
        assert len(texts(there.stdout)) > 20  # every native combination


def test_compare_formats(real):
    args = ["compare", "--prompt", "ROMEO:", "--max-tokens", 3, "--repeats", 2, "--structures", "gqa,mqa", "--url", real.url]
    reply = json.loads(run(*args, "--json").stdout)
    assert reply["object"] == "comparison" and len(reply["results"]) == 2 and len(reply["results"][0]["samples"]) == 2
    here, there = run(*args[:-2], "--csv").stdout, run(*args, "--csv").stdout
    assert here.splitlines()[0] == there.splitlines()[0] and here.count("\n") == there.count("\n")


@pytest.mark.parametrize("args,why", [
    (["run", "x", "--attention", "nope"], 'attention "nope" is not known'),
    (["run", "x", "--model", "other"], 'no model "other"'),
    (["run", "x" * 5000, "--quiet"], "more than 1087 tokens"),
    (["run", "x", "--max-tokens", 5000], "max_tokens"),
    (["compare", "--prompt", "x", "--structures", "gqa,nope"], "nope"),
    (["compare", "--prompt", "x", "--model", "other"], "no model 'other'"),
])
def test_errors_of_the_server_are_shown(real, args, why):
    p = run(*args, "--url", real.url)
    assert p.returncode == 1 and p.stdout == "" and why in p.stderr and p.stderr.startswith("quern: "), p.stderr


@pytest.mark.parametrize("args", [
    ["run", "x", "--url", "127.0.0.1:80"], ["run", "x", "--url", "ftp://127.0.0.1"], ["run", "x", "--url", "http://"],
    ["run", "x", "--url", "file:///etc/passwd"], ["run", "x", "--url", "http://h", "--kv-type", "f32"],
    ["run", "x", "--url", "http://h", "--model", "a b"], ["run", "--url", "http://h", ""],
    ["run", "x", "--url", "http://h", "--temperature", "-1"], ["compare", "--url", "http://h"],
    ["compare", "--prompt", "x", "--url", "http://h", "--threads", 99],
    ["compare", "--prompt", "x", "--url", "http://h", "--structures", "a+b+c+d"],
    ["run", "x", "--url", "http://h", "--idle-timeout", 0]])
def test_mistakes_are_2_and_ask_nobody(args):
    p = run(*args)
    assert p.returncode == 2 and p.stdout == "" and p.stderr.startswith("quern: "), p.stderr


def test_key(start, tmp_path):
    keys, mine, wrong, bad = (tmp_path / n for n in ("keys", "mine", "wrong", "bad"))
    keys.write_text("first-key-123456\nother-key-123456\n")
    mine.write_text("other-key-123456\n")
    wrong.write_text("another-key-123456")
    bad.write_text("two words\n")
    s = start("--api-key-file", keys)
    args = ["run", "x", "--max-tokens", 2, "--quiet", "--url", s.url]
    p = run(*args)
    assert p.returncode == 1 and "API key" in p.stderr
    assert run(*args, "--api-key-file", mine).returncode == 0
    assert run(*args, env={"QUERN_API_KEY": "first-key-123456"}).returncode == 0
    p = run(*args, "--api-key-file", wrong, env={"QUERN_API_KEY": "first-key-123456"})  # the option wins
    assert p.returncode == 1 and "API key" in p.stderr and "another-key" not in p.stderr
    assert run(*args, "--api-key-file", bad).returncode == 2
    assert run(*args, env={"QUERN_API_KEY": "a\r\nx-evil: 1"}).returncode in (1, 2)
    p = run(*args, "--api-key-file", tmp_path / "none")
    assert p.returncode == 1 and "none" in p.stderr


def test_refused_connection_is_said():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    for args in (["run", "x"], ["compare", "--prompt", "x"]):
        p = run(*args, "--url", f"http://127.0.0.1:{port}")
        assert p.returncode == 1 and f"can't connect to http://127.0.0.1:{port}: Connection refused" in p.stderr


@pytest.mark.parametrize("args", [["run", "x", "--max-tokens", 4000, "--ignore-eos", "on"],
                                  ["compare", "--prompt", "x", "--max-tokens", 2000, "--structures", "gqa,gqa"]])
def test_interrupt_frees_the_slot(start, args):
    s = start(env={"STUB_STEP_US": "20000"})
    p = subprocess.Popen([QUERN, *map(str, args), "--url", s.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         env=environment())
    s.wait_metric("quern_running", lambda v: v >= 1)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=20 * SLOW)
    assert p.returncode == 1 and b"interrupted" in err, err
    s.wait_metric("quern_running", lambda v: v == 0)


def test_error_in_mid_stream(start):
    s = start(env={"STUB_STEP_US": "30000"})
    p = subprocess.Popen([QUERN, "run", "x", "--max-tokens", "4000", "--ignore-eos", "on", "--url", s.url],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    s.wait_metric("quern_running", lambda v: v >= 1)
    s.signal()
    s.wait_line("leaving")  # two signals that wait at the same time would be one
    s.signal()  # at once
    _, err = p.communicate(timeout=30 * SLOW)
    assert p.returncode == 1 and err.startswith(b"quern: "), err
    s.wait()


# ---- servers that are none ----

@contextlib.contextmanager
def peer(*pieces, close=True, repeat=None):
    """A listener that reads a request and answers with those bytes, then `repeat` for as long as they are taken."""
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()
    taken = []

    def serve():
        while not done.is_set():
            try:
                s, _ = listener.accept()
            except OSError:
                return
            with s:
                s.settimeout(20 * SLOW)
                with contextlib.suppress(OSError):
                    s.recv(65536)
                    for piece in pieces:
                        s.sendall(piece)
                    while repeat and not done.is_set():
                        s.sendall(repeat)
                        taken.append(len(repeat))
                    if not close:
                        done.wait(20 * SLOW)
                    s.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", taken
    finally:
        done.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
TOKEN = b'data: {"index":0,"token":1,"text":"hi","logprob":null}\n\n'
COMMANDS = [["run", "x"], ["compare", "--prompt", "x", "--structures", "gqa"], ["compare", "--prompt", "x"],
            ["run", "x", "--task", "embed"]]
GARBAGE = {
    "nothing": [], "noise": [bytes(range(256)) * 20], "half a head": [b"HTTP/1.1 200 OK\r\nContent-"],
    "html": [b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html>hello</html>"],
    "empty": [JSON], "empty stream": [SSE], "half a line": [SSE, b'data: {"index":0,"tok'],
    "token, then the end": [SSE, TOKEN], "done and no reply": [SSE, TOKEN, b"data: [DONE]\n\n"],
    "no json": [SSE, b"data: hello\n\ndata: [DONE]\n\n"], "deep json": [SSE, b"data: " + b"[" * 100000 + b"\n\n"],
    "wrong reply": [JSON, b'{"object":"inference","outputs":7}'], "wrong list": [JSON, b'{"object":"list","data":[{"model":1}]}'],
    "wrong comparison": [JSON, b'{"object":"comparison","results":[{}],"repeats":1,"baseline":0}'],
    "no results": [JSON, b'{"object":"comparison","results":[],"repeats":1,"baseline":9}'],
    "too short": [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"],
    "bad chunk": [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"],
    "elsewhere": [b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"],
    "error without words": [b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nfail"],
    "wrong error": [b'HTTP/1.1 500 No\r\nContent-Length: 11\r\n\r\n{"error":1}'],
}


@pytest.mark.parametrize("pieces", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_an_error(pieces):
    with peer(*pieces) as (url, _):
        for command in COMMANDS:
            p = run(*command, "--url", url, "--idle-timeout", 10)
            assert p.returncode == 1, (command, p.stdout, p.stderr)
            assert "quern: " in p.stderr and "root:" not in p.stdout + p.stderr


def test_stream_that_ends_early_is_said(real):
    import requests
    body = requests.post(real.url + "/v1/infer", json={"sequence": "ROMEO:", "max_tokens": 3, "stream": True}, timeout=30).content
    for cut in (body.index(b"\n\n") + 2, body.index(b"data: [DONE]"), len(body) - 3):
        with peer(SSE, body[:cut]) as (url, _):
            p = run("run", "x", "--url", url)
        assert p.returncode == 1 and "ended too early" in p.stderr, (cut, p.stderr)


def test_missing_library_is_said(tmp_path):
    """As in the container image, which has none: files that are no libraries stand in the way of the real one."""
    for name in ("libcurl.so.4", "libcurl-gnutls.so.4"):
        (tmp_path / name).write_text("no library")
    env = {"LD_LIBRARY_PATH": str(tmp_path)}
    p = run("run", "x", "--url", "http://127.0.0.1:1", env=env)
    assert p.returncode == 1 and "--url needs libcurl" in p.stderr, p.stderr
    assert run("--version", env=env).returncode == 0  # nothing else needs it


@pytest.mark.parametrize("start,repeat", [(SSE + b"data: ", b"x" * 65536), (SSE, b"data: x\n" * 8192), (JSON, b"[1," * 20000),
                                          (b"HTTP/1.1 200 OK\r\n", b"x-more: " + b"y" * 60000 + b"\r\n")],
                         ids=["line", "event", "body", "head"])
def test_what_never_ends_is_cut(start, repeat):
    with peer(start, repeat=repeat) as (url, taken):
        p = run("run", "x", "--url", url, "--idle-timeout", 20)
        assert p.returncode == 1 and p.stderr.startswith("quern: "), p.stderr
        assert sum(taken) < 200 << 20  # and its memory has a bound


@pytest.mark.parametrize("pieces", [[], [SSE], [SSE, TOKEN, b"data: {"]], ids=["nothing", "head", "half a line"])
def test_silence_ends(pieces):
    with peer(*pieces, close=False) as (url, _):
        p = run("run", "x", "--url", url, "--idle-timeout", 1)
        assert p.returncode == 1 and "nothing came from" in p.stderr and "--idle-timeout" in p.stderr


def test_control_characters_of_an_error_stay_out_of_the_terminal():
    body = json.dumps({"error": {"message": "bad \x1b[2J\x9b thing", "type": "x", "param": None, "code": "y"}}).encode()
    head = f"HTTP/1.1 400 No\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with peer(head + body) as (url, _):
        p = run("run", "x", "--url", url)
    assert p.returncode == 1 and "bad ?[2J" in p.stderr and "\x1b" not in p.stderr and "\x9b" not in p.stderr


@pytest.mark.parametrize("place", ["attention.type", "ffn.type", "sharing.type", "attention.x", "origin", "exactness"])
@pytest.mark.parametrize("control", ["\x1b[2J", "\x9b2J", "\x7f"], ids=ascii)
def test_control_characters_of_a_structure_stay_out_of_the_terminal(real, place, control):
    infer = real.infer(sequence="ROMEO:", max_tokens=2).json()
    compared = real.post("/v1/compare", {"sequence": "x", "max_tokens": 1, "repeats": 1, "structures": [{}, {}]}).json()
    for command, reply in (COMMANDS[0], infer), (COMMANDS[1], compared):
        at = (compared["results"][0] if reply is compared else infer)["structure"]
        *part, name = place.split(".")
        at = at[part[0]] if part else at
        at[name] = control
        with peer(JSON + json.dumps(reply).encode()) as (url, _):
            p = run(*command, "--url", url)
        assert p.returncode == 1 and "not understood" in p.stderr and control not in p.stdout + p.stderr, p.stderr


def test_events_in_pieces_and_with_other_line_ends(real):
    """The reply of a real server, cut into single bytes, with comments and \\r\\n."""
    import requests
    body = requests.post(real.url + "/v1/infer", json={"sequence": "ROMEO:", "max_tokens": 3, "stream": True}, timeout=30).content
    with peer(SSE, b": ping\r\n\r\nevent: x\r\nid: 1\r\n", *[bytes([b]) for b in body.replace(b"\n", b"\r\n")]) as (url, _):
        p = run("run", "x", "--url", url)
    assert p.returncode == 0 and p.stdout == run("run", "ROMEO:", "--max-tokens", 3).stdout, p.stderr
