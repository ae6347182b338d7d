"""Streams: their form, many at once, clients that leave, clients that do not read, drain."""
import json
import os
import re
import signal
import subprocess
import time
import unittest

from harness import BINARY, NAME, Server, chat_body, in_parallel, read_all, read_answer, status_of, wait_for


def resident_bytes(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Form(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def test_chat_events(self):
        stream = self.server.stream(chat_body(ignore_eos=True, stream_options={"include_usage": True}))
        answer = stream.open()
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Content-Type"].split(";")[0], "text/event-stream")
        self.assertEqual(answer.headers["Cache-Control"], "no-cache")
        self.assertEqual(answer.headers["X-Accel-Buffering"], "no")
        self.assertTrue(answer.headers["X-Request-Id"])
        events = list(stream.events())
        self.assertEqual({e["object"] for e in events}, {"chat.completion.chunk"})
        self.assertEqual(len({e["id"] for e in events}), 1)
        self.assertEqual(events[0]["choices"][0]["delta"]["role"], "assistant")
        finishes = [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]]
        self.assertEqual(finishes, ["length"])
        self.assertEqual(events[-1]["choices"], [])
        usage = events[-1]["usage"]
        self.assertEqual(usage["completion_tokens"], 8)
        self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + 8)
        self.assertTrue(all(not e.get("usage") for e in events[:-1]))
        stream.close()

    def test_stream_equals_whole(self):
        for path, body in (("/v1/chat/completions", chat_body("Tell me more", max_tokens=40)),
                           ("/v1/completions", {"model": NAME, "prompt": "Once", "max_tokens": 40, "temperature": 0})):
            whole = self.server.post(path, body).json()["choices"][0]
            text = whole["text"] if "text" in whole else whole["message"]["content"]
            self.assertEqual(self.server.stream(body, path).text(), text)

    def test_200_at_once(self):
        """Each answer is the one that the same request gets alone."""
        alone = {n: self.server.stream(chat_body(f"number {n}", max_tokens=24)).text() for n in range(10)}
        texts = in_parallel(200, lambda i: self.server.stream(
            chat_body(f"number {i % 10}", max_tokens=24)).text())
        for i, text in enumerate(texts):
            self.assertEqual(text, alone[i % 10])
        self.server.wait_idle()

    def test_prefix_hits_are_told(self):
        content = "the same long beginning of a prompt " * 20
        body = chat_body(content)
        self.server.post("/v1/chat/completions", body)
        usage = self.server.post("/v1/chat/completions", body).json()["usage"]
        self.assertGreaterEqual(usage["prompt_tokens_details"]["cached_tokens"], 64)


