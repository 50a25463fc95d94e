"""/openapi.json: a valid OpenAPI 3.1 document, and every reply of every endpoint is what it says, no field more."""
import copy
import json
import re

import pytest
import requests
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from conftest import REAL, Server, read_sse


def closed(schema):
    """The same with every described object closed, so that a field which nobody described is found."""
    if isinstance(schema, dict):
        schema = {k: closed(v) for k, v in schema.items()}
        if schema.get("type") == "object" and "properties" in schema and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
    elif isinstance(schema, list):
        schema = [closed(v) for v in schema]
    return schema


class Spec:
    def __init__(self, server, headers=None):
        self.doc = server.get("/openapi.json", headers=headers).json()
        self.used = set()
        components = copy.deepcopy(self.doc["components"])
        components["schemas"] = closed(components["schemas"])
        self.components = components

    def check(self, schema, value):
        errors = list(Draft202012Validator({**schema, "components": self.components}).iter_errors(value))
        assert not errors, "\n".join(f"{'/'.join(map(str, e.absolute_path))}: {e.message}"[:500] for e in errors)

    def operation(self, method, path):
        for template, methods in self.doc["paths"].items():
            pattern = "".join("[^/]+" if p.startswith("{") else re.escape(p) for p in re.split(r"(\{\w+\})", template))
            if re.fullmatch(pattern, path) and method.lower() in methods:
                return methods[method.lower()]
        raise AssertionError(f"{method} {path} is not described")

    def reply(self, response):
        """Checks status, headers, content type and body of a reply against what its operation describes."""
        method, path = response.request.method, requests.utils.urlparse(response.url).path
        answer = self.operation(method, path)["responses"].get(str(response.status_code))
        assert answer, f"{method} {path} may not answer {response.status_code}"
        while "$ref" in answer:
            answer = self.doc["components"]["responses"][answer["$ref"].rsplit("/", 1)[1]]
        for name in answer["headers"]:
            assert name in response.headers or (name == "Server-Timing" and "event-stream" in
                                                response.headers["content-type"]), (name, response.headers)
        kind = response.headers["content-type"].split(";")[0]
        content = answer["content"][kind]
        self.used.add((method, path, response.status_code))
        if kind == "application/json":
            self.check(content["schema"], response.json())
        elif kind == "text/event-stream":
            events, done = read_sse(response)
            assert done
            for e in events:
                self.check(content["x-event"], e)
            return events
        return response


@pytest.fixture(scope="module")
def real():
    """The program itself with grist: all structures, every kind of reply."""
    s = Server("--state-memory", "64MiB", model="grist", binary=REAL)
    s.spec = Spec(s)
    yield s
    s.stop()


