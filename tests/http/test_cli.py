"""The program around the server: subcommands, exit codes, the health check. Needs QUERN_BIN, the real binary."""
import csv
import io
import json
import os
import subprocess

import pytest

from conftest import ROOT

QUERN = os.environ.get("QUERN_BIN", os.path.join(ROOT, "build", "quern"))
pytestmark = pytest.mark.skipif(not os.access(QUERN, os.X_OK), reason="no quern binary")


def run(*args, env=None, cwd=None):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QUERN_")}
    environment.update(env or {})
    return subprocess.run([QUERN, *map(str, args)], capture_output=True, text=True, timeout=60, env=environment, cwd=cwd)


def test_help_and_version():
    for flag in ("--help", "-h"):
        p = run(flag)
        assert p.returncode == 0 and "serve" in p.stdout and p.stderr == ""
    for flag in ("--version", "-V"):
        p = run(flag)
        assert p.returncode == 0 and p.stdout.startswith("quern ")


@pytest.mark.parametrize("args", [[], ["nonsense"], ["--nonsense"], ["serve", "--nonsense"], ["healthcheck", "x"],
                                  ["healthcheck", "--url", "ftp://x"], ["healthcheck", "--url", "http://h:0/"]])
def test_usage_is_2(args):
    p = run(*args)
    assert p.returncode == 2 and p.stdout == "" and p.stderr


def test_missing_model_file_is_1(tmp_path):
    p = run("serve", "--model", tmp_path / "none.gguf", "--listen", "127.0.0.1:0")
    assert p.returncode == 1 and "none.gguf" in p.stderr


def test_piped_prompt_is_never_cut(tmp_path):
    for data, why in ((b"x" * (1 << 20 | 1), "1 MiB"), (b"a\0b", "zero byte"), (b"", "sequence")):
        p = subprocess.run([QUERN, "run", "--model", str(tmp_path / "none.gguf")], input=data, capture_output=True,
                           timeout=60)
        assert p.returncode == 2 and why in p.stderr.decode(), p.stderr


def test_healthcheck(srv, start):
    assert run("healthcheck", "--url", srv.url + "/readyz").returncode == 0
    assert run("healthcheck", f"--url={srv.url}/livez").returncode == 0
    assert run("healthcheck", env={"QUERN_LISTEN": f"0.0.0.0:{srv.port}"}).returncode == 0
    assert run("--healthcheck", "--url", srv.url + "/nope").returncode == 1
    s = start("--drain-delay", "2s")
    s.signal()
    s.wait_line("leaving")
    p = run("healthcheck", "--url", s.url + "/readyz")
    assert p.returncode == 1 and "503" in p.stderr
    s.wait()
    assert run("healthcheck", "--url", s.url + "/readyz").returncode == 1


MODEL = "synthetic:hidden=32,layers=2,heads=4,vocab=300,n=256,attention=gqa,kv_heads=2,type=f32"


def bench(*args):
    p = run("bench", "--model", MODEL, "--threads", 1, "--json", *args)
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout)["results"]


def test_bench_gives_every_sample_and_what_was_counted():
    prompt, one = bench("--prompt", 40, "--generate", 8, "--repeats", 5, "--depth", 20)
    _, two = bench("--prompt", 40, "--generate", 8, "--repeats", 2, "--depth", 20, "--batch", 2,
                   "--depth-mode", "filled")
    samples = sorted(one["samples"])
    assert len(samples) == 5 and one["median"] == samples[2] and abs(one["iqr"] - (samples[3] - samples[1])) < 0.011
    assert abs(one["tokens_per_second"] - sum(samples) / 5) < 0.011
    assert [(r["prompt_tokens"], r["generated_tokens"], r["depth"]) for r in (prompt, one)] == [(40, 0, 20), (0, 8, 20)]
    assert prompt["bytes"] > 0 and prompt["flops"] > one["flops"] > 0
    assert two["flops"] == 2 * one["flops"]
    state = two["bytes"] - one["bytes"]  # of the second sequence alone: weights are read once for both
    assert 0 < state < one["bytes"] / 4
    p = run("bench", "--model", MODEL, "--depth-mode", "empty")
    assert p.returncode == 2 and "computed or filled" in p.stderr


