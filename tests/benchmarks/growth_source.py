"""A collection of any size from real texts, for the benchmark of growth: passages, queries, and 1 % changes.

Passage `row` beyond the original passages joins two windows of words, each from another original passage, so copies
differ in words, lengths, and topics. Its query joins halves of the titles of both. Everything is a function of the row,
so a collection of a million passages is written without holding it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from beir_files import read_rows, write_qrels, write_rows

WINDOW = 30  # words of each window
CYCLE = 300  # rows of which one is edited, one deleted, and one new in the refresh night: 1 % of the passages
STRIDE = 7919  # a prime: the second passage of a copy is this number of rows further, for each copy


class GrowingCollection:
    """The original texts, and the collections made of them.

    Args:
        folder: a collection in BEIR layout in which query `t-ID` or the qrels name the title of a passage.
        share: share of the passages with a query; a tenth of these queries are dev, a tenth test.
    """

    def __init__(self, folder: Path, share: float) -> None:
        titles = {row["_id"]: row["text"].split() for row in read_rows(folder / "queries.jsonl")}
        pairs = [line.split("\t")[:2] for file in sorted((folder / "qrels").glob("*.tsv")) for line in _lines(file)]
        title_of = {passage: titles[query] for query, passage in pairs if query in titles}
        rows = ((row["_id"], row["text"].split()) for row in read_rows(folder / "corpus.jsonl"))
        self._texts = [(words, title_of[name]) for name, words in rows if name in title_of]
        self._every = max(1, round(1 / share))

    def write(self, folder: Path, size: int, *, changed: bool) -> int:
        """Write a collection of `size` passages; with `changed`, a third of 1 % new, edited, and deleted each.

        Returns:
            The number of queries.
        """
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        write_rows(folder / "corpus.jsonl", self._passages(size, changed))
        judged = [row for row in range(size) if self._has_query(row)]
        write_rows(folder / "queries.jsonl", ({"_id": f"q{row}", "text": self._query(row)} for row in judged))
        for split, tenths in (("dev", {8}), ("test", {9}), ("train", set(range(8)))):
            rows = (row for row in judged if row // self._every % 10 in tenths)
            write_qrels(folder, split, ((f"q{row}", f"p{row}") for row in rows))
        return len(judged)

    def user_queries(self, count: int) -> list[str]:
        """Return queries about the first original passages, as a user would send them."""
        return [" ".join(title) for _, title in self._texts[:count]]

    def _has_query(self, row: int) -> bool:
        return row % self._every == 0 and row % CYCLE not in (1, 2, 3)

    def _passages(self, size: int, changed: bool) -> Iterator[dict[str, str]]:
        for row in range(size):
            place = row % CYCLE
            if place == (2 if changed else 3):  # deleted in the refresh night; new in it
                continue
            text = self._text(row) + (" (revised)" if changed and place == 1 else "")
            yield {"_id": f"p{row}", "title": "", "text": text}

    def _parts(self, row: int) -> tuple[int, int, int]:
        copy, first = divmod(row, len(self._texts))
        return copy, first, (first + STRIDE * (copy + 1)) % len(self._texts)

    def _text(self, row: int) -> str:
        copy, first, second = self._parts(row)
        return " ".join(_window(self._texts[first][0], copy) + _window(self._texts[second][0], copy + 1))

    def _query(self, row: int) -> str:
        _, first, second = self._parts(row)
        return " ".join(_half(self._texts[first][1], 0) + _half(self._texts[second][1], 1))


def _window(words: list[str], copy: int) -> list[str]:
    start = copy * WINDOW % max(1, len(words) - WINDOW)
    return words[start : start + WINDOW]


def _half(words: list[str], second: int) -> list[str]:
    middle = (len(words) + 1) // 2
    return words[middle:] if second else words[:middle]


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()[1:]
