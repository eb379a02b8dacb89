"""The searcher beside bare pymilvus with the same encoder, and publishing beside bare `insert` of the same vectors.

    python tests/benchmarks/search.py [--rows 75000] [--uri http://127.0.0.1:19530] [--index IVF_FLAT] [--queries 500]

Passages are random words, vectors random and of unit length, drawn by the hash of the text: an encoder that costs next
to nothing, so that what the searcher adds shows as much as it can. Searches of both sides alternate, query by query, on
one collection, with texts in the answers; each side has one thread. Inserting and publishing run in processes of their
own and end with the collection loaded; memory is the resident peak of that process, which on the embedded Milvus holds
the whole database as well. Without --uri it is the embedded Milvus.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.data.text import full_text, text_hash
from tasks.core.embedding.stored import matrix
from tasks.core.files import produce, write_json
from tasks.core.memory import Peak
from tasks.core.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.release.collection import METRIC, connect, create, key_of
from tasks.core.release.generation import Parts
from tasks.core.release.indexes import search_params
from tasks.core.release.ledger import Generation
from tasks.core.release.milvus import milvus_of
from tasks.core.release.publish import publish, serving
from tasks.core.release.rows import paired
from tasks.core.search.searcher import Searcher
from tasks.core.settings import Settings

WORDS = ["lamp", "river", "stone", "cloud", "paper", "engine", "orchard", "violin", "harbour", "copper", "meadow"]
SLICE = 5000  # passages made at once
K = 10


class DrawnEncoder:
    """A unit vector drawn by the hash of the text."""

    def __init__(self, folder: Path) -> None:
        fields = json.loads((folder / "drawn.json").read_text())
        self.fingerprint, self.dimension = str(fields["fingerprint"]), int(fields["dimension"])

    def encode_passages(self, texts: Sequence[str], /) -> np.ndarray:
        """Float32 (n, dimension)."""
        drawn = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(self.dimension) for text in texts]
        vectors = np.stack(drawn).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    encode_queries = encode_passages


def main() -> None:
    """Prepare, load twice, search, print one line each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=75_000)
    arguments.add_argument("--dimension", type=int, default=384)
    arguments.add_argument("--queries", type=int, default=500)
    arguments.add_argument("--uri", default="")
    arguments.add_argument("--index", default="IVF_FLAT")
    arguments.add_argument("--step", choices=["insert", "publish"], help=argparse.SUPPRESS)
    arguments.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.step:
        print(json.dumps({"insert": insert, "publish": release}[chosen.step](chosen)))
        return
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as folder:
        chosen.home = Path(folder)
        parts_of(chosen)
        print(f"{chosen.rows:,} passages, {chosen.dimension} numbers, {chosen.index}, {chosen.uri or 'embedded'}")
        figures = {step: in_own_process(step, chosen.home) for step in ("insert", "publish")}
        for step, found in figures.items():
            said = ", ".join(f"{name} {value:,.1f}" for name, value in found.items())
            print(f"{step:<8} {said}")
        share = figures["publish"]["rows a second"] / figures["insert"]["rows a second"]
        print(f"publish loads at {share:.2f} of the bare rate")
        search(chosen)


