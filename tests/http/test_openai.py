"""The OpenAI endpoints, against real servers: grist (the model in the binary) for completions and embeddings, SmolLM2
for chats, the fake model for what needs slow steps. Every reply and every chunk is held against /openapi.json."""
import base64
import json
import math
import os
import struct
import time

import jsonschema
import pytest
import requests

from conftest import FLAVOUR, REAL, ROOT, Server, check_error, metric, read_sse

GRIST = os.path.exists(os.path.join(ROOT, "model", "zoo", "grist", "model.safetensors"))
ENDPOINTS = {"/v1/completions": {"prompt": "Once upon a time"},
             "/v1/chat/completions": {"messages": [{"role": "user", "content": "Once upon a time"}]},
             "/v1/embeddings": {"input": "Once upon a time"}}
FIGURES = {"timings", "memory", "structure"}


@pytest.fixture(scope="module")
def grist():
    if not GRIST:
        pytest.skip("this tree has no grist")
    s = Server(model=None, binary=REAL)
    yield s
    s.stop()


@pytest.fixture(scope="module")
def schemas(srv):
    doc = srv.get("/openapi.json").json()

    def check(name, value):
        jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", **doc}).validate(value)
        return value

    return check


def complete(s, schemas, **body):
    schemas("CompletionRequest", body)
    r = s.post("/v1/completions", body)
    assert r.status_code == 200, r.text
    assert r.headers["x-request-id"] and "total;dur=" in r.headers["server-timing"]
    reply = schemas("CompletionReply", r.json())
    check_reply(reply, "text_completion", "cmpl-")
    return reply


def chat(s, schemas, content="What is the capital of France?", **body):
    body = {"messages": [{"role": "user", "content": content}], **body}
    schemas("ChatRequest", body)
    r = s.post("/v1/chat/completions", body)
    assert r.status_code == 200, r.text
    assert r.headers["x-request-id"] and "total;dur=" in r.headers["server-timing"]
    reply = schemas("ChatReply", r.json())
    check_reply(reply, "chat.completion", "chatcmpl-")
    for choice in reply["choices"]:
        assert choice["message"]["role"] == "assistant" and choice["message"]["refusal"] is None
    return reply


def check_reply(reply, kind, prefix):
    assert reply["object"] == kind and reply["id"].startswith(prefix) and isinstance(reply["created"], int)
    assert [c["index"] for c in reply["choices"]] == list(range(len(reply["choices"])))
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["quern"] == {k: reply[k] for k in FIGURES}


def stream(s, schemas, path, body):
    """(chunks of choices, usage chunk or None) of a stream, every chunk checked."""
    r = s.post(path, {**body, "stream": True}, stream=True)
    assert r.status_code == 200 and r.headers["content-type"] == "text/event-stream"
    chunks, done = read_sse(r)
    assert done and chunks
    name = "ChatChunk" if "chat" in path else "CompletionChunk"
    assert len({(c["id"], c["created"], c["object"], c["model"]) for c in chunks}) == 1
    asked = (body.get("stream_options") or {}).get("include_usage", False)
    usage = chunks.pop() if asked else None
    for c in chunks:
        schemas(name, c)
        assert len(c["choices"]) == 1
        assert ("usage" in c and c["usage"] is None) if asked else "usage" not in c
    if asked:
        schemas(name, usage)
        assert usage["choices"] == [] and usage["usage"]["quern"] == {k: usage[k] for k in FIGURES}
    n = body.get("n", 1)
    finishes = [c["choices"][0]["index"] for c in chunks if c["choices"][0]["finish_reason"]]
    assert sorted(finishes) == list(range(n * (len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1)))
    assert FIGURES <= set(chunks[-1]) and chunks[-1]["choices"][0]["finish_reason"]
    return chunks, usage


# ---- completions ----
def test_completion(grist, schemas):
    reply = complete(grist, schemas, prompt="Once upon", max_tokens=6, temperature=0)
    native = grist.infer(sequence="Once upon", max_tokens=6).json()
    assert reply["model"] == "grist" and len(reply["choices"]) == 1
    choice = reply["choices"][0]
    assert choice["text"] == native["outputs"][0]["text"] and choice["logprobs"] is None
    assert choice["finish_reason"] == "length" and "finish_detail" not in choice
    assert reply["usage"]["completion_tokens"] == 6
    assert reply["usage"]["prompt_tokens"] == native["usage"]["prompt_tokens"]


