"""Starts quern and runs the client scripts against it, each in a process of its own:
  clients.py QUERN GGUF NODE_MODULES PYTHON
QUERN is the server's program, GGUF SmolLM2, NODE_MODULES the folder that holds node_modules, PYTHON an interpreter with
the openai package. One server has both models; each script gets one more, with room for a single request, which it
fills and at last sends SIGTERM to. Prints every check and, last, "N passed, N failed".
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "http"))
from conftest import Server  # noqa: E402

KEY = "key-of-the-client-tests"


def run(name, command, env, log):
    print(f"-- {name}", flush=True)
    begun = time.monotonic()
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
    print(done.stdout, end="")
    print(f"   {time.monotonic() - begun:.0f} s", flush=True)
    counts = re.findall(r"^(\d+) passed, (\d+) failed$", done.stdout, re.M)
    passed, failed = map(int, counts[-1]) if counts else (0, 1)
    if done.returncode and not failed:
        failed = 1
    if failed:
        print(log())
    return passed, failed


def main():
    quern, gguf, modules, python = map(os.path.abspath, sys.argv[1:5])
    with tempfile.TemporaryDirectory() as scratch:
        keys = os.path.join(scratch, "keys")
        with open(keys, "w", encoding="ascii") as f:
            f.write(KEY + "\n")
        for script in os.listdir(HERE):  # Node looks for packages beside the script
            if script.endswith(".mjs"):
                shutil.copy(os.path.join(HERE, script), modules)
        scripts = [(f"openai for Node, {n}", ["node", os.path.join(modules, "openai.mjs"), n])
                   for n in ("openai", "openai-6")]
        scripts.append(("openai for Python", [python, os.path.join(HERE, "openai_client.py")]))
        scripts.append(("Vercel ai", ["node", os.path.join(modules, "vercel.mjs")]))
        scripts.append(("LangChain", ["node", os.path.join(modules, "langchain.mjs")]))
        both = Server("--model", "grist", "--api-key-file", keys, "--max-body", "64KiB", "--state-memory", "512MiB",
                      model=gguf, binary=quern)
        chat = both.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}).json()["data"][0]["id"]
        passed = failed = 0
        for name, command in scripts:
            limited = Server("--max-queue", "1", "--max-running", "1", "--drain-timeout", "1s",
                             "--state-memory", "256MiB", model=gguf, binary=quern)
            env = {**os.environ, "QUERN_KEY": KEY, "QUERN_MAIN": both.url, "QUERN_LIMITED": limited.url,
                   "QUERN_LIMITED_PID": str(limited.proc.pid), "QUERN_CHAT_MODEL": chat}
            p, f = run(name, command, env, lambda: both.log()[-4000:] + limited.log()[-4000:])
            passed, failed = passed + p, failed + f
            limited.stop()
        both.stop()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
