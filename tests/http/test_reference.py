"""What the program says about itself: man page, completion, reference, and `make install`."""
import json
import os
import re
import shutil
import subprocess

import pytest

from conftest import ROOT
from test_cli import QUERN, run

pytestmark = pytest.mark.skipif(not os.access(QUERN, os.X_OK), reason="no quern binary")

MODES = ["serve", "run", "compare", "inspect", "convert", "bench", "bench --structures", "bench --machine", "perplexity",
         "healthcheck", "reference", "man", "completion"]


def options(command):
    """Names of options out of --help, with what they take."""
    p = run(*command.split(), "--help")
    assert p.returncode == 0 and p.stderr == "", p.stderr
    return dict(re.findall(r"^  --([a-z0-9-]+)(?: (\S+))?  ", p.stdout, re.M))


def test_help_names_every_command():
    text = run("--help").stdout
    for name in MODES:
        assert re.search(rf"^  {name.split()[0]} ", text, re.M), name
        assert run(*name.split(), "--help").stdout.startswith(f"usage: quern {name}")


def test_tables_fit():
    for name in MODES:  # QN_CLI_ROWS would cut the rest
        assert len(options(name)) < 90


def test_man_page_is_well_formed_and_complete(tmp_path):
    p = run("man")
    assert p.returncode == 0 and p.stderr == ""
    page = tmp_path / "quern.1"
    page.write_text(p.stdout)
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", str(page)], capture_output=True, text=True)
    findings = [l for l in lint.stdout.splitlines() if "missing date" not in l]
    assert not findings, "\n".join(findings)
    shown = subprocess.run(["mandoc", "-T", "utf8", "-O", "width=200", str(page)], capture_output=True, text=True, check=True).stdout
    shown = re.sub(".\b", "", shown)
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "ENVIRONMENT", "EXIT STATUS", "EXAMPLES"):
        assert re.search(f"^{section}$", shown, re.M), section
    parts = re.split(r"^   quern ([a-z]+(?: --(?:structures|machine))?)$", shown.split("\nENVIRONMENT")[0], flags=re.M)
    sections = dict(zip(parts[1::2], parts[2::2]))
    assert list(sections) == MODES
    for name in MODES:
        for option, meta in options(name).items():
            assert re.search(rf"^\s+--{option}{' ' + re.escape(meta) if meta else ''}\b", sections[name], re.M), (name, option)
    assert "(default 2)" not in re.search(r"--threads.*?\n.*?\n", sections["run"]).group(0)  # not of the machine it was made on


def complete(*words, cwd=None):
    """What bash offers after these words, the last of which is being typed."""
    script = ('source <("$0" completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _quern; '
              'printf "%s\\n" "${COMPREPLY[@]}"')
    p = subprocess.run(["bash", "-u", "-c", script, QUERN, "quern", *words], capture_output=True, text=True, timeout=60, cwd=cwd)
    assert p.returncode == 0 and p.stderr == "", p.stderr
    return [l for l in p.stdout.splitlines() if l]


def test_completion_of_commands_and_options():
    assert set(complete("")) >= {m.split()[0] for m in MODES}
    assert complete("per") == ["perplexity"]
    for name in MODES:
        assert set(complete(*name.split(), "--")) == {"--help"} | {f"--{o}" for o in options(name)}, name
    assert complete("run", "--max-t") == ["--max-tokens"]
    assert complete("bench", "--machine", "--mem") == ["--memory"]
    assert complete("bench", "--mem") == []
    assert complete("nonsense", "--") == []


def test_completion_of_values(tmp_path):
    (tmp_path / "a model.gguf").touch()
    (tmp_path / "other").touch()
    assert complete("serve", "--log-format", "") == ["text", "json"]
    assert complete("serve", "--log-format", "=", "j") == ["json"]
    assert complete("serve", "--log-format", "=") == ["text", "json"]
    assert complete("run", "--kv-type", "b") == ["bf16"]
    assert complete("run", "--task", "e") == ["embed"]
    assert complete("run", "--max-tokens", "") == []
    assert sorted(complete("serve", "--model", "", cwd=tmp_path)) == ["a model.gguf", "grist", "other"]
    assert complete("serve", "--model", "a", cwd=tmp_path) == ["a model.gguf"]
    assert complete("inspect", "o", cwd=tmp_path) == ["other"]
    assert complete("inspect", "", cwd=tmp_path) == sorted(os.listdir(tmp_path)) or set(
        complete("inspect", "", cwd=tmp_path)) == {"a model.gguf", "other"}
    assert complete("completion", "") == ["bash"]


def test_completion_refuses_other_shells():
    for args in ([], ["fish"]):
        p = run("completion", *args)
        assert p.returncode == 2 and "bash" in p.stderr and p.stdout == ""


def test_reference_is_the_document_of_the_server(srv):
    p = run("reference")
    assert p.returncode == 0 and json.loads(p.stdout) == srv.get("/openapi.json").json()


def test_page_has_the_tables_of_the_program(tmp_path):
    p = subprocess.run([os.path.join(ROOT, "tools", "docs.py"), "--check", QUERN], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    copy = tmp_path / "tree"  # and the check can fail
    (copy / "tools").mkdir(parents=True)
    (copy / "docs").mkdir()
    shutil.copy(os.path.join(ROOT, "tools", "docs.py"), copy / "tools")
    text = open(os.path.join(ROOT, "docs", "api.md")).read()
    (copy / "docs" / "api.md").write_text(text.replace("| `n` | integer, 1 to 64 |", "| `n` | integer, 1 to 65 |"))
    again = [str(copy / "tools" / "docs.py")]
    p = subprocess.run([*again, "--check", QUERN], capture_output=True, text=True)
    assert p.returncode != 0 and "make docs" in p.stderr
    assert subprocess.run([*again, QUERN]).returncode == 0
    assert (copy / "docs" / "api.md").read_text() == text


def test_install(tmp_path):
    make = ["make", "-s", "-C", ROOT, f"DESTDIR={tmp_path}", "PREFIX=/usr", f"QUERN={os.path.abspath(QUERN)}"]
    p = subprocess.run([*make, "install"], capture_output=True, text=True, timeout=120)
    assert p.returncode == 0, p.stderr
    binary = tmp_path / "usr/bin/quern"
    assert subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.startswith("quern ")
    assert (tmp_path / "usr/share/man/man1/quern.1").read_text() == run("man").stdout
    assert (tmp_path / "usr/share/bash-completion/completions/quern").read_text() == run("completion", "bash").stdout
    assert sum(len(files) for _, _, files in os.walk(tmp_path)) == 3
    assert binary.stat().st_mode & 0o777 == 0o755
    subprocess.run([*make, "uninstall"], check=True, capture_output=True, timeout=120)
    assert sum(len(files) for _, _, files in os.walk(tmp_path)) == 0