def test_sixteen_tokens_unless_asked(grist, schemas):
    assert complete(grist, schemas, prompt="Once", ignore_eos=True)["usage"]["completion_tokens"] == 16
    assert complete(grist, schemas, prompt="Once", max_tokens=0)["choices"][0]["text"] == ""


def test_every_form_of_prompt(grist, schemas):
    ids = grist.post("/tokenize", {"prompt": "Once upon"}).json()["tokens"]
    more = dict(max_tokens=5, temperature=0)
    text = complete(grist, schemas, prompt="Once upon", **more)["choices"][0]["text"]
    other = complete(grist, schemas, prompt="The", **more)["choices"][0]["text"]
    assert complete(grist, schemas, prompt=ids, **more)["choices"][0]["text"] == text
    assert [c["text"] for c in complete(grist, schemas, prompt=["Once upon", "The"], **more)["choices"]] == [text, other]
    assert [c["text"] for c in complete(grist, schemas, prompt=[ids, ids], **more)["choices"]] == [text, text]


def test_choices_differ_and_seeds_do_not(grist, schemas):
    more = dict(prompt=["Once", "The"], n=3, max_tokens=12, ignore_eos=True)
    a, b = (complete(grist, schemas, seed=5, **more) for _ in range(2))
    assert len(a["choices"]) == 6 and [c["text"] for c in a["choices"]] == [c["text"] for c in b["choices"]]
    assert len({c["text"] for c in a["choices"][:3]}) == 3
    assert [c["text"] for c in complete(grist, schemas, seed=6, **more)["choices"]] != [c["text"] for c in a["choices"]]


def test_stop_is_no_part_of_the_text(grist, schemas):
    full = complete(grist, schemas, prompt="Once", max_tokens=40, temperature=0)["choices"][0]["text"]
    cut = complete(grist, schemas, prompt="Once", max_tokens=40, temperature=0, stop=full[10:13])["choices"][0]
    assert cut["finish_reason"] == "stop" and full.startswith(cut["text"]) and full[10:13] not in cut["text"]


def test_structures_by_field_and_by_name(grist, schemas):
    body = dict(prompt="Once upon", max_tokens=8, temperature=0)
    field = complete(grist, schemas, attention="mqa", ffn={"type": "moe", "experts_per_token": 2}, **body)
    name = complete(grist, schemas, model="grist@mqa+moe(experts_per_token=2)", **body)
    plain = complete(grist, schemas, model="grist", **body)
    for r in (field, name):
        assert r["model"] == "grist" and r["structure"]["attention"]["type"] == "mqa"
        assert r["structure"]["ffn"]["type"] == "moe" and r["structure"]["ffn"]["experts_per_token"] == 2
    assert field["choices"][0]["text"] == name["choices"][0]["text"]
    assert plain["structure"]["attention"]["type"] == "gqa"
    assert complete(grist, schemas, model="@mqa", **body)["structure"]["attention"]["type"] == "mqa"
    assert complete(grist, schemas, model="grist@++all", **body)["structure"]["sharing"]["type"] == "all"


