"""Several models in one process: names, listings, queues and places apart, metrics by model; and what evaluation tools
ask of a tokenizer."""
import json
import os
import re
import shutil
import subprocess
import threading
import time

import pytest

from conftest import FLAVOUR, REAL, ROOT, SLOW, SMOL, Server, check_error, metric

TINY = os.path.join(ROOT, "tests", "golden", "models", "llama", "f32.gguf")
PER_MODEL = ("quern_model_queue_depth", "quern_model_queue_tokens", "quern_model_running", "quern_model_paused",
             "quern_model_requests_total", "quern_model_refused_total", "quern_model_prompt_tokens_total",
             "quern_model_cached_tokens_total", "quern_model_generated_tokens_total")


@pytest.fixture(scope="module")
def two():
    s = Server("--model", "other=stub", "--max-running", "2", "--max-queue", "3", "--state-memory", "1MiB",
               env={"STUB_STEP_US": "3000", "STUB_ASCII": "1"}, model="one=stub")
    yield s
    s.stop()


@pytest.fixture(scope="module")
def real():
    """grist twice, and SmolLM2 when it is there."""
    more = ["--model", f"smol={SMOL}"] if os.path.exists(SMOL) and FLAVOUR == "release" else []
    s = Server("--model", "second=grist", "--state-memory", "16MiB", *more, model="grist", binary=REAL)
    yield s
    s.stop()


def streams(server, n, **body):
    """Requests that run until they are left."""
    replies = []
    for _ in range(n):
        r = server.post("/v1/infer", dict(body, stream=True), stream=True)
        assert r.status_code == 200, r.text
        replies.append(r)
    return replies


def leave(server, replies):
    for r in replies:
        r.close()
    server.wait_metric("quern_running", lambda v: v == 0)
    server.wait_metric("quern_queue_depth", lambda v: v == 0)


# --- names ---

@pytest.mark.tsan
def test_both_are_listed_and_answer(two):
    listed = two.get("/v1/models").json()["data"]
    assert [m["id"] for m in listed] == ["one", "other"]
    for m in listed:
        assert m["state_budget_bytes"] == 1 << 20 and m["weights_bytes"] > 0
        assert m["structures"]["attention"]["gqa"] == "exact"
        assert two.get("/v1/models/" + m["id"]).json()["id"] == m["id"]
        assert two.infer(sequence="hi", max_tokens=2, model=m["id"]).json()["model"] == m["id"]
    assert two.infer(sequence="hi", max_tokens=2).json()["model"] == "one"
    check_error(two.infer(sequence="hi", model="stub"), 404, "model_not_found")
    assert [m["model"] for m in two.get("/v1/structures").json()["data"]] == ["one", "other"]


def test_two_models_of_one_name_do_not_start():
    s = Server("--model", "stub", "--listen", "127.0.0.1:0", ready=False)
    s.wait_line(r"two models are named 'stub'; --model NAME=PATH gives one of them another name")
    assert s.wait() == 1


# --- apart ---

@pytest.mark.tsan
def test_a_full_queue_refuses_only_its_own(two):
    refused = metric(two.metrics(), "quern_model_refused_total", model="one")
    running = streams(two, 2, sequence="a", max_tokens=2000, model="one")
    two.wait_metric("quern_model_running", lambda v: v == 2, model="one")
    waiting = []

    def wait():
        waiting.append(two.infer(sequence="b", max_tokens=1, model="one", timeout_ms=30000 * SLOW))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for t in threads:
        t.start()
    two.wait_metric("quern_model_queue_depth", lambda v: v == 3, model="one")
    r = two.infer(sequence="c", max_tokens=1, model="one")
    check_error(r, 429, "queue_full")
    assert 1 <= int(r.headers["retry-after"]) <= 30
    assert two.infer(sequence="c", max_tokens=3, model="other").status_code == 200
    m = two.metrics()
    assert metric(m, "quern_model_queue_depth", model="one") == 3 == metric(m, "quern_queue_depth")
    assert metric(m, "quern_model_queue_depth", model="other") == 0
    assert metric(m, "quern_model_running", model="one") == 2
    assert metric(m, "quern_model_refused_total", model="one") == refused + 1
    assert metric(m, "quern_model_refused_total", model="other") == 0
    for r in running:
        r.close()
    for t in threads:
        t.join()
    assert [r.status_code for r in waiting] == [200] * 3
    leave(two, [])


