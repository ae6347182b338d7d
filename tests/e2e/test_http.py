"""HTTP as hostile and as ordinary clients speak it (raw bytes)."""
import json
import re
import time
import unittest

from harness import Server, chat_body, read_all, read_answer, status_of, wait_for

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n"

REFUSED = {
    "no host": (b"GET /live HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "bad host": (b"GET /live HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "version 9.9": (b"GET /live HTTP/9.9\r\nHost: a\r\n\r\n", 505),
    "version 2.0": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "other protocol": (b"GET /live RTSP/1.0\r\nHost: a\r\n\r\n", 400),
    "rubbish": (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", 400),
    "unknown method": (b"FROB / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "connect": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    "no path": (b"GET live HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "nul in path": (b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "line break in path": (b"GET /%0d%0a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bad escape": (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "half escape": (b"GET /%2 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "overlong utf-8": (b"GET /%c0%af HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "bare lf": (b"GET /live HTTP/1.1\nHost: a\n\n", 400),
    "bare cr": (b"GET /live HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    "cr in value": (b"GET /live HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
    "nul in value": (b"GET /live HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
    "control character": (b"GET /live HTTP/1.1\r\nHost: a\r\nX: a\x01b\r\n\r\n", 400),
    "folded line": (b"GET /live HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    "space before colon": (b"GET /live HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", 400),
    "length and chunked": (POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "two equal lengths": (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
    "length list": (POST + b"Content-Length: 2, 2\r\n\r\n{}", 400),
    "length plus": (POST + b"Content-Length: +2\r\n\r\n{}", 400),
    "length minus": (POST + b"Content-Length: -2\r\n\r\n{}", 400),
    "length hex": (POST + b"Content-Length: 0x2\r\n\r\n{}", 400),
    "length empty": (POST + b"Content-Length:\r\n\r\n{}", 400),
    "length huge": (POST + b"Content-Length: 99999999999999999999999999\r\n\r\n{}", 400),
    "coding xchunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "coding gzip": (POST + b"Transfer-Encoding: gzip\r\n\r\n", 400),
    "coding identity": (POST + b"Transfer-Encoding: identity\r\n\r\n", 400),
    "coding gzip, chunked": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "coding twice": (POST + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", 400),
    "coding in 1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunk size 0x": (CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n", 400),
    "chunk size plus": (CHUNKED + b"+2\r\n{}\r\n0\r\n\r\n", 400),
    "chunk size minus": (CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n", 400),
    "chunk size space": (CHUNKED + b"2 \r\n{}\r\n0\r\n\r\n", 400),
    "chunk size empty": (CHUNKED + b"\r\n{}\r\n0\r\n\r\n", 400),
    "chunk size huge": (CHUNKED + b"fffffffffffffffff\r\n", 400),
    "chunk size over the limit": (CHUNKED + b"ffffffff\r\n", 413),
    "chunk too long": (CHUNKED + b"2\r\n{}}\r\n0\r\n\r\n", 400),
    "chunk bare lf": (CHUNKED + b"2\n{}\n0\n\n", 400),
    "expectation": (POST + b"Expect: a-pony\r\nContent-Length: 2\r\n\r\n{}", 417),
}


def setUpModule():
    global server
    server = Server(max_body="64KiB", max_header="4KiB", header_timeout="400ms", body_timeout="400ms",
                    keep_alive_timeout="60s", max_connections=64)


def tearDownModule():
    server.stop()


class Smuggling(unittest.TestCase):
    def test_refused_shapes(self):
        """Each is refused with its status, the connection ends, and what hides behind it is not
        answered."""
        for name, (data, status) in REFUSED.items():
            with self.subTest(name):
                answer = server.raw(data + GET)
                self.assertEqual(status_of(answer), status, answer)
                self.assertEqual(len(re.findall(rb"HTTP/1.1 \d\d\d ", answer)), 1, answer)
                head, _, body = answer.partition(b"\r\n\r\n")
                self.assertIn(b"Connection: close", head)
                self.assertRegex(head, rb"\r\nX-Request-Id: [!-~]+")
                error = json.loads(body)["error"]
                self.assertEqual({"message", "type", "param", "code"}, set(error) | {"param"})

    def test_server_lives(self):
        self.assertEqual(server.request("GET", "/health").status, 200)


class Shapes(unittest.TestCase):
    def body(self):
        return json.dumps(chat_body()).encode()

    def test_keep_alive(self):
        with server.connect() as s:
            for _ in range(3):
                s.sendall(GET)
                self.assertEqual(status_of(read_answer(s)), 200)

    def test_connection_close(self):
        answer = server.raw(b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        self.assertIn(b"Connection: close\r\n", answer)

    def test_http_1_0(self):
        answer = server.raw(b"GET /version HTTP/1.0\r\n\r\n")
        self.assertEqual(status_of(answer), 200)
        body = json.dumps(chat_body(stream=True)).encode()
        answer = server.raw(b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s"
                            % (len(body), body))
        self.assertNotIn(b"chunked", answer)
        self.assertTrue(answer.endswith(b"data: [DONE]\n\n"), answer[-80:])

    def test_absolute_target(self):
        answer = server.raw(b"GET http://a:1/version HTTP/1.1\r\nHost: a\r\n\r\n", ends=False)
        self.assertEqual(status_of(answer), 200)

    def test_pipelining(self):
        with server.connect() as s:
            s.sendall(GET * 50 + b"GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answers = read_all(s)
        self.assertEqual(answers.count(b"HTTP/1.1 200 OK"), 50)
        self.assertEqual(answers.count(b"HTTP/1.1 404 "), 1)
        self.assertLess(answers.rindex(b"HTTP/1.1 200 OK"), answers.index(b"HTTP/1.1 404 "))

    def test_pipelining_behind_a_slow_one(self):
        body = self.body()
        chat = POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        last = b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        with server.connect() as s:
            s.sendall(chat + last)
            answers = read_all(s)
        self.assertEqual(answers.count(b"HTTP/1.1 200 OK"), 2, answers)
        self.assertLess(answers.index(b"chat.completion"), answers.rindex(b"HTTP/1.1 200 OK"))

    def test_head(self):
        get = server.request("GET", "/v1/models")
        head = server.request("HEAD", "/v1/models")
        self.assertEqual(head.status, 200)
        self.assertEqual(head.body, b"")
        self.assertEqual(head.headers["Content-Length"], str(len(get.body)))

    def test_options(self):
        answer = server.request("OPTIONS", "/v1/chat/completions",
                                headers={"Origin": "http://localhost:3000",
                                         "Access-Control-Request-Method": "POST"})
        self.assertIn(answer.status, (200, 204))
        self.assertIn("POST", answer.headers["Allow"])
        self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "http://localhost:3000")
        foreign = server.request("OPTIONS", "/v1/chat/completions", headers={"Origin": "http://evil.example"})
        self.assertIsNone(foreign.headers["Access-Control-Allow-Origin"])

    def test_404_405(self):
        answer = server.request("GET", "/v1/nothing")
        self.assertEqual(answer.status, 404)
        self.assertTrue(answer.json()["error"]["message"])
        answer = server.request("GET", "/v1/chat/completions")
        self.assertEqual(answer.status, 405)
        self.assertIn("POST", answer.headers["Allow"])
        self.assertTrue(answer.json()["error"]["message"])
        self.assertEqual(server.request("DELETE", "/v1/models").status, 405)

    def test_chunked_body(self):
        body = self.body()
        half = len(body) // 2
        data = CHUNKED + b"%x\r\n%s\r\n%X;ext=1\r\n%s\r\n0\r\nX-Trailer: 1\r\n\r\n" % (
            half, body[:half], len(body) - half, body[half:])
        self.assertEqual(status_of(server.raw(data, ends=False)), 200)

    def test_expect_continue(self):
        body = self.body()
        with server.connect() as s:
            s.sendall(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
            self.assertEqual(s.recv(25), b"HTTP/1.1 100 Continue\r\n\r\n")
            s.sendall(body)
            self.assertEqual(status_of(read_answer(s)), 200)

    def test_body_byte_by_byte(self):
        data = POST + b"Content-Length: %d\r\n\r\n" % len(self.body()) + self.body()
        with server.connect() as s:
            for i in range(len(data)):
                s.sendall(data[i:i + 1])
            self.assertEqual(status_of(read_answer(s)), 200)

    def test_escaped_path(self):
        self.assertEqual(server.request("GET", "/v1/models/de%6do").json()["id"], "demo")
        self.assertEqual(server.request("GET", "/%76ersion").status, 200)


class Limits(unittest.TestCase):
    def test_413(self):
        with server.connect() as s:
            s.sendall(POST + b"Content-Length: 70000\r\n\r\n")
            self.assertEqual(status_of(read_all(s)), 413)
        answer = server.raw(POST + b"Content-Length: 70000\r\n\r\n" + b"x" * 70000)
        self.assertEqual(status_of(answer), 413)
        self.assertIn("error", json.loads(answer.partition(b"\r\n\r\n")[2]))
        self.assertIn(b"X-Request-Id: ", answer)

    def test_431(self):
        answer = server.raw(b"GET /live HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 5000 + b"\r\n\r\n")
        self.assertEqual(status_of(answer), 431)
        answer = server.raw(b"GET /live HTTP/1.1\r\nHost: a\r\n" + b"a:b\r\n" * 200 + b"\r\n")
        self.assertEqual(status_of(answer), 431)

    def test_408(self):
        with server.connect() as s:
            s.sendall(b"GET /live HT")
            self.assertEqual(status_of(read_all(s)), 408)
        with server.connect() as s:
            s.sendall(POST + b"Content-Length: 10\r\n\r\n{")
            self.assertEqual(status_of(read_all(s)), 408)

    def test_slow_loris(self):
        """A byte now and then does not keep a head open."""
        with server.connect() as s:
            s.settimeout(0.05)
            answer, begun = b"", False
            for _ in range(100):
                try:
                    s.sendall(b"y" if begun else b"GET /live HTTP/1.1\r\nHost: a\r\nX: ")
                    begun = True
                    piece = s.recv(1000)
                    if not piece:
                        break
                    answer += piece
                except TimeoutError:
                    time.sleep(0.01)
                except OSError:
                    break
        self.assertEqual(status_of(answer), 408)

    def test_connection_limit(self):
        sockets = []
        try:
            for _ in range(64):
                sockets.append(server.connect())
                sockets[-1].sendall(GET)
                self.assertEqual(status_of(read_answer(sockets[-1])), 200)
            with server.connect() as s:
                self.assertEqual(status_of(read_all(s)), 503)
        finally:
            for s in sockets:
                s.close()
        wait_for(lambda: server.request("GET", "/version").status == 200, "there is room again")