def test_logprobs(grist, schemas):
    reply = complete(grist, schemas, prompt="Once upon", max_tokens=7, temperature=0, logprobs=4, ignore_eos=True)
    lp = reply["choices"][0]["logprobs"]
    native = grist.infer(sequence="Once upon", max_tokens=7, logprobs=4, ignore_eos=True).json()["outputs"][0]
    assert lp["token_logprobs"] == [t["logprob"] for t in native["logprobs"]]
    assert "".join(lp["tokens"]) == reply["choices"][0]["text"] and lp["text_offset"] == list(range(7))
    for token, value, top in zip(lp["tokens"], lp["token_logprobs"], lp["top_logprobs"]):
        assert 4 <= len(top) <= 5 and top[token] == value == max(top.values())  # greedy
    assert all(len(t) == 1 for t in complete(grist, schemas, prompt="a", max_tokens=2, logprobs=0)["choices"][0]
               ["logprobs"]["top_logprobs"])
    assert len(complete(grist, schemas, prompt="a", max_tokens=1, logprobs=20)["choices"][0]["logprobs"]
               ["top_logprobs"][0]) >= 20


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("more", [{}, {"attention": "mqa"}, {"ffn": "moe", "sharing": "all"}, {"attention": "performer"}])
def test_echo_gives_the_prompts_logprobs(grist, schemas, max_tokens, more):
    """What lm-evaluation-harness reads: batches of ids, echo, one token or none; held against task score."""
    texts = ["Once upon a time", "The king of France, who was bald. " * 9, "x"]
    ids = [grist.post("/tokenize", {"prompt": t}).json()["tokens"] for t in texts]
    reply = complete(grist, schemas, prompt=ids, max_tokens=max_tokens, temperature=0, logprobs=1, echo=True, seed=1234,
                     **more)
    for choice, prompt, text in zip(sorted(reply["choices"], key=lambda c: c["index"]), ids, texts):
        lp = choice["logprobs"]
        assert [len(v) for v in lp.values()] == [len(prompt) + max_tokens] * 4
        assert lp["token_logprobs"][0] is None and lp["top_logprobs"][0] is None
        assert text in choice["text"] and choice["finish_reason"] in ("length", "stop")
        score = grist.infer(sequence=prompt, task="score", logprobs=1, **more).json()["outputs"][0]
        assert lp["token_logprobs"][1:len(prompt)] == [t["logprob"] for t in score["logprobs"]]
        assert math.isclose(sum(lp["token_logprobs"][1:len(prompt)]), score["score"]["log_prob"], abs_tol=1e-3)
        for value, top in zip(lp["token_logprobs"][1:], lp["top_logprobs"][1:]):
            assert value in top.values() and value <= max(top.values())


def test_echo_of_text(grist, schemas):
    text = "Zwölf Boxkämpfer €"
    plain = complete(grist, schemas, prompt=text, max_tokens=4, temperature=0)["choices"][0]["text"]
    reply = complete(grist, schemas, prompt=text, max_tokens=4, temperature=0, echo=True, logprobs=0, n=2)
    for choice in reply["choices"]:
        assert choice["text"] == text + plain
        lp = choice["logprobs"]
        at = lp["text_offset"]
        assert at == sorted(at) and at[0] == at[1] == 0  # the first token is none of the text's
        for token, begin in zip(lp["tokens"][1:], at[1:]):
            assert token.startswith("bytes:") or choice["text"][begin:begin + len(token)] == token
    assert complete(grist, schemas, prompt=text, max_tokens=4, temperature=0, echo=True)["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("usage", [False, True])
def test_streamed_completion(grist, schemas, usage):
    body = dict(prompt="Once upon", max_tokens=9, temperature=0, n=2, stream_options={"include_usage": usage})
    plain = complete(grist, schemas, **{k: v for k, v in body.items() if k != "stream_options"})
    chunks, last = stream(grist, schemas, "/v1/completions", body)
    for i, want in enumerate(plain["choices"]):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == i]
        assert "".join(c["text"] for c in mine) == want["text"]
        assert mine[-1]["finish_reason"] == want["finish_reason"] and mine[-1]["text"] == ""
        assert all(c["finish_reason"] is None for c in mine[:-1])
    if usage:
        assert last["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]


def test_streamed_logprobs_and_echo(grist, schemas):
    body = dict(prompt=["Once", "The"], max_tokens=8, temperature=0, logprobs=2)
    want = complete(grist, schemas, **body)["choices"]
    chunks, _ = stream(grist, schemas, "/v1/completions", body)
    for i in range(2):
        parts = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["index"] == i]
        for key, values in want[i]["logprobs"].items():
            assert [v for p in parts if p for v in p[key]] == values
    chunks, _ = stream(grist, schemas, "/v1/completions", dict(prompt="Once", max_tokens=3, echo=True, temperature=0))
    assert chunks[0]["choices"][0]["text"] == "Once"


# ---- embeddings ----
def embed(s, schemas, **body):
    schemas("EmbeddingRequest", body)
    r = s.post("/v1/embeddings", body)
    assert r.status_code == 200, r.text
    assert r.headers["x-request-id"] and "total;dur=" in r.headers["server-timing"]
    reply = schemas("EmbeddingReply", r.json())
    assert reply["object"] == "list" and reply["usage"]["prompt_tokens"] == reply["usage"]["total_tokens"] > 0
    assert [d["index"] for d in reply["data"]] == list(range(len(reply["data"])))
    return reply