def test_metrics_of_both(two):
    before = two.metrics()
    assert two.infer(sequence="count me", max_tokens=5, model="other", cache=False).status_code == 200
    after = two.metrics()
    names = {dict(labels)["model"] for (name, labels) in after if name in PER_MODEL}
    assert names == {"one", "other"}
    for name in PER_MODEL:
        assert {dict(labels)["model"] for (n, labels) in after if n == name} == {"one", "other"}, name

    def grown(name, model):
        return metric(after, name, model=model) - metric(before, name, model=model)

    assert grown("quern_model_requests_total", "other") == 1 and grown("quern_model_requests_total", "one") == 0
    assert grown("quern_model_prompt_tokens_total", "other") == 8
    assert grown("quern_model_generated_tokens_total", "other") == 5
    assert grown("quern_model_generated_tokens_total", "one") == 0
    total = metric(after, "quern_generated_tokens_total") - metric(before, "quern_generated_tokens_total")
    assert total == 5


# --- real models ---

def test_real_models_beside_each_other(real):
    listed = {m["id"]: m for m in real.get("/v1/models").json()["data"]}
    assert list(listed)[:2] == ["grist", "second"]
    assert listed["grist"]["parameters"] == listed["second"]["parameters"]
    assert {"mha", "gqa", "mqa"} <= set(listed["grist"]["structures"]["attention"])
    assert "moe" in listed["second"]["structures"]["ffn"]
    answers = [real.infer(sequence="ROMEO:", max_tokens=16, temperature=0, model=m).json()["outputs"][0]["tokens"]
               for m in ("grist", "second", "grist")]
    assert answers[0] == answers[1] == answers[2]
    # at the same time, in different structures, the same tokens
    got = {}

    def run(i, model, attention):
        r = real.infer(sequence="ROMEO:", max_tokens=32, temperature=0, model=model, attention=attention, ignore_eos=True)
        got[i] = r.json()["outputs"][0]["tokens"]

    plan = [(m, a) for m in ("grist", "second") for a in ("gqa", "mha", "mqa")]
    threads = [threading.Thread(target=run, args=(i, m, a)) for i, (m, a) in enumerate(plan)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i in range(3):
        assert got[i] == got[i + 3] and len(got[i]) == 32
    kinds = real.metrics()
    for m in listed:
        assert metric(kinds, "quern_bytes", model=m, kind="state_budget") == 16 << 20
        assert metric(kinds, "quern_bytes", model=m, kind="weights") > 0


def test_real_long_prompts_hold_up_one_model_only(real):
    """Prompts of more than a step's budget each at one model; the other one answers before any of them is through."""
    long = [1 + i % 200 for i in range(900)]
    crowd = 16 if FLAVOUR == "release" else 4
    done = []

    def ask(k):
        r = real.infer(sequence=long[k:] + long[:k], max_tokens=64, model="grist", ignore_eos=True, cache=False)
        done.append((time.monotonic(), r.status_code))

    threads = [threading.Thread(target=ask, args=(k,)) for k in range(crowd)]
    for t in threads:
        t.start()
    real.wait_metric("quern_model_running", lambda v: v > 0, model="grist")
    assert real.infer(sequence=[5, 6, 7], max_tokens=2, model="second", ignore_eos=True).status_code == 200
    answered = time.monotonic()
    for t in threads:
        t.join()
    assert [s for _, s in done] == [200] * crowd
    assert answered < max(t for t, _ in done)


@pytest.mark.skipif(not os.path.exists(SMOL) or FLAVOUR != "release", reason="needs SmolLM2 and a release build")
def test_smollm2_among_them(real):
    m = real.get("/v1/models/smol").json()
    assert m["family"] == "llama" and m["chat_template"] == "smollm2"
    assert m["parameters"] > 130e6
    text = real.infer(sequence="The capital of France is", max_tokens=4, model="smol").json()["outputs"][0]["text"]
    assert "Paris" in text
    info = real.get("/tokenizer_info?model=smol").json()
    assert info["eos_token"] == "<|im_end|>" and info["bos_token"] == "<|im_start|>" and info["eos_token_id"] == 2
    assert "<|im_start|>" in info["chat_template"] and info["chat_template_name"] == "smollm2"
    assert info["vocab_size"] == 49152 and info["add_bos_token"] is False


# --- the state of several models ---

def test_state_is_shared_out(start):
    def budgets(s):
        return [m["state_budget_bytes"] for m in s.get("/v1/models").json()["data"]]

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    one = budgets(start(model="grist", binary=REAL))
    three = budgets(start("--model", "b=grist", "--model", "c=grist", model="grist", binary=REAL))
    assert len(set(three)) == 1 and one[0] / 4 < three[0] <= one[0]
    assert sum(three) <= memory / 4 or one[0] == 1 << 30
    given = budgets(start("--model", "b=grist", "--state-memory", "8MiB", model="grist", binary=REAL))
    assert given == [8 << 20] * 2


# --- the tokenizer ---

def test_tokenizer_info(two):
    info = two.get("/tokenizer_info").json()
    assert info["model"] == "one" and info["bos_token"] is None and info["eos_token"] == "<end>"
    assert info["eos_token_id"] == 256 and info["pad_token"] is None and info["add_bos_token"] is False
    assert info["chat_template_name"] == "chatml" and info["chat_template"]
    for query, model in (("?model=other", "other"), ("?model=one", "one"), ("?model=%6fther", "other"), ("?x=1", "one"),
                         ("?x=1&model=other", "other")):
        assert two.get("/tokenizer_info" + query).json()["model"] == model, query
    check_error(two.get("/tokenizer_info?model=nope"), 404, "model_not_found", "model")
    for query in ("?model=", "?model=%00", "?model=" + "m" * 300):
        check_error(two.get("/tokenizer_info" + query), 400, None, "model")
    check_error(two.post("/tokenizer_info", {}), 405, "method_not_allowed")


def test_tokenizer_info_needs_a_tokenizer(start):
    s = start(model=TINY, binary=REAL)
    r = s.get("/tokenizer_info")
    if r.status_code != 200:
        check_error(r, 400, None, "model")


def test_tokenize_as_evaluation_tools_do(real):
    """prompt, and add_special_tokens either way: tokens; back through /detokenize the same text."""
    text = "To be, or not to be:\n  that is the question — naïve?"
    for special in (True, False):
        r = real.post("/tokenize", {"prompt": text, "add_special_tokens": special})
        tokens = r.json()["tokens"]
        assert r.status_code == 200 and tokens and all(isinstance(t, int) for t in tokens)
        assert r.json()["count"] == len(tokens)
        back = real.post("/detokenize", {"tokens": tokens}).json()
        assert back["prompt"].endswith(text) and back["text"] == back["prompt"]
        if not special:
            assert back["prompt"] == text
    assert real.post("/tokenize", {"model": "second", "prompt": text}).json()["tokens"] == \
        real.post("/tokenize", {"model": "grist", "prompt": text}).json()["tokens"]
    check_error(real.post("/tokenize", {"prompt": text, "add_special_tokens": 1}), 400, None, "add_special_tokens")


# --- chat templates ---

CHATML = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


@pytest.mark.parametrize("settings,jinja,name", [
    ({"chat_template": CHATML}, None, "chatml"),
    ({"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}]}, None, "chatml"),
    ({"chat_template": "something else"}, CHATML, "chatml"),
    ({"chat_template": "{{ messages }}"}, None, None),
    ({}, None, None)])
def test_template_of_a_checkpoint(start, tmp_path, settings, jinja, name):
    """Read from the files beside the weights, kept by quern convert, told by /tokenizer_info."""
    source = tmp_path / "llama"
    source.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(os.path.join(ROOT, "tests", "golden", "models", "llama", "f32", file), source)
    letters = {c: i + 3 for i, c in enumerate("\u0120abcdefghijklmnopqrstuvwxyz0123456789.,;:!?")}
    (source / "tokenizer.json").write_text(json.dumps(
        {"added_tokens": [{"id": 0, "content": "<s>", "special": True}], "normalizer": None,
         "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
         "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": letters, "merges": []}}))
    (source / "tokenizer_config.json").write_text(json.dumps(dict(settings, bos_token="<s>", eos_token={"content": "z"})))
    if jinja:
        (source / "chat_template.jinja").write_text(jinja)
    text = jinja or (settings.get("chat_template") if isinstance(settings.get("chat_template"), (str, type(None))) else CHATML)
    gguf = tmp_path / "llama.gguf"
    subprocess.run([REAL, "convert", str(source), "--type", "f16", "--out", str(gguf)], check=True, capture_output=True,
                   timeout=60 * SLOW)
    told = subprocess.run([REAL, "inspect", str(source)], check=True, capture_output=True, text=True, timeout=60 * SLOW).stdout
    assert re.search(r"^chat template +(.*)$", told, re.M).group(1) == \
        (name or ("none" if text is None else "one that quern does not know"))
    for path in (source, gguf):
        s = start("--state-memory", "1MiB", model=str(path), binary=REAL)
        info = s.get("/tokenizer_info").json()
        assert info["chat_template"] == text and info["chat_template_name"] == name
        assert info["bos_token"] == "<s>" and info["bos_token_id"] == 0 and info["eos_token"] == "z"
        assert ("does not know: chat requests get 400" in s.log()) == (text is not None and name is None)


def test_chat_template_option(start):
    s = start("--chat-template", "gemma", model="grist", binary=REAL)
    info = s.get("/tokenizer_info").json()
    assert info["chat_template_name"] == "gemma" and info["chat_template"] is None
    assert s.get("/v1/models").json()["data"][0]["chat_template"] == "gemma"
    plain = start(model="grist", binary=REAL).get("/v1/models").json()["data"][0]
    assert plain["chat_template"] is None
