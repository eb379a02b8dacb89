"""Duration of a drift check, compared with encoding its queries.

    python tests/benchmarks/drift_check.py FOLDER QUERIES --home HOME [--sizes 1000 5000]

FOLDER is the serving collection in BEIR layout. QUERIES is a `queries.jsonl` (or .gz) with the logged queries. HOME
keeps snapshot, base encoder, vectors, and reference for later runs. Each size is a complete check by `watch` without
the state of earlier checks. The time of encoding the same queries is measured separately and subtracted.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.statistics import build_reference
from tasks.core.drift.watch import state_file, watch
from tasks.core.embedding.shards import gather_shards
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.ingest.ingest import ingest
from tasks.core.report.night import recipe_of
from tasks.core.training.trainer import base_encoder


def main() -> None:
    """Print a line for each size."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="collection in BEIR layout")
    arguments.add_argument("queries", type=Path, help="queries.jsonl, plain or gzip")
    arguments.add_argument("--home", type=Path, required=True, help="folder for artifacts")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[1000, 5000], help="queries per check")
    chosen = arguments.parse_args()
    settings = Settings.model_validate({"home": chosen.home, "data": {"format": "beir", "path": chosen.folder}})
    snapshot = ingest(settings)[1]
    encoder = base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
    embeddings = gather_shards(settings.home, encoder, snapshot, settings.embedding.shards)
    reference = build_reference(settings.home, encoder, embeddings, snapshot)
    print(f"{snapshot.rows:,} passages, reference of {reference.rows:,} queries built in {reference.seconds:.1f} s")
    release = release_of(settings, encoder, embeddings, snapshot)
    open_file = gzip.open if chosen.queries.suffix == ".gz" else open
    with open_file(chosen.queries, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in itertools.islice(lines, 2 * max(chosen.sizes))]
    load_encoder(encoder.path).encode_queries(texts[:100])
    for size in chosen.sizes:
        print(_time_check(settings, release, snapshot, texts[:size], encoder), flush=True)


def _time_check(settings: Settings, release: Release, snapshot: Snapshot, texts: list[str], encoder: Encoder) -> str:
    shutil.rmtree(state_file(settings.home).parent, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log.jsonl"
        log.write_text("".join(json.dumps({"query": text}) + "\n" for text in texts), encoding="utf-8")
        drift = settings.drift.model_copy(update={"queries": log})
        began = time.perf_counter()
        check = watch(
            settings.model_copy(update={"drift": drift}), release, snapshot, recipe_of(settings), datetime.now(UTC)
        )
        whole = time.perf_counter() - began
    began = time.perf_counter()
    load_encoder(encoder.path).encode_queries(sorted(set(texts)))
    encoding = time.perf_counter() - began
    return (
        f"{len(texts):,} queries: {whole:.1f} s in total, {encoding:.1f} s encoding ({encoder.precision}), "
        f"{whole - encoding:.1f} s statistics; {check.verdict}: {check.cause}"
    )


def release_of(settings: Settings, encoder: Encoder, embeddings: Embeddings, snapshot: Snapshot) -> Release:
    """Return a record of the serving release; a check does not read its collection."""
    return Release(
        digest="d", path=settings.home, rows=snapshot.rows, release="r0001-d", created="2026-01-01T00:00:00Z",
        generation=1, fingerprint=encoder.fingerprint, encoder=encoder.digest, embeddings=embeddings.digest,
        snapshot=snapshot.digest, collection="c", dimension=encoder.dimension, metric="IP",
        recipe=recipe_of(settings), reason="benchmark", metrics={}, bm25={}, base={}, previous=None,
    )  # fmt: skip


if __name__ == "__main__":
    main()
