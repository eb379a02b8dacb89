"""Recall@10 and latency of every index that a Milvus server has, and how fast rows get there.

    NIGHTSHIFT_TEST_MILVUS=…/milvus-server python tests/benchmarks/indexes.py [--rows 100000] [--queries 200]
    python tests/benchmarks/indexes.py --uri http://127.0.0.1:19530 [--bulk FOLDER] [--indexes HNSW,SCANN]

Vectors are drawn in clusters, as those of texts lie: a thousand directions of unequal frequency, each with 24 more
along which most of its spread lies. Queries are further draws of the same. Each index is a collection of its
own, made and searched by the project's own code: one query at a time, one thread, row numbers only in the answers.
Recall is the share of the ten passages of exact search that are found. Until an index is built, Milvus answers from a
temporary one of its own, whatever was asked for: each is waited for, to its last row, before the collection is loaded.
One that makes no progress for --patience seconds is told of. With --bulk the rows are also loaded by
bulk import from there, and both rates are told.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from clustered_rows import batches, drawn, exact, identity_of

from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.release import MilvusSettings
from tasks.core.release.milvus import collection
from tasks.core.release.milvus.bulk import bulk_insert
from tasks.core.release.milvus.collection import (
    CollectionReader,
    connect,
    convert_errors,
    create,
    fill,
    index_and_load,
)
from tasks.core.release.publisher import Identity

if TYPE_CHECKING:
    from pymilvus import MilvusClient


K = 10
TRIED: dict[str, list[dict[str, int]]] = {
    "FLAT": [{}],
    "IVF_FLAT": [{"nprobe": 8}, {"nprobe": 32}, {"nprobe": 79}],
    "IVF_SQ8": [{"nprobe": 8}, {"nprobe": 32}, {"nprobe": 79}],
    "IVF_PQ": [{"nprobe": 8}, {"nprobe": 32}, {"nprobe": 79}],
    "HNSW": [{"ef": 20}, {"ef": 64}, {"ef": 128}, {"ef": 256}],
    "SCANN": [{"nprobe": 8, "reorder_k": 40}, {"nprobe": 32, "reorder_k": 40}, {"nprobe": 79, "reorder_k": 200}],
    "DISKANN": [{"search_list": 20}, {"search_list": 100}],
}


def main() -> None:
    """Draw, start a server where none is named, measure, print a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=100_000)
    arguments.add_argument("--dimension", type=int, default=384)
    arguments.add_argument("--queries", type=int, default=200)
    arguments.add_argument("--indexes", default=",".join(TRIED))
    arguments.add_argument("--uri", default="", help="a server that runs; empty: NIGHTSHIFT_TEST_MILVUS is started")
    arguments.add_argument(
        "--bulk", default="", help="a folder that the server reads too; 'own' is one beside its data"
    )
    arguments.add_argument("--patience", type=float, default=180.0)
    chosen = arguments.parse_args()
    collection.STUCK_SECONDS = chosen.patience
    vectors = drawn(chosen.rows + chosen.queries, chosen.dimension)
    passages, queries = vectors[: chosen.rows], vectors[chosen.rows :]
    best = exact(passages, queries, K)
    if chosen.uri:
        table(chosen, passages, queries, best)
        return
    from milvus_servers import real_server

    with tempfile.TemporaryDirectory(prefix="nightshift-bench-", ignore_cleanup_errors=True) as folder:
        if chosen.bulk == "own":
            chosen.bulk = folder
        with real_server(Path(folder) / "data") as chosen.uri:
            table(chosen, passages, queries, best)


def table(chosen: argparse.Namespace, passages: np.ndarray, queries: np.ndarray, best: list[set[int]]) -> None:
    """Measure every index; print a line for each way to search it."""
    with closing(connect(chosen.uri)) as client:
        print(f"Milvus {client.get_server_version()}, {len(passages):,} vectors of {chosen.dimension}\n")
        if chosen.bulk:
            compare_loading(client, passages, chosen)
        print("| index | built with | build, s | searched with | recall@10 | p50, ms | p95, ms |")
        print("|---|---|---:|---|---:|---:|---:|", flush=True)
        for index in chosen.indexes.split(","):
            identity = identity_of(index, passages)
            try:
                one_index(client, chosen, identity, passages, queries, best)
            except NightshiftError as error:
                print(f"| {index} | not built or not searched: {str(error)[:300]} | | | | | |", flush=True)
            client.drop_collection(identity.collection)


def one_index(
    client: MilvusClient,
    chosen: argparse.Namespace,
    identity: Identity,
    passages: np.ndarray,
    queries: np.ndarray,
    best: list[set[int]],
) -> None:
    """Fill, build, and search with each of the settings that are tried."""
    with convert_errors(identity.index):
        create(client, identity)
        fill(client, identity, batches(passages))
        start = time.perf_counter()
        index_and_load(client, identity)
        built = time.perf_counter() - start
        client.release_collection(identity.collection)  # the reader loads it again, with the index
    for params in TRIED[identity.index]:
        settings = MilvusSettings(uri=chosen.uri, index=identity.index, search_params=params)  # type: ignore[arg-type]
        with closing(CollectionReader(connect(chosen.uri), identity.collection, settings)) as reader:
            recall, seconds = searched(reader, queries, best)
        p50, p95 = (1000 * float(np.percentile(seconds, share)) for share in (50, 95))
        told = f"{identity.index} | {words(json.loads(identity.index_params))} | {built:.1f} | {words(params)}"
        print(f"| {told} | {recall:.3f} | {p50:.2f} | {p95:.2f} |", flush=True)


def searched(reader: CollectionReader, queries: np.ndarray, best: list[set[int]]) -> tuple[float, list[float]]:
    """Recall@10, and the seconds of every query."""
    for query in queries[:20]:
        reader.search(query[None], K)
    shares, seconds = [], []
    for query, right in zip(queries, best, strict=True):
        start = time.perf_counter()
        (hits,) = reader.search(query[None], K)
        seconds.append(time.perf_counter() - start)
        shares.append(len({hit.row for hit in hits} & right) / K)
    return float(np.mean(shares)), seconds


def compare_loading(client: MilvusClient, passages: np.ndarray, chosen: argparse.Namespace) -> None:
    """Rows a second by inserts and by bulk import, from the first row to the last one durable; no index."""
    for way in ("inserts", "bulk import"):
        identity = identity_of("FLAT", passages)
        create(client, identity)
        start = time.perf_counter()
        if way == "inserts":
            fill(client, identity, batches(passages))
        else:
            bulk_insert(client, identity, batches(passages), chosen.bulk)
        seconds = time.perf_counter() - start
        print(f"{way}: {len(passages) / seconds:,.0f} rows a second ({seconds:.1f} s)", flush=True)
        client.drop_collection(identity.collection)
    print()


def words(params: dict[str, int]) -> str:
    """Parameters for people."""
    return ", ".join(f"{name} {value}" for name, value in params.items()) or "–"


if __name__ == "__main__":
    main()