class Clients(unittest.TestCase):
    """A slow engine (10 ms a step), two seats."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server(sim_step="10ms", max_num_seqs=2, write_timeout="1s")

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def running(self, running, waiting=None):
        def is_so():
            m = self.server.metrics()
            return (m["vllm:num_requests_running"] == running
                    and (waiting is None or m["vllm:num_requests_waiting"] == waiting))
        wait_for(is_so, f"{running} running, {waiting} waiting")

    def long_stream(self):
        return self.server.stream(chat_body("go on", max_tokens=1500, ignore_eos=True))

    def test_leaves_while_streaming(self):
        stream = self.long_stream()
        next(iter(stream.events()))
        self.running(1)
        stream.close()
        self.server.wait_idle()

    def test_leaves_while_waiting(self):
        streams = [self.long_stream(), self.long_stream()]
        self.running(2)
        waiting = self.long_stream()
        self.running(2, 1)
        waiting.connection.sock.close()
        waiting.close()
        self.running(2, 0)
        for stream in streams:
            stream.connection.sock.close()
            stream.close()
        self.server.wait_idle()

    def test_leaves_a_whole_answer(self):
        import http.client
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port)
        connection.request("POST", "/v1/chat/completions",
                           json.dumps(chat_body(max_tokens=1500, ignore_eos=True)),
                           {"Content-Type": "application/json"})
        self.running(1)
        connection.close()
        self.server.wait_idle()


class Queue(unittest.TestCase):
    def test_full_queue(self):
        """Beyond --max-queue: 429 with Retry-After; those before it are served."""
        with Server(sim_step="20ms", max_num_seqs=1, max_queue=2) as server:
            def stream():
                return server.stream(chat_body(max_tokens=60, ignore_eos=True))

            first = stream()
            events = iter(first.events())
            next(events)
            streams = [stream(), stream()]

            def is_full():
                m = server.metrics()
                return m["vllm:num_requests_running"] == 1 and m["vllm:num_requests_waiting"] == 2
            wait_for(is_full, "one running, two waiting")
            answer = server.chat()
            self.assertEqual(answer.status, 429)
            self.assertGreaterEqual(int(answer.headers["Retry-After"]), 1)
            self.assertEqual(answer.json()["error"]["type"], "RateLimitError")
            self.assertTrue(list(events))
            for waited in streams:
                self.assertTrue(waited.text())

    def test_queue_timeout(self):
        with Server(sim_step="20ms", max_num_seqs=1, queue_timeout="300ms") as server:
            stream = server.stream(chat_body(max_tokens=1000, ignore_eos=True))
            next(iter(stream.events()))
            self.assertEqual(server.chat().status, 503)
            # Its access line tells how long it waited, though it never left the queue.
            wait_for(lambda: re.search(r" status 503 .* queue [3-9]\d\d", server.log()), "the access line")
            stream.close()

    def test_1024_clients_get_no_429(self):
        with Server(max_num_seqs=64) as server:
            done = subprocess.run(
                [BINARY, "bench", "serve", "--url", f"http://127.0.0.1:{server.port}", "--concurrency", "1024",
                 "--requests", "1024", "--warmup", "0", "--max-tokens", "4", "--prompt-tokens", "20", "--json"],
                capture_output=True, text=True, timeout=120)
            self.assertEqual(done.returncode, 0, done.stderr)
            figures = json.loads(done.stdout)
            self.assertEqual((figures["requests"], figures["failed"]), (1024, 0), done.stderr)
            server.wait_idle()

    def test_sse_keep_alive(self):
        """Silence is filled with comments, which clients skip."""
        with Server(sim_step="700ms", sse_keep_alive="100ms") as server:
            body = json.dumps(chat_body(max_tokens=2, ignore_eos=True, stream=True)).encode()
            data = server.raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                              b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            self.assertIn(b"\r\n: ", data.replace(b"\n: ", b"\r\n: "))
            self.assertIn(b"data: [DONE]", data)


class SlowReader(unittest.TestCase):
    def test_slow_reader(self):
        """One that does not read is held back, does not disturb the others, costs bounded memory, and
        is cut off and named."""
        with Server(write_timeout="1s", max_model_len=8192, max_num_seqs=64,
                    kv_cache_memory_bytes="2GiB") as server:
            server.chat()
            before = resident_bytes(server.process.pid)
            body = json.dumps(chat_body("x", n=32, max_tokens=7000, ignore_eos=True, stream=True)).encode()
            slow = server.connect(receive_bytes=4096)
            slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s"
                         % (len(body), body))
            for _ in range(5):
                self.assertEqual(server.chat().status, 200)
            wait_for(lambda: "took nothing" in server.log(), "the slow reader is cut off and logged")
            server.wait_idle()
            self.assertLess(resident_bytes(server.process.pid) - before, 96 << 20)
            slow.close()


class Life(unittest.TestCase):
    def test_drain(self):
        """SIGTERM: what runs finishes, health is 503, new work is refused, exit 0."""
        with Server(sim_step="10ms", arguments=["--drain-delay=300ms"]) as server:
            stream = server.stream(chat_body(max_tokens=100, ignore_eos=True))
            events = iter(stream.events())
            next(events)
            server.signal(signal.SIGTERM)
            wait_for(lambda: server.request("GET", "/health").status == 503, "health is 503")
            rest = list(events)
            self.assertEqual([c["finish_reason"] for e in rest for c in e["choices"] if c["finish_reason"]],
                             ["length"])
            stream.close()
            self.assertEqual(server.wait(), 0)

    def test_refused_while_draining(self):
        with Server(sim_step="10ms") as server:
            kept = server.connect()
            kept.sendall(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
            self.assertEqual(status_of(read_answer(kept)), 200)
            stream = server.stream(chat_body(max_tokens=100, ignore_eos=True))
            events = iter(stream.events())
            next(events)
            server.signal(signal.SIGTERM)
            wait_for(lambda: server.request("GET", "/health").status == 503, "health is 503")
            answer = server.chat()
            self.assertEqual(answer.status, 503)
            self.assertEqual(answer.headers["Connection"], "close")
            kept.sendall(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n")
            self.assertEqual(status_of(read_all(kept)), 503)  # and the connection ends
            kept.close()
            self.assertTrue(list(events))
            self.assertEqual(server.wait(), 0)
            stream.close()

    def test_drain_timeout(self):
        """What does not finish in time ends with an error event, not with silence."""
        with Server(sim_step="10ms", arguments=["--drain-timeout=300ms"]) as server:
            stream = server.stream(chat_body(max_tokens=1500, ignore_eos=True))
            events = iter(stream.events())
            next(events)
            server.signal(signal.SIGTERM)
            rest = list(events)
            self.assertIn("error", rest[-1])
            stream.close()
            self.assertEqual(server.wait(), 0)

    def test_second_signal_ends_at_once(self):
        with Server(sim_step="50ms") as server:
            stream = server.stream(chat_body(max_tokens=1500, ignore_eos=True))
            next(iter(stream.events()))
            server.signal(signal.SIGTERM)
            time.sleep(0.1)
            server.signal(signal.SIGTERM)
            server.wait(10)
            stream.close()

    def test_idle_connections_do_not_hold_the_drain(self):
        with Server() as server:
            idle = server.connect()
            server.signal(signal.SIGINT)
            self.assertEqual(server.wait(10), 0)
            self.assertEqual(read_all(idle), b"")
            idle.close()

    def test_port_taken(self):
        with Server() as server:
            with Server(wait=False, port=server.port) as other:
                self.assertEqual(other.wait(), 1)
                self.assertIn(f"port {server.port}", other.log())
                self.assertIn("taken", other.log())

    def test_probes(self):
        with Server(wait=False) as server:
            wait_for(lambda: self.is_open(server), "the port is bound")
            live = server.request("GET", "/live")
            self.assertEqual(live.status, 200)
            server.wait_ready()
            self.assertEqual(server.request("GET", "/health").status, 200)
            self.assertTrue(server.request("GET", "/version").json()["version"])

    def is_open(self, server):
        try:
            server.connect().close()
            return True
        except OSError:
            return False

    def test_api_key(self):
        with Server(api_key="secret") as server:
            self.assertEqual(server.chat().status, 401)
            self.assertEqual(server.request("GET", "/v1/models").status, 401)
            self.assertEqual(server.request("GET", "/health").status, 200)
            key = {"Authorization": "Bearer secret"}
            self.assertEqual(server.post("/v1/chat/completions", chat_body(), key).status, 200)
            bad = server.post("/v1/chat/completions", chat_body(), {"Authorization": "Bearer secre"})
            self.assertEqual(bad.status, 401)
            self.assertEqual(bad.json()["error"]["type"], "AuthenticationError")
