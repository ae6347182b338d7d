"""The subcommands as a person types them: what they print where, and how they exit."""
import json
import os
import subprocess
import tempfile
import unittest

from harness import BINARY, MODEL

TINY = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "hidden_size": 64,
        "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 1, "vocab_size": 300, "rms_norm_eps": 1e-06,
        "max_position_embeddings": 640, "eos_token_id": 3, "tie_word_embeddings": True}


CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("GRAMME_")}


def gramme(*arguments, environment=(), **options):
    """Runs the program with the variables of `environment` added and no GRAMME_ ones else."""
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=120,
                          env={**CLEAN, **dict(environment)}, stdin=options.pop("stdin", subprocess.DEVNULL)
                          if "input" not in options else None, **options)


class Plan(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.config = os.path.join(self.folder.name, "config.json")
        with open(self.config, "w") as file:
            json.dump(TINY, file)

    def tearDown(self):
        self.folder.cleanup()

    def plan(self, *arguments):
        done = gramme("plan", "--json", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout), done.stderr

    def test_path_of_elsewhere_by_its_name(self):
        plan, notes = self.plan("-m", "/mnt/models/Llama-3.2-1B-Instruct", "--max-model-len", "4096")
        self.assertTrue(plan["fits"])
        self.assertGreater(plan["components"][0]["per_device"]["weights_bytes"], 2 << 30)
        self.assertIn("no file of /mnt/models/Llama-3.2-1B-Instruct was looked at", notes)

    def test_path_of_elsewhere_by_its_shape(self):
        path = "/mnt/models/ours"
        plan, _ = self.plan("-m", path, "--shape", f"{path}={self.config}")
        self.assertTrue(plan["fits"])
        tiny = plan["components"][0]["per_device"]["weights_bytes"]
        plan, _ = self.plan("-m", path, "--shape", f"/other=qwen2.5-7b", "--shape", f"{path}=smollm2-135m")
        self.assertGreater(plan["components"][0]["per_device"]["weights_bytes"], 100 * tiny)

    def test_wrong_shapes(self):
        for arguments, status, word in (
                (("plan", "-m", "/mnt/models/ours"), 1, "--shape '/mnt/models/ours=NAME|config.json'"),
                (("plan", "-m", "/mnt/models/ours", "--shape", "/x=smollm2-135m"), 2, "the model is"),
                (("plan", "-m", "/mnt/models/ours", "--shape", "/mnt/models/ours=x"), 1, "no shape of that name"),
                (("serve", "-m", "ours", "--port", "0", "--shape", "ours=smollm2-135m"), 2, "for plan and check")):
            with self.subTest(arguments):
                done = gramme(*arguments)
                self.assertEqual(done.returncode, status, done.stderr)
                self.assertIn(word, done.stderr)
                self.assertEqual(done.stdout, "")


class Words(unittest.TestCase):
    """One clear line on standard error, nothing on standard output, the right status."""

    def check(self, arguments, status, word, **options):
        with self.subTest(arguments):
            done = gramme(*arguments, **options)
            self.assertEqual(done.returncode, status, done.stderr)
            self.assertEqual(done.stdout, "")
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertIn(word, done.stderr)

    def test_usage(self):
        self.check(["versoin"], 2, "did you mean 'version'?")
        self.check([MODEL], 2, f"gramme run -m {MODEL}")
        self.check(["serve", MODEL], 2, f"gramme serve -m {MODEL}")
        self.check(["run", "--max-tokns", "3", "hi"], 2, "did you mean --max-tokens?")
        self.check(["run", "-m", MODEL, "hi"], 2, "did you mean GRAMME_MAX_TOKENS?",
                   environment={"GRAMME_MAX_TOKNS": "3"})
        self.check(["run", "-m", MODEL, "--temperature", "3", "hi"], 2, "out of range, 0 to 2")
        self.check(["run", "-m", MODEL], 2, "standard input is empty")
        self.check(["run", "-m", MODEL, "a", "b"], 2, "quote it")

    def test_wrong_lists(self):
        """Lists of ids, biases and words: what is wrong in them is named with its flag."""
        run = ["run", "-m", MODEL, "--engine", "sim"]
        for ids in ("1,,3", ",1", "1,2,", "a", "1,-2", "99999999", "1;2"):
            self.check([*run, "--ids", ids], 2, "--ids: ")
            self.check([*run, "--stop-token-ids", ids, "hi"], 2, "--stop-token-ids: ")
        self.check([*run, "--allowed-token-ids", "", "hi"], 2, "--allowed-token-ids: a token id is wanted")
        for bias in ("5", "5=", "=1", "5=101", "5=nan", "x=1", "-1=2", "99999999=1", "5=1x"):
            self.check([*run, "--logit-bias", bias, "hi"], 2, "--logit-bias: ")
        self.check([*run, "--bad-words", "", "hi"], 2, "--bad-words: an empty word is none")
        self.check([*run, "--n", "0", "hi"], 2, "--n: 0 is out of range")

    def test_what_cannot_serve(self):
        serve = ["serve", "-m", MODEL, "--engine", "sim", "--port", "0"]
        self.check([*serve, "--api-key", ""], 2, "the API key is empty")
        done = subprocess.run(["bash", "-c", 'ulimit -n 20 && exec "$0" "$@"', BINARY, *serve], capture_output=True,
                              text=True, timeout=120, env=CLEAN)
        self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
        self.assertEqual(done.stderr, "gramme: at most 20 files may be open (ulimit -Hn); serving needs 64\n")

    def test_models_that_are_none(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(MODEL, "rb") as file:
                head = file.read(100000)
            for name, data in (("cut.gguf", head), ("other.gguf", b"XXXX" + head[4:]), ("w.bin", b"x"),
                               ("empty.gguf", b"")):
                with open(os.path.join(folder, name), "wb") as file:
                    file.write(data)
                self.check(["run", "-m", os.path.join(folder, name), "hi"], 1, os.path.join(folder, name))
            os.mkfifo(os.path.join(folder, "fifo"))
            self.check(["run", "-m", os.path.join(folder, "fifo"), "hi"], 2, "neither a file nor a folder")
            self.check(["run", "-m", folder, "hi"], 2, "holds 3 GGUF models")

    def test_hugging_face_cache(self):
        with tempfile.TemporaryDirectory() as hub:
            cache = {"HF_HUB_CACHE": hub}
            self.check(["run", "-m", "org/tiny", "hi"], 1, "get it with: hf download org/tiny", environment=cache)
            snapshot = os.path.join(hub, "models--org--tiny", "snapshots", "abc")
            os.makedirs(snapshot)
            os.makedirs(os.path.join(hub, "models--org--tiny", "refs"))
            with open(os.path.join(hub, "models--org--tiny", "refs", "main"), "w") as file:
                file.write("abc")
            self.check(["run", "-m", "org/tiny@v9", "hi"], 1, "no snapshot of the revision v9", environment=cache)
            with open(os.path.join(snapshot, "config.json"), "w") as file:
                json.dump(TINY, file)
            self.check(["run", "-m", "org/tiny", "hi"], 1, "complete it with: hf download org/tiny", environment=cache)
            with open(os.path.join(snapshot, "model.safetensors.index.json"), "w") as file:
                json.dump({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}, file)
            self.check(["run", "-m", "org/tiny", "hi"], 1, "2 of 2 weight files are missing: model-1.safetensors",
                       environment=cache)


class Completion(unittest.TestCase):
    """bash completes commands, what follows them, and options as the table has them."""

    def complete(self, *words):
        script = 'source /dev/stdin; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gramme; echo "${COMPREPLY[@]}"'
        return subprocess.run(["bash", "-c", script, "bash", *words], input=gramme("completion").stdout, text=True,
                              capture_output=True, check=True, timeout=60).stdout.split()

    def test_words(self):
        listed = [line.split()[1] for line in gramme("help").stdout.splitlines() if line.startswith("  gramme ")]
        self.assertEqual(set("|".join(listed).split("|")), set(self.complete("gramme", "")) )
        self.assertEqual(self.complete("gramme", "serve", "disagg_"), ["disagg_router"])
        self.assertEqual(self.complete("gramme", "bench", "x"), ["xfer"])
        self.assertEqual(self.complete("gramme", "help", "che"), ["check"])
        for command in self.complete("gramme", "help", ""):
            said = gramme("help", command)
            self.assertEqual((said.returncode, said.stderr), (0, ""), command)
            self.assertTrue(said.stdout.startswith(f"usage: gramme {command}"), said.stdout)
        self.assertEqual(self.complete("gramme", "run", "--logit"), ["--logit-bias"])
        offered = self.complete("gramme", "serve", "--")
        self.assertNotIn("--swap-space", offered)
        for line in gramme("help", "serve").stdout.splitlines():
            if line.startswith("  --"):
                self.assertIn(line.split()[0], offered)


def told(stderr):
    """What was said beside the progress of a load, which a slow machine tells of."""
    return [line for line in stderr.splitlines() if " loading " not in line]


class Output(unittest.TestCase):
    def test_answer_alone_on_stdout(self):
        done = gramme("run", "-m", MODEL, "--max-tokens", "4", "hi")
        self.assertEqual((done.returncode, told(done.stderr)), (0, []))
        piped = gramme("run", "-m", MODEL, "--max-tokens", "4", input="hi\n")
        self.assertEqual(piped.stdout, done.stdout)
        dash = gramme("run", "-m", MODEL, "--max-tokens", "4", "-", input="hi\n")
        self.assertEqual(dash.stdout, done.stdout)

    def test_sampling_flags(self):
        """What the API's fields do, run's flags do."""
        def ids(*flags):
            done = gramme("run", "-m", MODEL, "--raw", "--json", "--max-tokens", "3", *flags, "The capital of France is")
            self.assertEqual((done.returncode, told(done.stderr)), (0, []))
            return [json.loads(line) for line in done.stdout.splitlines()]

        first = ids()[0]["ids"]
        self.assertNotEqual(ids("--logit-bias", f"{first[0]}=-100")[0]["ids"][0], first[0])
        self.assertEqual(ids("--logit-bias", "7=100", "--logit-bias", "8=-100")[0]["ids"], [7, 7, 7])
        self.assertIn(ids("--allowed-token-ids", "[7, 8]")[0]["ids"][0], (7, 8))
        self.assertNotIn(first[0], ids("--bad-words", " Paris")[0]["ids"])
        stopped = ids("--stop-token-ids", f"9,{first[1]}")[0]
        self.assertEqual((stopped["ids"], stopped["finish_reason"]), (first[:2], "stop"))
        some = ids("--n", "3", "--temperature", "1", "--seed", "5")
        self.assertEqual(len(some), 3)
        self.assertNotEqual(some[0]["ids"], some[1]["ids"])
        self.assertEqual(some[0]["ids"], ids("--temperature", "1", "--seed", "5")[0]["ids"])

    def test_full_disk(self):
        for arguments in (["version"], ["help", "serve"], ["plan", "-m", MODEL],
                          ["run", "-m", MODEL, "--max-tokens", "2", "hi"]):
            with self.subTest(arguments), open("/dev/full", "w") as full:
                done = subprocess.run([BINARY, *arguments], stdout=full, stderr=subprocess.PIPE, text=True,
                                      stdin=subprocess.DEVNULL, timeout=120, env=CLEAN)
                self.assertEqual(done.returncode, 1)
                self.assertIn("cannot write to standard output: No space left", done.stderr)

    def test_reader_who_leaves(self):
        program = subprocess.Popen([BINARY, "run", "-m", MODEL, "--ignore-eos", "--max-tokens", "2000", "hi"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                   env=CLEAN)
        program.stdout.read(5)
        program.stdout.close()
        self.assertEqual(told(program.stderr.read().decode()), [])
        program.stderr.close()
        self.assertEqual(program.wait(120), 0)

    def test_print_config(self):
        done = gramme("run", "--print-config", "--kv_cache_memory_bytes", "1.5GiB",
                      environment={"GRAMME_MAX_MODEL_LEN": "4k", "GRAMME_KV_CACHE_MEMORY_BYTES": "1GiB"})
        rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
        self.assertEqual(rows["kv-cache-memory-bytes"], ["1.5GiB", "flag"])
        self.assertEqual(rows["max-model-len"], ["4k", "environment"])
        self.assertEqual(rows["block-size"], ["16", "default"])
        done = gramme("run", "--print-config", "-m", MODEL)
        rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
        self.assertEqual(rows["max-model-len"], ["8192", "model"])
