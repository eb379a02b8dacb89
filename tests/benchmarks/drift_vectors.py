"""Data of the drift benchmark: texts of real collections, their vectors, and the best passages of each query.

The product's own encoder computes the vectors, and a folder caches them, so that later draws encode nothing. A seed
decides which part of the corpus is held back and which queries are damaged.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from beir_files import read_positives, read_rows

from tasks.core.base.files import digest_of
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.base_model import find_base
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec, start_from
from tasks.core.text.normalization import full_text

LETTERS = "abcdefghijklmnopqrstuvwxyz"
FOCUS = re.compile(
    r"^(what is \(are\)|what are the symptoms of|what causes|how to diagnose|do you have information about)"
)

GERMAN = {  # the templates of MedQuAD's questions
    "What are the symptoms of": "Welche Symptome hat",
    "What are the treatments for": "Wie behandelt man",
    "How many people are affected by": "Wie viele Menschen haben",
    "What are the genetic changes related to": "Welche genetischen Veränderungen gehören zu",
    "What is the outlook for": "Wie ist die Prognose bei",
    "Do you have information about": "Gibt es Informationen über",
    "Who is at risk for": "Wer hat ein erhöhtes Risiko für",
    "What is (are)": "Was ist",
    "What causes": "Was sind die Ursachen von",
    "How to diagnose": "Wie diagnostiziert man",
    "How to prevent": "Wie verhindert man",
}


@dataclass(frozen=True)
class Collection:
    """Texts by id, in file order, and the positives of each query."""

    passages: dict[str, str]
    queries: dict[str, str]
    positives: dict[str, set[str]]


def read_collection(folder: Path) -> Collection:
    """Read a folder in BEIR layout, plain or gzip, with all its splits."""
    positives = read_positives(folder)
    corpus = {row["_id"]: full_text(row.get("title") or "", row["text"]) for row in read_rows(folder / "corpus.jsonl")}
    queries = {row["_id"]: row["text"] for row in read_rows(folder / "queries.jsonl") if row["_id"] in positives}
    return Collection(corpus, queries, positives)


class Vectors:
    """Encode texts, and cache the vectors of each list in a folder."""

    def __init__(self, folder: Path, precision: str, model: str) -> None:
        self.folder, self.precision, self.model = folder, precision, model
        self.encoder: DualEncoder | None = None

    def encode(self, side: str, texts: Sequence[str]) -> np.ndarray:
        """Encode queries or passages as float32 (n, dimension)."""
        file = self.folder / f"{side}-{digest_of([self.precision, self.model, *texts])}.npy"
        if not file.exists():
            encoder = self._open_encoder()
            vectors = encoder.encode_queries(texts) if side == "query" else encoder.encode_passages(texts)
            np.save(file.with_suffix(".partial.npy"), vectors)
            file.with_suffix(".partial.npy").rename(file)
        loaded: np.ndarray = np.load(file)
        return loaded

    def _open_encoder(self) -> DualEncoder:
        if self.encoder is None:
            base = self.folder / f"encoder-{self.precision}"
            base.mkdir(parents=True, exist_ok=True)
            spec = EncoderSpec.of(EncoderSettings(), self.precision)  # type: ignore[arg-type]
            self.encoder = start_from(find_base(self.model), spec, base).for_inference()
        return self.encoder


def search_best(queries: np.ndarray, passages: np.ndarray, depth: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and scores (queries, depth) of the passages with the largest inner product, best first."""
    rows, scores = [], []
    for start in range(0, len(queries), 1024):
        block = queries[start : start + 1024] @ passages.T
        top = np.argpartition(-block, depth, axis=1)[:, :depth]
        value = np.take_along_axis(block, top, 1)
        order = np.argsort(-value, axis=1)
        rows.append(np.take_along_axis(top, order, 1))
        scores.append(np.take_along_axis(value, order, 1))
    return np.concatenate(rows), np.concatenate(scores)


def add_typos(text: str, rate: float, draw: random.Random) -> str:
    """Drop, double, replace, or swap letters of `text` at a rate."""
    noisy_letters, letters = [], list(text)
    while letters:
        letter = letters.pop(0)
        if letter.isalpha() and draw.random() < rate:
            kind = draw.randrange(4)
            if kind == 1:
                noisy_letters += [letter, letter]
            elif kind == 2:
                noisy_letters.append(draw.choice(LETTERS))
            elif kind == 3 and letters:
                noisy_letters += [letters.pop(0), letter]
        else:
            noisy_letters.append(letter)
    return "".join(noisy_letters)


def to_german(texts: Sequence[str]) -> list[str]:
    """Translate MedQuAD's questions with a known template; names of diseases stay. Other questions are left out."""
    return [
        text.replace(english, german, 1)
        for text in texts
        for english, german in GERMAN.items()
        if text.startswith(english)
    ]


def topic_of_queries(queries: dict[str, str], positives: dict[str, set[str]]) -> dict[str, str]:
    """Return the topic of each MedQuAD query: the name of the document that answers it."""
    name_of: dict[str, str] = {}
    document = {query: "_".join(min(ids).split("_")[:2]) for query, ids in positives.items()}
    for query, text in queries.items():
        if FOCUS.match(text.lower()):
            name_of.setdefault(document[query], FOCUS.sub("", text.lower()).strip(" ?"))
    return {query: name_of.get(document[query], document[query]) for query in queries}


def month_of(identifier: str) -> str:
    """Return year and month of an arXiv id, such as 2503."""
    return identifier.removeprefix("t-")[:4]
