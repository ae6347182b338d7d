"""The recipes of docs/deploy: every option they use exists, and each file passes the checker of its
kind where this machine has one."""
import os
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

    def test_slurm(self):
        """The batch script itself, with stand-ins for Slurm's commands: who is started where."""
        with tempfile.TemporaryDirectory() as folder:
            stand_ins = {
                "scontrol": "seq -f node%.0f 1 20000",  # more than a pipe holds
                "getent": "echo '10.0.0.1 STREAM node1'",
                "srun": f'flock {folder}/lock echo "$*" >> {folder}/runs; test -n "$GRAMME_BUS_TOKEN"',
            }
            for name, body in stand_ins.items():
                path = pathlib.Path(folder) / name
                path.write_text(f"#!/bin/sh\n{body}\n")
                path.chmod(0o700)
            done = subprocess.run(["bash", str(DEPLOY / "slurm.sbatch"), "graph.yaml"], capture_output=True, text=True,
                                  timeout=WAIT_S,
                                  env={**clean_environment(), "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7",
                                       "SLURM_JOB_NODELIST": "node[1-20000]", "SLURM_JOB_NUM_NODES": "20000"})
            self.assertEqual(done.returncode, 0, done.stderr)
            runs = sorted((pathlib.Path(folder) / "runs").read_text().splitlines())
        self.assertEqual(len(runs), 3, runs)
        joins = "--join nats://10.0.0.1:4222 --namespace job7 -f graph.yaml"
        self.assertIn("--nodelist=node1 ", runs[0])
        self.assertIn("gramme serve disagg_router -f graph.yaml --bus-listen 10.0.0.1:4222 --namespace job7", runs[0])
        for run_line, command in zip(runs[1:], ("prefill", "worker")):
            self.assertIn("--nodes=19999 --ntasks=19999 --exclude=node1 ", run_line)
            self.assertTrue(run_line.endswith(f"gramme {command} disagg_router {joins}"), run_line)

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
