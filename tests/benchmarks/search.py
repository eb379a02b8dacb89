"""The searcher beside bare pymilvus with the same encoder, and publishing beside bare `insert` of the same vectors.

    python tests/benchmarks/search.py [--rows 75000] [--uri http://127.0.0.1:19530] [--index IVF_FLAT] [--queries 500]

Passages are random words, vectors random and of unit length, drawn by the hash of the text: an encoder that costs next
to nothing, so that what the searcher adds shows as much as it can. Searches of both sides alternate, query by query, on
one collection, with texts in the answers; each side has one thread. Inserting and publishing alternate --turns times,
carry the same fields, and run in processes of their own, from the connection to the collection loaded; figures are
those of the median turn. Memory is the resident peak of the process, which on the embedded Milvus holds the whole
database as well, and of bare inserting all passages. Without --uri it is the embedded Milvus.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
from drawn_corpus import DrawnEncoder, artifacts, words

from tasks.core.base.memory import Peak
from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.sections.indexes import search_params
from tasks.core.base.settings import Settings
from tasks.core.embedding.stored_shards import matrix
from tasks.core.release.generation import Parts
from tasks.core.release.ledger import Generation
from tasks.core.release.milvus.collection import METRIC, connect, create, key_of
from tasks.core.release.publish import publish, serving
from tasks.core.release.rows import rows_with_vectors
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.searcher import Searcher

K = 10


def main() -> None:
    """Prepare, load twice, search, print one line each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=75_000)
    arguments.add_argument("--dimension", type=int, default=384)
    arguments.add_argument("--queries", type=int, default=500)
    arguments.add_argument("--turns", type=int, default=3)
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
        taken: dict[str, list[dict[str, float]]] = {"insert": [], "publish": []}
        for turn in range(chosen.turns):
            if turn:
                clear(chosen)
            chosen.home = linked(Path(folder), turn)
            for step, found in taken.items():
                found.append(in_own_process(step, chosen.home))
        figures = {
            step: sorted(found, key=lambda one: one["seconds"])[len(found) // 2] for step, found in taken.items()
        }
        for step, one in figures.items():
            each = ", ".join(f"{other['seconds']:.1f}" for other in taken[step])
            print(f"{step:<8} " + ", ".join(f"{name} {value:,.1f}" for name, value in one.items()) + f" (of {each} s)")
        for name in ("rows a second", "inserting alone"):
            share = figures["publish"][name] / figures["insert"][name]
            print(f"publish: {name}, {share:.2f} of the bare rate")
        search(chosen)
        clear(chosen)


def linked(source: Path, turn: int) -> Path:
    """A home with nothing of its own but the same artifacts."""
    home = source / f"turn{turn}"
    home.mkdir()
    for kind in (Encoder, Snapshot, Embeddings):
        (home / kind.shelf).symlink_to(source / kind.shelf)
    return home


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
    """What is released, made on first use."""
    made = artifacts(chosen.home, chosen.rows, chosen.dimension)
    return Parts(*made, settings_of(chosen).milvus, DrawnEncoder)


def insert(chosen: argparse.Namespace) -> dict[str, float]:
    """What a person would write: rows in memory, `insert`, flush, index, load; nothing is looked at."""
    import pymilvus  # noqa: F401

    parts, settings = parts_of(chosen), settings_of(chosen)
    identity = parts.identity(Generation(1, "bareba5e", False, False, f"bare_{settings.milvus.alias}"))
    batches = [
        (batch.drop_columns(["vector"]), matrix(batch["vector"], batch["vector"].type.list_size))
        for batch in rows_with_vectors(parts.snapshot, parts.embeddings, settings.milvus.batch_rows)
    ]
    with Peak() as peak:
        start = time.perf_counter()
        client = connect(chosen.uri or str(chosen.home / "bare.db"))
        create(client, identity)
        for texts, numbers in batches:
            client.insert(
                identity.collection,
                [{**row, "vector": vector} for row, vector in zip(texts.to_pylist(), numbers, strict=True)],
            )
        inserted = time.perf_counter() - start
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
    return {
        "rows a second": chosen.rows / seconds,
        "inserting alone": chosen.rows / inserted,
        "seconds": seconds,
        "peak MiB": peak.mb,
    }


def release(chosen: argparse.Namespace) -> dict[str, float]:
    """`publish`, and of it the time from the first row read to the collection loaded, as `insert` has it.

    On top come giving back its memory (or syncing its files), all checks and the move of the pointer.
    """
    parts, settings = parts_of(chosen), settings_of(chosen)
    milvus = open_publisher(settings.home, settings.milvus)
    said: dict[str, float] = {}

    class Steps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            for word in ("building", "inserted", "indexed"):
                if word in record.getMessage():
                    said[word] = time.perf_counter()  # the last of them

    logger = logging.getLogger("nightshift.release")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Steps())
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
    inserted, loaded = (said[word] - said["building"] for word in ("inserted", "indexed"))
    return {
        "rows a second": chosen.rows / loaded,
        "inserting alone": chosen.rows / inserted,
        "seconds": loaded,
        "with all checks": whole,
        "peak MiB": made.peak_mb,
    }


def search(chosen: argparse.Namespace) -> None:
    """Ours and bare pymilvus in turn, on the same collection."""
    parts, settings = parts_of(chosen), settings_of(chosen)
    asked = [" ".join(words(n, 6)) for n in range(chosen.queries)]
    taken: dict[str, list[float]] = {"searcher": [], "bare": []}
    with Searcher.open(settings, DrawnEncoder) as searcher:
        pointer = open_publisher(settings.home, settings.milvus).serving()
        assert pointer is not None
        reader = open_publisher(settings.home, settings.milvus).open(pointer.collection)
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


def clear(chosen: argparse.Namespace) -> None:
    """Remove what a turn left on a server."""
    if chosen.uri:
        client, milvus = connect(chosen.uri), open_publisher(settings_of(chosen))
        client.drop_alias(settings_of(chosen).milvus.alias)
        for name in milvus.collections():
            client.drop_collection(name)


if __name__ == "__main__":
    main()
