"""`gramme bench serve` against the server: every request counted, nothing failed."""
import json
import subprocess
import unittest

from harness import BINARY, Server


class BenchServe(unittest.TestCase):
    def run_bench(self, *arguments):
        done = subprocess.run([BINARY, "bench", "serve", *arguments], capture_output=True, text=True, timeout=60)
        return done

    def test_streams(self):
        with Server(max_num_seqs=64) as server:
            url = f"http://127.0.0.1:{server.port}"
            done = self.run_bench("--url", url, "--concurrency", "8", "--requests", "40", "--max-tokens", "16",
                                  "--prompt-tokens", "50", "--ignore-eos", "--pid", str(server.process.pid), "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            figures = json.loads(done.stdout)
            self.assertEqual((figures["requests"], figures["failed"]), (40, 0))
            self.assertEqual(figures["output_tokens"], 640)
            self.assertGreater(figures["server_cpu_ms_per_request"], 0)
            self.assertGreater(figures["input_tokens"], 40 * 50)
            done = self.run_bench("--url", url, "--no-stream", "--endpoint", "completions", "--requests", "10",
                                  "--request-rate", "200", "--max-tokens", "4", "--ignore-eos")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("10 requests", done.stdout)
            self.assertIn("40 out", done.stdout)

    def test_step_grid(self):
        """With steps on a grid the client knows when each ended: a token's way is measured, and is no
        whole step."""
        with Server(sim_step="40ms", arguments=["--sim-grid"]) as server:
            done = self.run_bench("--url", f"http://127.0.0.1:{server.port}", "--concurrency", "2", "--requests", "2",
                                  "--max-tokens", "12", "--ignore-eos", "--warmup", "0", "--step-grid", "40", "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            figures = json.loads(done.stdout)
            self.assertGreater(figures["step_to_text_ms"]["p50"], 0)
            self.assertLess(figures["step_to_text_ms"]["p50"], figures["itl_ms"]["p50"])
            self.assertGreaterEqual(figures["step_to_look_ms"]["p50"], figures["step_to_text_ms"]["p50"])

    def test_failures_are_told(self):
        with Server() as server:
            url = f"http://127.0.0.1:{server.port}"
            done = self.run_bench("--url", url, "--model", "nobody", "--requests", "4", "--warmup", "0")
            self.assertEqual(done.returncode, 1)
            self.assertIn("status 404", done.stderr)
            self.assertIn("4 of 4 requests failed", done.stderr)
        with Server(max_num_seqs=1, max_queue=1, sim_step="50ms") as server:
            # The figures of those that did not fail are there; the exit status says that some did.
            done = self.run_bench("--url", f"http://127.0.0.1:{server.port}", "--requests", "6", "--concurrency", "6",
                                  "--warmup", "0", "--max-tokens", "8", "--ignore-eos", "--json")
            self.assertEqual(done.returncode, 1)
            figures = json.loads(done.stdout)
            self.assertGreater(figures["requests"], 0)
            self.assertGreater(figures["failed"], 0)
            self.assertIn(f"{figures['failed']} of 6 requests failed", done.stderr)
        done = self.run_bench("--url", url, "--requests", "4")
        self.assertEqual(done.returncode, 1)
        self.assertIn("onnect", done.stderr)

    def test_usage(self):
        for arguments in (["--requests", "x"], ["--frob"], ["--url", "https://127.0.0.1"]):
            done = self.run_bench(*arguments)
            self.assertIn(done.returncode, (1, 2))
            self.assertTrue(done.stderr)
