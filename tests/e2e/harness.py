"""The program under test, and raw and simple clients for it.  Standard library only."""
import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("GRAMME_BIN") or str(ROOT / "build" / "gramme")
WAIT_S = 30  # for anything that must happen; a slow machine is no failure


def _find_model():
    if os.environ.get("GRAMME_MODEL"):
        return os.environ["GRAMME_MODEL"]
    found = sorted((ROOT / "build" / "models").glob("*.gguf"))
    return str(found[0]) if found else None


MODEL = _find_model()
NAME = "demo"


def can_serve():
    done = subprocess.run([BINARY, "serve", "--print-config", "-m", MODEL], capture_output=True, text=True)
    return "unknown command" not in done.stderr


def wait_for(condition, what, seconds=WAIT_S):
    """Returns the condition's first true value."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what}")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def clean_environment():
    """Without what meson sets to have malloc fill memory: bytes that nobody touches would count."""
    return {k: v for k, v in os.environ.items()
            if not k.startswith("GRAMME_") and k not in ("NATS_SERVER", "MALLOC_PERTURB_")}


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Server:
    """`gramme serve GRAPH --engine sim` with options given as name=value (underscores for hyphens)."""

    def __init__(self, wait=True, arguments=(), graph="agg", model=MODEL, environment=None, **options):
        self.port = options.pop("port", None) or free_port()
        options = {"engine": "sim", "served_model_name": NAME, "max_model_len": 2048, **options}
        command = [BINARY, "serve", graph, "--port", str(self.port), *arguments]
        if model:
            command += ["-m", model]
        for name, value in options.items():
            command.append(f"--{name.replace('_', '-')}={value}")
        self.log_file = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.log_file,
                                        env={**clean_environment(), **(environment or {})})
        if wait:
            self.wait_ready()

    def wait_ready(self):
        def is_ready():
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended ({self.process.returncode}):\n{self.log()}")
            try:
                return self.request("GET", "/health").status == 200
            except OSError:
                return False
        wait_for(is_ready, "ready")

    def log(self):
        # The offset is the writing process's too: it must not be moved.
        size = os.fstat(self.log_file.fileno()).st_size
        return os.pread(self.log_file.fileno(), size, 0).decode(errors="replace")

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, seconds=WAIT_S):
        return self.process.wait(seconds)

    def stop(self):
        if self.process.poll() is None:
            self.signal()
            try:
                self.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        log = self.log()
        self.log_file.close()
        for sign in ("AddressSanitizer", "LeakSanitizer", "runtime error:", "ThreadSanitizer"):
            assert sign not in log, log

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    # --- clients ---

    def connect(self, receive_bytes=None):
        s = socket.socket()
        if receive_bytes:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        s.settimeout(WAIT_S)
        s.connect(("127.0.0.1", self.port))
        return s

    def raw(self, data, ends=True):
        """Sends bytes, reads until the server closes (ends) or one answer is whole."""
        with self.connect() as s:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                s.sendall(data)
            return read_all(s) if ends else read_answer(s)

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            if isinstance(body, str):
                body = body.encode()
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def post(self, path, body, headers=None):
        return self.request("POST", path, body, headers)

    def chat(self, content="Hello", **fields):
        return self.post("/v1/chat/completions", chat_body(content, **fields))

    def stream(self, body, path="/v1/chat/completions", headers=None):
        return Stream(self, path, body, headers)

    def metrics(self):
        """Samples by name, labels dropped, added up."""
        out = {}
        for line in self.request("GET", "/metrics").body.decode().splitlines():
            if line and not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                name = name.split("{")[0]
                out[name] = out.get(name, 0.0) + float(value)
        return out

    def wait_idle(self):
        """Nothing runs or waits, and no block is held (cached ones are free to take)."""
        def is_idle():
            m = self.metrics()
            return (m["vllm:num_requests_running"] == 0 and m["vllm:num_requests_waiting"] == 0
                    and m["vllm:kv_cache_usage_perc"] == 0)
        wait_for(is_idle, "no request and no block in use")


def chat_body(content="Hello", **fields):
    return {"model": NAME, "messages": [{"role": "user", "content": content}], "max_tokens": 8,
            "temperature": 0, **fields}


class Stream:
    """A streamed request: events as they come; the connection may be dropped at any time."""

    def __init__(self, server, path, body, headers=None):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
        body = {"stream": True, **body}
        self.connection.request("POST", path, json.dumps(body),
                                {"Content-Type": "application/json", **(headers or {})})
        self.answer = None

    def open(self):
        if self.answer is None:
            self.answer = self.connection.getresponse()
        return self.answer

    def events(self):
        """Data of each event; "[DONE]" ends it and is not given."""
        for line in self.open():
            line = line.rstrip(b"\r\n")
            if line.startswith(b"data: "):
                data = line[6:].decode()
                if data == "[DONE]":
                    return
                yield json.loads(data)

    def text(self):
        out = []
        for event in self.events():
            if "error" in event:
                raise AssertionError(f"error event: {event}")
            for choice in event["choices"]:
                out.append(choice.get("text") or choice.get("delta", {}).get("content") or "")
        self.close()
        return "".join(out)

    def close(self):
        self.connection.close()
        if self.answer is not None:
            self.answer.close()


def read_all(s):
    out = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := s.recv(65536):
            out += piece
    return out


def read_answer(s):
    """One answer with a Content-Length (or none)."""
    out = b""
    while b"\r\n\r\n" not in out:
        piece = s.recv(65536)
        if not piece:
            return out
        out += piece
    head, _, body = out.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        piece = s.recv(65536)
        if not piece:
            break
        body += piece
    return head + b"\r\n\r\n" + body


def status_of(data):
    assert data.startswith(b"HTTP/1.1 "), data[:80]
    return int(data[9:12])


def in_parallel(count, work):
    """Runs work(i) in threads; gives the results in order, raises the first failure."""
    results, failures = [None] * count, []

    def one(i):
        try:
            results[i] = work(i)
        except BaseException as e:  # noqa: B902 - told below
            failures.append((i, e))
    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failures:
        raise AssertionError(f"{len(failures)} of {count} failed; {failures[0][0]}: {failures[0][1]!r}")
    return results
