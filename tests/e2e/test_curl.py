"""curl, as a newcomer types it."""
import json
import shutil
import subprocess
import unittest

from harness import Server, chat_body

CURL = shutil.which("curl")


@unittest.skipUnless(CURL, "curl is not installed")
class Curl(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.url = f"http://127.0.0.1:{cls.server.port}"

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def curl(self, *arguments):
        done = subprocess.run([CURL, "-sS", "--max-time", "30", *arguments], capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_chat(self):
        body = '{"messages":[{"role":"user","content":"Hello"}],"max_tokens":4}'
        answer = json.loads(self.curl(self.url + "/v1/chat/completions", "-d", body))
        self.assertEqual(answer["object"], "chat.completion")

    def test_stream(self):
        data = self.curl("-N", self.url + "/v1/chat/completions", "-d", json.dumps(chat_body(stream=True)))
        self.assertTrue(data.startswith(b"data: {"))
        self.assertTrue(data.endswith(b"data: [DONE]\n\n"))

    def test_large_body_expects_100(self):
        """curl sends Expect: 100-continue before a large body, and waits a second without an answer."""
        done = subprocess.run([CURL, "-sS", "-v", "--max-time", "30", "-H", "Expect: 100-continue", "-d", "@-",
                               self.url + "/v1/chat/completions"],
                              input=json.dumps(chat_body("word " * 500)).encode(), capture_output=True)
        self.assertIn(b"100 Continue", done.stderr)
        self.assertIn(b"chat.completion", done.stdout)

    def test_http2_upgrade_is_declined(self):
        data = self.curl("--http2", self.url + "/v1/chat/completions", "-d", json.dumps(chat_body()))
        self.assertEqual(json.loads(data)["object"], "chat.completion")

    def test_chunked_upload_and_head(self):
        data = self.curl("-H", "Transfer-Encoding: chunked", "-d", json.dumps(chat_body()),
                         self.url + "/v1/chat/completions")
        self.assertEqual(json.loads(data)["object"], "chat.completion")
        self.assertIn(b"200 OK", self.curl("-I", self.url + "/version"))
