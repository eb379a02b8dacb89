"""Is this traffic unfamiliar to the serving encoder and corpus? The two statistics that answer it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.data.snapshot import passages, queries
from tasks.core.data.text import full_text
from tasks.core.embedding.exact import exact_search
from tasks.core.files import produce
from tasks.core.receipts import Embeddings, Encoder, Reference, Snapshot
from tasks.core.training.encoder import load_encoder

LOW = 0.05  # the reference's own share of queries that score low
WORD = re.compile(r"\w+")


def build_reference(home: Path, encoder: Encoder, embeddings: Embeddings, snapshot: Snapshot) -> Reference:
    """Measure the held-out queries of a snapshot (every split but train), to compare later nights with.

    It holds for this encoder and this snapshot alone, so it is made anew with every release.
    """
    key = {"fingerprint": encoder.fingerprint, "embeddings": embeddings.digest, "snapshot": snapshot.digest}

    def build(_: Path) -> Mapping[str, Any]:
        held_out = [text for split in sorted(set(snapshot.splits) - {"train"}) for text in _texts(snapshot, split)]
        return {
            "rows": len(held_out),
            "fingerprint": encoder.fingerprint,
            "snapshot": snapshot.digest,
            "embeddings": embeddings.digest,
            "low_score": float(np.quantile(best_scores(encoder, embeddings, held_out), LOW)),
            "unseen_terms": unseen_share(held_out, snapshot, _texts(snapshot, "train")),
            "parents": (encoder.digest, embeddings.digest, snapshot.digest),
        }

    return produce(home, Reference, key, build)


def best_scores(encoder: Encoder, embeddings: Embeddings, texts: list[str]) -> np.ndarray:
    """The score of each query's best passage, float32 (queries,), by exact search."""
    if not texts:
        return np.zeros(0, np.float32)
    vectors = load_encoder(encoder.path).encode_queries(texts)
    return exact_search(vectors, embeddings, 1)[1][:, 0]


def unseen_share(asked: list[str], snapshot: Snapshot, known_queries: Iterable[str]) -> float:
    """Share of the terms of `asked` that stand in no passage of the snapshot and in no known query.

    Typos and broken input raise it; a new topic whose passages are there does not.
    """
    terms = [word for text in asked for word in _words(text)]
    unseen = set(terms)
    for text in known_queries:
        unseen.difference_update(_words(text))
    for batch in passages(snapshot, columns=["title", "text"]):
        for row in batch.to_pylist():
            unseen.difference_update(_words(full_text(row["title"], row["text"])))
    return sum(term in unseen for term in terms) / max(1, len(terms))


def _texts(snapshot: Snapshot, split: str) -> list[str]:
    texts: list[str] = queries(snapshot, split)["text"].to_pylist()
    return texts


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())
