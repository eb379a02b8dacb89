"""The searcher compared with bare pymilvus and the same encoder, and publishing compared with bare `insert`.

    python tests/benchmarks/search.py [--rows 75000] [--uri http://127.0.0.1:19530] [--index IVF_FLAT] [--queries 500]

Passages are random words, and vectors are random unit vectors seeded by the hash of the text. Such an encoder costs
almost nothing, so the overhead of the searcher is fully visible. Searches of both sides alternate query by query on the
same collection, with texts in the answers and one thread each. Insert and publish alternate --turns times with the same
fields, in separate processes, from the connection to the loaded collection; the values are those of the median turn.
Memory is the peak resident memory of the process. On the embedded Milvus it includes the database; for bare insert it
includes all passages. Without --uri, the benchmark uses the embedded Milvus.
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
from unmeasured_release import publish_unmeasured

from tasks.core.base.memory import Peak
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.base.sections.indexes import search_params
from tasks.core.base.settings import Settings
from tasks.core.embedding.stored_shards import matrix
from tasks.core.release.generation import Parts
from tasks.core.release.ledger import Generation
from tasks.core.release.milvus.collection import METRIC, connect, create, key_of
from tasks.core.release.rows import rows_with_vectors
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.searcher import Searcher

K = 10


def main() -> None:
    """Load by insert and publish in turns, search, and print a line for each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=75_000, help="passages")
    arguments.add_argument("--dimension", type=int, default=384, help="dimension of the vectors")
    arguments.add_argument("--queries", type=int, default=500, help="queries of each side")
    arguments.add_argument("--turns", type=int, default=3, help="turns of insert and publish")
    arguments.add_argument("--uri", default="", help="address of a Milvus server; default: embedded")
    arguments.add_argument("--index", default="IVF_FLAT", help="index type")
    arguments.add_argument("--step", choices=["insert", "publish"], help=argparse.SUPPRESS)
    arguments.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.step:
        print(json.dumps({"insert": insert, "publish": release}[chosen.step](chosen)))
        return
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as folder:
        chosen.home = Path(folder)
        parts_of(chosen)
        print(f"{chosen.rows:,} passages, {chosen.dimension} dimensions, {chosen.index}, {chosen.uri or 'embedded'}")
        results: dict[str, list[dict[str, float]]] = {"insert": [], "publish": []}
        for turn in range(chosen.turns):
            if turn:
                clear(chosen)
            chosen.home = link_home(Path(folder), turn)
            for step, turns in results.items():
                turns.append(run_in_process(step, chosen.home))
        medians = {
            step: sorted(turns, key=lambda turn: turn["seconds"])[len(turns) // 2] for step, turns in results.items()
        }
        for step, median in medians.items():
            each = ", ".join(f"{turn['seconds']:.1f}" for turn in results[step])
            values = ", ".join(f"{name} {value:,.1f}" for name, value in median.items())
            print(f"{step:<8} {values} (turns: {each} s)")
        for name in ("rows/s", "rows/s of inserts"):
            share = medians["publish"][name] / medians["insert"][name]
            print(f"publish: {name}, {share:.2f} of the rate of bare insert")
        search(chosen)
        clear(chosen)


def link_home(source: Path, turn: int) -> Path:
    """Create a home that links to the artifacts of `source`."""
    home = source / f"turn{turn}"
    home.mkdir()
    for kind in (Encoder, Snapshot, Embeddings):
        (home / kind.shelf).symlink_to(source / kind.shelf)
    return home


def run_in_process(step: str, home: Path) -> dict[str, float]:
    """Run a step in a new process; return its measurements."""
    command = [sys.executable, __file__, *sys.argv[1:], "--step", step, "--home", str(home)]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return measured


def settings_of(chosen: argparse.Namespace) -> Settings:
    """Return the settings, without a minimum recall: random vectors have no neighborhoods to index."""
    alias = f"bench_{zlib.crc32(str(chosen.home).encode()):08x}"
    milvus = {"uri": chosen.uri, "index": chosen.index, "alias": alias, "min_recall": 0.0, "notice_seconds": 0}
    return Settings(home=chosen.home, milvus=milvus)  # type: ignore[arg-type]


def parts_of(chosen: argparse.Namespace) -> Parts:
    """Return the artifacts to release; build them on first use."""
    made = artifacts(chosen.home, chosen.rows, chosen.dimension)
    return Parts(*made, settings_of(chosen).milvus, DrawnEncoder)


def insert(chosen: argparse.Namespace) -> dict[str, float]:
    """Load as a plain script would: rows in memory, `insert`, flush, index, load, without checks."""
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
        "rows/s": chosen.rows / seconds,
        "rows/s of inserts": chosen.rows / inserted,
        "seconds": seconds,
        "peak MiB": peak.mb,
    }


