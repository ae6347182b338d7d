"""Many nodes: network namespaces as nodes, a nats-server with TLS, several frontends, replicas with
system ports, one request's id in every process's log."""
import ctypes
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import unittest

import test_graphs
from harness import BINARY, MODEL, NAME, WAIT_S, Server, clean_environment, free_port, in_parallel, wait_for
from test_graphs import PROMPTS, TWO, Graph, Process

CLONE_NEWNET = 0x40000000
REMOTE = ("--remote-prefill=true", "--conditional-disagg=false")
SIM = ("--engine=sim", "--max-model-len=2048")


def run(*words):
    return subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S)


def start_nats(case, *arguments, node=()):
    nats = subprocess.Popen([*node, test_graphs.ByHand.nats_path(), *arguments], stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)
    def end():
        nats.kill()
        nats.wait()
    case.addCleanup(end)


def start(case, command, *arguments, environment=None, node=()):
    """`gramme COMMAND` on that node."""
    process = Process.__new__(Process)
    process.log_file = tempfile.TemporaryFile()
    process.process = subprocess.Popen([*node, BINARY, command, *arguments], stdout=subprocess.DEVNULL,
                                       stderr=process.log_file, env={**clean_environment(), **(environment or {})})
    case.addCleanup(process.stop)
    return process


def frontend_of(process, port):
    server = Server.__new__(Server)
    server.port, server.process, server.log = port, process.process, process.log
    return server


def is_serving(server, count):
    try:
        if server.request("GET", "/health").status != 200:
            return False
        workers = server.request("GET", "/gramme/status").json()["workers"]
    except OSError:
        return False
    return sum(w["state"] == "serving" for w in workers) == count


def is_at_rest(server):
    workers = server.request("GET", "/gramme/status").json()["workers"]
    return not any(w["running"] or w["waiting"] for w in workers)