def test_embeddings_in_both_encodings(grist, schemas):
    texts = ["Once upon a time", "The", "a cat"]
    floats = embed(grist, schemas, input=texts)
    packed = embed(grist, schemas, input=texts, encoding_format="base64")
    native = grist.infer(sequence=texts, task="embed").json()["outputs"]
    width = grist.get("/v1/models/grist").json()["embedding"]["dimensions"]
    for f, p, n in zip(floats["data"], packed["data"], native):
        raw = base64.b64decode(p["embedding"], validate=True)
        assert len(raw) == 4 * width
        assert f["embedding"] == n["embedding"]
        unpacked = struct.unpack(f"<{width}f", raw)
        assert unpacked == struct.unpack(f"<{width}f", struct.pack(f"<{width}f", *f["embedding"]))
    assert floats["usage"]["prompt_tokens"] == sum(len(grist.post("/tokenize", {"prompt": t}).json()["tokens"])
                                                   for t in texts)


def test_embeddings_of_every_input(grist, schemas):
    ids = grist.post("/tokenize", {"prompt": "a cat"}).json()["tokens"]
    want = embed(grist, schemas, input="a cat")["data"][0]["embedding"]
    assert embed(grist, schemas, input=ids)["data"][0]["embedding"] == want
    for d in embed(grist, schemas, input=[ids, ids])["data"]:  # products of another size may round differently
        assert d["embedding"] == pytest.approx(want, abs=1e-4)
    assert embed(grist, schemas, input="a cat", dimensions=len(want))["data"][0]["embedding"] == want
    many = embed(grist, schemas, input=["a cat"] * 300)  # more than may be generated at once
    assert len(many["data"]) == 300 and many["data"][299]["embedding"] == pytest.approx(want, abs=1e-4)
    other = embed(grist, schemas, input="a cat", model="grist@mqa")
    assert other["data"][0]["embedding"] != want and other["structure"]["attention"]["type"] == "mqa"


def test_embeddings_that_are_refused(grist):
    def refused(param, code=None, status=400, **body):
        return check_error(grist.post("/v1/embeddings", body), status, code, param)

    assert "192" in refused("dimensions", "unsupported_parameter", input="a", dimensions=64)["message"]
    refused("input", input=[1, 100000])  # ids of a foreign vocabulary
    refused("input", input="")
    refused("input", input=[])
    refused("input", "context_length_exceeded", input="word " * 1000)
    refused("encoding_format", input="a", encoding_format="hex")
    refused("model", "model_not_found", 404, input="a", model="text-embedding-3-small")
    refused("input", input=["a"] * 2049)


# ---- models ----
def test_models(grist, schemas):
    listing = schemas("ModelList", grist.get("/v1/models").json())
    assert listing["object"] == "list"
    for m in listing["data"]:
        assert {"id", "object", "created", "owned_by"} <= set(m) and m["object"] == "model"
        assert isinstance(m["created"], int)
        assert m["embedding"] == {"pooling": "mean", "of": "last hidden state", "dimensions": m["d_model"],
                                  "normalized": False}
        assert schemas("Model", grist.get("/v1/models/" + m["id"]).json()) == m
    check_error(grist.get("/v1/models/org%2Fname:q4"), 404, "model_not_found", "model")


# ---- chats ----
def test_chat(smol, schemas):
    reply = chat(smol, schemas, temperature=0, max_tokens=20)
    choice = reply["choices"][0]
    assert "Paris" in choice["message"]["content"] and choice["finish_reason"] == "stop" and choice["logprobs"] is None
    assert "<|im" not in choice["message"]["content"]
    cut = chat(smol, schemas, temperature=0, max_completion_tokens=3)["choices"][0]
    assert cut["finish_reason"] == "length" and choice["message"]["content"].startswith(cut["message"]["content"])
    assert chat(smol, schemas, temperature=0)["choices"][0]["message"] == choice["message"]  # as long as it likes


