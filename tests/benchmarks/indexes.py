"""Recall@10 and latency of every index type of a Milvus server, and the loading rate of rows.

    NIGHTSHIFT_TEST_MILVUS=…/milvus-server python tests/benchmarks/indexes.py [--rows 100000] [--queries 200]
    python tests/benchmarks/indexes.py --uri http://127.0.0.1:19530 [--bulk FOLDER] [--indexes HNSW,SCANN]

Vectors are drawn in clusters, like those of real texts: 1,000 cluster centers of unequal frequency, each with 24
directions that carry most of its variance. Queries come from the same distribution. Each index gets its own
collection, which the project's own code builds and searches: single queries, one thread, only row numbers in the
answers. Recall is the share of the ten passages of exact search that the index returns.

While an index is being built, Milvus answers from a temporary index of another type. The benchmark therefore waits
until all rows are indexed before it loads the collection. An index without progress for --patience seconds is reported
as failed. With --bulk, the rows are also loaded by bulk import from that folder, and both loading rates are printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from clustered_rows import batches, draw_vectors, identity_of, search_exactly

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
SEARCH_PARAMS: dict[str, list[dict[str, int]]] = {
    "FLAT": [{}],
    "IVF_FLAT": [{"nprobe": 8}, {"nprobe": 32}, {"nprobe": 79}],
    "IVF_SQ8": [{"nprobe": 8}, {"nprobe": 32}, {"nprobe": 79}],
    "IVF_PQ": [{"nprobe": 8}, {"nprobe": 32}, {"nprobe": 79}],
    "HNSW": [{"ef": 20}, {"ef": 64}, {"ef": 128}, {"ef": 256}],
    "SCANN": [{"nprobe": 8, "reorder_k": 40}, {"nprobe": 32, "reorder_k": 40}, {"nprobe": 79, "reorder_k": 200}],
    "DISKANN": [{"search_list": 20}, {"search_list": 100}],
}


def main() -> None:
    """Start a server if no address is given, measure every index, and print a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=100_000, help="vectors in each collection")
    arguments.add_argument("--dimension", type=int, default=384, help="dimension of the vectors")
    arguments.add_argument("--queries", type=int, default=200, help="queries per index and setting")
    arguments.add_argument("--indexes", default=",".join(SEARCH_PARAMS), help="index types, separated by commas")
    arguments.add_argument(
        "--uri", default="", help="address of a running server; default: start NIGHTSHIFT_TEST_MILVUS"
    )
    arguments.add_argument(
        "--bulk", default="", help="folder that the server can read; 'own': a folder next to its data"
    )
    arguments.add_argument(
        "--patience", type=float, default=180.0, help="seconds without progress before an index fails"
    )
    chosen = arguments.parse_args()
    collection.STUCK_SECONDS = chosen.patience
    vectors = draw_vectors(chosen.rows + chosen.queries, chosen.dimension)
    passages, queries = vectors[: chosen.rows], vectors[chosen.rows :]
    best = search_exactly(passages, queries, K)
    if chosen.uri:
        print_table(chosen, passages, queries, best)
        return
    sys.path.append(str(Path(__file__).parents[1] / "fixtures"))
    from milvus_servers import real_server

    with tempfile.TemporaryDirectory(prefix="nightshift-bench-", ignore_cleanup_errors=True) as folder:
        if chosen.bulk == "own":
            chosen.bulk = folder
        with real_server(Path(folder) / "data") as chosen.uri:
            print_table(chosen, passages, queries, best)


def print_table(chosen: argparse.Namespace, passages: np.ndarray, queries: np.ndarray, best: list[set[int]]) -> None:
    """Measure every index; print a row for each search setting."""
    with closing(connect(chosen.uri)) as client:
        print(f"Milvus {client.get_server_version()}, {len(passages):,} vectors of {chosen.dimension}\n")
        if chosen.bulk:
            compare_loading(client, passages, chosen)
        print("| index | built with | build, s | searched with | recall@10 | p50, ms | p95, ms |")
        print("|---|---|---:|---|---:|---:|---:|", flush=True)
        for index in chosen.indexes.split(","):
            identity = identity_of(index, passages)
            try:
                measure_index(client, chosen, identity, passages, queries, best)
            except NightshiftError as error:
                print(f"| {index} | failed: {str(error)[:300]} | | | | | |", flush=True)
            client.drop_collection(identity.collection)


def measure_index(
    client: MilvusClient,
    chosen: argparse.Namespace,
    identity: Identity,
    passages: np.ndarray,
    queries: np.ndarray,
    best: list[set[int]],
) -> None:
    """Fill and build a collection, and search it with each search setting of its index type."""
    with convert_errors(identity.index):
        create(client, identity)
        fill(client, identity, batches(passages))
        start = time.perf_counter()
        index_and_load(client, identity)
        built = time.perf_counter() - start
        client.release_collection(identity.collection)  # the reader loads it again, with the index
    for params in SEARCH_PARAMS[identity.index]:
        settings = MilvusSettings(uri=chosen.uri, index=identity.index, search_params=params)  # type: ignore[arg-type]
        with closing(CollectionReader(connect(chosen.uri), identity.collection, settings)) as reader:
            recall, seconds = measure_search(reader, queries, best)
        p50, p95 = (1000 * float(np.percentile(seconds, share)) for share in (50, 95))
        built_with, searched_with = format_params(json.loads(identity.index_params)), format_params(params)
        cells = f"{identity.index} | {built_with} | {built:.1f} | {searched_with}"
        print(f"| {cells} | {recall:.3f} | {p50:.2f} | {p95:.2f} |", flush=True)


def measure_search(reader: CollectionReader, queries: np.ndarray, best: list[set[int]]) -> tuple[float, list[float]]:
    """Return Recall@10 and the seconds of every query."""
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
    """Print rows per second of inserts and of bulk import, until the last row is durable, without an index."""
    for method in ("inserts", "bulk import"):
        identity = identity_of("FLAT", passages)
        create(client, identity)
        start = time.perf_counter()
        if method == "inserts":
            fill(client, identity, batches(passages))
        else:
            bulk_insert(client, identity, batches(passages), chosen.bulk)
        seconds = time.perf_counter() - start
        print(f"{method}: {len(passages) / seconds:,.0f} rows per second ({seconds:.1f} s)", flush=True)
        client.drop_collection(identity.collection)
    print()


def format_params(params: dict[str, int]) -> str:
    """Format parameters for the table."""
    return ", ".join(f"{name} {value}" for name, value in params.items()) or "–"


if __name__ == "__main__":
    main()