class Namespaces(unittest.TestCase):
    """Frontend, decode and prefill worker in three network namespaces on one bridge."""

    def setUp(self):
        if not shutil.which("ip", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"):
            self.skipTest("needs ip (iproute2)")
        self.names = {role: f"gramme{os.getpid()}{role}" for role in ("head", "decode", "prefill")}
        self.addCleanup(lambda: [run("ip", "netns", "del", name) for name in self.names.values()])
        head = self.names["head"]
        for name in self.names.values():
            self.ip("netns", "add", name)
            self.ip("-n", name, "link", "set", "lo", "up")
        self.ip("-n", head, "link", "add", "br0", "type", "bridge")
        self.ip("-n", head, "addr", "add", "10.77.0.1/24", "dev", "br0")
        self.ip("-n", head, "link", "set", "br0", "up")
        for at, role in ((2, "decode"), (3, "prefill")):
            name = self.names[role]
            self.ip("-n", head, "link", "add", f"v{at}", "type", "veth", "peer", "name", "eth7", "netns", name)
            self.ip("-n", head, "link", "set", f"v{at}", "master", "br0", "up")
            self.ip("-n", name, "addr", "add", f"10.77.0.{at}/24", "dev", "eth7")
            self.ip("-n", name, "link", "set", "eth7", "up")

    def ip(self, *words):
        done = run("ip", *words)
        if done.returncode:
            self.skipTest(f"network namespaces are not permitted here: ip {' '.join(words)}: {done.stderr.strip()}")

    def node(self, role):
        return "ip", "netns", "exec", self.names[role]

    def within(self, role, work):
        """work() in a thread that lives in that namespace."""
        out = []

        def one():
            fd = os.open(f"/run/netns/{self.names[role]}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                out.append(work())
            except BaseException as e:  # noqa: B902 - raised below
                out.append(e)
            finally:
                os.close(fd)
        thread = threading.Thread(target=one)
        thread.start()
        thread.join()
        if isinstance(out[0], BaseException):
            raise out[0]
        return out[0]

    def ports_of(self, process):
        """Its listening TCP ports on other addresses than loopback's."""
        inodes = set()
        for fd in pathlib.Path(f"/proc/{process.process.pid}/fd").iterdir():
            inodes.add(os.readlink(fd).removeprefix("socket:[").rstrip("]"))
        rows = [r.split() for r in pathlib.Path(f"/proc/{process.process.pid}/net/tcp").read_text().splitlines()[1:]]
        return {int(r[1].split(":")[1], 16) for r in rows
                if r[3] == "0A" and r[9] in inodes and not r[1].startswith("0100007F")}

    def test_three_nodes(self):
        with Server(max_model_len=2048) as single:
            wanted = [Graph.complete(single, p) for p in PROMPTS[:8]]
        start_nats(self, "-a", "10.77.0.1", "-p", "4222", "--auth", "t0ken", node=self.node("head"))
        token = {"GRAMME_BUS_TOKEN": "t0ken"}
        common = ("--join", "nats://10.77.0.1:4222", "--namespace", "nodes", "-m", MODEL)
        tcp = (*SIM, "--transfer-transports=tcp,self", "--verify-kv")
        with tempfile.NamedTemporaryFile("w", prefix="gramme-token") as file:  # made with mode 0600
            file.write("t0ken\n")
            file.flush()
            # where NATS is reached is where blocks are received, unless told otherwise
            decode = start(self, "worker", "disagg", *common, *tcp, *REMOTE, "--bus-token-file", file.name,
                           "--system-port=8001", node=self.node("decode"))
            prefill = start(self, "prefill", "disagg", *common, *tcp, "--transfer-listen=eth7",
                            "--transfer-ports=20100-20119", environment=token, node=self.node("prefill"))
            process = start(self, "frontend", "disagg", *common, "--port=8000", "--served-model-name", NAME,
                            environment=token, node=self.node("head"))
            server = frontend_of(process, 8000)
            self.within("head", lambda: wait_for(lambda: is_serving(server, 2), "two workers"))
        wait_for(lambda: "transfers go by tcp" in decode.log(), "the lane between the nodes")
        self.assertTrue(self.ports_of(decode))
        ports = self.ports_of(prefill)
        self.assertTrue(ports and all(20100 <= port <= 20119 for port in ports), ports)

        self.assertEqual(self.within("head", lambda: [Graph.complete(server, p) for p in PROMPTS[:8]]), wanted)
        metrics = self.within("decode", lambda: frontend_of(decode, 8001).request("GET", "/metrics").body.decode())
        done = [float(l.rsplit(" ", 1)[1]) for l in metrics.splitlines()
                if l.startswith("gramme_remote_prefill_total") and 'result="done"' in l]
        self.assertGreater(sum(done), 0, metrics)
        for process in (decode, prefill):
            self.assertNotIn("t0ken", process.log())
            self.assertNotIn(b"t0ken", pathlib.Path(f"/proc/{process.process.pid}/cmdline").read_bytes())


class Tls(unittest.TestCase):
    """A nats-server with a certificate of an authority of its own."""

    @classmethod
    def setUpClass(cls):
        if not shutil.which("openssl"):
            raise unittest.SkipTest("needs openssl")
        cls.folder = tempfile.TemporaryDirectory(prefix="gramme-tls")
        cls.addClassCleanup(cls.folder.cleanup)
        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        for name in ("ca", "other"):
            cls.openssl("req", "-x509", *new, "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                        "-out", f"{name}.pem")
        cls.openssl("req", *new, "-subj", "/CN=node", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", "node.key", "-out", "node.csr")
        cls.openssl("x509", "-req", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2",
                    "-copy_extensions", "copy", "-out", "node.pem")

    @classmethod
    def openssl(cls, *words):
        done = subprocess.run(["openssl", *words], cwd=cls.folder.name, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def setUp(self):
        self.port = free_port()
        start_nats(self, "-a", "127.0.0.1", "-p", str(self.port), "--auth", "t0ken", "--tls",
                   "--tlscert", self.path("node.pem"), "--tlskey", self.path("node.key"))
        self.nats = ("--nats", f"tls://localhost:{self.port}", "--namespace", "tls")

    def test_server_of_the_site(self):
        with Graph("agg", arguments=(TWO, *self.nats, "--bus-ca-file", self.path("ca.pem")), max_model_len=2048,
                   environment={"GRAMME_BUS_TOKEN": "t0ken"}) as graph:
            graph.wait_all_ready()
            graph.wait_workers(2)
            graph.complete(PROMPTS[1])
            self.assertNotIn("t0ken", graph.log())

    def test_own_server(self):
        """The private nats-server with TLS, and another node's worker that joins it by the printed line."""
        port = free_port()
        files = ("--bus-cert-file", self.path("node.pem"), "--bus-key-file", self.path("node.key"),
                 "--bus-ca-file", self.path("ca.pem"))
        with Graph("agg", arguments=(TWO, "--bus-listen", f"127.0.0.1:{port}", *files), max_model_len=2048) as graph:
            graph.wait_all_ready()
            line = wait_for(lambda: next((l for l in graph.log().splitlines() if "join from another node" in l),
                                         None), "the join line")
            words = line.split("gramme worker ", 1)[1].split(" (or", 1)[0].split()
            self.assertIn(f"tls://127.0.0.1:{port}", words)
            start(self, "worker", *words, *SIM, "--bus-ca-file", self.path("ca.pem"))
            graph.wait_workers(3)
            graph.complete(PROMPTS[2])

    def one_line(self, words, *arguments, token="t0ken"):
        """Each process says it once, in words."""
        process = start(self, "worker", "--join", f"tls://localhost:{self.port}", "--namespace", "tls", "-m", MODEL,
                        *SIM, *arguments, environment={"GRAMME_BUS_TOKEN": token})
        wait_for(lambda: "ready after" in process.log() and words in process.log(), words)
        self.assertEqual(process.log().count("no connection"), 1, process.log())

    def test_wrong_authority(self):
        self.one_line("its certificate is of no authority in", "--bus-ca-file", self.path("other.pem"))

    def test_unknown_authority(self):
        self.one_line("--bus-ca-file")

    def test_wrong_token(self):
        self.one_line("it wants another token", "--bus-ca-file", self.path("ca.pem"), token="wrong")

    def test_secret_in_url(self):
        done = subprocess.run([BINARY, "serve", "agg", "-m", MODEL, "--engine=sim", "--namespace=x",
                               "--nats", f"tls://me:secret@localhost:{self.port}"], capture_output=True, text=True,
                              timeout=WAIT_S, env=clean_environment())
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertNotIn("secret", done.stderr)


class Replicas(unittest.TestCase):
    def test_two_frontends_agree(self):
        """What one frontend sent somewhere, the other finds there: both hear the workers' events."""
        port = free_port()
        start_nats(self, "-a", "127.0.0.1", "-p", str(port))
        common = ("--join", f"nats://127.0.0.1:{port}", "--namespace", "two", "-m", MODEL)
        servers = []
        for _ in range(2):
            http = free_port()
            servers.append(frontend_of(start(self, "frontend", "agg_router", *common, "--port", str(http),
                                             "--served-model-name", NAME), http))
        systems = [Server.__new__(Server) for _ in range(2)]
        for system in systems:
            system.port = free_port()
            start(self, "worker", "agg_router", *common, *SIM, f"--system-port={system.port}")
        for server in servers:
            wait_for(lambda: is_serving(server, 2), "two workers")
        ask = {"max_tokens": 2, "temperature": 0}
        second = servers[1]
        # What it knows of each worker begins with a dump; from then on it hears events.
        in_parallel(8, lambda i: Graph.complete(servers[0], f"{i} " + PROMPTS[i], 1))
        wait_for(lambda: second.metrics()["gramme_router_kv_dumps_total"] >= 2, "both dumps")
        for i in range(6):
            text = f"Family {i}. " + "once upon a time there was a long beginning " * 8
            before = second.metrics()["gramme_router_kv_events_total"]
            first_answer = servers[0].post("/v1/completions", {"prompt": text, **ask})
            self.assertEqual(first_answer.status, 200, first_answer.body)
            blocks = first_answer.json()["usage"]["prompt_tokens"] // 16
            wait_for(lambda: second.metrics()["gramme_router_kv_events_total"] >= before + blocks, "events")
            wait_for(lambda: is_at_rest(second), "LOADs without it: a busy worker costs more")
            answer = second.post("/v1/completions", {"prompt": text, **ask})
            self.assertEqual(answer.headers["X-Gramme-Worker"], first_answer.headers["X-Gramme-Worker"])
            self.assertGreater(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"], 50)
        self.check_sums(servers, systems)

    def check_sums(self, servers, systems):
        """Each metric is one process's: what all of them say adds up."""
        told = [server.metrics() for server in servers]
        by_workers = [server.metrics() for server in systems]
        for name in set(told[0]) & set(by_workers[0]):
            self.fail(f"{name} is told by a frontend and by a worker")
        def total(name):
            return sum(metrics.get(name, 0) for metrics in told + by_workers)
        self.assertEqual(total("vllm:generation_tokens_total"), total("gramme_worker_generation_tokens_total"))
        self.assertEqual(total("vllm:prompt_tokens_total") - total("vllm:prompt_tokens_cached_total"),
                         total("gramme_worker_prompt_tokens_total"))
        self.assertEqual(total("vllm:prompt_tokens_cached_total"), total("vllm:prefix_cache_hits_total"))
        self.assertGreater(total("vllm:prompt_tokens_cached_total"), 6 * 50)
        self.assertEqual(total("vllm:num_requests_running"), 0)

    def test_system_ports(self):
        """Replicas of one section count on from the port that is written; 0 picks one for each."""
        def ports(graph):
            return [int(l.rsplit(":", 1)[1]) for l in graph.log().splitlines() if "system port: " in l]
        base = self.free_row(3)
        with Graph("disagg", arguments=(TWO, *(f"--{section}.system-port={base}" for section in
                                              ("VllmWorker", "PrefillWorker"))), max_model_len=2048) as graph:
            graph.wait_all_ready()
            self.assertEqual(sorted(ports(graph)), [base, base + 1, base + 2])
            pid = graph.kill("VllmWorker.1")  # the next one has the port of the last
            wait_for(lambda: len(ports(graph)) == 4, f"another process after {pid}")
            self.assertEqual(len(set(ports(graph))), 3)
        with Graph("agg", arguments=(TWO, "--VllmWorker.system-port=0"), max_model_len=2048) as graph:
            graph.wait_all_ready()
            self.assertEqual(len(set(ports(graph))), 2)
        done = subprocess.run([BINARY, "serve", "agg", TWO, "-m", MODEL, "--engine=sim", "--VllmWorker.system-port=65535"],
                              capture_output=True, text=True, timeout=WAIT_S, env=clean_environment())
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("65536", done.stderr)

    @staticmethod
    def free_row(count):
        """The first of so many free ports in a row."""
        import socket
        for _ in range(100):
            first = free_port()
            try:
                for port in range(first, first + count):
                    with socket.socket() as s:
                        s.bind(("127.0.0.1", port))
                return first
            except (OSError, OverflowError):
                continue
        raise AssertionError("no free ports in a row")

    def test_one_id_everywhere(self):
        with Graph("disagg", arguments=tuple(f"--VllmWorker.{word[2:]}" for word in REMOTE),
                   max_model_len=2048) as graph:
            graph.wait_all_ready()
            trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

            def names(number):
                """Who says this request's id (with its trace, but for the access line)."""
                graph.post("/v1/completions", {"prompt": f"{number} " + PROMPTS[6], "max_tokens": 2},
                           {"X-Request-Id": f"one-grep-{number}", "traceparent": trace})
                wait_for(lambda: f"one-grep-{number}" in graph.log().rsplit("Frontend.0 ", 1)[-1], "the access line")
                lines = [l for l in graph.log().splitlines() if f"one-grep-{number}" in l]
                return {l.split()[0] for l in lines if trace in l or l.startswith("Frontend")}
            count = [0]

            def is_everywhere():
                count[0] += 1
                return names(count[0]) == {"Frontend.0", "VllmWorker.0", "PrefillWorker.0"}
            wait_for(is_everywhere, "a request that goes through all three")


if __name__ == "__main__":
    unittest.main()
