"""What a server keeps in memory, and what becomes of it when the files behind its weights are cut while it runs."""
import os
import re
import shutil
import subprocess

import pytest

from conftest import FLAVOUR, REAL, ROOT, SMOL, Server, metric

MODELS = os.path.join(ROOT, "tests", "golden", "models")
MIB = 1 << 20


@pytest.fixture
def two(tmp_path):
    """Copies of two tiny checkpoints, a.gguf and b.gguf."""
    paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    shutil.copy(os.path.join(MODELS, "llama", "f32.gguf"), paths[0])
    shutil.copy(os.path.join(MODELS, "llama_q8_0", "quantised.gguf"), paths[1])
    return [str(p) for p in paths]


def answer(server, model, **more):
    return server.infer(model=model, sequence=[3, 4, 5, 6], max_tokens=8, ignore_eos=True, **more)


def tokens(reply):
    assert reply.status_code == 200, reply.text
    return reply.json()["outputs"][0]["tokens"]


def serve(paths, *args):
    return Server("--model", paths[1], *args, model=paths[0], binary=REAL)


def test_a_cut_file_fails_its_model_alone(two):
    plain = serve(two)
    want = [tokens(answer(plain, m)) for m in "ab"]
    plain.stop()
    server = serve(two, "--mmap", "on")
    assert "of weights (mapped)" in server.log() and "is not mapped" not in server.log()
    assert [tokens(answer(server, m)) for m in "ab"] == want
    assert metric(server.metrics(), "quern_model_available", model="a") == 1
    os.truncate(two[0] + ".quern-panels", 5000)
    for task in ("generate", "score", "embed"):
        reply = server.infer(model="a", task=task, sequence=[3, 4, 5, 6])
        error = reply.json()["error"]
        assert reply.status_code == 503 and error["code"] == "model_lost", reply.text
        assert error["type"] == "server_error" and "cut or overwritten" in error["message"], error
    reply = server.post("/v1/compare", {"model": "a", "sequence": [3, 4, 5, 6], "max_tokens": 4,
                                        "structures": [{"attention": "gqa"}, {"attention": "mha"}]})
    assert reply.status_code == 503 and reply.json()["error"]["code"] == "model_lost", reply.text
    assert server.get("/livez").status_code == 200
    ready = server.get("/readyz")
    assert ready.status_code == 200 and "cut or overwritten" in ready.text
    assert tokens(answer(server, "b")) == want[1]
    numbers = server.metrics()
    assert metric(numbers, "quern_model_available", model="a") == 0
    assert metric(numbers, "quern_model_available", model="b") == 1
    assert metric(numbers, "quern_ready") == 1
    server.wait_line("error model a is lost")
    os.truncate(two[1] + ".quern-panels", 0)
    assert answer(server, "b").status_code == 503
    ready = server.get("/readyz")
    assert ready.status_code == 503 and "no model is available" in ready.text
    assert metric(server.metrics(), "quern_ready") == 0
    assert server.get("/livez").status_code == 200
    server.stop()
    again = serve(two, "--mmap", "on")  # writes them anew
    assert [tokens(answer(again, m)) for m in "ab"] == want
    again.stop()


def test_a_stream_ends_in_an_error_when_its_file_is_cut(two):
    server = serve(two, "--mmap", "on", "--max-tokens", "1000000")
    context = server.get("/v1/models/b").json()["context"]
    reply = server.post("/v1/infer", {"model": "b", "sequence": [3, 4], "max_tokens": context - 2, "ignore_eos": True,
                                      "stream": True}, stream=True)
    lines = reply.iter_lines(chunk_size=1)
    next(lines)
    os.truncate(two[1] + ".quern-panels", 100)
    rest = b"\n".join(lines).decode()
    if "model_lost" not in rest:  # it was too fast: all tokens are there
        assert rest.rstrip().endswith("[DONE]")
    assert answer(server, "b").json()["error"]["code"] == "model_lost"
    tokens(answer(server, "a"))
    server.stop()


def test_what_cannot_be_written_is_told_and_served(two):
    os.mkdir(two[0] + ".quern-panels.part")
    server = serve(two, "--mmap", "on")
    server.wait_line(r"warn model a is not mapped, its weights are in memory: cannot write .*a\.gguf")
    assert len(tokens(answer(server, "a"))) == 8
    server.stop()


def test_without_mmap_the_file_may_go(two):
    server = serve(two)
    want = tokens(answer(server, "a"))
    os.truncate(two[0], 0)
    assert tokens(answer(server, "a", cache=False)) == want
    assert not os.path.exists(two[0] + ".quern-panels")
    server.stop()


def status(server, key):
    with open(f"/proc/{server.proc.pid}/status") as f:
        return int(re.search(rf"{key}:\s+(\d+) kB", f.read()).group(1)) * 1024


@pytest.mark.skipif(FLAVOUR != "release", reason="sanitizers have memory of their own")
@pytest.mark.parametrize("mmap", ["off", "on"])
@pytest.mark.parametrize("name", ["tiny", "smol"])
def test_memory_is_the_file_and_little_more(name, mmap, tmp_path):
    """Resident, now and at its peak: at most 1.15 times the file, the state, and 40 MiB."""
    if name == "smol" and not os.path.exists(SMOL):
        pytest.skip("no model")
    path = str(tmp_path / "m.gguf")
    shutil.copy(SMOL if name == "smol" else os.path.join(MODELS, "llama", "f16.gguf"), path)
    if mmap == "on":
        Server("--mmap", "on", model=path, binary=REAL).stop()
    server = Server("--mmap", mmap, model=path, binary=REAL)
    info = server.get("/v1/models/m").json()
    prompt = [(7 * i) % 80 + 3 for i in range(min(700, info["context"] - 20))]
    for body in ({"sequence": [3]}, {"sequence": prompt}):
        reply = server.infer(max_tokens=8, ignore_eos=True, **body)
        assert reply.status_code == 200, reply.text
    numbers = server.metrics()
    state = sum(metric(numbers, "quern_bytes", model="m", kind=k) for k in ("state_used", "state_cached"))
    bound = 1.15 * os.path.getsize(path) + state + 40 * MIB
    for key in ("VmRSS", "VmHWM"):
        assert status(server, key) <= bound, f"{key}: {status(server, key) / MIB:.1f} of {bound / MIB:.1f} MiB"
    server.stop()


def logprob(server, model):
    reply = server.infer(model=model, task="score", sequence=[3, 4, 5, 6, 7, 8, 9], logprobs=0)
    assert reply.status_code == 200, reply.text
    return reply.json()["outputs"][0]["score"]["log_prob"]


def test_f16_as_bf16_rounds_and_does_not_go_with_mmap(tmp_path):
    path = str(tmp_path / "half.gguf")
    shutil.copy(os.path.join(MODELS, "llama", "f16.gguf"), path)
    seen = []
    for more in ([], ["--f16-as-bf16", "on"]):
        server = Server(*more, model=path, binary=REAL)
        seen.append(logprob(server, "half"))
        server.stop()
    assert seen[0] != seen[1] and abs(seen[0] - seen[1]) < 0.05 * abs(seen[0]), seen
    run = subprocess.run([REAL, "serve", "--listen", "127.0.0.1:0", "--model", path, "--mmap", "on", "--f16-as-bf16", "on"],
                         stderr=subprocess.PIPE, timeout=60, check=False)
    assert run.returncode == 1 and b"no f16-as-bf16 with mmap" in run.stderr, run.stderr
