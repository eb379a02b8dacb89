"""Small test data for releases: passages, an encoder that hashes words, and its vectors, in the pipeline's layout.

Run as a program, it publishes a night and sends itself a signal (to kill or stop) when a given line is logged.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import zlib
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.files import file_digest, produce, read_receipt, write_json
from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.release.publish import publish, serving
from tasks.core.release.vector_stores import open_publisher
from tasks.core.text.normalization import full_text, text_hash

PASSAGES, DIMENSION, SHARDS = 200, 24, 3
WORDS = ["lamp", "river", "stone", "cloud", "paper", "engine", "orchard", "violin", "harbour", "copper", "meadow"]


def small(home, release=None, **milvus) -> Settings:
    """Return settings of a small home: no grace period for old releases, and no thread that watches the pointer."""
    return Settings(
        home=home,
        milvus={"batch_rows": 64, "samples": 16, "grace_minutes": 0, "notice_seconds": 0, **milvus},
        release=release or {},
    )


def with_milvus(settings, **changed) -> Settings:
    """Return the settings with changes in `[milvus]`."""
    return small(settings.home, settings.release, **{**settings.milvus.model_dump(exclude_unset=True), **changed})


def as_text(settings) -> str:
    """Serialize settings for another process, which reads them with `settings_from`."""
    release = {"ledger": settings.release.ledger, "password": settings.release.password.get_secret_value()}
    milvus = settings.milvus.model_dump(mode="json", exclude={"token"})
    return json.dumps({"home": str(settings.home), "release": release, **milvus})


def lose_ledger(settings) -> None:
    """Remove the ledger of a home, in SQLite or PostgreSQL."""
    if settings.release.ledger:
        import psycopg

        password = settings.release.password.get_secret_value()
        with psycopg.connect(settings.release.ledger, password=password) as connection:
            connection.execute(f'DROP SCHEMA "ledger_{settings.milvus.alias}" CASCADE')
    for file in settings.home.glob("ledger.sqlite*"):
        file.unlink()


def settings_from(text) -> Settings:
    """Parse settings written by `as_text`."""
    return small(**json.loads(text))


class HashingEncoder:
    """Encode a text as the sum of a random vector per word, seeded by the weights file. Similar texts are close."""

    def __init__(self, folder: Path) -> None:
        weights = folder / "weights.json"
        self.fingerprint = file_digest(weights)[:20]
        self.seed, self.dimension, self.unit = json.loads(weights.read_text())

    def encode_passages(self, texts):
        words = [[word_vector(self.seed, self.dimension, word) for word in text.split()] for text in texts]
        vectors = np.stack([sum(several) for several in words]).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if self.unit else vectors

    encode_queries = encode_passages


@cache
def word_vector(seed, dimension, word):
    return np.random.default_rng([seed, zlib.crc32(word.encode())]).standard_normal(dimension)


def texts(count=PASSAGES, tag=""):
    rng = np.random.default_rng(7)
    return [
        {
            "passage_id": f"p{i:04d}",
            "title": f"entry {i}",
            "text": " ".join([*rng.choice(WORDS, 6), f"n{i}", tag or "v"]),
        }
        for i in range(count)
    ]


def snapshot_of(home, rows) -> Snapshot:
    def build(folder):
        hashed = [{**row, "text_hash": text_hash(row["title"], row["text"])} for row in rows]
        pq.write_table(pa.Table.from_pylist(hashed), folder / "passages.parquet", row_group_size=64)
        queries = [{"query_id": f"q{i}", "text": " ".join(row["text"].split()[:8])} for i, row in enumerate(rows[:20])]
        pq.write_table(pa.Table.from_pylist(queries), folder / "queries.parquet")
        judged = [{"query_id": f"q{i}", "passage_id": rows[i]["passage_id"]} for i in range(len(queries))]
        judged = [{**pair, "relevance": 1, "split": "train"} for pair in judged]
        pq.write_table(pa.Table.from_pylist(judged), folder / "qrels.parquet")
        return {"rows": len(rows), "queries": len(queries), "qrels": len(judged), "splits": {"train": len(judged)}}

    return produce(home, Snapshot, {"rows": rows}, build)


def encoder_of(home, seed=1, dimension=DIMENSION, unit=True) -> Encoder:
    def build(folder):
        write_json(folder / "weights.json", [seed, dimension, unit])
        fingerprint = HashingEncoder(folder).fingerprint
        fields = {"dimension": dimension, "base": "", "steps": 0, "precision": "fp32", "fidelity": 1.0}
        return {"rows": 0, "fingerprint": fingerprint, "passage_fingerprint": f"passages-{fingerprint}", **fields}

    return produce(home, Encoder, {"seed": seed, "dimension": dimension, "unit": unit}, build)


def vectors_of(encoder, snapshot):
    rows = pq.read_table(snapshot.path / "passages.parquet").to_pylist()
    return HashingEncoder(encoder.path).encode_passages([full_text(row["title"], row["text"]) for row in rows])


def embeddings_of(home, encoder, snapshot, vectors=None) -> Embeddings:
    """Store vectors in three shards. `vectors` (n, dimension) replaces the encoder's vectors, to test wrong ones."""
    named = {"encoder": encoder.digest, "snapshot": snapshot.digest, "lie": vectors is not None}

    def build(folder):
        made = vectors_of(encoder, snapshot) if vectors is None else vectors
        flat = pa.array(made.astype(np.float32).ravel())
        table = pq.read_table(snapshot.path / "passages.parquet", columns=["passage_id", "text_hash"])
        table = table.append_column("vector", pa.FixedSizeListArray.from_arrays(flat, made.shape[1]))
        for rank in range(SHARDS):
            first, last = (len(table) * r // SHARDS for r in (rank, rank + 1))
            pq.write_table(table.slice(first, last - first), folder / f"shard-{rank:05d}-of-{SHARDS:05d}.parquet")
        fields = {"dimension": made.shape[1], "shards": SHARDS, "embedded": len(table), "avoided": 0, "tokens": 0}
        return {"rows": len(table), "fingerprint": encoder.passage_fingerprint, "snapshot": snapshot.digest, **fields}

    return produce(home, Embeddings, named, build)


def release_night(
    settings,
    *,
    seed=1,
    tag="",
    epoch=None,
    snapshot=None,
    embeddings=None,
    loader=HashingEncoder,
    publisher=None,
    **encoder,
) -> Release:
    """Publish `snapshot`, or the passages of `tag`, with the encoder of `seed`."""
    home = settings.home
    made, snapshot = encoder_of(home, seed, **encoder), snapshot or snapshot_of(home, texts(tag=tag))
    return publish(
        settings,
        encoder=made,
        embeddings=embeddings or embeddings_of(home, made, snapshot),
        snapshot=snapshot,
        metrics={"ndcg@10": seed / 100},
        bm25={"ndcg@10": 0.5},
        base={"ndcg@10": 0.5},
        previous=None,
        recipe="recipe",
        reason=f"seed {seed}",
        expected_epoch=serving(settings)[1] if epoch is None else epoch,
        loader=loader,
        publisher=publisher,
    )


def served(settings) -> str | None:
    release, _ = serving(settings)
    return None if release is None else release.release


def recorded(home, name) -> Release:
    release = read_receipt(home / Release.shelf / name, Release)
    assert release is not None
    return release


class At(logging.Handler):
    """Call `act` once, when a line is logged."""

    def __init__(self, line: str, act) -> None:
        super().__init__()
        self.line, self.act = line, act

    def emit(self, record: logging.LogRecord) -> None:
        if self.act is not None and self.line in record.getMessage():
            act, self.act = self.act, None
            act()


@contextmanager
def at(line, act):
    """Call `act` when the code in this context logs a message that contains `line`."""
    logger, handler = logging.getLogger("nightshift.release"), At(line, act)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def main(settings, seed, line, name) -> None:
    """Publish the night of `seed`, and send this process the signal `name` when `line` is logged or the pointer moves.

    The line "flip" stands for the moment between the last check and the move of the pointer.
    """
    settings, publisher = settings_from(settings), None

    def strike():
        os.kill(os.getpid(), signal.Signals[name])

    if line == "flip":
        publisher = open_publisher(settings)
        move, publisher.move_pointer = publisher.move_pointer, lambda pointer: (strike(), move(pointer))
    with at(line, strike):
        release_night(settings, seed=int(seed), publisher=publisher)


if __name__ == "__main__":
    main(*sys.argv[1:])