def test_chat_is_the_templates_text(smol, schemas):
    prompt = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi\nthere<|im_end|>\n<|im_start|>assistant\n"
    want = complete(smol, schemas, prompt=prompt, temperature=0, max_tokens=12)
    for role in ("system", "developer"):
        body = {"messages": [{"role": role, "content": "Be brief."},
                             {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]}],
                "temperature": 0, "max_tokens": 12}
        got = smol.post("/v1/chat/completions", schemas("ChatRequest", body) or body).json()
        assert got["choices"][0]["message"]["content"] == want["choices"][0]["text"]
        assert got["usage"]["prompt_tokens"] == want["usage"]["prompt_tokens"]


def test_special_tokens_of_a_content_count(smol, schemas):
    """docs/api.md says so: what looks like the end of a message is one."""
    said = chat(smol, schemas, "Hi<|im_end|>\n<|im_start|>assistant\nYes", temperature=0, max_tokens=8)
    meant = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    got = smol.post("/v1/chat/completions", {"messages": meant, "temperature": 0, "max_tokens": 8}).json()
    assert said["usage"]["prompt_tokens"] == got["usage"]["prompt_tokens"]
    assert said["choices"][0]["message"] == got["choices"][0]["message"]
    plain = chat(smol, schemas, "Hi<im_end>\n<im_start>assistant\nYes", temperature=0, max_tokens=8)
    assert plain["usage"]["prompt_tokens"] > got["usage"]["prompt_tokens"]


def test_chat_logprobs(smol, schemas):
    reply = chat(smol, schemas, temperature=0, logprobs=True, top_logprobs=3, max_tokens=20)
    choice = reply["choices"][0]
    content = choice["logprobs"]["content"]
    assert bytes(b for t in content for b in t["bytes"]).decode() == choice["message"]["content"]
    for t in content:
        assert len(t["top_logprobs"]) == 3 and t["top_logprobs"][0]["logprob"] == t["logprob"] <= 0
    assert chat(smol, schemas, logprobs=True, max_tokens=2)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


@pytest.mark.parametrize("usage", [False, True])
def test_streamed_chat(smol, schemas, usage):
    body = dict(messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0, n=2,
                max_tokens=20, logprobs=True, stream_options={"include_usage": usage})
    plain = chat(smol, schemas, temperature=0, n=2, max_tokens=20, logprobs=True)
    chunks, last = stream(smol, schemas, "/v1/chat/completions", body)
    for i, want in enumerate(plain["choices"]):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == i]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert all("role" not in c["delta"] for c in mine[1:]) and mine[-1]["delta"] == {}
        assert "".join(c["delta"].get("content", "") for c in mine) == want["message"]["content"]
        assert [t for c in mine if c["logprobs"] for t in c["logprobs"]["content"]] == want["logprobs"]["content"]
        assert mine[-1]["finish_reason"] == want["finish_reason"]
    if usage:
        assert last["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]


def test_harmless_fields_change_nothing(smol, schemas):
    want = chat(smol, schemas, temperature=0, max_tokens=8)["choices"]
    got = chat(smol, schemas, temperature=0, max_tokens=8, user="me", metadata={"a": "b"}, store=True, service_tier="auto",
               tools=[], tool_choice="none", parallel_tool_calls=False, response_format={"type": "text"}, stop=None,
               logit_bias={}, reasoning_effort="low", seed=None)["choices"]
    assert got == want


SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "big": {"type": "boolean"}},
          "required": ["city", "big"], "additionalProperties": False}


def test_answers_as_json(smol, schemas):
    form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}}
    body = dict(content="Name a city.", max_tokens=80, n=2, seed=3)
    for choice in chat(smol, schemas, response_format=form, **body)["choices"]:
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
    for choice in chat(smol, schemas, response_format={"type": "json_object"}, **body)["choices"]:
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"]), dict)
    chunks, _ = stream(smol, schemas, "/v1/chat/completions",
                       {"messages": [{"role": "user", "content": "Name a city."}], "max_tokens": 80, "seed": 3,
                        "response_format": form})
    jsonschema.validate(json.loads("".join(c["choices"][0]["delta"].get("content", "") for c in chunks)), SCHEMA)


