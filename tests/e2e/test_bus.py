"""The bus dies and comes back: nats-server is killed with -9 and restarted on the same port while
streams run.  They go on where they were (SYNC), token for token, and none of them moves."""
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest

from harness import BINARY, MODEL, NAME, WAIT_S, Server, chat_body, free_port, in_parallel, wait_for

NATS_SERVER = next((p for p in (shutil.which("nats-server"), "/usr/sbin/nats-server") if p and os.path.exists(p)), None)


class Nats:
    """A nats-server on a port of its own that may die and come back."""

    def __init__(self):
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.process = None
        self.start()

    def start(self):
        self.process = subprocess.Popen([NATS_SERVER, "-a", "127.0.0.1", "-p", str(self.port)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.kill()


class Joined(Server):
    """One process of a graph by --join; a frontend answers HTTP, a worker does not."""

    def __init__(self, role, nats, *arguments):
        self.port = free_port()
        command = [BINARY, role, "--join", nats.url, "--namespace", "e2e", "-m", MODEL, *arguments]
        if role == "frontend":
            command += ["--port", str(self.port), "--served-model-name", NAME]
        self.log_file = tempfile.TemporaryFile()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GRAMME_")}
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.log_file, env=environment)


@unittest.skipUnless(NATS_SERVER, "needs nats-server")
class Chaos(unittest.TestCase):
    STREAMS = 8
    TOKENS = 1900  # at 10 ms: far longer than the troubles take

    @classmethod
    def setUpClass(cls):
        """What each answer is without any trouble: sim's text is a function of the request."""
        with Server() as server:
            cls.alone = in_parallel(cls.STREAMS, lambda i: server.stream(cls.body(i, cls.TOKENS)).text())
            cls.short = in_parallel(cls.STREAMS, lambda i: server.stream(cls.body(i, 40)).text())

    @staticmethod
    def body(i, tokens):
        return chat_body(f"number {i}", max_tokens=tokens, ignore_eos=True)

    def setUp(self):
        self.stack = contextlib.ExitStack()
        self.addCleanup(self.stack.close)
        self.nats = Nats()
        self.stack.callback(self.nats.stop)
        worker = ["--engine", "sim", "--max-model-len", "2048", "--sim-step", "10ms"]
        self.workers = [self.stack.enter_context(Joined("worker", self.nats, *worker)) for _ in range(2)]
        self.frontend = self.stack.enter_context(Joined("frontend", self.nats, "--min-workers", "2"))
        self.frontend.wait_ready()
        self.events = [0] * self.STREAMS
        self.texts = [""] * self.STREAMS
        self.must_end = False

    def read(self, i):
        stream = self.frontend.stream(self.body(i, self.TOKENS))
        for event in stream.events():
            if "error" in event:
                raise AssertionError(f"error event: {event}")
            self.events[i] += 1
            for choice in event["choices"]:
                self.texts[i] += choice["delta"].get("content") or ""
            if self.must_end:
                break
        stream.close()

    def wait_flow(self, what):
        before = list(self.events)
        wait_for(lambda: all(now > then + 5 for now, then in zip(self.events, before)), f"every stream, {what}")

    def trouble(self, begin, seconds, end):
        """While every stream runs; until every stream runs again."""
        self.wait_flow("before a trouble")
        begin()
        time.sleep(seconds)
        end()
        self.wait_flow("after a trouble")

    def streams_outlive(self, troubles):
        reading = threading.Thread(target=in_parallel, args=(self.STREAMS, self.read))
        reading.start()
        try:
            for begin, seconds, end in troubles:
                self.trouble(begin, seconds, end)
        finally:
            self.must_end = True
            reading.join(WAIT_S)
        for text, alone in zip(self.texts, self.alone):
            self.assertTrue(alone.startswith(text))
        texts = in_parallel(self.STREAMS, lambda i: self.frontend.stream(self.body(i, 40)).text())
        self.assertEqual(texts, self.short)
        self.assertEqual(self.frontend.metrics()["gramme_migrations_total"], 0, self.frontend.log())
        for worker in self.workers:
            self.assertNotIn("are dropped", worker.log())

    def test_server_dies(self):
        # The last one is longer than --sync-timeout: time without a bus is nobody's silence.
        self.streams_outlive([(self.nats.kill, seconds, self.nats.start) for seconds in (0, 0.3, 4)])

    def test_server_hangs(self):
        """The connection stands and nothing comes: pings find out."""
        def freeze():
            self.nats.process.send_signal(signal.SIGSTOP)

        def thaw():
            self.nats.process.send_signal(signal.SIGCONT)
        self.streams_outlive([(freeze, 0.2, thaw), (freeze, 4, thaw)])

    def test_request_during_an_outage(self):
        """One that comes while the bus is away is answered when it is back."""
        self.nats.kill()
        answers = [None]

        def ask():
            answers[0] = self.frontend.chat("patience", max_tokens=8)
        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.5)
        self.nats.start()
        thread.join(WAIT_S)
        self.assertEqual(answers[0].status, 200, answers[0].body)


if __name__ == "__main__":
    unittest.main()