def test_document_is_valid(real):
    OpenAPIV31SpecValidator(real.spec.doc).validate()
    for schema in real.spec.doc["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_no_name_comes_twice_in_a_description(real):
    def once(pairs):
        names = [k for k, _ in pairs]
        assert len(names) == len(set(names)), names
        return dict(pairs)

    for path in ("/v1/models", "/v1/structures", "/openapi.json", "/tokenizer_info"):
        json.loads(real.get(path).text, object_pairs_hook=once)


def test_stub_and_program_have_the_same_document(real, srv):
    a, b = real.spec.doc, srv.get("/openapi.json").json()
    assert a == b


GETS = ["/v1/structures", "/v1/models", "/v1/models/grist", "/v1/models/none", "/livez", "/readyz", "/healthz",
        "/health", "/metrics", "/", "/openapi.json", "/tokenizer_info", "/tokenizer_info?model=grist",
        "/tokenizer_info?model=none"]


@pytest.mark.parametrize("path", GETS)
def test_get_replies(real, path):
    r = real.get(path)
    assert r.status_code == (404 if path.endswith("none") else 200)
    real.spec.reply(r)


INFER = [
    {},
    {"max_tokens": 0},
    {"n": 3, "temperature": 1, "logprobs": 3},
    {"logprobs": 0, "stop": "e", "seed": 7},
    {"sequence": [[5, 6, 7], [8, 9]], "max_tokens": 3},
    {"task": "score", "logprobs": 2},
    {"task": "embed"},
    {"task": "embed", "sequence": ["a", "bc"]},
    {"attention": {"type": "gqa", "kv_heads": 1}, "convert": True, "max_tokens": 4},
    {"attention": "performer", "ffn": "moe", "sharing": "all", "max_tokens": 4},
    {"attention": {"type": "performer", "features": 8}, "convert": True, "n": 2, "max_tokens": 4},
    {"speculative": {"type": "prompt", "max_draft": 3}, "sequence": "a b c a b c a b c a b", "max_tokens": 8},
    {"speculative": "prompt", "attention": "performer", "max_tokens": 4},
    {"regex": "[a-f]{1,4}"},
    {"json_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}, "max_tokens": 24},
    {"json_schema": True, "regex": None, "max_tokens": 24},
    {"speculative": False, "logprobs": None, "model": None, "stop": [], "timeout_ms": 0, "top_k": None},
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("body", INFER, ids=lambda b: "-".join(b) or "plain")
def test_infer_replies(real, body, stream):
    body = {"sequence": "ROMEO:", "max_tokens": 6, **body}
    if body.get("task"):
        del body["max_tokens"]
    if stream and body.get("task") == "embed":
        pytest.skip("an embedding is not streamed")
    if stream:
        body["stream"] = True
    r = real.post("/v1/infer", body, stream=stream)
    assert r.status_code == 200, r.text
    real.spec.check({"$ref": "#/components/schemas/InferRequest"}, body)  # what is taken is described
    events = real.spec.reply(r)
    if stream:
        real.spec.check({"$ref": "#/components/schemas/InferReply"}, events[-1])
        for e in events[:-1]:
            real.spec.check({"$ref": "#/components/schemas/StreamToken"}, e)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("body", [
    {"structures": [{}, {"attention": "mqa"}, {"attention": "performer", "ffn": "moe", "sharing": "all"}]},
    {"structures": [{"attention": {"type": "gqa", "kv_heads": 1}, "convert": True}, {}], "baseline": 1},
    {"structures": [{}], "task": "score", "repeats": 1, "max_tokens": None, "timeout_ms": None},
])
def test_compare_replies(real, body, stream):
    body = {"sequence": "ROMEO:", "max_tokens": 4, "repeats": 2, "stream": stream, **body}
    r = real.post("/v1/compare", body, stream=stream)
    assert r.status_code == 200, r.text
    real.spec.check({"$ref": "#/components/schemas/CompareRequest"}, body)
    real.spec.reply(r)


@pytest.mark.parametrize("path,body,schema", [
    ("/tokenize", {"prompt": "two words"}, "TokenizeRequest"),
    ("/tokenize", {"text": "", "with_pieces": True, "add_special": False, "prompt": None}, "TokenizeRequest"),
    ("/tokenize", {"content": "x", "model": "grist", "add_special_tokens": True}, "TokenizeRequest"),
    ("/detokenize", {"tokens": [1, 2, 3]}, "DetokenizeRequest"), ("/detokenize", {"tokens": []}, "DetokenizeRequest")])
def test_text_replies(real, path, body, schema):
    r = real.post(path, body)
    assert r.status_code == 200, r.text
    real.spec.check({"$ref": f"#/components/schemas/{schema}"}, body)
    real.spec.reply(r)


BAD = {
    "/v1/infer": [{}, {"sequence": ""}, {"sequence": "a", "n": 0}, {"sequence": "a", "prompt": "b"},
                  {"sequence": "a", "attention": "none"}, {"sequence": "a", "model": "other"}, {"sequence": [99999999]},
                  {"sequence": "a", "attention": {"kv_heads": 1}}, {"sequence": "a " * 5000},
                  {"sequence": "a", "speculative": {"type": "prompt", "max_draft": 16}}],
    "/v1/compare": [{}, {"sequence": "a"}, {"sequence": "a", "structures": []}, {"sequence": "a", "structures": [{}] * 33},
                    {"sequence": "a", "structures": [{"n": 1}]}, {"sequence": "a", "structures": [{}], "baseline": 1},
                    {"sequence": ["a", "b"], "structures": [{}]}, {"sequence": "a", "structures": [{}], "repeats": 51},
                    {"sequence": "a", "structures": [{}], "task": "embed"}, {"sequence": "a", "structures": [{}], "seed": 1},
                    {"sequence": "a", "structures": [{}], "model": "other"}],
    "/tokenize": [{}, {"prompt": 1}, {"prompt": "a", "text": "b"}, {"prompt": "a", "with_pieces": 1}, {"x": 1, "prompt": "a"},
                  {"prompt": "a", "model": "other"}, {"prompt": "a", "model": "a b"}],
    "/detokenize": [{}, {"tokens": "a"}, {"tokens": [-1]}, {"tokens": [10**9]}, {"tokens": [1.5]}, {"text": "a"}],
}


@pytest.mark.parametrize("path,body", [(p, b) for p, bodies in BAD.items() for b in bodies])
def test_refusals(real, path, body):
    r = real.post(path, body)
    assert r.status_code in (400, 404), r.text
    real.spec.reply(r)
    assert r.json()["error"]["param"], r.text


@pytest.mark.parametrize("field", ["baseline", "repeats", "max_tokens"])
def test_bounds_of_the_document_are_those_of_the_parser(real, field):
    schema = real.spec.doc["components"]["schemas"]["CompareRequest"]["properties"][field]
    for value in (schema["minimum"] - 1, schema["maximum"] + 1):
        r = real.post("/v1/compare", {"sequence": "a", "structures": [{}] * 2, field: value})
        assert r.status_code == 400 and r.json()["error"]["param"] == field, r.text
        assert not Draft202012Validator(schema).is_valid(value)


def test_framing_refusals(real):
    checks = [
        (413, dict(data=b"x" * (2 << 20))), (400, dict(data=b"{")), (400, dict(data=b"\xff")),
        (415, dict(data=b"{}", headers={"Content-Encoding": "gzip"})),
        (431, dict(data=b"{}", headers={"x-much": "y" * 9000})),
        (501, dict(headers={"Transfer-Encoding": "gzip"}))]
    for status, kw in checks:
        for path in ("/v1/infer", "/tokenize"):
            request = requests.Request("POST", real.url + path, **kw).prepare()
            if status == 501:
                del request.headers["Content-Length"]
            r = requests.Session().send(request, timeout=20)
            assert r.status_code == status, (status, r.status_code, r.text)
            real.spec.reply(r)
    assert real.get("/livez", headers={"Content-Encoding": "gzip"}).status_code == 415
    real.spec.reply(real.get("/livez", headers={"Content-Encoding": "gzip"}))


def test_key_queue_and_deadline_refusals(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("secret-key-1234567890\n")
    s = start("--api-key-file", keys, "--metrics-auth", "on")
    good = {"Authorization": "Bearer secret-key-1234567890"}
    spec = Spec(s, good)
    for path in ("/metrics", "/v1/models", "/openapi.json"):
        r = s.get(path)
        assert r.status_code == 401
        spec.reply(r)
        spec.reply(s.get(path, headers=good))
    r = s.post("/v1/infer", {"sequence": "a", "max_tokens": 4000, "ignore_eos": True, "timeout_ms": 1}, headers=good)
    assert r.status_code in (200, 408), r.text  # what came before the deadline is a reply
    spec.reply(r)


def test_draining_refusals(start):
    s = start("--drain-delay", "3s")
    spec = Spec(s)
    s.signal()
    s.wait_line("leaving")
    r = s.get("/readyz")
    assert r.status_code == 503 and r.headers["content-type"].startswith("text/plain")
    spec.reply(r)
    assert s.wait() == 0


def test_examples_in_the_document_are_valid(real):
    for name, schema in real.spec.doc["components"]["schemas"].items():
        for example in schema.get("examples", []):
            real.spec.check({"$ref": f"#/components/schemas/{name}"}, example)
    for name, schema in real.spec.doc["components"]["schemas"].items():
        for field, inner in schema.get("properties", {}).items():
            if "default" in inner:
                real.spec.check({k: v for k, v in inner.items() if k != "default"}, inner["default"])


def test_the_checker_can_fail(real):
    r = real.get("/v1/models").json()
    with pytest.raises(AssertionError):
        real.spec.check({"$ref": "#/components/schemas/ModelList"}, {**r, "surprise": 1})
    del r["data"][0]["id"]
    with pytest.raises(AssertionError):
        real.spec.check({"$ref": "#/components/schemas/ModelList"}, r)
    assert json.dumps(real.spec.doc)
