"""Every response of 2,000 generated requests (QUERN_TEST_MODE=full: 10,000), valid and not, over all endpoints is what
/openapi.json says it is. No 5xx; every 400 that is about a field names it; what the request's schema refuses, the
server refuses.

The short run is the same every time; the full one prints its seed, and QUERN_TEST_SEED=N repeats it. Fewer requests go
to a build with sanitizers, which looks at memory meanwhile.
"""
import collections
import json
import os
import random
import re

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from conftest import FLAVOUR, REAL, SLOW, Server
from requests_from_schema import Spec, request

FULL = os.environ.get("QUERN_TEST_MODE") == "full"
COUNT = 500 if FLAVOUR in ("asan", "ubsan") else 10000 if FULL else 2000
SEED = int(os.environ.get("QUERN_TEST_SEED") or (random.randrange(2**32) if FULL else 20240229))
# The body as such is at fault, or the request line: there is no field to name.
NO_FIELD = {"invalid_json", "bad_framing"}
FIELD_WRONG = ("type", "range", "unknown", "missing", "inner")

pytestmark = pytest.mark.skipif(FLAVOUR == "tsan", reason="one client after the other")


@pytest.fixture(scope="module")
def served():
    s = Server("--state-memory", "256MiB", "--max-tokens", "64", "--chat-template", "chatml",
               model="grist", binary=REAL)
    yield s
    s.stop()


@pytest.fixture(scope="module")
def spec(served):
    return Spec(served.get("/openapi.json").json())


def strict(text):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")
    return json.loads(text, parse_constant=refuse)


def check_body(spec, operation, reply):
    """The status, the media type and the body are in the document."""
    answers = operation["responses"]
    key = str(reply.status_code)
    assert key in answers, f"{key} is not documented"
    content = spec.resolve(answers[key]).get("content", {})
    kind = reply.headers.get("content-type", "").split(";")[0]
    assert kind in content, f"{kind!r} is not documented for {key}"
    schema = content[kind]["schema"]
    if kind == "application/json":
        value = strict(reply.content)
        spec.validator(schema).validate(value)
        return value
    if kind == "text/event-stream":
        check_events(spec, schema, reply.text)
    return None


def check_events(spec, schema, text):
    """Data lines are objects that the description of the stream names, or an error; [DONE] comes last."""
    known = spec.doc["components"]["schemas"]
    names = [n for n in re.findall(r"\b[A-Z]\w+", schema.get("description", "")) if n in known]
    assert names, "the document doesn't say what the stream's events are"
    refs = [{"$ref": f"#/components/schemas/{n}"} for n in sorted(set(names) | {"Error"})]
    lines = [line for line in text.splitlines() if line and not line.startswith(":")]
    assert lines and lines[-1] == "data: [DONE]" or '"error"' in lines[-1], lines[-1:]
    for line in lines:
        assert line.startswith("data: "), line
        if line != "data: [DONE]":
            spec.validator({"anyOf": refs}).validate(strict(line[6:]))


def parsed(body):
    """(value, True) when the body is JSON by the letter: UTF-8, one value, no key twice, no NaN."""
    def once(pairs):
        if len({k for k, _ in pairs}) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def refuse(word):
        raise ValueError(word)
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse), True
    except (ValueError, RecursionError):
        return None, False


def check(spec, sent, reply):
    operation = spec.doc["paths"][sent["path"]].get(sent["method"].lower())
    status = reply.status_code
    assert status < 500, "a fault of the server"
    assert reply.headers.get("x-request-id")
    if operation is None:
        assert status == 405 and set(strict(reply.content)) == {"error"}
        return
    value = check_body(spec, operation, reply)
    if sent["body"] is None or sent["path"] not in spec.posts:
        return
    error = value["error"] if status >= 400 else None
    body, readable = parsed(sent["body"])
    if status == 400 and isinstance(body, dict) and error["code"] not in NO_FIELD:
        assert error["param"] or "" in body, "a 400 that doesn't name its field"  # "" is a name that can't be told
    schema = spec.posts[sent["path"]]
    if readable and not spec.fits(schema, body):
        assert status == 400, f"the schema refuses what was answered with {status}"
        if sent["kind"] in FIELD_WRONG and isinstance(body, dict) and error["code"] not in NO_FIELD:
            check_param(error, sent, body, spec.resolve(schema))
    elif sent["kind"] in ("truncated", "utf8"):
        assert status == 400 and error["code"] in NO_FIELD


def check_param(error, sent, body, schema):
    """What is named is the field at fault, cut to 63 bytes. (Where others are at fault as well, it is any field of the
    request or of its schema.)"""
    named = re.match(r"[^.\[]*", error["param"] or "").group()
    if sent["only"] and "tokenize" not in sent["path"]:
        assert named == sent["field"][:63], f"{named!r} is named for {sent['field']!r}"
    assert named in {name[:63] for name in [*body, *schema["properties"]]}, f"{named!r} is no field"


def test_every_response_is_what_the_document_says(served, spec, capfd):
    with capfd.disabled():
        print(f"\nseed {SEED}, {COUNT} requests")
    seen = collections.Counter()

    @seed(SEED)
    @settings(max_examples=COUNT, deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))
    @given(st.data())
    def run(data):
        sent = data.draw(request(spec))
        headers = {"content-type": "application/json"} if sent["body"] is not None else None
        url = served.url + sent["url"]
        reply = session.request(sent["method"], url, data=sent["body"], headers=headers, timeout=60 * SLOW)
        seen[sent["path"], reply.status_code] += 1
        try:
            check(spec, sent, reply)
        except Exception as why:
            answer = f"answer {reply.status_code}: {reply.text[:2000]}"
            raise AssertionError(f"seed {SEED}: {sent}\n{answer}\n{why}") from why

    import requests
    with requests.Session() as session:
        run()
    for (path, status), n in sorted(seen.items()):
        print(f"{path:24} {status} {n}")
    assert sum(seen.values()) >= COUNT
    for path in spec.posts:  # each endpoint has answered and has refused
        assert seen[path, 200] > COUNT // 500 and seen[path, 400] > COUNT // 500, (path, seen)
