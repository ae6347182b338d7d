"""Graphs of several processes: every graph gives the same tokens; whatever dies, stops or restarts,
streams end with the very same tokens; nothing is left behind.  The sim engine: its next token is a
function of everything before it, so one lost, doubled or foreign token changes the answer."""
import contextlib
import functools
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import openai

from harness import (BINARY, MODEL, NAME, ROOT, WAIT_S, Server, clean_environment, free_port,
                     in_parallel, wait_for)

EXAMPLES = ROOT / "examples"
PROMPTS = [f"Prompt {i}: " + "once upon a time there was a token " * (1 + i % 7) for i in range(32)]
KINDS = ("agg", "agg_router", "disagg", "disagg_router")
TWO = "--VllmWorker.ServiceArgs.workers=2"


def children(pid):
    """{component name: pid} of a supervisor."""
    out = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        state, parent = stat.rsplit(")", 1)[1].split()[:2]
        if int(parent) == pid and state != "Z":
            name = words[2].decode() if words[0] == b"gramme" else words[0].decode()
            out[name] = int(entry.name)
    return out


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Graph(Server):
    """A supervised graph; ends must be clean."""

    def __init__(self, graph="agg", arguments=(TWO,), **options):
        super().__init__(graph=graph, arguments=arguments, **options)
        self.pids = children(self.process.pid)

    def kill(self, name, number=signal.SIGKILL):
        pid = children(self.process.pid)[name]
        os.kill(pid, number)
        return pid

    def wait_all_ready(self):
        wait_for(lambda: "ready: " in self.log(), "every component ready")

    def wait_workers(self, count):
        def is_there():
            status = self.request("GET", "/gramme/status")
            return sum(w["state"] == "serving" for w in status.json()["workers"]) == count
        wait_for(is_there, f"{count} workers")

    def complete(self, prompt, tokens=16, **fields):
        answer = self.post("/v1/completions", {"prompt": prompt, "max_tokens": tokens, "temperature": 0,
                                               "ignore_eos": True, **fields})
        assert answer.status == 200, answer.body
        body = answer.json()
        assert body["usage"]["completion_tokens"] == tokens, body
        return body["choices"][0]["text"]

    def stop(self):
        pids = list(children(self.process.pid).values()) if self.process.poll() is None else []
        super().stop()
        for pid in pids:
            wait_for(lambda: not is_alive(pid), f"the end of process {pid}")


prompt_tokens = {}  # by prompt, as first told


def watch(graph, prompt, tokens, on_event=lambda: None, **fields):
    """One stream through the openai client: its text; usage must count every token once."""
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{graph.port}/v1", api_key="-", max_retries=0,
                           timeout=WAIT_S * 4)
    text, usage = [], None
    stream = client.completions.create(model=NAME, prompt=prompt, max_tokens=tokens, stream=True,
                                       stream_options={"include_usage": True},
                                       extra_body={"ignore_eos": True}, **{"temperature": 0, **fields})
    for event in stream:
        on_event()
        usage = event.usage or usage
        text += [choice.text for choice in event.choices]
    assert usage.completion_tokens == tokens, usage
    assert usage.prompt_tokens == prompt_tokens.setdefault(prompt, usage.prompt_tokens), usage
    return "".join(text)


def seeded(i):
    return {"temperature": 0.8, "seed": i} if i % 2 else {}


class SameTokens(unittest.TestCase):
    def test_every_graph(self):
        with Server(max_model_len=2048) as single:
            wanted = [Graph.complete(single, p) for p in PROMPTS]
        for kind in KINDS:
            with self.subTest(kind), Graph(kind, model=None, max_model_len=2048,
                                           arguments=("-f", str(EXAMPLES / f"{kind}.yaml"), TWO,
                                                      f"--Common.model={MODEL}")) as graph:
                self.assertEqual(in_parallel(len(PROMPTS), lambda i: graph.complete(PROMPTS[i])), wanted)
                log = graph.log()
                if "disagg" in kind:
                    graph.wait_all_ready()
                    self.assertGreater(graph.metrics().get("gramme_remote_prefill_total", 0), 0, log)

    def test_without_a_file(self):
        with Graph("disagg", arguments=(), max_model_len=2048) as graph:
            graph.complete(PROMPTS[0])
            graph.wait_all_ready()
            self.assertEqual(sorted(children(graph.process.pid)),
                             ["Frontend.0", "PrefillWorker.0", "VllmWorker.0", "nats-server"])


