"""Latency and throughput of hybrid search over HTTP, compared with dense search of the same release.

    python tests/benchmarks/hybrid_latency.py FOLDER [--home HOME] [--uri http://127.0.0.1:19530] [--index IVF_FLAT]

FOLDER: a collection in BEIR layout; its test queries are searched. The encoder adds up a random vector for each word:
it costs next to nothing, so search itself is measured, and it agrees with BM25 about as much as a trained encoder. The
service runs in its own process. Both modes alternate: query by query with one client, round by round with --clients.
"""

from __future__ import annotations

import argparse
import http.client
import json
import logging
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from drawn_corpus import vectors, write_tables
from service import running
from unmeasured_release import publish_unmeasured

from tasks.core.base.files import produce, write_json
from tasks.core.base.ranking import Ranking
from tasks.core.base.receipts import Embeddings, Encoder
from tasks.core.base.settings import Settings
from tasks.core.ingest.ingest import ingest
from tasks.core.release.publish import serving
from tasks.core.retrieval.postings import build_postings
from tasks.core.search.http import serve
from tasks.core.snapshot.reader import judged

DIMENSION, K, WEIGHT = 384, 10, 0.6
MODES = ("dense", "hybrid")


class WordEncoder:
    """Encode a text as the normalized sum of a random vector for each of its words."""

    fingerprint, dimension = "words", DIMENSION

    def __init__(self, folder: Path) -> None:
        """`folder` is not read."""

    def encode_passages(self, texts: Sequence[str], /) -> np.ndarray:
        """Encode texts, float32 (n, dimension)."""
        sums = np.stack([np.sum([_vector(word) for word in text.lower().split() or [""]], axis=0) for text in texts])
        return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), np.float32)

    encode_queries = encode_passages


@cache
def _vector(word: str) -> np.ndarray:
    drawn = np.random.default_rng(zlib.crc32(word.encode())).standard_normal(DIMENSION)
    return np.asarray(drawn * min(len(word), 10), np.float32)  # long words count more, as rare words do


