"""The official openai package for Python. The servers are started by clients.py, which says where they are in the
environment; the checks are those of openai.mjs."""
import base64
import contextlib
import math
import os
import signal
import struct
import sys
import threading
import time
import traceback
import urllib.request
from typing import Literal

import openai
from openai import OpenAI
from pydantic import BaseModel

KEY, MAIN, LIMITED = (os.environ[k] for k in ("QUERN_KEY", "QUERN_MAIN", "QUERN_LIMITED"))
CHAT = os.environ["QUERN_CHAT_MODEL"]
ENDLESS = " ".join(str(i) for i in range(1, 17))
QUESTION = {"role": "user", "content": "Name three colours."}
ASK = {"model": CHAT, "messages": [QUESTION], "temperature": 0, "max_tokens": 12}
ON = {"ignore_eos": True}

passed = failed = 0
client = OpenAI(base_url=f"{MAIN}/v1", api_key=KEY, max_retries=0)


def tight(retries=0):
    return OpenAI(base_url=f"{LIMITED}/v1", api_key="none", max_retries=retries)


def check(name):
    def run(test):
        global passed, failed
        try:
            test()
            passed += 1
            print(f"ok     {name}", flush=True)
        except Exception:  # a failed check is counted, the others go on
            failed += 1
            print(f"FAILED {name}: {traceback.format_exc()}", flush=True)
    return run


def metric(url, name, label=""):
    text = urllib.request.urlopen(f"{url}/metrics", timeout=30).read().decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
               if line.split("{")[0].split(" ")[0] == name and label in line)


def until(what, test):
    end = time.monotonic() + 60
    while not test():
        assert time.monotonic() < end, f"{what}: never"
        time.sleep(0.02)


def running(url):
    return metric(url, "quern_running")


def refused():
    return metric(LIMITED, "quern_refused_total", "queue_full")


@contextlib.contextmanager
def raises(kind, status):
    got = []
    try:
        yield got
    except kind as error:
        assert error.status_code == status, error
        assert error.request_id and error.message
        got.append(error)
    assert got, f"no {kind.__name__}"


def check_timings(t):
    assert all(t[k] >= 0 for k in ("queue_ms", "prefill_ms", "decode_ms")) and t["total_ms"] > 0


def check_usage(usage):
    assert usage.prompt_tokens > 0 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    record = usage.model_extra["quern"]
    check_timings(record["timings"])
    assert record["memory"]["state_bytes"] > 0 and record["structure"]["attention"]["type"]


@check("list models")
def _():
    models = list(client.models.list())
    assert {CHAT, "grist"} <= {m.id for m in models}
    assert all(m.object == "model" and isinstance(m.created, int) and m.owned_by for m in models)


@check("retrieve a model")
def _():
    assert client.models.retrieve("grist").id == "grist"


@check("complete")
def _():
    r = client.completions.create(model="grist", prompt="ROMEO:", max_tokens=8, temperature=0)
    assert r.id.startswith("cmpl-") and r.object == "text_completion" and r._request_id
    assert r.choices[0].text and r.choices[0].finish_reason == "length" and r.usage.completion_tokens == 8


@check("complete a batch of token ids, echoed with log-probabilities")
def _():
    r = client.completions.create(model="grist@mqa+moe", prompt=[[82, 79, 77], [69, 79]], max_tokens=1, temperature=0,
                                  logprobs=1, echo=True)
    assert [c.index for c in r.choices] == [0, 1] and r.choices[0].text.startswith("ROM")
    logs = r.choices[0].logprobs
    assert len(logs.tokens) == len(logs.token_logprobs) == len(logs.text_offset)
    assert all(p < 0 for p in logs.token_logprobs[1:])
    assert r.model_extra["structure"]["attention"]["type"] == "mqa"


def answer():
    return client.chat.completions.create(**ASK).choices[0].message.content


@check("chat")
def _():
    raw = client.chat.completions.with_raw_response.create(**ASK)
    assert raw.headers["server-timing"]
    r = raw.parse()
    assert r.id.startswith("chatcmpl-") and r.choices[0].message.role == "assistant" and r.choices[0].message.content
    assert r.choices[0].finish_reason in ("stop", "length") and r.choices[0].message.refusal is None


