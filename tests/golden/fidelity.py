#!/usr/bin/env python3
"""fidelity - the same request gives the same tokens and logprobs, bit for bit, however it is served.

Goal: on the demo model, greedy and seeded requests are answered alone by `gramme run`, then by
servers that batch, chunk, cache, preempt, thread, block, vectorise and cut over ranks differently;
ids (as text) and every logprob must be equal to the last bit.  Then a dummy model on 1, 2, 4 and 8
ranks.  Needs GRAMME_BIN; the demo model GRAMME_MODEL: exit 77 without either.
"""
import concurrent.futures
import json
import os
import subprocess
import sys
import time
import urllib.request

GRAMME, MODEL = os.environ.get("GRAMME_BIN"), os.environ.get("GRAMME_MODEL")
FULL = os.environ.get("GRAMME_FULL")
LONG = "Once upon a time there was a river that ran through seven towns. " * 12
PROMPTS = ["The capital of France is", "def fibonacci(n):\n    ", "Q: What is 17 + 25?\nA:", "Über die Brücke ging",
           LONG, "List three colours:\n1.", "The quick brown fox", LONG + "In the first town"]
TOKENS = 24


def sampling(index):
    if index % 2 == 0:
        return {"temperature": 0}
    return {"temperature": 0.9, "seed": 1000 + index, "top_p": 0.95, "top_k": 50, "repetition_penalty": 1.1}


def alone(index):
    """The reference: one process, one request, one thread."""
    command = [GRAMME, "run", "-m", MODEL, "--raw", "--json", "--logprobs", "2", "--max-tokens", str(TOKENS),
               "--ignore-eos", "--threads", "1", "--prefill-chunk", "512", "--max-model-len", "2048"]
    for key, value in sampling(index).items():
        command += ["--" + key.replace("_", "-"), str(value)]
    out = subprocess.run(command + [PROMPTS[index]], check=True, capture_output=True, text=True)
    line = json.loads(out.stdout)
    return line["text"], [entry["logprob"] for entry in line["logprobs"]]


class Server:
    def __init__(self, *options):
        self.process = subprocess.Popen([GRAMME, "serve", "agg", "-m", MODEL, "--port", "0", "--max-model-len", "2048",
                                         *options], stderr=subprocess.PIPE, text=True)
        self.url = None
        for line in self.process.stderr:
            if "listening on" in line:
                self.url = "http://127.0.0.1:" + line.split(" port ")[1].split(",")[0]
            if " ready: " in line:
                break
        assert self.url and self.process.poll() is None, "the server did not start"
        # Drain the log so that the pipe never fills.
        self.drain = concurrent.futures.ThreadPoolExecutor(1)
        self.drain.submit(lambda: [None for _ in self.process.stderr])

    def ask(self, index):
        body = {"prompt": PROMPTS[index], "max_tokens": TOKENS, "logprobs": 2, "ignore_eos": True, **sampling(index)}
        request = urllib.request.Request(self.url + "/v1/completions", json.dumps(body).encode(),
                                         {"content-type": "application/json"})
        # The scalar body computes a few tokens a second, fewer on a busy machine.
        with urllib.request.urlopen(request, timeout=1500) as answer:
            choice = json.load(answer)["choices"][0]
        return choice["text"], choice["logprobs"]["token_logprobs"]

    def metric(self, name):
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(name):
                    return float(line.rsplit(" ", 1)[1])
        return None

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.drain.shutdown()


# (shape, weights): 8 heads with 2 KV heads (held twice and four times), 8 with 4.
DUMMIES = [("tiny-llama-k-test", "q4_k"), ("tiny-llama-k-test", "f16"), ("tiny-qwen3-test", "q8_0"), ("tiny-qwen3-test", "bf16")]


def dummy(shape, weights, ranks, index):
    command = [GRAMME, "run", "-m", shape, "--load-format", "dummy", "--dummy-type", weights, "--raw", "--json",
               "--logprobs", "3", "--max-tokens", str(TOKENS), "--ignore-eos", "--threads", "2",
               "--tensor-parallel-size", str(ranks)]
    for key, value in sampling(index).items():
        command += ["--" + key.replace("_", "-"), str(value)]
    out = subprocess.run(command + [PROMPTS[index][:200]], check=True, capture_output=True, text=True)
    line = json.loads(out.stdout)
    return line["ids"], line["logprobs"]


