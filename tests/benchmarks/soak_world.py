"""The collection of the soak, night by night, its query log, and its small encoder."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

from beir_files import read_positives, read_rows
from month_stream import Query, Source, Stream

STOCK, CHURN, LIMIT = 0.5, 0.005, 700
TRAFFIC, TOPIC = 80, 60  # queries in the log each night, and passages of the new topic
FORMS = (  # of the collection's own words: unknown words look like a broken input
    "{} in adults", "{} in children", "information about {}", "{} the most common", "do you know {}", "who can have {}",
    "{} and the treatment", "more information: {}", "{} for people with the disease", "the answer: {}",
    "{} during the first year", "how and {}",
)  # fmt: skip
PROBES = ("wp-admin", "xmlrpc", "phpmyadmin", "etcpasswd", "sqlmap", "unionselect", "cgibin", "jndildap")


class World:
    """All nights of the soak.

    Args:
        folder: collection in BEIR layout, as for `month_stream`.
        topic: collection in BEIR layout whose queries the users begin to send.
        nights: number of nights.
        deletion: night from which a tenth of the passages is gone.
        drift: first of two nights with queries of the new topic; its passages arrive with it, its labels after it.
        bots: night with a bot's queries in the log.
    """

    def __init__(self, folder: Path, topic: Path, nights: int, deletion: int, drift: int, bots: int) -> None:
        self.stream = Stream(folder, nights, LIMIT, STOCK, CHURN, seed=0)
        self.deletion, self.drift, self.bots = deletion, drift, bots
        self.topic_passages, self.topic_queries = _read_topic(topic, 3 * TOPIC)

    def source(self, night: int) -> Source:
        """Return passages and judged queries of a night."""
        source = self.stream.night(night)
        passages, judged = dict(source.passages), list(source.judged)
        if night >= self.deletion:
            before = sorted(self.stream.night(self.deletion).passages)
            for passage in random.Random("deletion").sample(before, len(before) // 10):
                passages.pop(passage, None)
            judged = [replace(query, positives=left) for query in judged if (left := query.positives & passages.keys())]
        if night >= self.drift:
            passages |= self.topic_passages
        if night >= self.drift + 2:
            judged += self.topic_queries
        return Source(passages, tuple(judged), ())

    def traffic(self, night: int) -> list[str]:
        """Return the queries that users, and bots, sent before a night."""
        draw = random.Random(f"traffic {night}")
        judged = [query.text for query in self.stream.night(night).judged if query.split == "train"]
        texts = [draw.choice(FORMS).format(text.lower()) for text in draw.sample(judged, min(TRAFFIC, len(judged)))]
        if self.drift <= night < self.drift + 2:
            start = (night - self.drift + 1) * TOPIC  # other queries than those that get labels
            texts += [query.text for query in self.topic_queries[start : start + TOPIC]]
        if night == self.bots:
            texts += [f"{probe} {draw.randrange(10**6)}" for probe in PROBES for _ in range(10)] * 40
        return texts


def _read_topic(folder: Path, count: int) -> tuple[dict[str, str], list[Query]]:
    """Return `count` queries of another collection, for training, and their passages."""
    positives = read_positives(folder)
    queries = []
    for row in read_rows(folder / "queries.jsonl"):
        if len(queries) < count and row["_id"] in positives:
            queries.append(Query(row["_id"], row["text"], frozenset(positives[row["_id"]]), 0, "train"))
    wanted = frozenset[str]().union(*(query.positives for query in queries))
    passages = {row["_id"]: row["text"] for row in read_rows(folder / "corpus.jsonl") if row["_id"] in wanted}
    return passages, queries


def append_log(file: Path, queries: list[str]) -> None:
    """Append queries to a query log."""
    with file.open("a", encoding="utf-8") as log:
        log.writelines(json.dumps({"query": text}) + "\n" for text in queries)