def test_bench_measures_the_machine():
    p = run("bench", "--machine", "--threads", 2, "--memory", 1, "--json")
    assert p.returncode == 0, p.stderr
    rows = json.loads(p.stdout)["threads"]
    assert [r["threads"] for r in rows] == [1, 2]
    for r in rows:
        assert r["read_memory_gb"] > 0 and r["f32_gflops"] > 0
        assert all(r[k] is None or r[k] > 0 for k in ("int8_gops", "bf16_gflops"))
    table = run("bench", "--machine", "--threads", 1, "--memory", 1).stdout
    assert "memory read, GB/s" in table and "1 thread |" in table
    assert run("bench", "--machine", "--threads", 0).returncode == 2


TINY = "hidden=32,layers=2,heads=4,vocab=300,ffn_dim=32,k=8,features=16,experts=4"


def sweep(*args):
    return run("bench", "--structures", "--shape", TINY, "--lengths", "20,48", "--repeats", 2, "--threads", 2, *args)


def rows_of(*args):
    p = sweep("--format", "json", *args)
    assert p.returncode == 0 and p.stderr == "", p.stderr
    return json.loads(p.stdout)


def test_sweep_measures_every_structure_at_every_length():
    names = ["mha", "gqa", "mqa", "linformer", "performer"]
    rows = rows_of("--max-seconds", 60)
    assert [(r["attention"], r["length"]) for r in rows] == [(a, n) for a in names for n in (20, 48)]
    keys = list(rows[0])
    for r in rows:
        assert list(r) == keys and r["shape"] == TINY and r["weight_type"] == "q8_0" and r["threads"] == 2
        assert r["ffn"] == "swiglu" and r["sharing"] == "none" and r["batch"] == 1
        assert r["decode_samples"] == r["prefill_samples"] == 2
        assert r["decode_skipped"] is None and r["prefill_skipped"] is None and r["prefill_estimate_ms"] is None
        for k in keys:
            if k.startswith(("decode_", "prefill_", "weights_", "state_bytes")) and "skipped" not in k and \
                    "estimate" not in k:
                assert r[k] >= 0, k
        assert r["decode_ms_per_token"] > 0 and r["prefill_ms"] > 0
        assert r["weights_active_bytes"] <= r["weights_bytes"]
    by = {(r["attention"], r["length"]): r for r in rows}
    block = 2 * 2 * 16 * 8 * 2  # layers, K and V, tokens, head width, f16
    for n, blocks in ((20, 2), (48, 3)):
        assert by["mha", n]["state_bytes"] == 4 * block * blocks
        assert by["mqa", n]["state_bytes"] == block * blocks
        assert by["mha", n]["decode_speedup"] == by["mha", n]["decode_bytes_ratio"] == 1
        assert by["mqa", n]["decode_bytes_ratio"] > 1
    for a in ("linformer", "performer"):
        assert by[a, 20]["state_bytes"] == by[a, 48]["state_bytes"] > 0
    assert "kv_heads=1" in by["mqa", 20]["attention_parameters"]


def test_sweep_writes_the_same_columns_as_csv():
    args = ("--attention", "mha,mqa", "--batch", "1,3")
    rows = rows_of(*args)
    p = sweep("--format", "csv", *args)
    table = list(csv.DictReader(io.StringIO(p.stdout)))
    assert p.returncode == 0 and len(table) == len(rows) == 8
    fixed = ("shape", "attention", "batch", "length", "state_bytes", "decode_flops", "decode_bytes", "prefill_skipped")
    for a, b in zip(table, rows):
        assert list(a) == list(b)
        for k in fixed:
            assert a[k] == ("" if b[k] is None else str(b[k])), k
    # Prefill is of one sequence: with the first batch size only.
    assert [r["prefill_samples"] for r in rows] == [2, 2, 0, 0] * 2
    assert rows[2]["prefill_ms"] is None and rows[2]["decode_flops"] == 3 * rows[0]["decode_flops"]


def test_sweep_marks_what_it_skips_with_an_estimate():
    rows = rows_of("--attention", "mqa", "--max-seconds", 0)
    for r in rows:
        assert r["prefill_ms"] is None and r["prefill_samples"] == 0
        assert "--max-seconds" in r["prefill_skipped"] and r["prefill_estimate_ms"] > 0
        assert r["decode_samples"] == 2
    assert rows[1]["prefill_estimate_ms"] > rows[0]["prefill_estimate_ms"]
    p = sweep("--attention", "mqa", "--max-seconds", 0)
    assert p.returncode == 0 and "skipped" in p.stdout and "q8_0 weights, f16 state" in p.stdout
    p = sweep("--attention", "mqa", "--max-seconds", 0, "--depth-mode", "computed", "--format", "json")
    assert all("running to the depth" in r["decode_skipped"] for r in json.loads(p.stdout))


