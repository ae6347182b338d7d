#!/usr/bin/env python3
"""graphs - what the graphs cost: CPU of the frontend a request and a token, a token's time from its
step to the client, the frontend's memory at rest, disaggregated against aggregated time to first token.

usage: bench/graphs.py -m MODEL [--gramme PATH] [--cases frontend,paced,added,rest,ttft,busy] [--rounds N]

MODEL: the demo model's file (its tokenizer and template serve the sim engine too).  The frontend is
pinned to one core, everything else to the others.  One line a figure; with --json one JSON line.
"""
import argparse
import datetime
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
START_SECONDS = 120


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def descendants(pid):
    found, open_pids = [], [pid]
    while open_pids:
        parent = open_pids.pop()
        for task in os.listdir(f"/proc/{parent}/task"):
            with open(f"/proc/{parent}/task/{task}/children") as f:
                children = [int(word) for word in f.read().split()]
            found += children
            open_pids += children
    return found


def command_of(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as f:
        return f.read().decode(errors="replace").split("\0")


def pin(pid, cpus):
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), cpus)


def resident_mb(pid):
    with open(f"/proc/{pid}/status") as f:
        for line in f:
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    return 0.0


class Graph:
    """A running graph; its frontend is alone on the first core, unless everybody may run anywhere."""

    def __init__(self, gramme, graph, arguments, is_pinned=True):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.cpus = sorted(os.sched_getaffinity(0))
        self.is_pinned = is_pinned and len(self.cpus) > 1
        command = [gramme, "serve", graph, "--port", str(self.port), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        os.set_blocking(self.process.stderr.fileno(), False)
        end = time.time() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.time() > end:
                sys.exit(f"graphs: {' '.join(command)} did not get ready:\n{self.process.stderr.read()}")
            time.sleep(0.05)
        self.frontend = self.process.pid
        for pid in descendants(self.process.pid):
            if "frontend" in command_of(pid)[1:2]:
                self.frontend = pid
        if self.is_pinned:
            for pid in descendants(self.process.pid):
                pin(pid, {self.cpus[0]} if pid == self.frontend else set(self.cpus[1:]))

    def is_ready(self):
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            sys.exit("graphs: the graph did not end within 60 s of SIGTERM")


def load(gramme, graph, *arguments):
    command = [gramme, "bench", "serve", "--json", "--url", graph.url, "--pid", str(graph.frontend), *arguments]
    cpus = set(graph.cpus[1:] if graph.is_pinned else graph.cpus)
    out = subprocess.run(command, check=True, capture_output=True, text=True,
                         preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    return json.loads(out.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--gramme", default=os.path.join(ROOT, "build/gramme"))
    parser.add_argument("--cases", default="rest,frontend,paced,added,ttft")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True,
                            text=True).stdout.strip()

    def figure(name, value, unit, **more):
        if options.json:
            print(json.dumps({"figure": name, "value": round(value, 4), "unit": unit, **more, "commit": commit,
                              "machine": platform.processor() or platform.machine(),
                              "date": datetime.date.today().isoformat()}), flush=True)
        else:
            rest = "".join(f"  {key} {number}" for key, number in more.items())
            print(f"{name:44} {value:10.3f} {unit}{rest}", flush=True)

    gramme, cases = options.gramme, options.cases.split(",")
    sim = ["-m", options.model, "--engine", "sim", "--max-model-len", "8k", "--VllmWorker.ServiceArgs.workers=2",
           "--kv-cache-memory-bytes", "1GiB"]
    traffic = ["--prompt-tokens", "1000", "--max-tokens", "64", "--ignore-eos", "--concurrency", "64"]
    if "rest" in cases or "frontend" in cases:
        with Graph(gramme, "agg_router", sim) as graph:
            if "rest" in cases:
                time.sleep(2)
                figure("frontend at rest, resident", resident_mb(graph.frontend), "MB")
            if "frontend" in cases:
                rounds = [load(gramme, graph, *traffic, "--requests", "2048") for _ in range(options.rounds)]
                cost = statistics.median(r["server_cpu_ms_per_request"] for r in rounds)
                rate = statistics.median(r["requests_per_s"] for r in rounds)
                figure("frontend, kv router, NATS: CPU a request", cost, "ms")
                # What one core would do if nothing else ran on it; then what this machine did, with the load's
                # client and the workers on its other cores.
                figure("  requests a second and core (1 / CPU)", 1000 / cost, "/s")
                figure("  requests a second here, client and workers too", rate, "/s")
    if "paced" in cases:
        with Graph(gramme, "agg_router", [*sim, "--sim-step", "5ms"]) as graph:
            # What a further token costs: the same requests at the same pace, only longer.
            pairs = [[load(gramme, graph, *traffic, "--requests", "512", "--max-tokens", tokens)
                      ["server_cpu_ms_per_request"] for tokens in ("64", "192")] for _ in range(options.rounds)]
            costs = [(long - short) / 128 * 1000 for short, long in pairs]
            figure("frontend, 5 ms steps: CPU a streamed token", statistics.median(costs), "us",
                   least=round(min(costs), 2), most=round(max(costs), 2),
                   with_request_of_64_us=round(statistics.median(short for short, _ in pairs) / 64 * 1000, 2))
    if "added" in cases:
        # The workers' steps end at whole multiples of 5 ms of the clock that the client reads: what a token's text is
        # late behind that is the sleeper's lateness, the worker, NATS and the frontend, until the client's kernel has
        # the text (its own stamp).  Until the client looks at it is the client's matter: it takes the events of all
        # streams in turn.  Both workers step at the same moment, which is the worst there is.
        # Pinned as the CPU's cases are, and as users have it: where the kernel places them.
        for is_pinned in (True, False):
            with Graph(gramme, "agg_router", [*sim, "--sim-step", "5ms", "--sim-grid"], is_pinned) as graph:
                for streams in (1, 8, 64):
                    rounds = [load(gramme, graph, "--prompt-tokens", "100", "--max-tokens", "256", "--ignore-eos",
                                   "--concurrency", str(streams), "--requests", str(4 * streams), "--step-grid", "5")
                              for _ in range(options.rounds)]

                    def middle(key, part="p50"):
                        return statistics.median(r[key][part] for r in rounds)

                    event_us = statistics.median(r["client_cpu_us_per_event"] for r in rounds)
                    figure(f"step to client, {streams:2} streams{'' if is_pinned else ', not pinned'}",
                           middle("step_to_text_ms"), "ms", p99=round(middle("step_to_text_ms", "p99"), 3),
                           until_the_client_looks_ms=round(middle("step_to_look_ms"), 3),
                           client_us_an_event=round(event_us, 1))
    if "ttft" in cases:
        medians = {"agg": [], "disagg": []}
        common = ["-m", options.model, "--max-model-len", "4k"]
        disagg = [*common, "--VllmWorker.remote-prefill=true", "--VllmWorker.conditional-disagg=false"]
        for graph_name, arguments in (("agg", common), ("disagg", disagg)):
            with Graph(gramme, graph_name, arguments) as graph:
                for pid in descendants(graph.process.pid) or [graph.process.pid]:
                    pin(pid, set(graph.cpus))
                for seed in range(options.rounds):
                    result = load(gramme, graph, "--prompt-tokens", "1000", "--max-tokens", "8", "--ignore-eos",
                                  "--concurrency", "1", "--requests", "8", "--warmup", "2", "--seed", str(seed + 1))
                    medians[graph_name].append(result["ttft_ms"]["p50"])
        agg, apart = (statistics.median(medians[name]) for name in ("agg", "disagg"))
        figure("ttft of 1,000 tokens: disagg / agg", apart / agg, "x", agg_ms=round(agg, 1), disagg_ms=round(apart, 1))
    if "busy" in cases:
        # Two workers that compute at once: by default they share the cores, step by step; beside it a fixed
        # part each, and all cores each.
        cores = os.cpu_count()
        ways = {"shared": [], "fixed": ["--threads", str(max(cores // 2, 1))], "all": ["--threads", str(cores)]}
        rates = {name: [] for name in ways}
        for seed in range(options.rounds):
            for name, arguments in ways.items():
                with Graph(gramme, "agg", ["-m", options.model, "--max-model-len", "2k",
                                           "--VllmWorker.ServiceArgs.workers=2", *arguments]) as graph:
                    for pid in descendants(graph.process.pid):
                        pin(pid, set(graph.cpus))
                    result = load(gramme, graph, "--prompt-tokens", "64", "--max-tokens", "64", "--ignore-eos",
                                  "--concurrency", "16", "--requests", "64", "--seed", str(seed + 1))
                    rates[name].append(result["output_tokens_per_s"])
        medians = {name: statistics.median(values) for name, values in rates.items()}
        figure("two busy workers: shared cores / a fixed part", medians["shared"] / medians["fixed"], "x",
               **{f"{name}_tokens_per_s": round(value, 1) for name, value in medians.items()})


if __name__ == "__main__":
    main()
