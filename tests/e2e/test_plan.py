"""plan as a person types it: what docs/plan.md shows, values left to the plan and then served, and
predictions."""
import json
import re
import shlex
import subprocess
import unittest

from harness import BINARY, MODEL, ROOT, WAIT_S, Server, clean_environment

DOCUMENT = ROOT / "docs" / "plan.md"
AUTO = ("--tensor-parallel-size", "auto", "--max-model-len", "auto", "--gpu-memory-utilization", "auto")


def gramme(*arguments):
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=WAIT_S * 4,
                          env=clean_environment())


class Document(unittest.TestCase):
    def test_commands(self):
        """Each block of the document is the whole of what its command prints."""
        blocks = re.findall(r"```\n\$ gramme (.*)\n((?:.|\n)*?)```", DOCUMENT.read_text())
        self.assertEqual(len(blocks), 3)
        for command, shown in blocks:
            done = gramme(*shlex.split(command))
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stdout, shown)
            for line in done.stdout.splitlines()[1:]:
                self.assertLessEqual(len(line), 80)


class Auto(unittest.TestCase):
    def test_config_shows_what_was_chosen(self):
        for command in (["plan"], ["serve"]):
            graph = ["disagg", "-m", "qwen3-8b", "--load-format", "dummy", "--devices", "8xcpu:12GiB"]
            done = gramme(*command, *graph, *AUTO, "--remote-prefill", "--print-config")
            self.assertEqual(done.returncode, 0, done.stderr)
            shown = re.findall(r"^(\S+) +(\S+) +flag \(auto\)$", done.stdout, re.M)
            self.assertEqual(len(shown), 6, done.stdout)
            self.assertEqual(shown[:3], shown[3:])

    def test_served_as_chosen(self):
        """What plan says is chosen is what serve runs with."""
        devices = ("--devices", "4xcpu:400MiB")
        plan = json.loads(gramme("plan", "agg", "-m", MODEL, *devices, *AUTO, "--json").stdout)
        self.assertTrue(plan["fits"])
        notes = {p["key"]: p["message"] for p in plan["problems"] if p["code"] == "auto"}
        self.assertEqual(set(notes), {"tensor-parallel-size", "max-model-len", "gpu-memory-utilization"})
        component = plan["components"][0]
        self.assertIn(f"auto is {component['tensor_parallel']}:", notes["tensor-parallel-size"])
        tokens = component["per_device"]["kv_tokens"]
        with Server(engine="cpu", arguments=[*devices, *AUTO], max_model_len="auto") as server:
            log = server.log()
            self.assertIn(f"kv cache: {tokens} tokens", log)
            for key, message in notes.items():
                self.assertIn(f"VllmWorker.{key}: {message}", log)
            answer = server.request("POST", "/v1/completions",
                                    {"model": "demo", "prompt": "The capital", "max_tokens": 3})
            self.assertEqual(answer.status, 200)
            models = server.request("GET", "/v1/models").json()["data"]
            length = re.search(r"auto is (\d+)", notes["max-model-len"]).group(1)
            self.assertEqual(str(models[0]["max_model_len"]), length)

    def test_on_the_own_machine(self):
        with Server(arguments=[*AUTO], max_model_len="auto") as server:
            self.assertEqual(server.log().count(": auto is "), 3)

    def test_wrong_words(self):
        for flag in ("--block-size", "--max-num-seqs"):
            self.assertEqual(gramme("plan", "-m", MODEL, flag, "auto").returncode, 2)


class Prediction(unittest.TestCase):
    def test_json(self):
        done = gramme("plan", "disagg", "-m", "Qwen2.5-32B", "--devices", "16xA100-40GB", "--tensor-parallel-size",
                      "4", "--input-len", "3000", "--output-len", "200", "--concurrency", "64", "--json")
        answer = json.loads(done.stdout)
        predicted = answer["prediction"]
        self.assertEqual(predicted["kind"], "prediction")
        self.assertGreater(len(predicted["layouts"]), 1)
        self.assertTrue(any(layout["graph"] == "disagg" for layout in predicted["layouts"]))
        for layout in predicted["layouts"]:
            self.assertLessEqual(layout["devices"], 16)
            self.assertGreater(layout["output_tokens_per_s"], 0)
        self.assertEqual(answer["components"][0]["would_fit"]["tensor_parallel_min"], 4)

    def test_own_rates(self):
        shown = gramme("plan", "-m", MODEL, "--input-len", "100", "--device-rates", "30,0.1")
        self.assertEqual(shown.returncode, 0, shown.stderr)
        self.assertIn("30.0 GB/s, 0.100 TFLOP/s\n", shown.stdout)
        measured = gramme("plan", "-m", MODEL, "--input-len", "100", "--device-rates", "measure")
        self.assertEqual(measured.returncode, 0, measured.stderr)
        self.assertNotIn("assumed", measured.stdout)
        for wrong in ("30", "fast", "0,0", "30,0.1,2"):
            done = gramme("plan", "-m", MODEL, "--input-len", "100", "--device-rates", wrong)
            self.assertEqual(done.returncode, 2)
            self.assertEqual(len(done.stderr.strip().splitlines()), 1)


if __name__ == "__main__":
    unittest.main()