@pytest.mark.parametrize("form,param", [
    ({"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}, "response_format.json_schema.schema"),
    ({"type": "json_schema", "json_schema": {"schema": [1]}}, "response_format.json_schema.schema"),
    ({"type": "json_schema"}, "response_format.json_schema"),
    ({"type": "yaml"}, "response_format.type")])
def test_formats_that_are_refused(srv, form, param):
    e = check_error(srv.post("/v1/chat/completions", {**ENDPOINTS["/v1/chat/completions"], "response_format": form}), 400)
    assert e["param"].startswith(param), e


def test_model_without_a_template_says_so(grist):
    e = check_error(grist.post("/v1/chat/completions", ENDPOINTS["/v1/chat/completions"]), 400, None, "messages")
    assert "--chat-template" in e["message"]


# ---- what can go wrong, on the fake model ----
@pytest.mark.parametrize("path,body,param,code", [
    ("/v1/completions", {"prompt": "a", "best_of": 2}, "best_of", "unsupported_parameter"),
    ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix", "unsupported_parameter"),
    ("/v1/completions", {"prompt": "a", "temprature": 1}, "temprature", "unknown_field"),
    ("/v1/completions", {"prompt": "a", "echo": True, "logprobs": 1, "stream": True}, "echo", None),
    ("/v1/completions", {"prompt": "a" * 5000}, "prompt", "context_length_exceeded"),
    ("/v1/completions", {"prompt": [[1, 9999]]}, "prompt", None),
    ("/v1/completions", {"prompt": "a", "model": "stub@nope"}, "model", "unsupported_structure"),
    ("/v1/completions", {"prompt": "a", "model": "stub@mqa"}, "convert", "unsupported_structure"),
    ("/v1/completions", {"prompt": "a", "model": "stub@+nope"}, "model", "unsupported_structure"),
    ("/v1/completions", {"prompt": "a", "model": "stub@mqa("}, "model", None),
    ("/v1/completions", {"prompt": "a", "model": "stub@"}, "model", None),
    ("/v1/completions", {"prompt": "a", "model": "stub@gqa", "attention": "gqa"}, "attention", None),
    ("/v1/completions", {"prompt": "a", "attention": "nope"}, "attention", "unsupported_structure"),
    ("/v1/completions", {}, "prompt", None),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]}, "tools",
     "unsupported_parameter"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 5000}]}, "messages",
     "context_length_exceeded"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
     "messages[0].content[0].type", "unsupported_parameter"),
    ("/v1/chat/completions", {"prompt": "a"}, "prompt", "unknown_field"),
    ("/v1/completions", {"prompt": "a", "sequence": "b"}, "sequence", "unknown_field"),
    ("/v1/embeddings", {"input": "a", "dimensions": 3}, "dimensions", "unsupported_parameter"),
])
def test_refusals_name_the_field(srv, path, body, param, code):
    check_error(srv.post(path, body), 400, code, param)


@pytest.mark.tsan
@pytest.mark.parametrize("path", ENDPOINTS)
def test_statuses(start, tmp_path, path):
    body = ENDPOINTS[path]
    keys = tmp_path / "keys"
    keys.write_text("secret-key\n")
    keys.chmod(0o600)
    s = start("--api-key-file", keys, "--max-body", "2KiB", "--max-queue", "1", "--max-running", "1",
              env={"STUB_STEP_US": "20000", "STUB_ASCII": "1"})
    auth = {"Authorization": "Bearer secret-key"}
    check_error(s.post(path, body), 401, "invalid_api_key")
    check_error(s.post(path, {**body, "model": "gpt-4o"}, headers=auth), 404, "model_not_found", "model")
    check_error(s.post(path, {**body, "model": "openai/gpt-4o@mqa"}, headers=auth), 404, "model_not_found", "model")
    check_error(s.post(path, {**body, "model": "m" * 300}, headers=auth), 404, "model_not_found", "model")
    check_error(s.post(path, {**body, "user": "x" * 3000}, headers=auth), 413, "body_too_large")
    check_error(s.get(path, headers=auth), 405)
    few = body if "input" in body else {**body, "max_tokens": 2}
    assert s.post(path, few, headers=auth).status_code == 200
    held = [s.post("/v1/completions", {"prompt": "a", "max_tokens": 2000, "stream": True}, headers=auth, stream=True)]
    s.wait_metric("quern_running", lambda v: v == 1)
    held.append(s.post("/v1/completions", {"prompt": "b", "max_tokens": 2000, "stream": True}, headers=auth, stream=True))
    s.wait_metric("quern_queue_depth", lambda v: v == 1)
    check_error(s.post(path, body, headers=auth), 429, "queue_full")
    for h in held:
        h.close()
    s.wait_metric("quern_running", lambda v: v == 0)


