#!/usr/bin/env python3
"""vs_llama_cpp - gramme beside llama.cpp: same machine, same files, one run, as ratios.

usage: bench/vs_llama_cpp.py [--cases decode,prefill,serve,formats,1b] [--rounds N] [--threads N]
                             [--build FOLDER] [--peer FOLDER]

Builds llama.cpp once from the source that the PyPI package llama-cpp-python 0.3.36 carries, into
build-peer/ (about 15 minutes on 2 cores; needs cmake), and makes the dummy 1B-shaped files there.
"serve" puts both servers on the demo file; "formats" puts gramme on the demo file beside llama-server
on the demo model in each of Q4_1, Q8_0, F16 and BF16 (made by llama-quantize), and counts its best.
Each case runs both programs in turn, round by round, and prints the median of each and the ratio.
One JSON line a figure is appended to build-peer/results.jsonl.
"""
import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SDIST = "llama-cpp-python==0.3.36"
SWITCHES = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF",
            "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF",
            "-DLLAMA_BUILD_COMMIT=0c1e57098"]


def say(*words):
    print(*words, flush=True)


def build_peer(folder):
    binary = os.path.join(folder, "llama-build/bin/llama-server")
    if os.path.exists(binary):
        return os.path.dirname(binary)
    for tool in ("cmake", "ninja", "g++"):
        if not shutil.which(tool):
            sys.exit(f"vs_llama_cpp: {tool} is missing: apt-get install cmake ninja-build g++")
    os.makedirs(folder, exist_ok=True)
    say("fetching and building llama.cpp (once)")
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", "-d",
                    folder, SDIST], check=True)
    with tarfile.open(os.path.join(folder, "llama_cpp_python-0.3.36.tar.gz")) as archive:
        archive.extractall(folder)
    source = os.path.join(folder, "llama_cpp_python-0.3.36/vendor/llama.cpp")
    build = os.path.join(folder, "llama-build")
    subprocess.run(["cmake", "-S", source, "-B", build, "-G", "Ninja", *SWITCHES], check=True,
                   stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", build, "llama-bench", "llama-server", "llama-quantize"], check=True,
                   stdout=subprocess.DEVNULL)
    return os.path.dirname(binary)


def llama_bench(bin_folder, model, threads, prompt, gen):
    out = subprocess.run([os.path.join(bin_folder, "llama-bench"), "-m", model, "-t", str(threads), "-p",
                          str(prompt), "-n", str(gen), "-r", "1", "-o", "json"], check=True, capture_output=True,
                         text=True).stdout
    return json.loads(out)[0]["avg_ts"]


def gramme_bench(gramme, model, threads, prompt, gen, *more):
    out = subprocess.run([gramme, "bench", "engine", "-m", model, "--threads", str(threads), "--prompt-tokens",
                          str(prompt), "--gen-tokens", str(gen), "--repeat", "1", "--max-model-len",
                          str(max(1024, prompt + gen + 32)), "--json", *more], check=True, capture_output=True,
                         text=True).stdout
    return json.loads(out)


class Report:
    def __init__(self, path):
        self.path = path
        commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        cpu = "unknown"
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            match = re.search(r"model name\s*:\s*(.*)", file.read())
            cpu = match.group(1) if match else cpu
        self.common = {"commit": commit.stdout.strip(), "machine": f"{cpu}, {os.cpu_count()} cores",
                       "date": datetime.date.today().isoformat(), "kernel": platform.release()}

    def ratio(self, case, ours, theirs, unit, wanted, is_time=False):
        a, b = statistics.median(ours), statistics.median(theirs)
        pairs = sorted((y / x if is_time else x / y) for x, y in zip(ours, theirs))
        ratio = statistics.median(pairs)
        say(f"{case:<42} gramme {a:10.2f}  llama.cpp {b:10.2f} {unit:<9} ratio {ratio:5.2f} "
            f"({pairs[0]:.2f}..{pairs[-1]:.2f})  wanted {wanted}")
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"case": case, "gramme": a, "llama.cpp": b, "unit": unit, "ratio": ratio,
                                   "wanted": wanted, "rounds": len(ours), **self.common}) + "\n")


def engine_case(report, tools, name, model, prompt, gen, kind, wanted, rounds, threads, *more):
    ours, theirs = [], []
    for _ in range(rounds):
        if kind == "decode":
            theirs.append(llama_bench(tools["llama"], model, threads, 0, gen))
            ours.append(gramme_bench(tools["gramme"], model, threads, 16, gen, *more)["decode_tokens_per_s"])
        else:
            theirs.append(llama_bench(tools["llama"], model, threads, prompt, 0))
            ours.append(gramme_bench(tools["gramme"], model, threads, prompt, 0, *more)["prefill_tokens_per_s"])
    report.ratio(name, ours, theirs, "tokens/s", wanted)


