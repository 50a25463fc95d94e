"""Every example of docs/api.md is run: a fenced `sh` block against a real server with the built-in model, and the
`json` block after it is the shape of its reply (keys and types; figures differ)."""
import json
import os
import re
import subprocess

import pytest

from conftest import REAL, ROOT, Server

PAGE = open(os.path.join(ROOT, "docs", "api.md")).read()
BLOCKS = [(m.group(1), m.group(2), PAGE[:m.start()].count("\n") + 1)
          for m in re.finditer(r"^```([a-z]*)\n(.*?)^```$", PAGE, re.M | re.S)]
COMMANDS = [(code, BLOCKS[i + 1] if i + 1 < len(BLOCKS) and BLOCKS[i + 1][0] == "json" else None, line)
            for i, (kind, code, line) in enumerate(BLOCKS) if kind == "sh"]


@pytest.fixture(scope="module")
def server():
    s = Server("--state-memory", "64MiB", model=None, binary=REAL)
    yield s
    s.stop()


def difference(shown, real, where="reply"):
    """What keeps `real` from having the shape of `shown`; null stands for any value."""
    if shown is None or real is None:
        return None
    if isinstance(shown, dict) and isinstance(real, dict):
        if set(shown) != set(real):
            return f"{where}: shown {sorted(set(shown) - set(real))}, real {sorted(set(real) - set(shown))}"
        found = [difference(shown[k], real[k], f"{where}.{k}") for k in shown]
        return next((f for f in found if f), None)
    if isinstance(shown, list) and isinstance(real, list):
        if bool(shown) != bool(real):
            return f"{where}: one of them is empty"
        found = [difference(shown[0], r, f"{where}[]") for r in real] + [difference(s, real[0], f"{where}[]") for s in shown]
        return next((f for f in found if f), None)
    number = (int, float)
    both = all(isinstance(v, number) and not isinstance(v, bool) for v in (shown, real))
    return None if both or type(shown) is type(real) else f"{where}: {type(shown).__name__} is {type(real).__name__}"


def test_every_block_is_an_example():
    assert len(COMMANDS) >= 6
    for i, (kind, _, line) in enumerate(BLOCKS):
        assert kind in ("sh", "json"), f"line {line}: a block that no test runs"
        assert kind != "json" or BLOCKS[i - 1][0] == "sh", f"line {line}: a reply without its request"
    assert PAGE.count("```") == 2 * len(BLOCKS)


@pytest.mark.parametrize("code,reply,line", COMMANDS, ids=lambda v: str(v) if isinstance(v, int) else "")
def test_example(server, code, reply, line):
    assert "http://127.0.0.1:8080" in code
    code = code.replace("http://127.0.0.1:8080", server.url)
    p = subprocess.run(["bash", "-euc", code], capture_output=True, text=True, timeout=120,
                       env={**os.environ, "PATH": os.path.dirname(os.path.abspath(REAL)) + ":" + os.environ["PATH"]})
    assert p.returncode == 0, p.stderr
    if reply:
        problem = difference(json.loads(reply[1]), json.loads(p.stdout))
        assert not problem, problem
    elif p.stdout.startswith("data: "):
        assert p.stdout.rstrip().endswith("data: [DONE]") and '"error"' not in p.stdout
    else:
        assert "error" not in json.loads(p.stdout), p.stdout


def test_shapes_can_differ():
    reply = {"a": [{"b": 1}], "c": "x", "d": None}
    assert not difference(reply, {"a": [{"b": 2.5}, {"b": 3}], "c": "y", "d": {"e": 1}})
    for other in ({"a": [{"b": 1}], "c": "x"}, {"a": [{"b": "1"}], "c": "x", "d": 1}, {"a": [], "c": "x", "d": 1},
                  {"a": [{"b": 1}, {}], "c": "x", "d": 1}, {"a": [{"b": True}], "c": "x", "d": 1}):
        assert difference(reply, other), other