@pytest.mark.tsan
def test_draining_is_503(start):
    s = start(env={"STUB_STEP_US": "10000"})
    with s.connect() as other:
        hold = s.post("/v1/completions", {"prompt": "a", "max_tokens": 150, "stream": True, "ignore_eos": True}, stream=True)
        s.wait_metric("quern_running", lambda v: v == 1)
        other.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 14\r\n\r\n")  # head only: in flight
        time.sleep(0.2)
        s.signal()
        s.wait_line("draining")
        other.sendall(b'{"prompt":"a"}')
        data = other.recv(10000)
        assert data.startswith(b"HTTP/1.1 503 ") and b'"code":"draining"' in data and b"Retry-After" in data
        chunks, done = read_sse(hold)
        assert done and chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert s.wait() == 0


@pytest.mark.tsan
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_abort_in_mid_stream_frees_the_slot(start, path):
    s = start("--max-running", "1", env={"STUB_STEP_US": "5000", "STUB_ASCII": "1"})
    r = s.post(path, {**ENDPOINTS[path], "max_tokens": 3000, "stream": True, "ignore_eos": True}, stream=True)
    lines = r.iter_lines(chunk_size=1)
    assert next(lines).startswith(b"data: ")
    s.wait_metric("quern_running", lambda v: v == 1)
    r.close()
    s.wait_metric("quern_running", lambda v: v == 0)
    s.wait_metric("quern_cancelled_total", lambda v: v == 1)
    s.wait_metric("quern_kv_used_bytes", lambda v: v == 0)
    assert s.post(path, {**ENDPOINTS[path], "max_tokens": 2}).status_code == 200


@pytest.mark.tsan
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_error_in_mid_stream_is_an_event(start, path):
    s = start(env={"STUB_FAIL": "1", "STUB_STEP_US": "1000"})
    r = s.post(path, {**ENDPOINTS[path], "max_tokens": 5, "stream": True}, stream=True)
    assert r.status_code == 200
    events, done = read_sse(r)
    assert done and set(events[-1]) == {"error"} and set(events[-1]["error"]) == {"message", "type", "param", "code"}
    check_error(start(env={"STUB_FAIL": "1"}).post(path, ENDPOINTS[path]), 500, "internal")


def test_headers_and_role_come_before_the_first_token(start):
    s = start(env={"STUB_STEP_US": "3000000"})
    r = s.post("/v1/chat/completions", {**ENDPOINTS["/v1/chat/completions"], "max_tokens": 1, "stream": True}, stream=True)
    first = json.loads(next(r.iter_lines(chunk_size=1))[6:])
    assert metric(s.metrics(), "quern_generated_tokens_total") == 0
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    r.close()


def test_deadline_cuts_and_says_so(start, schemas):
    s = start(env={"STUB_STEP_US": "50000", "STUB_ASCII": "1"})
    choice = complete(s, schemas, prompt="a", max_tokens=500, timeout_ms=400)["choices"][0]
    assert choice["finish_reason"] == "length" and choice["finish_detail"] == "timeout" and choice["text"]


@pytest.mark.tsan
def test_large_bodies_are_read_on_workers(srv, schemas):
    ids = [[1 + i % 200 for i in range(1700)] for _ in range(16)]
    assert len(complete(srv, schemas, prompt=ids, max_tokens=1, echo=True, logprobs=1)["choices"]) == 16


def test_log_line_and_metrics(start):
    s = start("--log-format", "json", env={"STUB_ASCII": "1"})
    before = s.metrics()
    s.post("/v1/completions", {"prompt": "Zwielichtgestalt", "max_tokens": 3}, headers={"x-request-id": "cmpl-logged"})
    s.wait_line("cmpl-logged")
    row = [r for r in map(json.loads, s.log().splitlines()) if r.get("id") == "cmpl-logged"][0]
    assert row["route"] == "/v1/completions" and row["status"] == 200 and row["completion_tokens"] == 3
    assert "Zwielichtgestalt" not in s.log()
    after = s.metrics()
    assert metric(after, "quern_requests_total", task="generate") - metric(before, "quern_requests_total", task="generate") == 1