def main() -> None:
    """Publish a hybrid release, measure both modes, and print a table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="collection in BEIR layout")
    arguments.add_argument("--home", type=Path, help="folder to keep the release in; default: temporary")
    arguments.add_argument("--uri", default="", help="address of a Milvus server; default: embedded")
    arguments.add_argument("--index", default="IVF_FLAT", help="index of the collection")
    arguments.add_argument("--queries", type=int, default=300, help="queries with one client")
    arguments.add_argument("--clients", type=int, default=16, help="concurrent clients")
    arguments.add_argument("--rounds", type=int, default=3, help="rounds of each mode with all clients")
    arguments.add_argument("--port", type=int, default=8094, help="port of the service")
    arguments.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as temporary:
        settings = _settings(chosen, chosen.home or Path(temporary))
        if chosen.worker:
            serve(settings, "127.0.0.1", chosen.port, WordEncoder)
            return
        queries = _release(settings)
        command = [sys.executable, __file__, str(chosen.folder), "--home", str(settings.home), "--worker"]
        command += ["--port", str(chosen.port), "--index", chosen.index, *(["--uri", chosen.uri] if chosen.uri else [])]
        with running(command, lambda: _Client(chosen.port).search("warm", "hybrid")) as process:
            _one_client(chosen, queries)
            _many_clients(chosen, queries)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            print(f"processes started by the service: {len(children)}")


def _settings(chosen: argparse.Namespace, home: Path) -> Settings:
    milvus = {"index": chosen.index, "min_recall": 0.8, **({"uri": chosen.uri} if chosen.uri else {})}
    data = {"format": "beir", "path": chosen.folder, "min_lift": 0}
    return Settings.model_validate(
        {"home": home, "data": data, "milvus": milvus, "service": {"concurrency": chosen.clients}}
    )


def _release(settings: Settings) -> list[str]:
    """Publish the collection with a hybrid ranking unless that was done before; return its test queries."""
    logging.basicConfig(level=logging.WARNING)
    home = settings.home
    _, snapshot = ingest(settings)
    if serving(settings)[0] is None:

        def encoder_files(folder: Path) -> dict[str, object]:
            write_json(folder / "words.json", {})
            fields = {"dimension": DIMENSION, "base": "", "steps": 0, "precision": "fp32", "fidelity": 1.0}
            return {"rows": 0, "fingerprint": "words", "passage_fingerprint": "words", **fields}

        def vector_files(folder: Path) -> dict[str, object]:
            write_tables(folder / "shard-00000-of-00001.parquet", vectors(snapshot, WordEncoder(folder)))
            fields = {"dimension": DIMENSION, "shards": 1, "embedded": snapshot.rows, "avoided": 0, "tokens": 0}
            return {"rows": snapshot.rows, "fingerprint": "words", "snapshot": snapshot.digest, **fields}

        encoder = produce(home, Encoder, {"words": DIMENSION}, encoder_files)
        embeddings = produce(home, Embeddings, {"words": snapshot.digest}, vector_files)
        postings = build_postings(home, snapshot, settings.mining.language, settings.mining.stemmer)
        ranking = Ranking(weight=WEIGHT, postings=postings.digest, stemmer=settings.mining.stemmer)
        publish_unmeasured(settings, encoder, embeddings, snapshot, ranking=ranking, loader=WordEncoder)
    print(f"{snapshot.rows:,} passages, {settings.milvus.index}, {settings.milvus.uri or 'embedded Milvus'}")
    queries: pa.Table = judged(snapshot, "test")
    return [str(text) for text in queries["text"].to_pylist()]


class _Client:
    """A connection to the service."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)

    def search(self, query: str, mode: str) -> float:
        """Search, and return the seconds until the answer."""
        start = time.perf_counter()
        body = json.dumps({"query": query, "k": K, "mode": mode})
        self._connection.request("POST", "/search", body, {"content-type": "application/json"})
        response = self._connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        return time.perf_counter() - start


def _one_client(chosen: argparse.Namespace, queries: list[str]) -> None:
    client = _Client(chosen.port)
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for query in queries[: chosen.queries]:
        for mode in MODES:
            seconds[mode].append(client.search(query, mode))
    for mode, measured in seconds.items():
        ordered = sorted(measured)
        print(
            f"{mode:<7} one client: p50 {1000 * ordered[len(ordered) // 2]:.2f} ms, "
            f"p99 {1000 * ordered[len(ordered) * 99 // 100]:.2f} ms"
        )
    added = [hybrid - dense for dense, hybrid in zip(*seconds.values(), strict=True)]
    print(f"hybrid adds {1000 * statistics.median(added):.2f} ms (median of the differences)")


def _many_clients(chosen: argparse.Namespace, queries: list[str]) -> None:
    rates: dict[str, list[float]] = {mode: [] for mode in MODES}
    each = max(1, chosen.queries // 4)
    with ThreadPoolExecutor(chosen.clients) as pool:
        for _ in range(chosen.rounds):
            for mode in MODES:
                start = time.perf_counter()
                jobs = [
                    pool.submit(_run, chosen.port, mode, list(islice(cycle(queries), number, number + each)))
                    for number in range(chosen.clients)
                ]
                count = sum(job.result() for job in jobs)
                rates[mode].append(count / (time.perf_counter() - start))
    for mode, measured in rates.items():
        print(f"{mode:<7} {chosen.clients} clients: {statistics.median(measured):.1f} queries/s")
    share = statistics.median(rates["hybrid"]) / statistics.median(rates["dense"])
    print(f"throughput of hybrid: {share:.2f} of dense")


def _run(port: int, mode: str, queries: list[str]) -> int:
    client = _Client(port)
    for query in queries:
        client.search(query, mode)
    return len(queries)


if __name__ == "__main__":
    main()