class DemoModel(unittest.TestCase):
    """The same, computed: the demo model on the CPU, all graphs, prompts prefilled at TP 3 for TP 1."""

    def test_every_graph(self):
        prompts = [f"Prompt {i}: " + "once upon a time there was a token " * (1 + i % 3) for i in range(32)]
        options = {"engine": "cpu", "max_model_len": 512, "max_num_seqs": 16, "threads": 1}
        with Server(**options) as single:
            wanted = [Graph.complete(single, p, 8) for p in prompts]
        for kind, more in (("agg", (TWO,)), ("agg_router", (TWO,)), ("disagg", ()),
                           ("disagg_router", ("--PrefillWorker.tensor-parallel-size=3",))):
            if "disagg" in kind:
                more += ("--remote-prefill", "--no-conditional-disagg")
            with self.subTest(kind), Graph(kind, arguments=more, **options) as graph:
                graph.wait_all_ready()
                self.assertEqual(in_parallel(len(prompts), lambda i: graph.complete(prompts[i], 8)), wanted)
                if "disagg" in kind:
                    self.assertGreater(graph.metrics()["gramme_remote_prefill_total"], 0, graph.log())


class Faults(unittest.TestCase):
    STREAMS = 8
    TOKENS = 300

    @classmethod
    @functools.cache
    def wanted(cls):
        """What one worker alone answers; no setUpClass, so that these slow tests may run apart."""
        with Server(max_model_len=2048) as single:
            return in_parallel(cls.STREAMS, lambda i: watch(single, PROMPTS[i], cls.TOKENS, **seeded(i)))

    def under_load(self, graph, fault):
        """Streams that must end as if nothing had happened; fault() comes in their middle.  The
        metrics count what a dead frontend left too, so that every stream's first event will do."""
        begun = set()
        def one(i):
            if i == self.STREAMS:
                wait_for(lambda: len(begun) == self.STREAMS or
                         graph.metrics()["vllm:num_requests_running"] == self.STREAMS, "all streams run")
                return fault()
            return watch(graph, PROMPTS[i], self.TOKENS, on_event=lambda: begun.add(i), **seeded(i))
        self.assertEqual(in_parallel(self.STREAMS + 1, one)[:-1], self.wanted())

    def graph(self, kind="agg", **options):
        graph = Graph(kind, max_model_len=2048, sim_step="5ms", **options)
        self.addCleanup(graph.stop)
        graph.wait_all_ready()
        graph.wait_workers(2)
        return graph

    def test_worker_killed(self):
        graph = self.graph("agg_router")
        self.under_load(graph, lambda: graph.kill("VllmWorker.0"))
        graph.wait_workers(2)
        self.assertGreater(graph.metrics()["gramme_worker_deaths_total"], 0)
        self.under_load(graph, lambda: graph.kill("VllmWorker.1"))
        graph.wait_idle()

    def test_worker_stopped(self):
        graph = self.graph()
        stopped = []
        self.under_load(graph, lambda: stopped.append(graph.kill("VllmWorker.0", signal.SIGSTOP)))
        wait_for(lambda: graph.metrics()["gramme_worker_suspicions_total"] > 0, "a suspicion")
        os.kill(stopped[0], signal.SIGCONT)
        graph.wait_workers(2)
        graph.wait_idle()
        self.assertEqual(graph.metrics()["gramme_worker_deaths_total"], 0)
        self.under_load(graph, lambda: None)

    def test_worker_told_to_go(self):
        graph = self.graph()
        before = children(graph.process.pid)
        for name in ("VllmWorker.0", "VllmWorker.1"):  # each in turn, under load
            self.under_load(graph, lambda: graph.kill(name, signal.SIGTERM))
            wait_for(lambda: children(graph.process.pid).get(name, before[name]) != before[name], f"another {name}")
            graph.wait_workers(2)
        self.assertEqual(graph.metrics()["gramme_http_requests_total"] > 0, True)

    def test_bus_killed(self):
        graph = self.graph()
        self.under_load(graph, lambda: graph.kill("nats-server"))
        self.assertEqual(graph.metrics()["gramme_migrations_total"], 0)
        self.under_load(graph, lambda: graph.kill("nats-server"))
        graph.wait_idle()

    def stopped_for(self, name, seconds):
        """Stopped under load, for longer than anybody waits; nobody notices but by the time."""
        graph = self.graph()
        def fault():
            pid = graph.kill(name, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(pid, signal.SIGCONT)
        self.under_load(graph, fault)
        self.under_load(graph, lambda: None)
        graph.wait_idle()

    def test_bus_stopped(self):
        self.stopped_for("nats-server", 2)

    def test_bus_frozen(self):
        """Stopped for ever: nobody waits for ever, another one takes its place."""
        graph = self.graph()
        pids = []
        self.under_load(graph, lambda: pids.append(graph.kill("nats-server", signal.SIGSTOP)))
        self.assertNotEqual(children(graph.process.pid)["nats-server"], pids[0])
        self.assertIn("answers nobody: killed", graph.log())
        self.assertEqual(graph.metrics()["gramme_migrations_total"], 0)
        graph.wait_idle()

    def test_frontend_stopped(self):
        self.stopped_for("Frontend.0", 4)  # longer than sync-timeout: its attempts are given up

    def test_frontend_killed(self):
        graph = self.graph()
        stream = graph.stream({"prompt": PROMPTS[0], "max_tokens": 2000, "ignore_eos": True}, "/v1/completions")
        next(stream.events())
        pid = graph.kill("Frontend.0")
        wait_for(lambda: not is_alive(pid), "the frontend's end")
        stream.close()
        graph.wait_ready()
        graph.wait_workers(2)
        graph.wait_idle()  # its sequences are given up
        self.under_load(graph, lambda: None)

    def disagg(self, **options):
        """Every prompt goes away; prompts take their time, so that faults find them under way."""
        graph = Graph("disagg_router", max_model_len=2048, sim_step="5ms", sim_token="1ms",
                      arguments=(TWO, "--PrefillWorker.ServiceArgs.workers=2", "--remote-prefill",
                                 "--no-conditional-disagg", "--handoff-chunk-tokens=16"), **options)
        self.addCleanup(graph.stop)
        graph.wait_all_ready()
        graph.wait_workers(4)
        return graph

    def remote_count(self, graph):
        return graph.metrics()["gramme_remote_prefill_total"]

    def prefill_fault(self, number):
        graph = self.disagg()
        pids = []
        def fault():
            pids.append(graph.kill("PrefillWorker.0", number))
        def one(i):
            if i == self.STREAMS:
                wait_for(lambda: self.remote_count(graph) >= 1, "handoffs")
                return fault()
            return watch(graph, PROMPTS[i], self.TOKENS, **seeded(i))
        self.assertEqual(in_parallel(self.STREAMS + 1, one)[:-1], self.wanted())
        return graph, pids[0]

    def test_prefill_killed(self):
        graph, _ = self.prefill_fault(signal.SIGKILL)
        graph.wait_workers(4)
        before = self.remote_count(graph)
        self.under_load(graph, lambda: graph.kill("PrefillWorker.1"))
        self.assertGreater(self.remote_count(graph), before)
        graph.wait_idle()

    def test_prefill_stopped(self):
        graph, pid = self.prefill_fault(signal.SIGSTOP)
        os.kill(pid, signal.SIGCONT)
        graph.wait_workers(4)
        self.under_load(graph, lambda: None)
        graph.wait_idle()

    def test_prefill_told_to_go(self):
        graph, pid = self.prefill_fault(signal.SIGTERM)
        wait_for(lambda: children(graph.process.pid).get("PrefillWorker.0", pid) != pid, "another PrefillWorker.0")
        graph.wait_workers(4)
        graph.wait_idle()

    def test_every_prefill_worker_killed(self):
        graph = self.disagg()
        def fault():
            graph.kill("PrefillWorker.0")
            graph.kill("PrefillWorker.1")
            graph.kill("VllmWorker.0")
        self.under_load(graph, fault)
        graph.wait_workers(4)
        graph.wait_idle()

    def test_poison(self):
        graph = self.graph(migration_limit=1)
        def fault():
            graph.kill("VllmWorker.0")
            graph.kill("VllmWorker.1")
        def one(i):
            if i == 0:
                wait_for(lambda: graph.metrics()["vllm:num_requests_running"] == 1, "the stream runs")
                return fault()
            with self.assertRaises(openai.APIError) as raised:
                watch(graph, PROMPTS[0], 1000)
            return str(raised.exception)
        self.assertIn("died", in_parallel(2, one)[1])


class Ends(unittest.TestCase):
    @staticmethod
    def shared_memory():
        return set(os.listdir("/dev/shm"))

    @staticmethod
    def processes(mark):
        """Those that carry the mark in their environment, so also what our processes started."""
        out = []
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and is_alive(entry.name) and mark in (entry / "environ").read_bytes():
                    out.append(entry.name)
        return out

    def check_end(self, number):
        before = self.shared_memory()
        mark = f"MARK_OF_A_TEST={os.getpid()}-{number}"
        graph = Graph("disagg", max_model_len=2048, sim_step="5ms", environment=dict([mark.split("=")]))
        pids = [graph.process.pid, *children(graph.process.pid).values()]
        try:
            graph.wait_all_ready()
            pids = [graph.process.pid, *children(graph.process.pid).values()]
            self.assertEqual(len(pids), 6)
            self.assertEqual(len(self.processes(mark.encode())), 6)
            graph.complete(PROMPTS[3])
            stream = graph.stream({"prompt": PROMPTS[0], "max_tokens": 100, "ignore_eos": True}, "/v1/completions")
            next(stream.events())
            graph.signal(number)
            text = ""
            if number != signal.SIGKILL:
                text = stream.text()  # what runs is finished
                self.assertTrue(text)
            status = graph.wait()
        finally:
            Server.stop(graph)
        wait_for(lambda: not self.processes(mark.encode()), "the end of every process, whatever started it")
        self.assertEqual(status, -signal.SIGKILL if number == signal.SIGKILL else 0)
        # Other tests run meanwhile and have shared memory too; only what stays is left behind.
        left = self.shared_memory() - before
        wait_for(lambda: not left.intersection_update(self.shared_memory()) and not left, f"the end of {left}")

    def test_interrupt(self):
        self.check_end(signal.SIGINT)

    def test_terminate(self):
        self.check_end(signal.SIGTERM)

    def test_supervisor_killed(self):
        self.check_end(signal.SIGKILL)

    def test_second_signal(self):
        with Graph(max_model_len=2048, sim_step="20ms") as graph:
            stream = graph.stream({"prompt": PROMPTS[0], "max_tokens": 1900, "ignore_eos": True}, "/v1/completions")
            next(stream.events())
            graph.signal()
            wait_for(lambda: graph.request("GET", "/health").status == 503, "draining")
            graph.signal()
            self.assertEqual(graph.wait(), 130)
            stream.close()


class Trouble(unittest.TestCase):
    """One clear line, the right status."""

    def refuse(self, arguments, status, *words, environment=None, command="serve"):
        done = subprocess.run([BINARY, command, *arguments], capture_output=True, text=True, timeout=WAIT_S,
                              env={**clean_environment(), **(environment or {})})
        self.assertEqual(done.returncode, status, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        return done.stderr

    def test_one_line(self):
        cases = [
            (("disagg",), 2, "no model"),
            (("aggg", "-m", MODEL), 2, "'aggg' is no graph"),
            (("disagg", "-m", MODEL, "--nats", "nats://user:secret@127.0.0.1:4222"), 2, "GRAMME_BUS_TOKEN"),
            (("disagg", "-m", MODEL, "--nats", "nats://127.0.0.1:4222"), 2, "--namespace"),
            (("disagg", "-m", MODEL, "--bus-listen", "0.0.0.0:4222"), 2, "GRAMME_BUS_TOKEN"),
            (("disagg", "-m", MODEL, "--bus-listen", "somewhere"), 2, "ADDRESS:PORT"),
            (("disagg", "-m", MODEL, "--namespace", "a", "--nats", "nats://a:1,nats://b:70000"), 2, "no nats://HOST:PORT"),
            (("disagg", "-m", MODEL, "--namespace", "a", "--nats", "127.0.0.1:port"), 2, "no nats://HOST:PORT"),
        ]
        for arguments, status, *words in cases:
            with self.subTest(arguments):
                said = self.refuse(arguments, status, *words)
                self.assertEqual(said.count("\n"), 1, said)
                self.assertNotIn("secret", said)
        self.refuse(("-m", MODEL), 2, "--join", command="worker")
        self.refuse(("-m", MODEL, "--join", "nats://127.0.0.1:1"), 2, "--namespace", command="worker")
        self.refuse(("-m", MODEL, "--join", "nats://a@127.0.0.1:1", "--namespace", "x"), 2, "GRAMME_BUS_TOKEN",
                    command="frontend")

    def test_token_file(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("secret\n")
            file.flush()
            os.chmod(file.name, 0o644)
            self.refuse(("agg", "-m", MODEL, TWO, "--bus-token-file", file.name), 2, "chmod 600")
        for token in ('quo"te', "back\\slash", "two\nlines"):
            said = self.refuse(("agg", "-m", MODEL, TWO), 2, "quotation marks", environment={"GRAMME_BUS_TOKEN": token})
            self.assertNotIn(token, said)

    def test_worker_that_cannot(self):
        """A failure that repeats by nature is not tried again; its line is the last word."""
        said = self.refuse(("agg", TWO, "--engine=sim", "-m", MODEL, "--port", str(free_port()),
                            "--VllmWorker.model=/nowhere/model.gguf"), 1, "/nowhere/model.gguf", "given up")
        self.assertNotIn("starts again", said)

    def test_file_is_checked(self):
        """A file with a mistake, or that does not fit, is refused before anything starts."""
        cases = [
            (("-f", str(EXAMPLES / "agg.yaml"), "--Common.model=/nowhere/model.gguf"), 1, "/nowhere/model.gguf"),
            (("-f", str(EXAMPLES / "agg.yaml"), f"--Common.model={MODEL}", "--VllmWorker.max-num-sequences=4"), 2,
             "max-num-seqs"),
            (("-m", MODEL, "--devices", "1xcpu:0.05GiB"), 1, "0.05 GiB"),
            (("-m", MODEL, TWO, "--devices", "1xcpu:1GiB"), 1, "device"),
        ]
        for arguments, status, *words in cases:
            with self.subTest(arguments):
                said = self.refuse(("agg", *arguments), status, *words)
                self.assertNotIn("started, pid", said)

    def test_port_taken(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            said = self.refuse(("agg", TWO, "--engine=sim", "-m", MODEL, "--port", str(taken.getsockname()[1])),
                               1, "taken", "given up")
            self.assertNotIn("starts again", said)
            listen = "127.0.0.1:%d" % taken.getsockname()[1]
            said = self.refuse(("agg", TWO, "--engine=sim", "-m", MODEL, "--port", str(free_port()),
                                "--bus-listen", listen), 1, "the port is taken")
            self.assertNotIn("started, pid", said)


class Process:
    """`gramme COMMAND` by hand."""

    def __init__(self, command, *arguments, environment=None):
        self.log_file = tempfile.TemporaryFile()
        self.process = subprocess.Popen([BINARY, command, *arguments], stdout=subprocess.DEVNULL,
                                        stderr=self.log_file, env={**clean_environment(), **(environment or {})})

    def log(self):
        # The offset is the writing process's too: it must not be moved.
        size = os.fstat(self.log_file.fileno()).st_size
        return os.pread(self.log_file.fileno(), size, 0).decode(errors="replace")

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        status = self.process.wait()
        log = self.log()
        self.log_file.close()
        for sign in ("AddressSanitizer", "LeakSanitizer", "runtime error:", "ThreadSanitizer"):
            assert sign not in log, log
        return status


class ByHand(unittest.TestCase):
    """A nats-server of the site, workers and frontends that come and go."""

    def setUp(self):
        port = free_port()
        self.nats = subprocess.Popen([self.nats_path(), "-a", "127.0.0.1", "-p", str(port), "--auth", "t0ken"],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(self.end_nats)
        self.url = f"nats://127.0.0.1:{port}"

    @staticmethod
    def nats_path():
        for folder in [*os.environ.get("PATH", "").split(":"), "/usr/sbin"]:
            if os.access(f"{folder}/nats-server", os.X_OK):
                return f"{folder}/nats-server"
        raise unittest.SkipTest("nats-server is not on this machine")

    def end_nats(self):
        self.nats.kill()
        self.nats.wait()

    def start(self, command, *arguments, namespace="one"):
        process = Process(command, "--join", self.url, "--namespace", namespace, "-m", MODEL,
                          *arguments, environment={"GRAMME_BUS_TOKEN": "t0ken"})
        self.addCleanup(process.stop)
        return process

    def frontend(self, *arguments, namespace="one"):
        port = free_port()
        process = self.start("frontend", "--port", str(port), "--served-model-name", NAME, "--gone-timeout=1s",
                             "--migration-timeout=2s", *arguments, namespace=namespace)
        server = Server.__new__(Server)
        server.port, server.process = port, process.process
        def is_up():
            try:
                return server.request("GET", "/live").status == 200
            except OSError:
                return False
        wait_for(is_up, "the frontend's port")
        return server, process

    def worker(self, *arguments, namespace="one"):
        return self.start("worker", "--engine=sim", "--max-model-len=2048", "--sim-step=5ms", *arguments,
                          namespace=namespace)

    def ready(self, server, status=200):
        wait_for(lambda: server.request("GET", "/health").status == status, f"health {status}")

    def test_come_and_go(self):
        server, frontend = self.frontend()
        other, _ = self.frontend(namespace="two")
        def is_refused():
            answer = server.chat()
            return answer.status == 503 and answer.headers.get("Retry-After")
        wait_for(is_refused, "503 with Retry-After")
        self.assertEqual(server.request("GET", "/health").status, 503)
        first = self.worker("--system-port=0")
        self.ready(server)
        self.assertEqual(server.chat().status, 200)
        self.assertEqual(other.request("GET", "/health").status, 503)  # another namespace
        second_server, _ = self.frontend()
        self.ready(second_server)
        text = Graph.complete(server, PROMPTS[5], 50)
        self.assertEqual(Graph.complete(second_server, PROMPTS[5], 50), text)
        # its own /live, /health, /metrics
        line = next(l for l in first.log().splitlines() if "system port: " in l)
        system = Server.__new__(Server)
        system.port = int(line.rsplit(":", 1)[1])
        self.assertEqual(system.request("GET", "/live").status, 200)
        self.assertEqual(system.request("GET", "/health").status, 200)
        self.assertGreater(system.metrics()["gramme_worker_steps_total"], 0)
        # one more; the first is killed: no supervisor tells, silence does
        self.worker()
        wait_for(lambda: sum(w["state"] == "serving" for w in
                             server.request("GET", "/gramme/status").json()["workers"]) == 2, "two workers")
        self.ready(server)
        texts = in_parallel(5, lambda i: first.process.kill() if i == 4 else
                            Graph.complete(server, PROMPTS[i], 400))
        self.assertEqual([len(t) > 0 for t in texts[:4]], [True] * 4)

    def test_only_worker_frozen(self):
        """A new request is held while it is suspect, and told at once when it counts as gone."""
        server, frontend = self.frontend("--gone-timeout=3s", "--migration-timeout=30s")
        worker = self.worker()
        self.ready(server)
        text = Graph.complete(server, PROMPTS[2], 20)
        worker.process.send_signal(signal.SIGSTOP)
        self.addCleanup(worker.process.send_signal, signal.SIGCONT)
        wait_for(lambda: "is suspect" in frontend.log(), "suspicion")
        answer = server.post("/v1/completions", {"prompt": "hi", "max_tokens": 2})
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "1"), answer.body)
        self.assertIn("no worker is there", answer.json()["error"]["message"])
        self.assertEqual(server.request("GET", "/health").status, 503)
        worker.process.send_signal(signal.SIGCONT)
        self.ready(server)
        self.assertEqual(Graph.complete(server, PROMPTS[2], 20), text)

    def test_told_to_go(self):
        server, _ = self.frontend()
        first, second = self.worker(), self.worker()
        wait_for(lambda: sum(w["state"] == "serving" for w in
                             server.request("GET", "/gramme/status").json()["workers"]) == 2, "two workers")
        self.ready(server)
        wanted = Graph.complete(server, PROMPTS[1], 300)
        def one(i):
            if i < 4:
                return Graph.complete(server, PROMPTS[1], 300)
            first.process.terminate()
            return None
        self.assertEqual(in_parallel(5, one)[:4], [wanted] * 4)
        self.assertEqual(first.process.wait(WAIT_S), 0)
        second.process.terminate()
        self.assertEqual(second.process.wait(WAIT_S), 0)
        self.ready(server, 503)
        self.assertEqual(server.chat().status, 503)

    def test_drain_timeout(self):
        """What does not finish within a worker's own drain-timeout goes on at another one."""
        server, _ = self.frontend()
        first, _ = self.worker("--drain-timeout=0.1"), self.worker()
        wait_for(lambda: sum(w["state"] == "serving" for w in
                             server.request("GET", "/gramme/status").json()["workers"]) == 2, "two workers")
        self.ready(server)
        wanted = watch(server, PROMPTS[1], 600)
        begun = set()
        def one(i):
            if i < 4:
                return watch(server, PROMPTS[1], 600, on_event=lambda: begun.add(i))
            wait_for(lambda: len(begun) == 4, "all streams run")
            first.process.terminate()
            return first.process.wait(WAIT_S)
        self.assertEqual(in_parallel(5, one), [wanted] * 4 + [0])
        self.assertIn("did not finish within the drain timeout", first.log())
        self.assertGreater(server.metrics()["gramme_migrations_total"], 0)
        self.assertEqual(server.metrics()["gramme_worker_deaths_total"], 0)

    def test_refused(self):
        """Another block size: one line on both sides, no work; it serves when it alone is left."""
        server, frontend = self.frontend()
        first = self.worker()
        self.ready(server)
        other = self.worker("--block-size=32")
        wait_for(lambda: "another block size" in frontend.log(), "the frontend's line")
        wait_for(lambda: "another block size" in other.log(), "the worker's line")
        self.assertEqual(frontend.log().count("another block size"), 1)
        states = [w["state"] for w in server.request("GET", "/gramme/status").json()["workers"]]
        self.assertEqual(sorted(states), ["refused", "serving"])
        first.process.terminate()
        wait_for(lambda: [w["state"] for w in server.request("GET", "/gramme/status").json()["workers"]]
                 == ["serving"], "the other serves")
        self.assertEqual(server.chat().status, 200)

    def test_unlike_kinds(self):
        """A simulator among workers that compute; a prefill worker whose blocks are of no use."""
        server, frontend = self.frontend()
        decode = self.start("worker", "disagg", "--engine=sim", "--max-model-len=2048", "--remote-prefill")
        self.ready(server)
        computing = self.start("worker", "--max-model-len=512")
        wait_for(lambda: "other weights, KV storage or numerics" in frontend.log(), "the frontend's line")
        wait_for(lambda: "other weights, KV storage or numerics" in computing.log(), "the worker's line")
        prefill = self.start("prefill", "disagg", "--engine=sim", "--max-model-len=2048", "--block-size=32")
        wait_for(lambda: "is not used: its block size is another" in decode.log(), "the decode worker's line")
        wait_for(lambda: "its block size is another" in prefill.log(), "the prefill worker's line")

    def test_worker_before_nats(self):
        self.end_nats()
        server, _ = self.frontend()
        worker = self.worker()
        wait_for(lambda: "ready after" in worker.log(), "the worker is loaded")
        port = self.url.rsplit(":", 1)[1]
        self.nats = subprocess.Popen([self.nats_path(), "-a", "127.0.0.1", "-p", port, "--auth", "t0ken"],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.ready(server)
        self.assertEqual(server.chat().status, 200)


class Views(unittest.TestCase):
    def test_top_and_join(self):
        port = free_port()
        with Graph(arguments=(TWO, "--bus-listen", f"127.0.0.1:{port}"), max_model_len=2048,
                   environment={"GRAMME_BUS_TOKEN": "s3cret"}) as graph:
            graph.wait_all_ready()
            top = subprocess.run([BINARY, "top", "--url", f"http://127.0.0.1:{graph.port}"], capture_output=True,
                                 text=True, timeout=WAIT_S, env=clean_environment())
            self.assertEqual(top.returncode, 0, top.stderr)
            for word in ("VllmWorker.0", "VllmWorker.1", "BUDGET", "serving", "ready"):
                self.assertIn(word, top.stdout)
            labels = graph.request("GET", "/metrics").body.decode()
            self.assertIn('worker="VllmWorker.1"', labels)
            # the printed line joins a worker, and names the variable instead of the secret
            join = wait_for(lambda: next((l for l in graph.log().splitlines() if "join from another node" in l),
                                         None), "the join line")
            self.assertNotIn("s3cret", graph.log())
            words = join.split("gramme worker ", 1)[1].split(" (or", 1)[0].split()
            worker = Process("worker", *words, "--engine=sim", "--max-model-len=2048",
                             environment={"GRAMME_BUS_TOKEN": "s3cret"})
            try:
                graph.wait_workers(3)
            finally:
                self.assertEqual(worker.stop(), 0)
            graph.wait_workers(2)
            # nothing secret in any command line or process title
            for pid in [graph.process.pid, *children(graph.process.pid).values()]:
                self.assertNotIn(b"s3cret", pathlib.Path(f"/proc/{pid}/cmdline").read_bytes())

    def test_sixteen_cards(self):
        """The layout of the 32B on 16 cards, simulated: no weights, no card, every worker has four."""
        with Graph("disagg_router", model=None, max_model_len=32768,
                   arguments=("-f", str(EXAMPLES / "disagg_router-32b.yaml"), "--devices", "16xA100-40GB")) as graph:
            graph.wait_all_ready()
            graph.complete(PROMPTS[0])
            workers = graph.request("GET", "/gramme/status").json()["workers"]
            self.assertEqual([w["tensor_parallel"] for w in workers], [4] * 4)
            self.assertEqual(graph.log().count("with 39.39 GiB each"), 4)

    def test_systemd(self):
        """READY=1 when all are there, STOPPING=1 at the drain."""
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.bind(f"{folder}/notify")
            s.settimeout(WAIT_S)
            with Graph(max_model_len=2048, environment={"NOTIFY_SOCKET": f"{folder}/notify"}) as graph:
                self.assertEqual(s.recv(100), b"READY=1")
                self.assertEqual(graph.request("GET", "/health").status, 200)
                graph.signal()
                self.assertEqual(s.recv(100), b"STOPPING=1")

    def test_json_log(self):
        with Graph(max_model_len=2048, log_format="json") as graph:
            graph.complete(PROMPTS[0])
            def speakers():
                whole = graph.log().rpartition("\n")[0]
                return {json.loads(line).get("who") for line in whole.splitlines()}
            wait_for(lambda: {"Frontend.0", "VllmWorker.0", "VllmWorker.1"} <= speakers(), "each one's lines")


if __name__ == "__main__":
    unittest.main()
