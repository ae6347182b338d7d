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


def gramme(*arguments, environment=(), **options):
    """Runs the program with the variables of `environment` added and no GRAMME_ ones else."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GRAMME_")}
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=120,
                          env={**clean, **dict(environment)}, stdin=options.pop("stdin", subprocess.DEVNULL)
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
                (("serve", "-m", "ours", "--port", "0", "--shape", "ours=smollm2-135m"), 2, "--load-format dummy")):
            with self.subTest(arguments):
                done = gramme(*arguments)
                self.assertEqual(done.returncode, status, done.stderr)
                self.assertIn(word, done.stderr)
                self.assertEqual(done.stdout, "")
