"""The recipes of docs/deploy: every option they use exists, and each file passes the checker of its
kind where this machine has one."""
import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

from harness import BINARY, ROOT, WAIT_S, clean_environment

DEPLOY = ROOT / "docs" / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.is_file())


def options_of(command):
    said = subprocess.run([BINARY, "help", command], capture_output=True, text=True, timeout=WAIT_S,
                          env=clean_environment()).stdout
    return set(re.findall(r"--([a-z0-9-]+)", said)) | {"f", "m"}


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S * 4, env=clean_environment())


class Recipes(unittest.TestCase):
    def commands(self):
        """(file, command, its words) of every gramme command in the recipes."""
        for path in FILES:
            text = path.read_text().replace("\\\n", " ")
            for line in text.splitlines():
                for match in re.finditer(r"gramme\"? +(serve|frontend|worker|prefill|top)\b(.*)", line):
                    yield path.name, match[1], match[2].split("#")[0].split()
            # lists of arguments in YAML
            for match in re.finditer(r"args: \[(frontend|worker|prefill),([^\]]*)\]", text):
                yield path.name, match[1], [w.strip(' "\n') for w in match[2].split(",")]

    def test_options_exist(self):
        known, seen = {}, 0
        for name, command, words in self.commands():
            known.setdefault(command, options_of(command))
            for word in words:
                flag = re.match(r"--?([a-z][a-z0-9-]*)", word)
                if flag:
                    seen += 1
                    self.assertIn(flag[1], known[command], f"{name}: gramme {command} {' '.join(words)}")
        self.assertGreater(seen, 40)

    def test_shell(self):
        self.assertEqual(run("bash", "-n", str(DEPLOY / "slurm.sbatch")).returncode, 0)
        if shutil.which("shellcheck"):
            done = run("shellcheck", str(DEPLOY / "slurm.sbatch"))
            self.assertEqual(done.returncode, 0, done.stdout)

    def test_units(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("no systemd-analyze here")
        for name in ("gramme.service", "gramme-worker.service"):
            with tempfile.TemporaryDirectory() as folder:
                unit = pathlib.Path(folder) / name
                text = (DEPLOY / name).read_text().replace("/usr/local/bin/gramme", "/bin/true")
                unit.write_text(re.sub(r"^(User|Documentation)=.*\n", "", text, flags=re.M))
                done = run("systemd-analyze", "verify", str(unit))
                self.assertEqual((done.returncode, done.stderr), (0, ""), done.stderr)

    def test_kubernetes(self):
        code = "import sys, yaml; print([d['kind'] for d in yaml.safe_load_all(open(sys.argv[1]))])"
        for python in ("python3", "/usr/bin/python3"):
            if run(python, "-c", "import yaml").returncode == 0:
                done = run(python, "-c", code, str(DEPLOY / "kubernetes.yaml"))
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(done.stdout.count("Deployment"), 4)
                return
        self.skipTest("no Python with yaml here")


if __name__ == "__main__":
    unittest.main()
