"""Runs EleutherAI's lm-evaluation-harness (local-completions, as it comes from PyPI) against a quern process on the two
tasks beside this file, and holds its figures against quern's own: POST /v1/infer with "task": "score".

  agree.py LM_EVAL QUERN [GGUF]

LM_EVAL is the harness's program, QUERN the server's. Models: the GGUF file as it is, and two structures of grist.
Prints the harness's tables, a line for each check and, last, "N passed, N failed". Nothing is fetched: the tokenizer
is quern's own over /tokenizer_info and /tokenize, prompts go as arrays of token ids, eight to a request.
"""
import glob
import json
import math
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "http"))
from conftest import Server  # noqa: E402

TOLERANCE = 1e-3
passed = failed = 0


def check(name, theirs, ours):
    global passed, failed
    good = math.isfinite(theirs) and abs(theirs - ours) <= TOLERANCE
    passed, failed = passed + good, failed + (not good)
    print(f"{'ok    ' if good else 'FAILED'} {name}: lm-eval {theirs:.6f}, score {ours:.6f}")


def rows(name):
    with open(os.path.join(HERE, name), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


class Scorer:
    """Log-probabilities by quern's own score task, of the same tokens that the harness asks about."""

    def __init__(self, server, model):
        name, _, structure = model.partition("@")
        self.server, self.model = server, name
        self.structure = dict(zip(("attention", "ffn", "sharing"), structure.split("+"))) if structure else {}
        info = server.get("/tokenizer_info").json()
        self.first = self.ids(info.get("bos_token") or info["eos_token"])[:1]

    def ids(self, text):
        reply = self.server.post("/tokenize", {"model": self.model, "prompt": text, "add_special_tokens": False})
        assert reply.status_code == 200, reply.text
        return reply.json()["tokens"]

    def score(self, ids):
        """Log-probability of each token after the first."""
        reply = self.server.infer(model=self.model, sequence=ids, task="score", logprobs=0, **self.structure)
        assert reply.status_code == 200, reply.text
        per_token = [t["logprob"] for t in reply.json()["outputs"][0]["logprobs"]]
        return per_token[-(len(ids) - 1):]

    def continuation(self, context, text):
        """Of text after context, split as the harness splits them."""
        whole, before = self.ids(context + text), self.ids(context)
        return sum(self.score(whole)[len(before) - 1:])

    def text(self, text):
        return sum(self.score(self.first + self.ids(text)))


def harness(program, server, model, out):
    """The harness's results, and its logged samples by task."""
    arguments = (f"model={model},base_url={server.url}/v1/completions,tokenizer_backend=remote,tokenized_requests=True,"
                 "num_concurrent=1,max_length=1024,max_retries=1")
    done = subprocess.run(
        [program, "run", "--model", "local-completions", "--model_args", arguments,
         "--tasks", "quern_choice,quern_text", "--include_path", HERE, "--batch_size", "8", "--log_samples",
         "--output_path", out],
        cwd=HERE, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
                       "HF_HOME": os.path.join(out, "hf"), "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=1800)
    if done.returncode:
        raise AssertionError(f"lm_eval ended with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
    print(done.stdout)

    def one(pattern):
        return max(glob.glob(os.path.join(out, "**", pattern), recursive=True), key=os.path.getmtime)
    with open(one("results_*.json"), encoding="utf-8") as f:
        results = json.load(f)["results"]
    samples = {}
    for task in results:
        with open(one(f"samples_{task}_*.jsonl"), encoding="utf-8") as f:
            samples[task] = sorted((json.loads(line) for line in f), key=lambda s: s["doc_id"])
    return results, samples


def agree(program, server, model):
    with tempfile.TemporaryDirectory() as out:
        results, samples = harness(program, server, model, out)
    scorer = Scorer(server, model)
    right = right_norm = 0
    pairs = []
    docs = rows("choice.jsonl")
    for doc, sample in zip(docs, samples["quern_choice"]):
        context = f"Question: {doc['question']}\nAnswer:"
        ours = [scorer.continuation(context, " " + choice) for choice in doc["choices"]]
        theirs = [float(r[0][0]) if isinstance(r[0], list) else float(r[0]) for r in sample["resps"]]
        pairs += zip(theirs, ours)
        right += ours.index(max(ours)) == doc["answer"]
        norm = [p / len(c) for p, c in zip(ours, doc["choices"])]
        right_norm += norm.index(max(norm)) == doc["answer"]
    check(f"{model} log-probability of an answer that differs most", *max(pairs, key=lambda p: abs(p[0] - p[1])))
    check(f"{model} quern_choice acc", results["quern_choice"]["acc,none"], right / len(docs))
    check(f"{model} quern_choice acc_norm", results["quern_choice"]["acc_norm,none"], right_norm / len(docs))
    texts = [doc["text"] for doc in rows("text.jsonl")]
    log_prob = sum(scorer.text(text) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    found = results["quern_text"]
    check(f"{model} quern_text bits_per_byte", found["bits_per_byte,none"], -log_prob / size / math.log(2))
    check(f"{model} quern_text byte_perplexity", found["byte_perplexity,none"], math.exp(-log_prob / size))


def main():
    program, binary = sys.argv[1:3]
    served = [("grist", ["grist@mqa+moe", "grist@performer+swiglu"])]
    if len(sys.argv) > 3:
        served.insert(0, (sys.argv[3], [None]))
    for path, names in served:
        server = Server("--state-memory", "512MiB", model=path, binary=binary)
        try:
            for name in names:
                agree(program, server, name or server.get("/v1/models").json()["data"][0]["id"])
        finally:
            server.stop()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
