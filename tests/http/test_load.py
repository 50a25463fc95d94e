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
    for seed in range(1, 5 * SLOW + 1):
        p = subprocess.run(["wrk", "-t1", "-c4", "-d1s", "--timeout", "120s", "-s",
                            os.path.join(ROOT, "tests", "load", "structures.lua"), s.url, "--", str(seed)], env=env,
                           capture_output=True, text=True, timeout=120 * SLOW)
        refused, failed = map(int, re.search(r"^RESULT .* (\d+) (\d+)$", p.stdout, re.M).groups())
        assert (refused, failed) == (0, 0), p.stdout + s.log()
        runs = re.findall(r"status=200 .*attention=(\S+) ffn=(\S+) sharing=(\S+)", s.log())
        seen, ok = set(runs), len(runs)
        attentions, ffns, sharings = ({run[i] for run in seen} for i in range(3))
        # the thirty native ones, or most of them, and conversions
        if (len(seen) > 30 and attentions == set(ATTENTION) and ffns > set(FFN)
                and sharings >= {"none", "all", "attention", "ffn"}):
            return
    raise AssertionError(f"{ok} answers, {sorted(seen)}")