def in_own_process(step: str, home: Path) -> dict[str, float]:
    """The figures of a step, which a new process prints."""
    command = [sys.executable, __file__, *sys.argv[1:], "--step", step, "--home", str(home)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def settings_of(chosen: argparse.Namespace) -> Settings:
    """A lower recall than usual will do: vectors drawn at random have no neighbourhoods to index."""
    alias = f"bench_{zlib.crc32(str(chosen.home).encode()):08x}"
    milvus = {"uri": chosen.uri, "index": chosen.index, "alias": alias, "min_recall": 0.0, "notice_seconds": 0}
    return Settings(home=chosen.home, milvus=milvus)  # type: ignore[arg-type]


def parts_of(chosen: argparse.Namespace) -> Parts:
    """Encoder, snapshot and vectors as artifacts, made on first use."""
    home, rows, settings = chosen.home, chosen.rows, settings_of(chosen)
    named = {"rows": rows, "dimension": chosen.dimension}

    def encoder_files(folder: Path) -> dict[str, object]:
        write_json(folder / "drawn.json", {"fingerprint": "drawn", "dimension": chosen.dimension})
        fields = {"dimension": chosen.dimension, "base": "", "steps": 0, "precision": "fp32", "fidelity": 1.0}
        return {"rows": 0, "fingerprint": "drawn", "passage_fingerprint": "drawn", **fields}

    def snapshot_files(folder: Path) -> dict[str, object]:
        write_parts(folder / "passages.parquet", passages(rows))
        asked = [{"query_id": f"q{n}", "text": " ".join(words(n, 6))} for n in range(1000)]
        pq.write_table(pa.Table.from_pylist(asked), folder / "queries.parquet")
        return {"rows": rows, "queries": len(asked), "qrels": 0, "splits": {}}

    encoder = produce(home, Encoder, named, encoder_files)
    snapshot = produce(home, Snapshot, named, snapshot_files)

    def vector_files(folder: Path) -> dict[str, object]:
        write_parts(folder / "shard-00000-of-00001.parquet", vectors(snapshot, DrawnEncoder(encoder.path)))
        fields = {"dimension": chosen.dimension, "shards": 1, "embedded": rows, "avoided": 0, "tokens": 0}
        return {"rows": rows, "fingerprint": "drawn", "snapshot": snapshot.digest, **fields}

    embeddings = produce(home, Embeddings, named, vector_files)
    return Parts(encoder, embeddings, snapshot, settings.milvus, DrawnEncoder)


def words(seed: int, count: int) -> list[str]:
    """So many words, the same ones for the same seed."""
    return [*np.random.default_rng(seed).choice(WORDS, count), f"n{seed}"]


def passages(rows: int) -> Iterable[pa.Table]:
    """Passages of 60 words."""
    for first in range(0, rows, SLICE):
        texts = [" ".join(words(n, 60)) for n in range(first, min(first + SLICE, rows))]
        made = [
            {"passage_id": f"p{n}", "title": f"entry {n}", "text": text, "text_hash": text_hash(f"entry {n}", text)}
            for n, text in enumerate(texts, first)
        ]
        yield pa.Table.from_pylist(made)


def vectors(snapshot: Snapshot, encoder: DrawnEncoder) -> Iterable[pa.Table]:
    """The vectors of all passages."""
    with pq.ParquetFile(snapshot.path / "passages.parquet") as file:
        for batch in file.iter_batches(SLICE):
            table = pa.Table.from_batches([batch])
            made = encoder.encode_passages([full_text(one["title"], one["text"]) for one in batch.to_pylist()])
            column = pa.FixedSizeListArray.from_arrays(pa.array(made.ravel()), encoder.dimension)
            yield table.select(["passage_id", "text_hash"]).append_column("vector", column)


def write_parts(path: Path, tables: Iterable[pa.Table]) -> None:
    """One Parquet file of many tables."""
    writer = None
    for table in tables:
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def insert(chosen: argparse.Namespace) -> dict[str, float]:
    """What a person would write: rows in memory, `insert`, flush, index, load; nothing is looked at."""
    parts, settings = parts_of(chosen), settings_of(chosen)
    identity = parts.identity(Generation(1, "bareba5e", False, False, False, f"bare_{settings.milvus.alias}"))
    batches = [
        (batch.drop_columns(["vector"]), matrix(batch["vector"], batch["vector"].type.list_size))
        for batch in paired(parts.snapshot, parts.embeddings, settings.milvus.batch_rows)
    ]
    client = connect(chosen.uri or str(chosen.home / "bare.db"))
    create(client, identity)
    with Peak() as peak:
        start = time.perf_counter()
        for texts, numbers in batches:
            client.insert(
                identity.collection,
                [{**row, "vector": vector} for row, vector in zip(texts.to_pylist(), numbers, strict=True)],
            )
        client.flush(identity.collection)
        index = client.prepare_index_params()
        index.add_index(
            "vector",
            index_type=chosen.index,
            metric_type=METRIC,
            params={"params": json.loads(identity.index_params)},
        )
        client.create_index(identity.collection, index, sync=False)
        client.load_collection(identity.collection)
        seconds = time.perf_counter() - start
    client.drop_collection(identity.collection)
    return {"rows a second": chosen.rows / seconds, "seconds": seconds, "peak MiB": peak.mb}


def release(chosen: argparse.Namespace) -> dict[str, float]:
    """The whole of `publish`, and of it the building; checks and the move of the pointer come on top."""
    parts, settings = parts_of(chosen), settings_of(chosen)
    milvus = milvus_of(settings)
    build, taken = milvus.build, []

    def timed(*given: object) -> None:
        start = time.perf_counter()
        build(*given)  # type: ignore[arg-type]
        taken.append(time.perf_counter() - start)

    milvus.build = timed  # type: ignore[method-assign]
    start = time.perf_counter()
    made: Release = publish(
        settings,
        encoder=parts.encoder,
        embeddings=parts.embeddings,
        snapshot=parts.snapshot,
        metrics={},
        bm25={},
        base={},
        previous=None,
        recipe="",
        reason="benchmark",
        expected_epoch=serving(settings)[1],
        loader=DrawnEncoder,
        publisher=milvus,
    )
    whole = time.perf_counter() - start
    return {
        "rows a second": chosen.rows / taken[0],
        "seconds": taken[0],
        "with all checks": whole,
        "peak MiB": made.peak_mb,
    }


def search(chosen: argparse.Namespace) -> None:
    """Ours and bare pymilvus in turn, on the same collection."""
    parts, settings = parts_of(chosen), settings_of(chosen)
    asked = [" ".join(words(n, 6)) for n in range(chosen.queries)]
    taken: dict[str, list[float]] = {"searcher": [], "bare": []}
    with Searcher.open(settings, DrawnEncoder) as searcher:
        pointer = milvus_of(settings).serving()
        assert pointer is not None
        reader = milvus_of(settings).open(pointer.collection)
        encoder, client, name = DrawnEncoder(parts.encoder.path), reader._client, reader.identity.collection
        built = json.loads(reader.identity.index_params)
        plain = {"metric_type": METRIC, "params": search_params(chosen.index, K, built, {})}

        def ours(query: str) -> list[str]:
            return [hit.passage_id for hit in searcher.search([query], K)[0].hits]

        def bare(query: str) -> list[str]:
            (hits,) = client.search(
                name,
                data=encoder.encode_queries([query]),
                limit=K,
                output_fields=["row", "title", "text", "whole"],
                search_params=plain,
                consistency_level="Eventually",
            )
            return [key_of(hit) for hit in hits]

        for query in asked[:20]:
            assert ours(query) == bare(query)
        for turn, query in enumerate(asked):
            for side, call in sorted((("searcher", ours), ("bare", bare)), reverse=bool(turn % 2)):
                start = time.perf_counter()
                call(query)
                taken[side].append(time.perf_counter() - start)
        reader.close()
    for side, seconds in taken.items():
        p50, p99 = (1000 * float(np.percentile(seconds, share)) for share in (50, 99))
        print(f"{side:<8} {len(seconds) / sum(seconds):,.0f} queries/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    ratio = float(np.median(taken["searcher"]) / np.median(taken["bare"]))
    print(f"the searcher takes {100 * (ratio - 1):+.1f} % of the bare time at the median")
    if chosen.uri:
        client = connect(chosen.uri)
        client.drop_alias(settings.milvus.alias)
        client.drop_collection(name)


if __name__ == "__main__":
    main()
