"""Memory is as planned: after a maximal step with --prefault the process has within 1 % of the planned
bytes, as /proc counts them; before that never more; what does not fit is refused, and forced ends in
the stage it must."""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import unittest
import urllib.request

from harness import BINARY, MODEL, WAIT_S, clean_environment, wait_for

SEATS, TOKENS = 4, 128
FAKE_NVML = pathlib.Path(BINARY).resolve().parent / "tests" / "unit" / "device" / "fake_nvml.so"


def has_nats():
    return bool(shutil.which("nats-server") or pathlib.Path("/usr/sbin/nats-server").exists())


def get(url):
    with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
        return answer.read().decode()


def used_bytes(pid):
    """Private and shared resident bytes; of mapped weights this process's share."""
    used, is_weights = 0, False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_weights = line.endswith((".gguf", ".safetensors"))
        elif key == ("Pss" if is_weights else "Rss"):
            used += int(value.split()[0]) * 1024
    return used


class Process:
    def __init__(self, *arguments, command="serve"):
        self.process = subprocess.Popen([BINARY, command, *arguments], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True, env=clean_environment())
        self.pid, self.most, self.log = self.process.pid, 0, ""

    def line_with(self, pattern):
        for line in self.process.stderr:
            self.log += line
            if self.process.poll() is None:
                self.most = max(self.most, used_bytes(self.pid))
            found = re.search(pattern, line)
            if found:
                return found
        raise AssertionError(self.log)

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        rest = self.process.communicate(timeout=WAIT_S)[1]
        self.log += rest
        return self.process.returncode


def planned_bytes(*arguments):
    done = subprocess.run([BINARY, "plan", *arguments, "--explain"], capture_output=True, text=True,
                          env=clean_environment(), timeout=WAIT_S)
    return sum(int(found) for found in re.findall(r"^  total +(\d+)$", done.stdout, re.M)), done