def test_sweep_of_sharing_and_mixtures():
    rows = rows_of("--attention", "gqa", "--ffn", "swiglu,moe", "--sharing", "none,all", "--only", "decode",
                   "--depth-mode", "computed")
    assert len(rows) == 8 and "prefill_ms" not in rows[0]
    by = {(r["ffn"], r["sharing"]): r for r in rows}
    assert by["swiglu", "all"]["weights_bytes"] < by["swiglu", "none"]["weights_bytes"]
    assert "experts=4" in by["moe", "none"]["ffn_parameters"]
    # A step of several tokens meets more experts; 2 of 4 are used by each.
    one, many = rows_of("--attention", "gqa", "--ffn", "moe", "--batch", "1,2", "--only", "decode")[::2]
    assert many["decode_bytes"] > one["decode_bytes"]
    # Without a vocabulary of one's own, ways of sharing are compared with a small head.
    p = run("bench", "--structures", "--shape", "hidden=32,layers=2,heads=4", "--attention", "mha", "--sharing",
            "none,all", "--lengths", 16, "--repeats", 1, "--format", "json", "--only", "decode")
    assert json.loads(p.stdout)[0]["shape"].endswith("vocab=4096")


def test_sweep_keeps_kv_heads_for_those_that_can_have_them():
    p = run("bench", "--structures", "--shape", TINY + ",kv_heads=2", "--attention", "mha,gqa,mqa", "--lengths", 16,
            "--repeats", 1, "--format", "json", "--only", "decode")
    assert p.returncode == 0, p.stderr
    heads = [r["attention_parameters"] for r in json.loads(p.stdout)]
    assert ["kv_heads=%d" % n in h for n, h in zip((4, 2, 1), heads)] == [True] * 3


@pytest.mark.parametrize("args,why", [
    (["--shape", "bert"], "bert-base"), (["--shape", "hidden=32,n=5"], "--lengths"), (["--shape", "hiden=32"], "hidden"),
    (["--lengths", "5,x"], '"x"'), (["--lengths", "0"], "from 1"), (["--lengths", "5,5"], "twice"),
    (["--lengths", "5,"], "commas"), (["--attention", "mha,,mqa"], "commas"), (["--attention", "nope"], "mha"),
    (["--ffn", "nope"], "swiglu"), (["--sharing", "nope"], "none"), (["--type", "q9"], "q8_0"), (["--batch", "999"], "256"),
    (["--format", "xml"], "json"), (["--only", "x"], "prefill"), (["--depth-mode", "x"], "computed"),
    (["--kv-type", "q4"], "q8"), (["--model", "x"], "unknown option"), (["--repeats", "0"], "from 1")])
def test_sweep_says_what_is_wrong(args, why):
    p = run("bench", "--structures", *args)
    assert p.returncode == 2 and p.stdout == "" and p.stderr.startswith("quern: ") and why in p.stderr, p.stderr
    assert p.stderr.count("\n") == 1


NOISE = "synthetic:hidden=32,layers=1,heads=2,vocab=300,n=64,ffn_dim=32,type=q8_0"


def perplexity(*args):
    return run("perplexity", "--model", NOISE, "--threads", 1, *args)


def test_perplexity_counts_windows_and_compares_with_exact_arithmetic(tmp_path):
    text = tmp_path / "text"
    text.write_text("To be, or not to be, that is the question. " * 9)  # a byte is a token: 387 + BOS
    p = perplexity("--text", text, "--ctx", 64, "--compare", "--json")
    assert p.returncode == 0 and p.stderr == "", p.stderr
    packed, exact = json.loads(p.stdout)["results"]
    assert [packed["windows"], packed["scored"], packed["ctx"]] == [6, 6 * 31, 64]
    assert (packed["arithmetic"], exact["arithmetic"], exact["state_type"]) == ("packed", "exact", "f32")
    assert 50 < packed["perplexity"] < 2000 and 0 < packed["stderr"] < packed["perplexity"]
    assert packed["perplexity"] != exact["perplexity"]
    assert abs(json.loads(p.stdout)["difference_percent"]) < 0.3
    one = json.loads(perplexity("--text", text, "--ctx", 64, "--exact", "--json", "--batch", 1).stdout)["results"]
    assert [r["nll"] for r in one] == [exact["nll"]]
    p = perplexity("--text", text, "--ctx", 32, "--chunks", 2)
    assert p.returncode == 0 and "2 windows of 32 tokens, 30 predictions" in p.stdout and "perplexity: " in p.stdout
    p = subprocess.run([QUERN, "perplexity", "--model", NOISE, "--text", "-", "--ctx", "64", "--json"],
                       input=text.read_bytes(), capture_output=True, timeout=60)
    assert json.loads(p.stdout)["results"][0]["nll"] == packed["nll"]