def wait_healthy(url, process, limit_s=60):
    started = time.monotonic()
    while time.monotonic() - started < limit_s:
        if process.poll() is not None:
            sys.exit(f"vs_llama_cpp: the server ended with {process.returncode}")
        try:
            with urllib.request.urlopen(url + "/health", timeout=1) as answer:
                if answer.status == 200:
                    return time.monotonic() - started
        except OSError:
            pass
        time.sleep(0.005)
    sys.exit("vs_llama_cpp: the server was not ready in time")


def server(command):
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def load(tools, url, requests):
    out = subprocess.run([tools["gramme"], "bench", "serve", "--url", url, "--concurrency", "16", "--requests",
                          str(requests), "--prompt-tokens", "200", "--max-tokens", "64", "--json"], check=True,
                         capture_output=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])["output_tokens_per_s"]


def serve_once(tools, command, port, requests):
    """Seconds to ready, and output tokens a second of 16 streams."""
    url = f"http://127.0.0.1:{port}"
    process = server(command)
    start_s = wait_healthy(url, process)
    speed = load(tools, url, requests)
    process.terminate()
    process.wait()
    return start_s, speed


def serve_llama(tools, model, threads):
    return serve_once(tools, [tools["llama"] + "/llama-server", "-m", model, "-c", "16384", "-np", "16", "-t",
                              str(threads), "--host", "127.0.0.1", "--port", "18081"], 18081, 32)


def serve_gramme(tools, model, threads):
    return serve_once(tools, [tools["gramme"], "serve", "agg", "-m", model, "--threads", str(threads), "--port",
                              "18082"], 18082, 64)


def formats_case(report, tools, demo, folder, rounds, threads):
    files = {"Q4_1": demo}
    for kind in ("Q8_0", "F16", "BF16"):
        files[kind] = os.path.join(folder, f"demo-{kind.lower()}.gguf")
        if not os.path.exists(files[kind]):
            subprocess.run([os.path.join(tools["llama"], "llama-quantize"), "--allow-requantize", demo, files[kind],
                            kind], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ours, theirs = [], {kind: [] for kind in files}
    for _ in range(rounds):
        for kind, path in files.items():
            theirs[kind].append(serve_llama(tools, path, threads)[1])
        ours.append(serve_gramme(tools, demo, threads)[1])
    for kind, speeds in theirs.items():
        say(f"  llama-server, {kind}: {statistics.median(speeds):.1f} tokens/s")
    best = max(theirs, key=lambda kind: statistics.median(theirs[kind]))
    report.ratio(f"16 streams, HTTP, demo Q4_1; peer's best {best}", ours, theirs[best], "tokens/s", ">= 1.7")


def serve_case(report, tools, model, rounds, threads):
    ours, theirs, ours_start, theirs_start = [], [], [], []
    for _ in range(rounds):
        start_s, speed = serve_llama(tools, model, threads)
        theirs_start.append(start_s)
        theirs.append(speed)
        start_s, speed = serve_gramme(tools, model, threads)
        ours_start.append(start_s)
        ours.append(speed)
    report.ratio("16 streams, 200 in 64 out, HTTP, demo Q4_1", ours, theirs, "tokens/s", ">= 3")
    report.ratio("start to /health 200, demo Q4_1", ours_start, theirs_start, "s", "gramme <= 0.7 s", is_time=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="decode,prefill,serve,formats,1b")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--build", default=os.path.join(ROOT, "build"))
    parser.add_argument("--peer", default=os.path.join(ROOT, "build-peer"))
    arguments = parser.parse_args()
    tools = {"llama": build_peer(arguments.peer), "gramme": os.path.join(arguments.build, "gramme")}
    demo = subprocess.run([ROOT + "/tools/fetch-model"], check=True, capture_output=True, text=True).stdout.strip()
    report = Report(os.path.join(arguments.peer, "results.jsonl"))
    cases, rounds, threads = arguments.cases.split(","), arguments.rounds, arguments.threads
    say(report.common["machine"], report.common["date"], "commit", report.common["commit"])
    if "decode" in cases:
        engine_case(report, tools, "decode, 1 stream, demo Q4_1", demo, 0, 128, "decode", ">= 1.2", rounds, threads)
    if "prefill" in cases:
        engine_case(report, tools, "prefill 512, demo Q4_1", demo, 512, 0, "prefill", ">= 3", rounds, threads)
    if "serve" in cases:
        serve_case(report, tools, demo, max(1, rounds // 2), threads)
    if "formats" in cases:
        formats_case(report, tools, demo, arguments.peer, max(1, rounds // 2), threads)
    if "1b" in cases:
        for kind in ("q8_0", "bf16"):
            path = os.path.join(arguments.peer, f"dummy-1b-{kind}.gguf")
            if not os.path.exists(path):
                subprocess.run([sys.executable, ROOT + "/bench/make_gguf.py", demo, path, kind], check=True)
            engine_case(report, tools, f"decode, 1 stream, 1B {kind}", path, 0, 32, "decode", ">= 1.0",
                        max(1, rounds // 2), threads)
            engine_case(report, tools, f"prefill 512, 1B {kind}", path, 512, 0, "prefill", ">= 1.0",
                        max(1, rounds // 2), threads)
    return 0


sys.exit(main())
