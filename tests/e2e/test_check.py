"""plan and check of graph files as a person types them: exit codes, JSON, --fix, and the story of
docs/, command by command."""
import json
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import unittest
import urllib.request

from harness import BINARY, ROOT, WAIT_S, clean_environment, wait_for

STORY = ROOT / "docs" / "the-oom-story.yaml"
CARDS = ("--devices", "16xA100-40GB")


def gramme(*arguments, text=None):
    return subprocess.run([BINARY, *arguments], input=text, capture_output=True, text=True, cwd=ROOT,
                          timeout=WAIT_S * 4, env=clean_environment())


class Check(unittest.TestCase):
    def test_story_is_refused(self):
        done = gramme("check", "disagg_router", "-f", str(STORY), "--json", *CARDS)
        self.assertEqual(done.returncode, 1, done.stderr)
        answer = json.loads(done.stdout)
        self.assertFalse(answer["ok"])
        found = {(p["severity"], p["component"], p["key"]) for p in answer["problems"]}
        self.assertIn(("error", "PrefillWorker", "tensor-parallel-size"), found)
        self.assertIn(("error", "PrefillWorker", "model"), found)
        self.assertIn(("warning", "PrefillWorker", "gpu-memory-utilization"), found)
        for problem in answer["problems"]:
            self.assertEqual(set(problem), {"severity", "code", "component", "key", "line", "column",
                                            "message", "fix"})

    def test_fix(self):
        with tempfile.TemporaryDirectory() as folder:
            path, out = pathlib.Path(folder) / "story.yaml", pathlib.Path(folder) / "out.yaml"
            shutil.copy(STORY, path)
            command = ("check", "disagg_router", "-f", str(path), *CARDS)
            shown = gramme(*command, "--fix")
            self.assertEqual(shown.returncode, 0, shown.stdout)
            self.assertIn("+  tensor-parallel-size: 4", shown.stdout)
            self.assertEqual(path.read_text(), STORY.read_text())
            self.assertEqual(gramme(*command, "--fix", "-o", str(out)).returncode, 0)
            self.assertEqual(path.read_text(), STORY.read_text())
            self.assertEqual(gramme(*command, "--fix", "--in-place").returncode, 0)
            self.assertEqual(path.read_text(), out.read_text())
            for line in STORY.read_text().splitlines():
                if line.startswith("#"):
                    self.assertIn(line, path.read_text())
            self.assertEqual(gramme(*command).returncode, 0)
            self.assertEqual(gramme(*command, "--strict").returncode, 1)
            self.assertEqual(gramme("plan", "disagg_router", "-f", str(path), *CARDS).returncode, 0)

    def test_stdin_and_usage(self):
        done = gramme("check", "agg", "-f", "-", *CARDS, text="VllmWorker:\n\tmodel: x\n")
        self.assertEqual(done.returncode, 1)
        self.assertTrue(done.stdout.startswith("stdin:2:1: error: "), done.stdout)
        self.assertTrue(done.stdout.endswith("1 error, 1 warning\n"), done.stdout)  # x: no known model
        for arguments in (("check",), ("check", "-f", "/nowhere.yaml"), ("check", "ag", "-f", str(STORY)),
                          ("check", "-f", str(STORY), "--devices", "3xH10"),
                          ("check", "-f", str(STORY), "--in-place"),
                          ("check", "-f", "-", "--fix", "--in-place"),
                          ("plan", "disagg", "-f", "/nowhere.yaml")):
            done = gramme(*arguments)
            self.assertIn(done.returncode, (1, 2) if arguments[0] == "plan" else (2,), arguments)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_in_place_is_all_or_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            path, link = pathlib.Path(folder) / "story.yaml", pathlib.Path(folder) / "link.yaml"
            shutil.copy(STORY, path)
            path.chmod(0o640)
            link.symlink_to(path.name)
            command = ("check", "disagg_router", "-f", str(link), *CARDS, "--fix")
            self.assertEqual(gramme(*command, "--in-place").returncode, 0)
            self.assertTrue(link.is_symlink())
            self.assertIn("tensor-parallel-size: 4", path.read_text().split("PrefillWorker")[1])
            self.assertEqual(path.stat().st_mode & 0o777, 0o640)
            self.assertEqual(sorted(p.name for p in path.parent.iterdir()), ["link.yaml", "story.yaml"])
            done = gramme(*command, "-o", "/dev/full")
            self.assertEqual((done.returncode, len(done.stderr.splitlines())), (1, 1), done.stderr)
            # No room: bounded by the size that a file may have.
            shutil.copy(STORY, path)
            limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 1; exec "$@"', "-", BINARY, *command, "--in-place"]
            done = subprocess.run(limited, capture_output=True, text=True, timeout=WAIT_S, env=clean_environment())
            self.assertEqual(done.returncode, 1, done.stdout)
            self.assertIn("it is as it was", done.stderr)
            self.assertEqual(path.read_text(), STORY.read_text())
            self.assertEqual(sorted(p.name for p in path.parent.iterdir()), ["link.yaml", "story.yaml"])

    def test_bad_files_cost_one_line(self):
        good = STORY.read_bytes()
        texts = {"empty": b"", "document mark": b"---\n", "binary": bytes(range(256)) * 64, "NUL": good + b"\0",
                 "latin-1": good + "# \xfc".encode("latin-1"), "UTF-16 without its mark": good.decode().encode("utf-16-be"),
                 "deep": b"a: " + b"[" * 10000, "deep mappings": b"{a: " * 10000, "list": b"- a\n- b\n", "word": b"hello\n",
                 "huge": b"# comment\n" * 10_000_000, "one long line": b"a: " + b"x" * 100_000_000, "merges itself": b"a: &a {<<: *a}\n"}
        for name, text in texts.items():
            done = subprocess.run([BINARY, "check", "agg", "-f", "-"], input=text, capture_output=True, timeout=WAIT_S,
                                  env=clean_environment())
            self.assertEqual(done.returncode, 1, name)
            said = [line for line in (done.stdout + done.stderr).decode().splitlines()
                    if not line.startswith("    fix:") and line != "1 error, 0 warnings"]
            self.assertEqual(len(said), 1, (name, said))
        for text in (b"\xef\xbb\xbf" + good, good.replace(b"\n", b"\r\n"), good.decode().encode("utf-16")):
            done = subprocess.run([BINARY, "check", "disagg_router", "-f", "-", *CARDS], input=text, capture_output=True,
                                  timeout=WAIT_S, env=clean_environment())
            self.assertTrue(done.stdout.startswith(b"stdin:40:1: error: PrefillWorker.tensor-parallel-size"), done.stdout)

    def test_formats_from_files(self):
        with tempfile.TemporaryDirectory() as folder:
            config = {"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "fp8"}}
            (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
            for word, is_wrong in (("awq", True), ("fp8", False), ("FP8", False)):
                text = f"VllmWorker:\n  model: {folder}\n  quantization: {word}\n"
                done = gramme("check", "agg", "-f", "-", *CARDS, text=text)
                line = "stdin:3:17: error: VllmWorker.quantization: 'awq', and its config.json says fp8"
                self.assertEqual(line in done.stdout.splitlines(), is_wrong, done.stdout)
            (pathlib.Path(folder) / "config.json").write_text(json.dumps({"model_type": "llama"}))
            done = gramme("check", "agg", "-f", "-", text=f"VllmWorker:\n  model: {folder}\n")
            self.assertRegex(done.stdout, r"stdin:2:10: error: VllmWorker.model: .*; tokenizer.json is missing too\n")

    def test_flags_mend_too(self):
        path = "/path/my/DeepSeek-R1-Distill-Qwen-32B"
        done = gramme("check", "graphs.disagg_router:Frontend", "-f", str(STORY), *CARDS,
                      f"--PrefillWorker.model={path}", "--PrefillWorker.tensor-parallel-size=4")
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_examples_are_clean(self):
        for path in sorted((ROOT / "examples").glob("*.yaml")):
            kind = re.split("[-.]", path.name)[0]
            done = gramme("check", kind, "-f", str(path), "--strict", *CARDS)
            self.assertEqual(done.returncode, 0, done.stdout)
            done = gramme("plan", kind, "-f", str(path), "--json", *CARDS)
            self.assertTrue(json.loads(done.stdout)["fits"], done.stdout)


@unittest.skipUnless(shutil.which("nats-server") or pathlib.Path("/usr/sbin/nats-server").exists(),
                     "no nats-server here")
class Miniature(unittest.TestCase):
    """The story for real: sixteen virtual devices of 500 MiB, a model that no single one holds."""

    DEVICES = ("--devices", "16xcpu:500MiB", "--port", "0")
    MINI = str(ROOT / "docs" / "the-oom-story-mini.yaml")

    def setUp(self):
        self.process = None

    def tearDown(self):
        if self.process:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process.stderr.close()

    def start(self, *arguments, kind="disagg_router"):
        self.process = subprocess.Popen(
            [BINARY, "serve", kind, "-f", self.MINI, *self.DEVICES, *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=clean_environment())

    def line_with(self, pattern):
        """The first line of its log that matches; the test fails at its end, which comes in time."""
        seen = []
        end = threading.Timer(WAIT_S * 4, self.process.kill)
        end.start()
        try:
            for line in self.process.stderr:
                seen.append(line)
                found = re.search(pattern, line)
                if found:
                    return found
        finally:
            end.cancel()
        self.fail("".join(seen))

    def test_refused(self):
        done = gramme("serve", "disagg_router", "-f", self.MINI, *self.DEVICES)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("error: PrefillWorker.tensor-parallel-size: missing", done.stderr)

    def ask(self, url):
        body = json.dumps({"model": "our-32b", "prompt": list(range(5, 60)), "max_tokens": 4, "temperature": 0})
        request = urllib.request.Request(url + "/v1/completions", body.encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=WAIT_S * 4) as answer:
            self.assertEqual(json.load(answer)["usage"]["completion_tokens"], 4)

    def test_without_prefill_workers_it_works(self):
        self.start("--VllmWorker.remote-prefill=false", kind="agg_router")
        self.ask(self.line_with(r"ready: our-32b on (http://\S+)")[1])

    def test_forced_it_dies_by_name(self):
        self.start("--force")
        self.line_with(r"PrefillWorker.0: given up: loading ended at stage [\w ,]+: [\w ]+ needs [\d.]+ \w+ and [\d.]+ \w+ "
                       r"of the budget of 400.0 MiB are free; the [\d.]+ MiB taken before are given back")

    def test_with_the_key_it_answers(self):
        key = "--PrefillWorker.tensor-parallel-size=4"
        plan = json.loads(gramme("plan", "disagg_router", "-f", self.MINI, *self.DEVICES[:2], key, "--json").stdout)
        self.assertTrue(plan["fits"])
        tokens = plan["components"][1]["per_device"]["kv_tokens"]
        self.start(key)
        self.line_with(rf"PrefillWorker.0 .*kv cache: {tokens} tokens")
        url = self.line_with(r"ready: our-32b on (http://\S+)")[1]
        self.ask(url)
        # Each worker's watch has looked, nobody took more than planned, and top shows it.
        def figures(name):
            with urllib.request.urlopen(url + "/metrics", timeout=WAIT_S) as answer:
                return [int(v) for v in re.findall(rf"^gramme_device_{name}_bytes\{{.*\}} (\d+)$", answer.read().decode(), re.M)]
        wait_for(lambda: len(figures("used")) == 2 and min(figures("used")) > 0, "every worker's memory was looked at")
        self.assertEqual(figures("budget"), [400 << 20] * 2)
        self.assertEqual(figures("drift"), [0, 0])
        for used, planned in zip(figures("used"), figures("planned")):
            self.assertLessEqual(used, planned)
        table = gramme("top", "--url", url).stdout.splitlines()
        head = next(line for line in table if line.startswith("COMPONENT")).split()
        row = next(line for line in table if line.startswith("PrefillWorker.0")).split()
        self.assertRegex(row[head.index("USED")], r"^\d+(\.\d)?[MG]$")


class Doctor(unittest.TestCase):
    def test_findings(self):
        done = gramme("doctor", "--json")
        answer = json.loads(done.stdout)
        self.assertEqual((done.returncode, done.stderr), (0 if answer["ok"] else 1, ""))
        for finding in answer["findings"]:
            self.assertLessEqual(set(finding), {"severity", "what", "found", "fix"})
            self.assertIn(finding["severity"], ("ok", "note", "warning", "error"))
            self.assertTrue(finding["severity"] in ("ok", "note") or finding["fix"], finding)
        self.assertLessEqual({"processor", "threads", "memory", "open files", "port", "nats-server", "ucx", "kv by shm", "gpus"},
                             {finding["what"] for finding in answer["findings"]})

    def test_for_people(self):
        done = gramme("doctor")
        self.assertEqual(done.stderr, "")
        lines = done.stdout.splitlines()
        self.assertRegex(lines[-1], r"^\d+ to mend, \d+ warnings?, \d+ notes?$")
        for line in lines[:-1]:
            self.assertRegex(line, r"^(ok|note|warning|error) +\S|^ +-> \S")
        self.assertEqual(gramme("doctor", "now").returncode, 2)

    def test_too_few_files_are_an_error(self):
        done = subprocess.run(["bash", "-c", 'ulimit -n 200; exec "$@"', "-", BINARY, "doctor"], capture_output=True, text=True,
                              timeout=WAIT_S * 4, env=clean_environment())
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("error   open files  200, may be raised to 200", done.stdout)


class Story(unittest.TestCase):
    """What docs/the-oom-story.md shows is what the program prints."""

    def test_commands(self):
        text = (ROOT / "docs" / "the-oom-story.md").read_text()
        blocks = re.findall(r"```\n\$ gramme (.*)\n((?:.|\n)*?)```", text)
        self.assertGreaterEqual(len(blocks), 4)
        with tempfile.TemporaryDirectory() as folder:
            mended, seen = str(pathlib.Path(folder) / "mended.yaml"), 0
            for command, shown in blocks:
                words = [mended if word == "mended.yaml" else word for word in shlex.split(command)]
                if words[0] == "serve" and (not shown or shown.startswith("$")):
                    continue  # it serves: Miniature
                done = gramme(*words)
                for line in shown.splitlines():
                    seen += 1
                    self.assertIn(line, (done.stdout + done.stderr).splitlines(), command)
            self.assertGreater(seen, 10)


if __name__ == "__main__":
    unittest.main()
