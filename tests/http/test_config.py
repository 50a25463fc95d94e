"""Options, environment, file: who wins, what is refused, what is printed."""
import os
import subprocess

import pytest

from conftest import STUB


def run(*args, env=None, cwd=None):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QUERN_")}
    environment.update(env or {})
    p = subprocess.run([STUB, *map(str, args)], capture_output=True, text=True, timeout=60, env=environment, cwd=cwd)
    assert "Sanitizer" not in p.stderr, p.stderr
    return p


def config(*args, **kw):
    p = run("--print-config", *args, **kw)
    assert p.returncode == 0, p.stderr
    return dict(line.split(" = ", 1) for line in p.stdout.splitlines() if " = " in line)


def test_defaults():
    c = config()
    assert c["listen"] == "127.0.0.1:8080" and c["max-connections"] == "4096" and c["max-body"] == "1048576"
    assert c["drain-delay"] == "0ms" and c["kv-type"] == "f16" and c["prefix-cache"] == "on"


def test_printed_configuration_is_a_configuration(tmp_path):
    f = tmp_path / "conf"
    f.write_text(run("--print-config", "--max-queue", "77", "--listen", "[::1]:99", "--model", "m1").stdout)
    assert config("--config", f) == config("--max-queue", "77", "--listen", "[::1]:99", "--model", "m1")
    f.write_text(run("--print-config", "--model", "a=m1", "--model", "m=2/x", "--chat-template", "chatml").stdout)
    printed = run("--print-config", "--config", f).stdout
    assert "model = a=m1\nmodel = m=2/x\nchat-template = chatml\n" in printed


def test_chat_template_names_are_listed():
    p = run("--chat-template", "nothing")
    assert p.returncode == 2 and "--chat-template: 'nothing' is not one of chatml" in p.stderr


def test_models_of_one_name():
    p = run("--model", "a=x", "--model", "a=y")
    assert p.returncode == 2 and "--model: two models are named 'a'" in p.stderr
    p = run("--model", "a=")
    assert p.returncode == 2 and "--model: has a name, but no path" in p.stderr


def test_file_below_environment_below_flags(tmp_path):
    f = tmp_path / "conf"
    f.write_text("# comment\n\nmax-queue = 1\nmax-running=2\n  step-tokens =  300  \nlog-format = \"json\"\n")
    env = {"QUERN_MAX_RUNNING": "20", "QUERN_STEP_TOKENS": "400", "QUERN_CONFIG": str(f)}
    c = config("--step-tokens", "500", env=env)
    assert (c["max-queue"], c["max-running"], c["step-tokens"], c["log-format"]) == ("1", "20", "500", "json")


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "q8"])
def test_kv_types_and_the_options_first_name(name, tmp_path):
    f = tmp_path / "conf"
    f.write_text(f"state-type = {name}\n")
    env = {"QUERN_STATE_TYPE": name}
    for c in (config("--kv-type", name), config("--state-type", name), config("--config", f), config(env=env)):
        assert c["kv-type"] == name and "state-type" not in c


@pytest.mark.parametrize("given,bytes_", [("4096", 4096), ("64KiB", 65536), ("2m", 2 << 20), ("1MB", 10**6),
                                          ("1 GiB", 1 << 30)])
def test_sizes(given, bytes_):
    assert config("--max-body", given)["max-body"] == str(bytes_)


@pytest.mark.parametrize("given,ms", [("5", 5000), ("5s", 5000), ("500ms", 500), ("2m", 120000), ("1h", 3600000)])
def test_times(given, ms):
    assert config("--body-timeout", given)["body-timeout"] == f"{ms}ms"


def test_models_of_a_later_source_replace_those_of_an_earlier(tmp_path):
    f = tmp_path / "conf"
    f.write_text("model = a\nmodel = b\n")
    out = run("--print-config", "--config", f).stdout
    assert "model = a\nmodel = b\n" in out
    out = run("--print-config", "--config", f, "--model", "c", "--model=d").stdout
    assert "model = c\nmodel = d\n" in out and "model = a" not in out