def check_dummies():
    """Returns how many answers were equal, and how many were not."""
    passed = failed = 0
    for shape, weights in DUMMIES:
        for index in (0, 5):
            wanted = dummy(shape, weights, 1, index)
            for ranks in (2, 4, 8):
                if dummy(shape, weights, ranks, index) == wanted:
                    passed += 1
                else:
                    failed += 1
                    print(f"{shape} {weights}, {ranks} ranks: prompt {index} differs")
    print(f"dummy models on 1, 2, 4 and 8 ranks: {passed} passed, {failed} failed", flush=True)
    return passed, failed


def same(got, wanted):
    return got[0] == wanted[0] and len(got[1]) == len(wanted[1]) and \
        all(float(f"{a:.9g}") == float(f"{b:.9g}") for a, b in zip(got[1], wanted[1]))


def main():
    if not GRAMME:
        print("GRAMME_BIN is not set")
        return 77
    passed, failed = check_dummies()
    if not MODEL:
        print("GRAMME_MODEL is not set: the demo model is skipped")
        return 1 if failed else 77
    wanted = [alone(index) for index in range(len(PROMPTS))]

    def compare(name, server, indexes, at_once):
        nonlocal passed, failed
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            for index, got in zip(indexes, pool.map(server.ask, indexes)):
                if same(got, wanted[index]):
                    passed += 1
                else:
                    failed += 1
                    print(f"{name}: prompt {index} differs: {got[0]!r} is not {wanted[index][0]!r}")

    everything = list(range(len(PROMPTS)))
    cases = [
        ("2 threads, batch 2", ["--threads", "2"], everything, 2),
        ("2 threads, batch 7", ["--threads", "2", "--no-enable-prefix-caching"], everything[:7], 7),
        ("batch 16 with prefix hits", ["--threads", "2"], everything * 2, 16),
        ("prefill chunks of 1", ["--prefill-chunk", "1"], everything[:6], 6),
        ("prefill chunks of 16", ["--prefill-chunk", "16"], everything, 8),
        ("prefill chunks of 17", ["--prefill-chunk", "17", "--block-size", "8"], everything, 8),
        ("prefill chunks of 512, blocks of 128", ["--prefill-chunk", "512", "--block-size", "128"], everything, 8),
        ("row tile 16", ["--row-tile", "16"], everything, 8),
        ("3 ranks", ["--tensor-parallel-size", "3", "--threads", "2"], everything, 8),
        ("3 ranks, 3 threads, chunks of 33", ["--tensor-parallel-size", "3", "--threads", "3", "--prefill-chunk", "33"],
         everything[:4], 3),
        # 320 tokens of room (the least that max-model-len 320 allows) for 16 requests of up to 240.
        ("preemption", ["--max-model-len", "320", "--kv-cache-memory-bytes", str(320 * 23040)], everything * 2, 16),
        # One at a time: what waits behind a long prompt on this body would wait past the queue's deadline.
        ("scalar body", ["--cpu", "scalar", "--threads", "2"], everything[:7] if FULL else [0, 1], 1 if FULL else 2),
    ]
    if "avx512f" in open("/proc/cpuinfo").read(): # elsewhere it is the body of all cases above
        cases.append(("avx2 body", ["--cpu", "avx2", "--threads", "2"], everything, 8))
    for name, options, indexes, at_once in cases:
        started = time.monotonic()
        server = Server(*options)
        try:
            compare(name, server, indexes, at_once)
            proof = {"preemption": "vllm:num_preemptions_total",
                     "batch 16 with prefix hits": "vllm:prefix_cache_hits_total"}.get(name)
            if "prefix hits" in name:
                compare(name, server, indexes, at_once)
            if proof and not server.metric(proof):
                failed += 1
                print(f"{name}: {proof} is 0, so the case proves nothing")
        finally:
            server.stop()
        print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
