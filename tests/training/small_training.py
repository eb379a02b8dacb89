"""Test data for training: a snapshot of 60 passages with mined negatives, and a short training run."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.files import produce
from tasks.core.base.receipts import Encoder, Negatives, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.snapshot.reader import PASSAGES, QRELS, QUERIES
from tasks.core.text.normalization import text_hash
from tasks.core.training import trainer

Qrel = tuple[str, str, str]  # query, passage, split
THINGS = ["river", "castle", "violin", "engine", "orchid", "glacier", "market", "lantern", "falcon", "harbour"]
TRAITS = ["ancient", "silent", "golden", "broken", "distant", "narrow"]


def small_settings(home: Path, model: Path, **training: object) -> Settings:
    """Return settings for a training of nine steps in float32."""
    dials = {"batch_size": 8, "epochs": 2, "learning_rate": 1e-3, "checkpoint_every": 3, "precision": "fp32"}
    return Settings.model_validate(
        {
            "home": home,
            "encoder": {"model": str(model), "passage_tokens": 24},
            "training": {**dials, "evaluate_every": 0, **training},
            "embedding": {"precision": "fp32"},
        }
    )


def snapshot_of(home: Path, texts: dict[str, str], queries: dict[str, str], qrels: list[Qrel]) -> Snapshot:
    """Write a snapshot of these passages, queries, and positives."""

    def build(folder: Path) -> dict[str, object]:
        ids = sorted(texts)
        hashes = [text_hash("", texts[passage]) for passage in ids]
        columns = {"passage_id": ids, "title": [""] * len(ids), "text": [texts[passage] for passage in ids]}
        pq.write_table(pa.table({**columns, "text_hash": hashes}), folder / PASSAGES)
        query_ids = sorted(queries)
        pq.write_table(
            pa.table({"query_id": query_ids, "text": [queries[query] for query in query_ids]}), folder / QUERIES
        )
        ordered = sorted(qrels, key=lambda qrel: (qrel[2], qrel[0], qrel[1]))
        names = ("query_id", "passage_id", "split")
        table = {name: [qrel[place] for qrel in ordered] for place, name in enumerate(names)}
        relevance = pa.array([1] * len(ordered), pa.int32())
        pq.write_table(pa.table({**table, "relevance": relevance}), folder / QRELS)
        splits = {split: len({q for q, _, of in qrels if of == split}) for split in {of for _, _, of in qrels}}
        return {"rows": len(ids), "queries": len(query_ids), "qrels": len(qrels), "splits": splits}

    return produce(home, Snapshot, {"texts": texts, "queries": queries, "qrels": qrels}, build)


def stories(home: Path, things: list[str] = THINGS, traits: list[str] = TRAITS) -> Snapshot:
    """Write a snapshot with one passage and one query per pair of trait and thing: 60 % train, 20 % dev, 20 % test."""
    pairs = [f"{trait} {thing}" for trait in traits for thing in things]
    texts = {f"p{n}": f"the story of a {pair} told near one {pair.split()[1]}" for n, pair in enumerate(pairs)}
    queries = {f"q{n}": f"where was the {pair} seen" for n, pair in enumerate(pairs)}
    splits = ["train", "train", "train", "dev", "test"]
    return snapshot_of(home, texts, queries, [(f"q{n}", f"p{n}", splits[n % 5]) for n in range(len(pairs))])


def negatives_of(home: Path, pairs: list[tuple[str, str]], **columns: list[float]) -> Negatives:
    """Write these pairs of query and passage as mined negatives."""

    def build(folder: Path) -> dict[str, object]:
        ids = {"query_id": [query for query, _ in pairs], "passage_id": [passage for _, passage in pairs]}
        types = {"query_id": pa.string(), "passage_id": pa.string()}
        table = pa.table({name: pa.array(values, types.get(name)) for name, values in {**ids, **columns}.items()})
        pq.write_table(table, folder / "negatives.parquet")
        return {"rows": len(pairs), "round": 0, "queries": 1, "starved": 0, "candidates": len(pairs), "refused": {}}

    return produce(home, Negatives, {"pairs": pairs, "columns": columns}, build)


def next_passages(home: Path, snapshot: Snapshot) -> Negatives:
    """Write two negatives for each training query of `stories`: the next two passages."""
    count = snapshot.queries
    pairs = [(f"q{n}", f"p{(n + step) % count}") for n in range(count) if n % 5 < 3 for step in (1, 2)]
    return negatives_of(home, pairs)


def trained(snapshot: Snapshot, settings: Settings, **more: Snapshot | None) -> Encoder:
    """Train the base model of the settings."""
    base = trainer.base_encoder(settings.home, snapshot, settings)
    mined = next_passages(settings.home, snapshot)
    return trainer.train(settings.home, base, snapshot, mined, settings, older=more.get("older"))
