"""A bounded sample of the queries of the latest windows, to calibrate the next release and to recognize a repeated log.

The file is `drift/window-queries.jsonl` in the home, JSON lines {"window": number, "query": text}. The texts come from
the source or the query log, so the home needs the same protection as they do. Old windows leave the file.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tasks.core.base.files import write_text
from tasks.core.drift.decide import NormalWindow
from tasks.core.drift.findings import LOW
from tasks.core.drift.new_queries import ServingRelease, skip_known
from tasks.core.drift.sample import Sample
from tasks.core.drift.statistics import search_queries

FILE = Path("drift") / "window-queries.jsonl"  # in the home
WINDOWS, QUERIES = 40, 250  # latest windows, and queries of each
FEWEST = 20  # queries of a window that are compared with a later window
SAME = 0.9  # share of these queries that makes the later window a repetition
LARGER = 1.5  # times the earlier window; a larger window has new queries in addition

WindowQueries = Mapping[int, Sequence[str]]  # by number of the window


def read_windows(home: Path) -> WindowQueries:
    """Return the sampled queries of each window; nothing if the file is missing. Skips lines that are damaged."""
    windows: dict[int, list[str]] = defaultdict(list)
    file = home / FILE
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    for line in lines:
        try:
            fields = json.loads(line)
            windows[int(fields["window"])].append(str(fields["query"]))
        except (ValueError, KeyError, TypeError):
            continue  # the sample only calibrates, so a shorter one is no failure
    return windows


def write_windows(home: Path, windows: WindowQueries, number: int, texts: Sequence[str]) -> None:
    """Add a sample of `texts`, the queries of window `number`, and drop the oldest windows."""
    sample = Sample(QUERIES, seed=number)
    sample.add(texts)
    earlier = {window: queries for window, queries in windows.items() if number - WINDOWS < window < number}
    rows = [(window, query) for window, queries in (earlier | {number: sample.texts}).items() for query in queries]
    write_text(
        home / FILE,
        "".join(json.dumps({"window": window, "query": query}, ensure_ascii=False) + "\n" for window, query in rows),
    )


def rescore(served: ServingRelease, windows: WindowQueries) -> Mapping[int, NormalWindow]:
    """Measure the sampled queries of earlier windows with the serving encoder. Its own queries are left out."""
    texts = [
        (number, text)
        for number, queries in windows.items()
        for text in skip_known(served.reference, iter(queries), np.zeros(0, np.uint64))
    ]
    if not texts:
        return {}
    reference = served.reference
    vectors, scores, _ = search_queries(served.encoder, served.embeddings, [text for _, text in texts])
    low = (scores < reference.receipt.low_score) - reference.usual_low(vectors) + LOW
    unfamiliarity = reference.unfamiliarity(vectors, scores)
    numbers = np.array([number for number, _ in texts])
    measured = {}
    for number in np.unique(numbers):
        chosen = numbers == number
        measured[int(number)] = NormalWindow(
            queries=int(chosen.sum()), low=float(low[chosen].mean()), unfamiliarity=float(unfamiliarity[chosen].mean())
        )
    return measured


class Repetition:
    """Recognize a window whose queries are those of an earlier window, such as a log that is delivered twice."""

    def __init__(self, windows: WindowQueries) -> None:
        self._windows = {number: set(queries) for number, queries in windows.items() if len(queries) >= FEWEST}
        self._all = set[str]().union(*self._windows.values())
        self._seen: set[str] = set()

    def watch(self, texts: Iterator[str]) -> Iterator[str]:
        """Yield the texts, and remember those of earlier windows."""
        for text in texts:
            if text in self._all:
                self._seen.add(text)
            yield text

    def find(self, queries: int, sizes: Mapping[int, int]) -> int:
        """Return the number of the latest window that is repeated; 0 if none is.

        queries: in the new window. sizes: number of queries of earlier windows.
        """
        for number in sorted(self._windows, reverse=True):
            sampled = self._windows[number]
            fits = queries <= LARGER * sizes.get(number, 0)
            if fits and len(sampled & self._seen) >= SAME * len(sampled):
                return number
        return 0
