"""Describe what drifted in words that people act on: new topics, why they are answered badly, and what to do."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.core.base.files import write_text
from tasks.core.drift.explain import distinctive_words
from tasks.core.drift.findings import Changes, NewTopic, Shortfall, WeakPassage
from tasks.core.drift.new_queries import Examination, ServingRelease
from tasks.core.drift.topics import nearest, topics_of
from tasks.core.drift.unfamiliarity import of_quantiles
from tasks.core.snapshot.reader import passages_by_id
from tasks.core.text.normalization import full_text
from tasks.core.text.words import hashed, words_of
from tasks.core.text.words import known as are_known

LOWEST = 0.05  # quantile: queries that score lower for their topic are described
TOPICS, MEMBERS = 6, 4  # most topics, and fewest queries of a topic
EXAMPLES, WEAK = 5, 3  # queries and passages of a topic
TO_LABEL, CANDIDATES = 20, 3  # queries, and passages of each
EXCERPT = 160  # characters of a passage
JUDGED = 3  # fewest labeled queries that show why a topic is answered badly

LABELS = Path("drift") / "label-queries.tsv"  # in the home
LABEL_QUERIES = Path("drift") / "label-queries.jsonl"
COLUMNS = ("query-id", "corpus-id", "score", "query", "passage")


class Topics:
    """The new topics of a window. Reads the texts of the passages that are its best matches."""

    def __init__(self, served: ServingRelease, examination: Examination, recall_effect: float) -> None:
        self._examination, self._recall_effect = examination, recall_effect
        limit = float(of_quantiles(np.array(LOWEST)))
        self.rows = np.flatnonzero(examination.unfamiliarity >= limit)
        vectors = examination.vectors[self.rows]
        self._topic = nearest(vectors, topics_of(vectors, TOPICS, MEMBERS)) if len(vectors) else np.zeros(0, np.int64)
        wanted = {passage for row in self.rows for passage in examination.hits[row][:CANDIDATES]}
        self._texts = _texts_of(served, wanted)
        terms = [hashed(words_of(examination.texts[row])) for row in self.rows]
        self._unseen = np.array([bool((~are_known(words, served.reference.terms)).any()) for words in terms], bool)

    def describe(self) -> tuple[NewTopic, ...]:
        """Return the topics, most queries first."""
        texts = [self._examination.texts[row] for row in self.rows]
        counts = Counter(chain.from_iterable(set(words_of(text)) for text in self._examination.texts))
        numbers, sizes = np.unique(self._topic, return_counts=True)
        order = numbers[np.argsort(-sizes, kind="stable")]
        return tuple(
            self._describe(self._topic == number, distinctive_words(texts, self._topic == number, counts))
            for number in order
            if (self._topic == number).sum() >= min(MEMBERS, len(self.rows))
        )

    def to_label(self) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Yield TO_LABEL queries of all topics in turn, with ids and texts of their best passages."""
        groups = [self._by_unfamiliarity(self._topic == number) for number in np.unique(self._topic)]
        turns = (row for turn in zip_longest(*groups) for row in turn if row is not None)
        for row, _ in zip(turns, range(TO_LABEL), strict=False):
            hits = self._examination.hits[row][:CANDIDATES]
            yield self._examination.texts[row], [(passage, self._texts.get(passage, "")) for passage in hits]

    def _by_unfamiliarity(self, members: np.ndarray) -> list[int]:
        rows = self.rows[members]
        return [int(row) for row in rows[np.argsort(-self._examination.unfamiliarity[rows], kind="stable")]]

    def _describe(self, members: np.ndarray, name: str) -> NewTopic:
        examination, rows = self._examination, self._by_unfamiliarity(members)
        recalls = examination.recalls[rows]
        recalls = recalls[~np.isnan(recalls)]
        recall = float(recalls.mean()) if len(recalls) else 0.0
        low = recall < examination.measured.usual_recall - self._recall_effect
        return NewTopic(
            name=name,
            queries=len(rows),
            share=len(rows) / len(examination.texts),
            unseen=float(self._unseen[members].mean()),
            examples=tuple(examination.texts[row] for row in rows[:EXAMPLES]),
            passages=self._weak_passages(rows),
            judged=len(recalls),
            recall=recall,
            shortfall=Shortfall.MISRANKED if len(recalls) >= JUDGED and low else Shortfall.MISSING,
        )

    def _weak_passages(self, rows: Sequence[int]) -> tuple[WeakPassage, ...]:
        scores: dict[str, list[float]] = {}
        for row in rows:
            scores.setdefault(self._examination.hits[row][0], []).append(float(self._examination.scores[row]))
        ranked = sorted(scores.items(), key=lambda item: (-len(item[1]), sum(item[1]) / len(item[1]), item[0]))
        return tuple(
            WeakPassage(
                passage_id=passage,
                text=self._texts.get(passage, ""),
                queries=len(values),
                score=sum(values) / len(values),
            )
            for passage, values in ranked[:WEAK]
        )


def advise(topics: Iterable[NewTopic], changes: Changes, label_file: Path) -> tuple[str, ...]:
    """Return what a person can do about the topics, most useful first.

    Args:
        topics: that drifted.
        changes: of the passages since the serving release.
        label_file: with the queries to label.
    """
    topics = tuple(topics)
    steps = []
    if new := changes.new + changes.changed:
        steps.append(f"Refresh: {new:,} new or changed passages are not searchable yet. The next night embeds them.")
    if missing := [topic.name for topic in topics if topic.shortfall is Shortfall.MISSING]:
        steps.append(f"Add content: no passage scores well for queries about {_list(missing)}.")
    if misranked := [topic.name for topic in topics if topic.shortfall is Shortfall.MISRANKED]:
        steps.append(f"Retrain: passages that answer queries about {_list(misranked)} exist, but rank low.")
    steps.append(
        f"Label at most {TO_LABEL} queries: in {label_file}, write 1 in the score column of each passage that answers "
        "its query. Then add these rows to qrels/train.tsv and the queries next to it to queries.jsonl: the next night "
        "retrains."
    )
    return tuple(steps)


def write_labels(home: Path, topics: Topics) -> None:
    """Write the queries to label: a TSV file to fill in, and the queries as JSON lines in BEIR layout.

    Each query has a row for each candidate, and a row without a passage, for an answer that is not among them.
    """
    table, lines = io.StringIO(), []
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    for query, candidates in topics.to_label():
        name = f"drift-{sha256(query.encode()).hexdigest()[:10]}"
        lines.append(json.dumps({"_id": name, "text": query}, ensure_ascii=False) + "\n")
        for passage, text in [*candidates, ("", "another passage")]:
            writer.writerow((name, passage, "", " ".join(query.split()), text))
    write_text(home / LABELS, table.getvalue())
    write_text(home / LABEL_QUERIES, "".join(lines))


def _list(names: Sequence[str]) -> str:
    return "; ".join(f"“{name}”" for name in names)


def _texts_of(served: ServingRelease, wanted: set[str]) -> Mapping[str, str]:
    """Return the beginning of each wanted passage of the serving snapshot."""
    texts: dict[str, str] = {}
    for passage, parts in passages_by_id(served.snapshot, pa.array(sorted(wanted), pa.string())).items():
        text = " ".join(full_text(*parts).split())
        texts[passage] = text if len(text) <= EXCERPT else text[:EXCERPT].rpartition(" ")[0] + " …"
    return texts