@check("chat with roles and content parts")
def _():
    r = client.chat.completions.create(
        model=CHAT, temperature=0, max_completion_tokens=4, user="somebody", metadata={"a": "b"}, store=False,
        messages=[{"role": "system", "content": "Be brief."},
                  {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
                  {"role": "assistant", "content": "Hi."}, QUESTION])
    assert r.usage.completion_tokens == 4 and r.choices[0].finish_reason == "length"


@check("stream")
def _():
    text, reasons, ids = "", [], set()
    for chunk in client.chat.completions.create(**ASK, stream=True):
        assert chunk.object == "chat.completion.chunk" and len(chunk.choices) == 1 and chunk.usage is None
        ids.add((chunk.id, chunk.created))
        text += chunk.choices[0].delta.content or ""
        reasons.append(chunk.choices[0].finish_reason)
    assert text == answer() and len(ids) == 1 and reasons[-1] and not any(reasons[:-1])


@check("stream with the package's own helper")
def _():
    with client.chat.completions.stream(**ASK) as stream:
        assert "".join(e.delta for e in stream if e.type == "content.delta") == answer()


@check("stream a completion")
def _():
    what = {"model": "grist", "prompt": "ROMEO:", "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**what).choices[0].text
    assert "".join(c.choices[0].text for c in client.completions.create(**what, stream=True)) == whole


@check("usage chunk only when asked for")
def _():
    *chunks, last = client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and all(c.usage is None and len(c.choices) == 1 for c in chunks)
    check_usage(last.usage)


@check("n = 2")
def _():
    a, b = (client.chat.completions.create(**{**ASK, "temperature": 1}, n=2, seed=7) for _ in range(2))
    texts = [c.message.content for c in a.choices]
    assert [c.index for c in a.choices] == [0, 1] and texts[0] != texts[1]
    assert texts == [c.message.content for c in b.choices]


@check("logprobs")
def _():
    r = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=3)
    content = r.choices[0].logprobs.content
    assert "".join(t.token for t in content) == r.choices[0].message.content
    for t in content:
        assert t.logprob <= 0 and len(t.top_logprobs) == 3 and t.top_logprobs[0].logprob == t.logprob
        assert bytes(t.bytes).decode() == t.token
    c = client.completions.create(model="grist", prompt="ROMEO:", max_tokens=4, temperature=0, logprobs=2).choices[0]
    assert "".join(c.logprobs.tokens) == c.text and all(len(t) == 2 for t in c.logprobs.top_logprobs)


@check("embeddings in both encodings")
def _():
    texts = ["ROMEO:", "JULIET:"]
    plain = client.embeddings.create(model="grist", input=texts, encoding_format="float")
    coded = client.embeddings.create(model="grist", input=texts)  # the package asks for base64
    raw = client.embeddings.create(model="grist", input=texts, encoding_format="base64")
    assert [d.index for d in plain.data] == [0, 1] and plain.usage.prompt_tokens > 0
    for i in range(2):
        values = plain.data[i].embedding
        assert len(values) > 8 and all(map(math.isfinite, values)) and any(values)
        single = struct.pack(f"<{len(values)}f", *values)
        assert base64.b64decode(raw.data[i].embedding) == single
        assert struct.pack(f"<{len(values)}f", *coded.data[i].embedding) == single
    assert len(client.embeddings.create(model="grist", input=[[82, 79], [77]]).data) == 2


@check("abort in mid-stream frees the slot")
def _():
    stream = client.completions.create(model=CHAT, prompt=ENDLESS, max_tokens=4000, stream=True, extra_body=ON)
    for i, _chunk in enumerate(stream):
        if i == 3:
            assert running(MAIN) == 1
            break
    stream.close()
    until("the slot is free", lambda: running(MAIN) == 0)


@check("400 names the field")
def _():
    with raises(openai.BadRequestError, 400) as e:
        client.chat.completions.create(**{**ASK, "temperature": -1})
    assert e[0].param == "temperature" and e[0].type == "invalid_request_error"
    with raises(openai.BadRequestError, 400) as e:
        client.completions.create(model="grist", prompt="a", best_of=3)
    assert e[0].param == "best_of"


@check("400 when the context is exceeded")
def _():
    with raises(openai.BadRequestError, 400) as e:
        client.completions.create(model="grist", prompt="a" * 2000, max_tokens=1)
    assert e[0].code == "context_length_exceeded" and e[0].param == "prompt"


@check("401")
def _():
    with raises(openai.AuthenticationError, 401) as e:
        OpenAI(base_url=f"{MAIN}/v1", api_key="wrong-key-0000", max_retries=0).chat.completions.create(**ASK)
    assert e[0].code == "invalid_api_key"


@check("404")
def _():
    with raises(openai.NotFoundError, 404) as e:
        client.chat.completions.create(**{**ASK, "model": "org/none:q4"})
    assert e[0].code == "model_not_found"
    with raises(openai.NotFoundError, 404):
        client.models.retrieve("org/none:q4")


@check("413")
def _():
    with raises(openai.APIStatusError, 413) as e:
        client.completions.create(model="grist", prompt="a" * 100000)
    assert e[0].code == "body_too_large"


@check("timings at top level and in usage")
def _():
    r = client.chat.completions.create(**ASK)
    check_timings(r.model_extra["timings"])
    check_usage(r.usage)
    assert r.model_extra["memory"]["state_bytes"] > 0 and r.model_extra["structure"]["origin"]


@check("structures as extra fields")
def _():
    r = client.completions.create(model="grist", prompt="ROMEO:", max_tokens=2, extra_body={"attention": "performer"})
    assert r.model_extra["structure"]["attention"]["type"] == "performer"


@check("structured output")
def _():
    class Answer(BaseModel):
        colour: Literal["red", "green", "blue"]
        warm: bool

    r = client.chat.completions.parse(**{**ASK, "max_tokens": 200}, response_format=Answer)
    assert r.choices[0].finish_reason == "stop" and isinstance(r.choices[0].message.parsed, Answer)


class Filled:
    """One request runs on the limited server and one waits, so that the next is refused."""

    def __init__(self):
        self.streams = []
        self.threads = []
        for ready in (lambda: running(LIMITED) == 1, lambda: metric(LIMITED, "quern_queue_depth") == 1):
            thread = threading.Thread(target=self.run)
            thread.start()
            self.threads.append(thread)
            until("a running and a waiting request", ready)

    def run(self):
        stream = tight().completions.create(model=CHAT, prompt=ENDLESS, max_tokens=4000, stream=True, extra_body=ON)
        self.streams.append(stream)
        with contextlib.suppress(Exception):  # closed under its reader
            for _chunk in stream:
                if self.streams[0] is None:
                    break
        stream.close()

    def empty(self):
        self.streams.insert(0, None)
        for thread in self.threads:
            thread.join(60)
        until("an empty server", lambda: running(LIMITED) + metric(LIMITED, "quern_queue_depth") == 0)


@check("429 is a RateLimitError, and a retry waits for Retry-After")
def _():
    before, full = refused(), Filled()
    try:
        with raises(openai.RateLimitError, 429) as e:
            tight().chat.completions.create(**ASK)
        wait = int(e[0].response.headers["retry-after"])
        assert wait >= 1
        done = []
        start = time.monotonic()

        def ask():
            done.append((tight(2).chat.completions.create(**ASK), time.monotonic()))
        later = threading.Thread(target=ask)
        later.start()
        until("the first try is refused", lambda: refused() == before + 2)
    finally:
        full.empty()
    later.join(60)
    assert done and done[0][0].choices[0].message.content
    assert done[0][1] - start >= wait and refused() == before + 2  # one retry, after Retry-After


@check("503 while draining is an InternalServerError, and an APIError in mid-stream")
def _():
    long = {"model": CHAT, "prompt": ENDLESS, "max_tokens": 4000, "extra_body": ON}
    stream = tight().completions.create(**long, stream=True)
    errors = []

    def whole():
        with raises(openai.InternalServerError, 503) as e:
            tight().completions.create(**long)
        errors.extend(e)
    until("a running request", lambda: running(LIMITED) == 1)  # the headers of a stream come while it still waits
    other = threading.Thread(target=whole)
    other.start()
    until("a waiting request", lambda: metric(LIMITED, "quern_queue_depth") == 1)
    os.kill(int(os.environ["QUERN_LIMITED_PID"]), signal.SIGTERM)
    try:
        for _chunk in stream:
            pass
        raise AssertionError("the stream ended well")
    except openai.APIError as e:
        assert e.code == "draining", e
    other.join(60)
    assert errors[0].code == "draining" and int(errors[0].response.headers["retry-after"]) >= 1


print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed or not passed else 0)
