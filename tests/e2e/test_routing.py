"""Routing as a client sees it: the worker is named, a prefix finds its way back, a request may weigh
the choice itself, what the router did stands in the metrics."""
import collections
import unittest

from harness import WAIT_S, wait_for
from test_graphs import Graph

THREE = "--VllmWorker.ServiceArgs.workers=3"
FAMILIES = 6


def prompt(family, tail):
    return f"Family {family}. " + "once upon a time there was a long beginning " * 12 + f"tail {tail}"


def ask(graph, text, **fields):
    answer = graph.post("/v1/completions", {"prompt": text, "max_tokens": 4, **fields})
    assert answer.status == 200, answer.body
    return answer


class Routing(unittest.TestCase):
    def graph(self, **options):
        graph = Graph("agg_router", arguments=(THREE,), max_model_len=2048, **options)
        self.addCleanup(graph.stop)
        graph.wait_all_ready()
        graph.wait_workers(3)
        return graph

    def test_prefix_finds_its_worker(self):
        graph = self.graph()
        homes = {}
        for family in range(FAMILIES):
            answer = ask(graph, prompt(family, 0))
            homes[family] = answer.headers["X-Gramme-Worker"]
            self.assertRegex(homes[family], r"^VllmWorker\.[012]$")
        self.assertGreater(len(set(homes.values())), 1)  # beginnings are spread
        # On a busy machine a worker may be suspect for a moment, and its requests go elsewhere; so they
        # do while its last LOAD still tells of the request before.
        found = 0
        for tail in range(1, 5):
            for family in range(FAMILIES):
                graph.wait_idle()
                answer = ask(graph, prompt(family, tail))
                if answer.headers["X-Gramme-Worker"] != homes[family]:
                    homes[family] = answer.headers["X-Gramme-Worker"]
                    continue
                found += 1
                details = answer.json()["usage"]["prompt_tokens_details"]
                self.assertGreater(details["cached_tokens"], 50)
        self.assertGreaterEqual(found, FAMILIES * 4 - 4)  # by chance: a third
        metrics = graph.metrics()
        self.assertEqual(metrics["gramme_router_choices_total"], FAMILIES * 5)
        self.assertGreater(metrics["gramme_router_overlap_blocks_total"], 0.5 * metrics["gramme_router_request_blocks_total"])
        self.assertGreater(metrics["gramme_router_kv_events_total"], 0)
        self.assertEqual(metrics["gramme_worker_up"], 3)

    def test_override_of_one_request(self):
        graph = self.graph()
        home = ask(graph, prompt(0, 0)).headers["X-Gramme-Worker"]
        soft = {"nvext": {"router_config_override": {"overlap_score_weight": 0, "router_temperature": 1000}}}
        seen = collections.Counter(
            ask(graph, prompt(0, tail), **soft).headers["X-Gramme-Worker"] for tail in range(60))
        self.assertEqual(len(seen), 3)
        bad = graph.post("/v1/completions", {"prompt": "x", "nvext": {"router_config_override": {"router_temperature": -1}}})
        self.assertEqual(bad.status, 400)
        self.assertEqual(bad.json()["error"]["param"], "nvext.router_config_override.router_temperature")
        self.assertTrue(home)

    def test_streams_and_chat_name_it_too(self):
        graph = self.graph()
        self.assertRegex(graph.chat(max_tokens=2).headers["X-Gramme-Worker"], r"^VllmWorker\.")
        stream = graph.stream({"prompt": prompt(1, 1), "max_tokens": 4}, "/v1/completions")
        self.assertRegex(stream.open().headers["X-Gramme-Worker"], r"^VllmWorker\.")
        self.assertTrue(stream.text())

    def test_without_events_it_guesses(self):
        graph = self.graph(kv_events="false")
        home = ask(graph, prompt(0, 0)).headers["X-Gramme-Worker"]
        for tail in range(1, 6):
            self.assertEqual(ask(graph, prompt(0, tail)).headers["X-Gramme-Worker"], home)
        self.assertEqual(graph.metrics()["gramme_router_kv_events_total"], 0)

    def test_round_robin(self):
        graph = self.graph(router_mode="round-robin")
        seen = [ask(graph, prompt(0, i)).headers["X-Gramme-Worker"] for i in range(6)]
        self.assertEqual(seen[:3], seen[3:])
        self.assertEqual(len(set(seen)), 3)

    def test_a_new_worker_is_known_by_its_dump(self):
        graph = self.graph()
        home = ask(graph, prompt(0, 0)).headers["X-Gramme-Worker"]
        dumps = graph.metrics()["gramme_router_kv_dumps_total"]
        graph.kill(home)
        wait_for(lambda: graph.metrics()["gramme_router_kv_dumps_total"] > dumps, "the new worker's dump", WAIT_S)
        graph.wait_workers(3)
        ask(graph, prompt(0, 1))
        graph.wait_idle()


if __name__ == "__main__":
    unittest.main()