class Memory(unittest.TestCase):
    LIMITS = ("--max-num-seqs", str(SEATS), "--max-num-batched-tokens", str(SEATS * TOKENS), "--max-model-len", "512")

    def maximal_steps(self, url, count):
        """Every seat taken at once, every step as full as it may be."""
        def ask(index):
            body = json.dumps({"model": "m", "prompt": [100 + (7 * i + index) % 900 for i in range(TOKENS)],
                               "max_tokens": 8, "ignore_eos": True, "logprobs": 5, "temperature": 1})
            request = urllib.request.Request(url + "/v1/completions", body.encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=WAIT_S * 4) as answer:
                self.answers.append(json.load(answer)["usage"]["completion_tokens"])
        self.answers = []
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(self.answers, [8] * count)

    def check(self, *arguments, prefault=True):
        arguments = (*arguments, *self.LIMITS)
        planned, done = planned_bytes(*arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        process = Process(*arguments, "--port", "0", "--served-model-name", "m", *(("--prefault",) if prefault else ()))
        try:
            shown = process.line_with(r"memory: planned ([\d.]+) MiB, measured ([\d.]+) MiB")
            self.assertAlmostEqual(float(shown[1]) * 2**20, planned, delta=2**20)
            url = process.line_with(r"ready: \S+ on (http://\S+)")[1]
            self.maximal_steps(url, 2 * SEATS)
            used = used_bytes(process.pid)
            self.assertLessEqual(process.most, planned)
            if prefault:
                self.assertLessEqual(abs(used - planned), used / 100, f"planned {planned}, used {used}")
            else:
                self.assertLessEqual(used, planned)
        finally:
            status = process.end()
        self.assertEqual(status, 0, process.log)

    def test_demo(self):
        self.check("-m", MODEL, "--threads", "2")

    def test_demo_without_prefault(self):
        self.check("-m", MODEL, "--threads", "2", prefault=False)

    def test_ranks(self):
        self.check("-m", MODEL, "--threads", "4", "--tensor-parallel-size", "3")

    def test_dummy(self):
        self.check("-m", "smollm2-135m", "--load-format", "dummy", "--dummy-type", "bf16", "--threads", "1")

    def test_ranks_share_the_machine(self):
        """All ranks of the machine's own CPU draw on one budget, also where a utilization is written."""
        done = {}
        for ranks in (1, 3):
            out = subprocess.run([BINARY, "plan", "-m", MODEL, "--gpu-memory-utilization", "0.5", "--json",
                                  "--tensor-parallel-size", str(ranks), *self.LIMITS],
                                 capture_output=True, text=True, env=clean_environment(), timeout=WAIT_S)
            done[ranks] = json.loads(out.stdout)["components"][0]["per_device"]["kv_tokens"]
        self.assertLessEqual(done[3], done[1] * 1.01)


class Watch(unittest.TestCase):
    def test_while_loading(self):
        """What the plan counts on and is not there is told before it hurts: ahead of the first weights."""
        process = Process("-m", MODEL, "--devices", "cpu:8TiB", "--max-model-len", "512", "--kv-cache-memory-bytes", "4TiB",
                          "--block-size", "128", "--port", "0")
        try:
            process.line_with(r"ready: ")
            self.assertRegex(process.log, r"(?s)the plan counts on memory that is not there: [\d.]+ GiB of the planned [\d.]+ "
                                          r"are yet to be used.* loaded ")
        finally:
            process.end()

    def test_cut_while_loading(self):
        """A file that is cut short while it is read ends the program by the kernel's signal, with a line that says so."""
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as turn:
            model = pathlib.Path(folder) / "model.gguf"
            shutil.copy(MODEL, model)
            turn.bind(f"\0gramme-load-{os.getuid()}-{model.stat().st_dev:x}-0")  # so that it waits for its turn
            process = Process("-m", str(model), "--load-concurrency", "1", "--port", "0")
            try:
                process.line_with(r"waiting for its turn")
                os.truncate(model, model.stat().st_size // 2)
                turn.close()
                self.assertEqual(process.process.wait(WAIT_S), -signal.SIGBUS)
            finally:
                process.end()
            self.assertIn(f"gramme: bus error: the weights of {model} were cut short", process.log)

    @unittest.skipUnless(FAKE_NVML.exists(), "no stand-in for the driver's library here")
    def test_cards(self):
        """The node's cards and who holds them: in /metrics and in top, of one process and of a graph."""
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / "libnvidia-ml.so.1").symlink_to(FAKE_NVML)
            os.environ["LD_LIBRARY_PATH"] = folder
            try:
                graphs = [()] + [("agg_router", "--VllmWorker.ServiceArgs.workers=1")] * has_nats()
                for graph in graphs:
                    process = Process(*graph, "-m", MODEL, "--engine", "sim", "--port", "0")
                    try:
                        url = process.line_with(r"ready: \S+ on (http://\S+)")[1]
                        wait_for(lambda: 'card="0"' in get(url + "/metrics"), "the cards were looked at")
                        shown = get(url + "/metrics")
                        for figure, first, second in (("total", 1000, 1000), ("used", 900, 0), ("other", 900, 0)):
                            found = re.findall(rf'^gramme_card_{figure}_bytes{{node="[^"]+",card="(\d)",name="Card \1"}} (\d+)$',
                                               shown, re.M)
                            self.assertEqual(found, [("0", str(first)), ("1", str(second))], shown)
                        top = subprocess.run([BINARY, "top", "--url", url], capture_output=True, text=True,
                                             env=clean_environment(), timeout=WAIT_S).stdout
                        self.assertRegex(top, r"(?m)^0 .*Card 0 +1\.0K +900B +900B +pid 77 900B$")
                    finally:
                        process.end()
            finally:
                del os.environ["LD_LIBRARY_PATH"]


class Loading(unittest.TestCase):
    def test_bench_load(self):
        for more in ((), ("--cold",)):
            done = subprocess.run([BINARY, "bench", "load", "-m", MODEL, "--max-model-len", "512", "--json", *more],
                                  capture_output=True, text=True, env=clean_environment(), timeout=WAIT_S * 2)
            self.assertEqual(done.returncode, 0, done.stderr)
            figures = json.loads(done.stdout)
            self.assertEqual(figures["file_bytes"], pathlib.Path(MODEL).stat().st_size)
            self.assertLess(figures["load_s"], figures["ready_s"])
        done = subprocess.run([BINARY, "bench", "load", "-m", "smollm2-135m", "--load-format", "dummy"],
                              capture_output=True, text=True, env=clean_environment(), timeout=WAIT_S)
        self.assertEqual(done.returncode, 2, done.stderr)

    @unittest.skipUnless(has_nats(), "no nats-server here")
    def test_in_turn(self):
        """One worker after the other, and what a graph's process holds is as planned."""
        limits = Memory.LIMITS
        process = Process("agg", "-m", MODEL, "--VllmWorker.ServiceArgs.workers=2", "--load-concurrency", "1",
                          "--prefault", "--port", "0", "--served-model-name", "m", *limits)
        try:
            for _ in range(2):
                shown = process.line_with(r"memory: planned ([\d.]+) MiB, measured ([\d.]+) MiB")
                self.assertLessEqual(abs(float(shown[1]) - float(shown[2])), float(shown[2]) / 100, process.log)
            process.line_with(r"ready: \S+ on (http://\S+)")
        finally:
            status = process.end()
        self.assertEqual(status, 0, process.log)


class Forced(unittest.TestCase):
    """--force boots what the plan refuses: the loader ends by itself, and says where."""

    def refused_and_forced(self, *arguments):
        arguments = (*arguments, "--port", "0")
        done = subprocess.run([BINARY, "serve", *arguments], capture_output=True, text=True,
                              env=clean_environment(), timeout=WAIT_S)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertNotIn("loading ended", done.stderr)
        done = subprocess.run([BINARY, "serve", *arguments, "--force"], capture_output=True, text=True,
                              env=clean_environment(), timeout=WAIT_S)
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr

    # The reasons of each stage, in the order of loading; all others are buffers.  Made weights: a
    # file's embedding is mapped and claimed with the norms.
    STAGES = {"process": ("process",), "buffers": (), "embeddings": ("norms and biases",),
              "layers": ("attention weights", "mlp weights"), "head": ("head",), "kv": ("kv",)}

    def test_each_stage(self):
        """A budget that ends in the middle of a stage ends there, of one rank and of two."""
        limits = ("-m", "tiny-llama-k-test", "--load-format", "dummy", "--dummy-type", "f32", "--max-num-seqs", "4",
                  "--max-num-batched-tokens", "64", "--gpu-memory-utilization", "1", "--max-model-len", "512")
        for ranks in (1, 2):
            arguments = (*limits, "--tensor-parallel-size", str(ranks))
            _, done = planned_bytes(*arguments, "--devices", f"{ranks}xcpu:256MiB")
            lines = re.findall(r"^  (\S.*?) {2,}[a-z ]+? +(\d+)(?: |$)", done.stdout.split("rank 1")[0].split("rank 0")[1], re.M)
            named = {reason for reasons in self.STAGES.values() for reason in reasons} | {"total"}
            self.assertEqual(named - {reason for reason, _ in lines}, set(), done.stdout)
            before = 0
            for stage, reasons in self.STAGES.items():
                size = sum(int(number) for reason, number in lines if reason in reasons or not reasons and reason not in named)
                if stage == "kv":
                    size = 512 * int(re.search(r"([\d,]+) bytes a token", done.stdout)[1].replace(",", ""))
                said = self.refused_and_forced(*arguments, "--devices", f"{ranks}xcpu:{before + size // 2}")
                where = r"layers, layer \d of 2" if stage == "layers" else stage
                rank = "rank 0: " if ranks > 1 else ""
                found = re.search(rf"loading ended at stage {where}: ({rank})?([\w ()]+) needs [\d.]+ (MiB|bytes) and "
                                  r"[\d.]+ (MiB|bytes) of the budget of [\d.]+ (MiB|bytes) are free; "
                                  r"the [\d.]+ (MiB|bytes) taken before are given back", said)
                self.assertTrue(found, f"{ranks} ranks, {stage}: {said}")
                if reasons:
                    self.assertIn(found[2], reasons)
                before += size

    @unittest.skipUnless(has_nats(), "no nats-server here")
    def test_graph_to_the_byte(self):
        """Devices of exactly the bytes that disagg's fuller worker plans serve; with one less, forced, it ends at KV."""
        graph = ("disagg", "-m", "tiny-llama-k-test", "--load-format", "dummy", "--dummy-type", "f32", "--max-num-seqs", "4",
                 "--max-num-batched-tokens", "64", "--gpu-memory-utilization", "1", "--max-model-len", "512",
                 "--VllmWorker.remote-prefill=true", "--VllmWorker.conditional-disagg=false", "--VllmWorker.tensor-parallel-size=2")

        def plan(devices):
            done = subprocess.run([BINARY, "plan", *graph, "--devices", devices, "--json"], capture_output=True, text=True,
                                  env=clean_environment(), timeout=WAIT_S)
            return json.loads(done.stdout)
        least = 0
        for component in plan("3xcpu:256MiB")["components"]:
            at = component["per_device"]
            fixed = sum(at[f"{kind}_bytes"] for kind in ("weights", "activations", "workspace", "context"))
            least = max(least, fixed + 512 * at["kv_bytes"] // at["kv_tokens"])
        self.assertTrue(plan(f"3xcpu:{least}")["fits"])
        self.assertFalse(plan(f"3xcpu:{least - 1}")["fits"])
        serve = (*graph, "--port", "0", "--served-model-name", "m", "--devices")
        process = Process(*serve, f"3xcpu:{least}")
        try:
            url = process.line_with(r" ready: \S+ on (http://\S+)")[1]
            body = json.dumps({"model": "m", "prompt": list(range(100)), "max_tokens": 4, "ignore_eos": True})
            request = urllib.request.Request(url + "/v1/completions", body.encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=WAIT_S * 4) as answer:
                self.assertEqual(json.load(answer)["usage"]["completion_tokens"], 4)
            done = 'gramme_remote_prefill_total{worker="VllmWorker.0",result="done"} 1'
            wait_for(lambda: done in get(url + "/metrics"), "the prefill worker computed the prompt")
        finally:
            process.end()
        process = Process(*serve, f"3xcpu:{least - 1}", "--force")
        try:
            process.line_with(r"PrefillWorker.0: given up: loading ended at stage kv: kv needs")
        finally:
            process.end()


if __name__ == "__main__":
    unittest.main()