@pytest.mark.parametrize("args,code,why", [
    ([], 2, "--text"), (["--text", "/nonexistent"], 1, "/nonexistent"), (["--text", "/"], 1, "can't be read"),
    (["--text", "short", "--exact", "--compare"], 2, "exclude"), (["--text", "short", "--ctx", "3"], 2, "--ctx"),
    (["--text", "short"], 1, "one window"), (["--text", "short", "--ctx", "65"], 1, "64"),
    (["--text", "short", "--kv-type", "q3"], 2, "--kv-type")])
def test_perplexity_says_what_is_wrong(tmp_path, args, code, why):
    (tmp_path / "short").write_text("short")
    args = [str(tmp_path / "short") if a == "short" else a for a in args]
    if "--ctx" not in args:
        args = [*args, "--ctx", "64"]
    p = perplexity(*args)
    assert p.returncode == code and p.stdout == "" and why in p.stderr


def convert(*args, **kw):
    return run("convert", *args, "--threads", 2, **kw)


def test_convert_writes_a_file_that_loads(tmp_path):
    out = tmp_path / "noise.gguf"
    p = convert(NOISE, "--type", "q4_0", "--out", out)
    assert p.returncode == 0 and p.stdout == "" and "Q4_0" in p.stderr, p.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["noise.gguf"]
    p = run("inspect", out)
    assert p.returncode == 0 and "Q4_0" in p.stdout and "llama" in p.stdout
    before = out.read_bytes()
    p = convert(out, "--type", "f16", "--out", out, "--force")
    assert p.returncode == 1 and "input itself" in p.stderr
    other = tmp_path / "other.gguf"
    assert convert(out, "--type", "q4_0", "--out", other).returncode == 0
    p = convert(out, "--type", "f32", "--out", other)
    assert p.returncode == 1 and "--force" in p.stderr
    assert convert(out, "--type", "f32", "--out", other, "--force").returncode == 0
    assert out.read_bytes() == before and other.stat().st_size > 2 * len(before)
    p = subprocess.run([QUERN, "convert", str(out), "--type", "q4_0", "--out", "/dev/stdout"], capture_output=True,
                       timeout=60)
    assert p.returncode == 0 and p.stdout == before


@pytest.mark.parametrize("args,code,why", [
    ([], 2, "usage"), (["--type", "q4_0"], 2, "usage"), (["--type", "q3", "--out", "x"], 2, "q4_k_m"),
    (["--type", "f16", "--out", "/dev/full"], 1, "No space left"), (["--type", "f16", "--out", "/"], 1, "name of a file"),
    (["--type", "f16", "--out", "/nonexistent/x"], 1, "No such file")])
def test_convert_says_what_is_wrong(tmp_path, args, code, why):
    p = convert(NOISE, *args, cwd=tmp_path)
    assert p.returncode == code and p.stdout == "" and why in p.stderr
    assert list(tmp_path.iterdir()) == []


def test_convert_leaves_nothing_behind_when_it_fails(tmp_path):
    command = f"ulimit -f 16; exec {QUERN} convert {NOISE} --type f32 --out {tmp_path}/x"
    p = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert p.returncode == 1 and "File too large" in p.stderr
    big = "synthetic:hidden=512,layers=24,heads=8,vocab=32000,n=64,type=f32"
    with subprocess.Popen([QUERN, "convert", big, "--type", "q4_k_m", "--out", str(tmp_path / "x")],
                          stderr=subprocess.PIPE, text=True) as p:
        while not list(tmp_path.iterdir()):
            assert p.poll() is None
        p.terminate()
        assert "stopped" in p.communicate(timeout=60)[1] and p.returncode == 1
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "sealed").mkdir(mode=0o555)
    if os.geteuid() != 0:
        p = convert(NOISE, "--type", "f16", "--out", tmp_path / "sealed" / "x")
        assert p.returncode == 1 and "Permission denied" in p.stderr
