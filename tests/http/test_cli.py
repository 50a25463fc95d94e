"""The program around the server: subcommands, exit codes, the health check. Needs QUERN_BIN, the real binary."""
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
