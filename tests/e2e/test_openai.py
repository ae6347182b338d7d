"""The openai package, unmodified."""
import unittest

import openai

from harness import NAME, Server


def setUpModule():
    global server, client
    server = Server()
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)


def tearDownModule():
    client.close()
    server.stop()


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}]


class Chat(unittest.TestCase):
    def ask(self, **fields):
        extra = {"ignore_eos": True, **fields.pop("extra_body", {})}
        return client.chat.completions.create(model=NAME, messages=MESSAGES, extra_body=extra,
                                              **{"max_tokens": 12, "temperature": 0, **fields})

    def test_whole(self):
        answer = self.ask()
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.model, NAME)
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertTrue(answer.choices[0].message.content)
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.usage.completion_tokens, 12)
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + 12)

    def test_stream(self):
        whole = self.ask().choices[0].message.content
        text, usage = "", None
        for chunk in self.ask(stream=True, stream_options={"include_usage": True}):
            for choice in chunk.choices:
                text += choice.delta.content or ""
            usage = chunk.usage or usage
        self.assertEqual(text, whole)
        self.assertEqual(usage.completion_tokens, 12)

    def test_n(self):
        answer = self.ask(n=3, temperature=1, seed=7)
        self.assertEqual([c.index for c in answer.choices], [0, 1, 2])
        self.assertEqual(answer.usage.completion_tokens, 36)
        texts = {}
        for chunk in self.ask(n=3, temperature=1, seed=7, stream=True):
            for choice in chunk.choices:
                texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        self.assertEqual([texts[i] for i in range(3)], [c.message.content for c in answer.choices])

    def test_stop(self):
        text = self.ask(max_tokens=60).choices[0].message.content
        # a stop string from the middle of the answer, at a character boundary
        middle = text[len(text) // 2:len(text) // 2 + 3]
        if len(middle) < 3 or "\ufffd" in middle:
            self.skipTest("the answer has no clean text")
        answer = self.ask(max_tokens=60, stop=[middle])
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(answer.choices[0].message.content, text[:text.index(middle)])
        streamed = "".join(c.delta.content or "" for chunk in self.ask(max_tokens=60, stop=[middle], stream=True)
                           for c in chunk.choices)
        self.assertEqual(streamed, text[:text.index(middle)])

    def test_logprobs(self):
        answer = self.ask(logprobs=True, top_logprobs=3)
        content = answer.choices[0].logprobs.content
        self.assertEqual(len(content), 12)
        for entry in content:
            self.assertLessEqual(entry.logprob, 0)
            self.assertEqual(len(entry.top_logprobs), 3)
            self.assertIsNotNone(entry.bytes)

    def test_seed(self):
        first = self.ask(temperature=1, seed=11).choices[0].message.content
        self.assertEqual(self.ask(temperature=1, seed=11).choices[0].message.content, first)

    def test_errors(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.ask(temperature=1.5, top_p=7)
        self.assertEqual(caught.exception.param, "top_p")
        with self.assertRaises(openai.NotFoundError):
            client.chat.completions.create(model="nobody", messages=MESSAGES)
        with self.assertRaises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "word " * 3000}])
        self.assertIn("2048", str(caught.exception))
        with self.assertRaises(openai.APIError):
            for _ in self.ask(stream=True, max_tokens=100000):
                pass


class Completions(unittest.TestCase):
    def test_completion(self):
        answer = client.completions.create(model=NAME, prompt="Once upon a time", max_tokens=5, temperature=0,
                                           extra_body={"ignore_eos": True})
        self.assertEqual(answer.object, "text_completion")
        self.assertTrue(answer.choices[0].text)
        self.assertEqual(answer.usage.completion_tokens, 5)

    def test_several_prompts(self):
        answer = client.completions.create(model=NAME, prompt=["One", "Two"], max_tokens=3, temperature=0,
                                           extra_body={"ignore_eos": True})
        self.assertEqual([c.index for c in answer.choices], [0, 1])

    def test_ids(self):
        answer = client.completions.create(model=NAME, prompt=[5, 6, 7], max_tokens=3, temperature=0)
        self.assertEqual(answer.usage.prompt_tokens, 3)

    def test_echo_and_logprobs(self):
        answer = client.completions.create(model=NAME, prompt=[5, 6, 7], max_tokens=3, temperature=0, echo=True,
                                           logprobs=2, extra_body={"ignore_eos": True})
        self.assertEqual(len(answer.choices[0].logprobs.tokens), 6)
        self.assertIsNone(answer.choices[0].logprobs.token_logprobs[0])
        only = client.completions.create(model=NAME, prompt=[5, 6, 7], max_tokens=0, echo=True, logprobs=0)
        self.assertEqual(len(only.choices[0].logprobs.tokens), 3)

    def test_stream(self):
        text = "".join(chunk.choices[0].text for chunk in client.completions.create(
            model=NAME, prompt="Once", max_tokens=6, temperature=0, stream=True,
            extra_body={"ignore_eos": True}) if chunk.choices)
        self.assertTrue(text)


class Models(unittest.TestCase):
    def test_models(self):
        self.assertEqual([m.id for m in client.models.list()], [NAME])
        self.assertEqual(client.models.retrieve(NAME).id, NAME)
        with self.assertRaises(openai.NotFoundError):
            client.models.retrieve("nobody")

    def test_id_with_slash(self):
        with Server(served_model_name="org/name") as other:
            c = openai.OpenAI(base_url=f"http://127.0.0.1:{other.port}/v1", api_key="none", max_retries=0)
            self.assertEqual(c.models.retrieve("org/name").id, "org/name")
            self.assertEqual(other.request("GET", "/v1/models/org/name").json()["max_model_len"], 2048)
            c.close()


class Tokens(unittest.TestCase):
    def test_round_trip(self):
        text = "Hello, wörld! 你好 🙂"
        answer = server.post("/tokenize", {"model": NAME, "prompt": text, "add_special_tokens": False}).json()
        self.assertEqual(answer["count"], len(answer["tokens"]))
        back = server.post("/detokenize", {"model": NAME, "tokens": answer["tokens"]}).json()
        self.assertEqual(back["prompt"], text)