def release(chosen: argparse.Namespace) -> dict[str, float]:
    """Measure `publish` from the first row to the loaded collection, as for `insert`, and with all checks.

    The rest is releasing memory (or syncing files), the checks, and moving the pointer.
    """
    parts, settings = parts_of(chosen), settings_of(chosen)
    milvus = open_publisher(settings.home, settings.milvus)
    times: dict[str, float] = {}

    class Steps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            for word in ("building", "inserted", "indexed"):
                if word in record.getMessage():
                    times[word] = time.perf_counter()  # the last such line counts

    logger = logging.getLogger("nightshift.release")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Steps())
    start = time.perf_counter()
    published = publish_unmeasured(
        settings, parts.encoder, parts.embeddings, parts.snapshot, loader=DrawnEncoder, publisher=milvus
    )
    total = time.perf_counter() - start
    inserted, loaded = (times[word] - times["building"] for word in ("inserted", "indexed"))
    return {
        "rows/s": chosen.rows / loaded,
        "rows/s of inserts": chosen.rows / inserted,
        "seconds": loaded,
        "with all checks": total,
        "peak MiB": published.peak_mb,
    }


def search(chosen: argparse.Namespace) -> None:
    """Search with the searcher and bare pymilvus in turns on the same collection."""
    parts, settings = parts_of(chosen), settings_of(chosen)
    queries = [" ".join(words(n, 6)) for n in range(chosen.queries)]
    seconds_by_side: dict[str, list[float]] = {"searcher": [], "bare": []}
    with Searcher.open(settings, DrawnEncoder) as searcher:
        pointer = open_publisher(settings.home, settings.milvus).serving()
        assert pointer is not None
        reader = open_publisher(settings.home, settings.milvus).open(pointer.collection)
        encoder, client, name = DrawnEncoder(parts.encoder.path), reader._client, reader.identity.collection  # type: ignore[attr-defined]
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

        for query in queries[:20]:
            assert ours(query) == bare(query)
        for turn, query in enumerate(queries):
            for side, call in sorted((("searcher", ours), ("bare", bare)), reverse=bool(turn % 2)):
                start = time.perf_counter()
                call(query)
                seconds_by_side[side].append(time.perf_counter() - start)
        reader.close()
    for side, seconds in seconds_by_side.items():
        p50, p99 = (1000 * float(np.percentile(seconds, share)) for share in (50, 99))
        print(f"{side:<8} {len(seconds) / sum(seconds):,.0f} queries/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    ratio = float(np.median(seconds_by_side["searcher"]) / np.median(seconds_by_side["bare"]))
    print(f"the searcher takes {100 * (ratio - 1):+.1f} % of the bare time at the median")


def clear(chosen: argparse.Namespace) -> None:
    """Remove the collections of a turn from a server."""
    if chosen.uri:
        settings = settings_of(chosen)
        client, milvus = connect(chosen.uri), open_publisher(settings.home, settings.milvus)
        client.drop_alias(settings.milvus.alias)
        for name in milvus.collections():
            client.drop_collection(name)


if __name__ == "__main__":
    main()
