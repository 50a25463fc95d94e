"""The load script that mixes structures: it finds out what the model can run, asks for all sorts of it, and nothing fails."""
import os
import re
import shutil
import subprocess

import pytest

from conftest import REAL, ROOT, SLOW
from members import ATTENTION, FFN, lettered


@pytest.mark.skipif(not shutil.which("wrk"), reason="needs wrk (tools/deps.sh)")
def test_structures_are_drawn_from_what_the_model_offers(start, tmp_path):
    s = start("--convert-memory", "8MiB", model=lettered(tmp_path), binary=REAL)
    env = dict(os.environ, LUA_PATH=os.path.join(ROOT, "tests", "load", "?.lua"))
    seen, ok = set(), 0
    for seed in range(1, 6):
        p = subprocess.run(["wrk", "-t1", "-c4", "-d1s", "--timeout", "120s", "-s",
                            os.path.join(ROOT, "tests", "load", "structures.lua"), s.url, "--", str(seed)], env=env,
                           capture_output=True, text=True, timeout=120 * SLOW)
        refused, failed = map(int, re.search(r"^RESULT .* (\d+) (\d+)$", p.stdout, re.M).groups())
        assert (refused, failed) == (0, 0), p.stdout + s.log()
        runs = re.findall(r"status=200 .*attention=(\S+) ffn=(\S+) sharing=(\S+)", s.log())
        seen, ok = set(runs), len(runs)
        if len(seen) > 30:
            break
    assert len(seen) > 30, ok  # the thirty native ones, or most of them, and conversions
    assert {a for a, _, _ in seen} == set(ATTENTION) and {f for _, f, _ in seen} > set(FFN)
    assert {"none", "all", "attention", "ffn"} <= {h for _, _, h in seen}
