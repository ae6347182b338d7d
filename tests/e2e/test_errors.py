"""Every request that must be refused is refused with 400 (or its own status), names the field, and
costs the server nothing."""
import json
import unittest

from harness import NAME, Server, chat_body

MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**fields):
    return {"model": NAME, "messages": MESSAGES, "max_tokens": 2, **fields}


def completion(**fields):
    return {"model": NAME, "prompt": "hi", "max_tokens": 2, **fields}


# name: (path, body, status, words of the message or param)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CASES = {
    "bad json": (CHAT, '{"model": "demo", "messages": [', 400, ""),
    "empty body": (CHAT, "", 400, ""),
    "not an object": (CHAT, "[1]", 400, ""),
    "trailing garbage": (CHAT, json.dumps(chat()) + "x", 400, ""),
    "unknown model": (CHAT, chat(model="nobody"), 404, "nobody"),
    "model of a wrong type": (CHAT, chat(model=3), 400, "model"),
    "no messages": (CHAT, {"model": NAME}, 400, "messages"),
    "messages empty": (CHAT, chat(messages=[]), 400, "messages"),
    "messages a string": (CHAT, chat(messages="hi"), 400, "messages"),
    "message a string": (CHAT, chat(messages=["hi"]), 400, "messages"),
    "bad role": (CHAT, chat(messages=[{"role": "king", "content": "x"}]), 400, "role"),
    "no role": (CHAT, chat(messages=[{"content": "x"}]), 400, "role"),
    "content a number": (CHAT, chat(messages=[{"role": "user", "content": 3}]), 400, "content"),
    "max_tokens -1": (CHAT, chat(max_tokens=-1), 400, "max_tokens"),
    "max_tokens 0": (CHAT, chat(max_tokens=0), 400, "max_tokens"),
    "max_tokens a string": (CHAT, chat(max_tokens="x"), 400, "max_tokens"),
    "max_tokens 1.5": (CHAT, chat(max_tokens=1.5), 400, "max_tokens"),
    "temperature 9": (CHAT, chat(temperature=9), 400, "temperature"),
    "temperature -1": (CHAT, chat(temperature=-1), 400, "temperature"),
    "temperature a string": (CHAT, chat(temperature="hot"), 400, "temperature"),
    "top_p 2": (CHAT, chat(top_p=2), 400, "top_p"),
    "top_p 0": (CHAT, chat(top_p=0), 400, "top_p"),
    "top_k -2": (CHAT, chat(top_k=-2), 400, "top_k"),
    "min_p 2": (CHAT, chat(min_p=2), 400, "min_p"),
    "n 0": (CHAT, chat(n=0), 400, "n"),
    "n 1000": (CHAT, chat(n=1000), 400, "n"),
    "presence_penalty 3": (CHAT, chat(presence_penalty=3), 400, "presence_penalty"),
    "frequency_penalty -3": (CHAT, chat(frequency_penalty=-3), 400, "frequency_penalty"),
    "repetition_penalty 0": (CHAT, chat(repetition_penalty=0), 400, "repetition_penalty"),
    "logit_bias 101": (CHAT, chat(logit_bias={"5": 101}), 400, "logit_bias"),
    "logit_bias id": (CHAT, chat(logit_bias={"99999999": 1}), 400, "logit_bias"),
    "logit_bias word": (CHAT, chat(logit_bias={"x": 1}), 400, "logit_bias"),
    "top_logprobs 21": (CHAT, chat(logprobs=True, top_logprobs=21), 400, "top_logprobs"),
    "stop a number": (CHAT, chat(stop=3), 400, "stop"),
    "stream a string": (CHAT, chat(stream="yes"), 400, "stream"),
    "seed a string": (CHAT, chat(seed="x"), 400, "seed"),
    "response_format": (CHAT, chat(response_format={"type": "json_object"}), 400, "response_format"),
    "tool_choice required": (CHAT, chat(tools=[], tool_choice="required"), 400, "tool_choice"),
    "functions": (CHAT, chat(functions=[{"name": "f"}]), 400, "functions"),
    "image part": (CHAT, chat(messages=[{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": "data:"}}]}]), 400, "image"),
    "suffix": (COMPLETIONS, completion(suffix="x"), 400, "suffix"),
    "best_of 2": (COMPLETIONS, completion(best_of=2), 400, "best_of"),
    "no prompt": (COMPLETIONS, {"model": NAME}, 400, "prompt"),
    "prompt a number": (COMPLETIONS, completion(prompt=3), 400, "prompt"),
    "ids out of the vocabulary": (COMPLETIONS, completion(prompt=[1, 99999999]), 400, "prompt"),
    "negative ids": (COMPLETIONS, completion(prompt=[1, -1]), 400, "prompt"),
    "tokenize nothing": ("/tokenize", {"model": NAME}, 400, "prompt"),
    "detokenize words": ("/detokenize", {"model": NAME, "tokens": ["a"]}, 400, "tokens"),
    "duplicate keys": (CHAT, '{"model":"demo","model":"demo","messages":[]}', 400, ""),
    "NaN": (CHAT, json.dumps(chat(temperature=float("nan"))), 400, ""),
    "lone surrogate": (CHAT, '{"model":"demo","messages":[{"role":"user","content":"\\ud800"}]}', 400, ""),
    "deeply nested": (CHAT, "[" * 5000, 400, ""),
    "deeply nested closed": (CHAT, '{"a":' + "[" * 5000 + "]" * 5000 + "}", 400, ""),
}


def setUpModule():
    global server
    server = Server()


def tearDownModule():
    server.stop()


class Errors(unittest.TestCase):
    def check(self, answer, status, word):
        self.assertEqual(answer.status, status, answer.body[:300])
        self.assertTrue(answer.headers["X-Request-Id"])
        error = answer.json()["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertTrue(error["message"])
        self.assertIn(word, f"{error['message']} {error['param']}")

    def test_cases(self):
        for name, (path, body, status, word) in CASES.items():
            with self.subTest(name):
                self.check(server.post(path, body), status, word)

    def test_invalid_utf8(self):
        body = b'{"model":"demo","messages":[{"role":"user","content":"\xff\xfe"}],"max_tokens":2}'
        self.check(server.post("/v1/chat/completions", body), 400, "")

    def test_prompt_too_long(self):
        answer = server.post("/v1/completions", completion(prompt="word " * 3000))
        self.check(answer, 400, "2048")
        answer = server.chat("word " * 3000)
        self.check(answer, 400, "2048")
        before = server.metrics()
        answer = server.chat("x" * (10 << 20))
        self.check(answer, 400, "2048")
        self.assertEqual(before.get("vllm:prompt_tokens_total"), server.metrics().get("vllm:prompt_tokens_total"))

    def test_prompt_and_max_tokens_too_long(self):
        self.check(server.chat("hi", max_tokens=2048), 400, "2048")

    def test_nothing_is_left_behind(self):
        server.wait_idle()
        self.assertEqual(server.chat().status, 200)


class Accepted(unittest.TestCase):
    """What looks odd and is fine."""

    def test_accepted(self):
        for name, fields in {
            "null fields": dict(temperature=None, stop=None, n=None, seed=None, logit_bias=None, user=None),
            "unknown field": dict(frobnicate=1),
            "64.0": dict(max_tokens=4.0),
            "five stop strings": dict(stop=["a1", "b2", "c3", "d4", "e5"]),
            "text parts": dict(messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}]),
            "assistant null": dict(messages=[{"role": "user", "content": "a"},
                                             {"role": "assistant", "content": None},
                                             {"role": "user", "content": "b"}]),
            "max_completion_tokens": dict(max_tokens=None, max_completion_tokens=2),
            "response_format text": dict(response_format={"type": "text"}),
            "tool_choice none": dict(tool_choice="none"),
            "seed": dict(seed=-9223372036854775808),
        }.items():
            with self.subTest(name):
                answer = server.post("/v1/chat/completions", {**chat_body(), **fields})
                self.assertEqual(answer.status, 200, answer.body[:300])

    def test_model_may_be_absent(self):
        body = chat_body()
        del body["model"]
        self.assertEqual(server.post("/v1/chat/completions", body).status, 200)
        body["model"] = ""  # the openai client cannot leave it out
        self.assertEqual(server.post("/v1/chat/completions", body).status, 200)

    def test_request_id(self):
        answer = server.post("/v1/chat/completions", chat_body(), {"X-Request-Id": "mine-17"})
        self.assertEqual(answer.headers["X-Request-Id"], "mine-17")
        long = server.post("/v1/chat/completions", chat_body(), {"X-Request-Id": "x" * 200})
        self.assertNotEqual(long.headers["X-Request-Id"], "x" * 200)
        self.assertTrue(long.headers["X-Request-Id"])
