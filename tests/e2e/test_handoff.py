"""Handoffs between processes: prompts computed by prefill workers, over shared memory and over TCP,
give the tokens of one worker alone; a prefill worker that is killed or stopped in the middle changes
no token, and no client waits for it."""
import re
import signal
import time
import unittest

from harness import Server, in_parallel, wait_for
from test_graphs import Graph

REMOTE = ("--VllmWorker.remote-prefill=true", "--VllmWorker.conditional-disagg=false")
PROMPTS = [f"Prompt {i}: " + "once upon a time there was a token " * (1 + i % 9) for i in range(12)]


def results(graph):
    """{result: count} over all decode workers."""
    out = {}
    for line in graph.request("GET", "/metrics").body.decode().splitlines():
        found = re.match(r'gramme_remote_prefill_total\{.*result="(\w+)"\} (\d+)', line)
        if found:
            out[found[1]] = out.get(found[1], 0) + int(found[2])
    return out


def wait_for_handoffs(graph):
    """Until prompts go to a prefill worker: it is there and the path to it is proven."""
    graph.wait_all_ready()
    asked = [0]

    def is_going():
        asked[0] += 1
        graph.complete(f"is number {asked[0]} computed elsewhere, or still here?", tokens=1)
        time.sleep(0.2)  # LOAD tells each 100 ms
        return results(graph).get("done", 0) > 0
    wait_for(is_going, "a first handoff")


class SameTokens(unittest.TestCase):
    @staticmethod
    def alone(**options):
        with Server(**options) as single:
            return in_parallel(len(PROMPTS), lambda i: Graph.complete(single, PROMPTS[i]))

    def check(self, *arguments, lane=None, wanted=None, **options):
        options.setdefault("max_model_len", 2048)
        wanted = wanted or self.alone(**options)
        with Graph("disagg", arguments=(*REMOTE, "--verify-kv", *arguments), **options) as graph:
            wait_for_handoffs(graph)
            before = results(graph)["done"]
            self.assertEqual(in_parallel(len(PROMPTS), lambda i: graph.complete(PROMPTS[i])), wanted)
            wait_for(lambda: results(graph)["done"] > before, "handoffs")
            self.assertGreater(graph.metrics()["gramme_transfer_received_bytes_total"], 0)
            if lane:
                self.assertIn(f"transfers go by {lane}", graph.log())

    def test_shared_memory(self):
        self.check(lane="shm")

    def test_tcp(self):
        self.check("--transfer-transports=tcp,self", lane="tcp")

    def test_degrees(self):
        """TP 1 and 3 cut the demo model's 3 KV heads, either way; real arithmetic."""
        self.check("--VllmWorker.tensor-parallel-size=3", engine="cpu")
        self.check("--PrefillWorker.tensor-parallel-size=3", engine="cpu")

    def test_degrees_of_a_dummy(self):
        """Degrees 1, 2, 4 and 8 each to another, 8 of them holding each of the 4 KV heads twice."""
        options = {"engine": "cpu", "model": "tiny-qwen3-test", "load_format": "dummy", "dummy_type": "bf16",
                   "threads": 1, "max_model_len": 512}
        wanted = self.alone(**options)
        for decode, prefill in ((1, 8), (8, 2), (2, 4), (4, 1)):
            with self.subTest(decode=decode, prefill=prefill):
                self.check(f"--VllmWorker.tensor-parallel-size={decode}",
                           f"--PrefillWorker.tensor-parallel-size={prefill}", wanted=wanted, **options)


class Faults(unittest.TestCase):
    """Prefills of about three seconds, and something happens in the middle of them."""
    LONG = [f"A long one, {i}: " + "once upon a time there was a token " * 12 for i in range(4)]

    def check(self, act, wanted_results, undo=None):
        with Server(max_model_len=2048) as single:
            wanted = in_parallel(len(self.LONG), lambda i: Graph.complete(single, self.LONG[i]))
        with Graph("disagg", max_model_len=2048,
                   arguments=(*REMOTE, "--PrefillWorker.sim-step=200ms",
                              "--handoff-chunk-tokens=8")) as graph:
            wait_for_handoffs(graph)
            before = results(graph)

            def serve(i):
                if i < len(self.LONG):
                    return graph.complete(self.LONG[i])
                wait_for(lambda: graph.metrics()["gramme_worker_remote_blocks"] > 0, "blocks on their way")
                act(graph)
                return None
            self.assertEqual(in_parallel(len(self.LONG) + 1, serve)[:-1], wanted)

            def is_told():
                now = results(graph)
                return sum(now.get(r, 0) - before.get(r, 0) for r in wanted_results) > 0
            wait_for(is_told, f"one of {wanted_results}")
            wait_for(lambda: graph.metrics()["gramme_worker_quarantined_blocks"] == 0, "no quarantine")
            if undo:
                undo(graph)
            done = results(graph).get("done", 0)
            wait_for(lambda: graph.complete(f"and after? {time.time()} " * 3, tokens=1) is not None and
                     results(graph).get("done", 0) > done, "handoffs again")

    def test_prefill_worker_killed(self):
        self.check(lambda graph: graph.kill("PrefillWorker.0"), ("dead", "broken", "refused"))

    def test_prefill_worker_stopped(self):
        self.check(lambda graph: graph.kill("PrefillWorker.0", signal.SIGSTOP), ("dead", "broken"),
                   lambda graph: graph.kill("PrefillWorker.0", signal.SIGCONT))


if __name__ == "__main__":
    unittest.main()