@pytest.mark.parametrize("args,words", [
    (["--max-quue", "1"], ["unknown option '--max-quue'", "--max-queue"]),
    (["--nonsense-that-is-far-away"], ["unknown option"]),
    (["serve"], ["unexpected argument"]),
    (["--max-queue"], ["needs a value"]),
    (["--max-queue", "0"], ["--max-queue", "outside [1,"]),
    (["--max-queue", "-1"], ["--max-queue", "not a whole number"]),
    (["--max-queue", "1e3"], ["not a whole number"]),
    (["--max-queue", "99999999999999999999999"], ["--max-queue"]),
    (["--max-queue", ""], ["--max-queue"]),
    (["--max-body", "12 parsecs"], ["--max-body", "size"]),
    (["--body-timeout", "soon"], ["--body-timeout", "time"]),
    (["--kv-type", "f64"], ["--kv-type", "f32|f16|bf16|q8"]),
    (["--prefix-cache", "maybe"], ["on|off"]),
    (["--log-level", "loud"], ["error|warn|info|debug"]),
    (["--listen", "8080"], ["HOST:PORT"]),
    (["--listen", "::1:8080"], ["HOST:PORT"]),
    (["--listen", "host:99999"], ["HOST:PORT"]),
    (["--listen", ":80"], ["HOST:PORT"]),
    (["--listen", "[::1]80"], ["HOST:PORT"]),
    (["--prefill-chunk", "900"], ["--prefill-chunk"]),
    (["--config", "/does/not/exist"], ["/does/not/exist"]),
])
def test_usage_errors(args, words):
    p = run(*args)
    assert p.returncode == 2 and p.stdout == ""
    for w in words:
        assert w in p.stderr, p.stderr


@pytest.mark.parametrize("text,words", [
    ("max-quue = 1\n", [":1:", "unknown key 'max-quue'", "'max-queue'"]), ("\n\nmax-queue\n", [":3:", "key = value"]),
    ("max-queue = x\n", [":1:", "max-queue"]), ("max-queue = 1\nmax-queue = 2\n", [":2:", "twice"]),
    ("x" * 5000, ["too long"])])
def test_file_errors_name_the_line(tmp_path, text, words):
    f = tmp_path / "conf"
    f.write_text(text)
    p = run("--check-config", "--config", f)
    assert p.returncode == 2
    for w in words:
        assert w in p.stderr, p.stderr


def test_environment_errors_name_the_variable():
    p = run("--check-config", env={"QUERN_MAX_QUEUE": "many"})
    assert p.returncode == 2 and "QUERN_MAX_QUEUE" in p.stderr


def test_check_config_and_help():
    assert run("--check-config", "--model", "x").returncode == 0
    p = run("--help")
    assert p.returncode == 0 and "--drain-timeout" in p.stdout and p.stderr == ""
    assert run("--version").returncode == 0


def test_no_model_names_the_option(tmp_path):
    p = run(cwd=tmp_path)
    assert p.returncode == 2 and "--model" in p.stderr


def test_address_in_use_is_a_runtime_error(srv):
    p = run("--model", "stub", "--listen", f"127.0.0.1:{srv.port}")
    assert p.returncode == 1 and "can't listen" in p.stderr


def test_two_models_of_one_name(tmp_path):
    p = run("--model", "a/same", "--model", "b/same", "--listen", "127.0.0.1:0")
    assert p.returncode == 1 and "two models are named 'same'" in p.stderr


def test_two_models_are_served(start):
    s = start("--model", "second")
    ids = [m["id"] for m in s.get("/v1/models").json()["data"]]
    assert ids == ["stub", "second"]
    assert s.infer(sequence="a", max_tokens=1).json()["model"] == "stub"
    assert s.infer(sequence="a", max_tokens=1, model="second").json()["model"] == "second"
    assert len(s.get("/v1/structures").json()["data"]) == 2


def test_public_address_without_key_is_warned_about(start):
    s = start("--listen", "0.0.0.0:0")
    s.wait_line("without an API key")


def test_ipv6(start):
    import socket
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    s = start("--listen", "[::]:0")
    with socket.create_connection(("::1", s.port), timeout=10) as c:
        c.sendall(b"GET /livez HTTP/1.1\r\nHost: t\r\n\r\n")
        assert c.recv(100).startswith(b"HTTP/1.1 200")


def test_threads_and_why_are_logged(start):
    s = start("--threads", "1")
    assert s.wait_line(r"1 compute threads \(--threads\)")
    t = start()
    assert t.wait_line(r"\d+ compute threads \((affinity|cgroup quota)\)")
