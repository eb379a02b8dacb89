"""A release for those who serve elsewhere: a FAISS index, vectors in Parquet, or a run in TREC's form."""

from __future__ import annotations

import logging
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.errors import Mismatch, NightshiftError
from tasks.core.base.files import file_digest, files_under, load, sync_files, sync_folder, write_json
from tasks.core.base.receipts import Embeddings, Encoder, Release, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding.stored_shards import matrix
from tasks.core.evaluation.trec import write_trec, write_trec_qrels
from tasks.core.release.publisher import Loader, Opener, default_loader
from tasks.core.release.rows import rows_with_vectors
from tasks.core.release.vector_stores import open_publisher
from tasks.core.retrieval.runs import append_run, run_writer
from tasks.core.search.named_releases import find_release
from tasks.core.search.pinned import check_pair
from tasks.core.snapshot.reader import judged, load_snapshot

log = logging.getLogger("nightshift.release")

IDENTITY = "release.json"  # which release an export is of; written last
BATCH = 8192  # passages in memory at a time
HITS = 8192  # passages found at a time
_AT_ROWS = 8  # where the header of a FAISS index says how many vectors there are


@dataclass(frozen=True)
class Source:
    """What an export reads from."""

    settings: Settings
    release: Release
    snapshot: Snapshot
    loader: Loader
    opener: Opener | None


def export(
    settings: Settings,
    name: str,
    form: str,
    to: Path,
    *,
    force: bool = False,
    loader: Loader = default_loader,
    opener: Opener | None = None,
) -> Path:
    """Write release `name` into the folder `to`, which appears whole or not at all, with `release.json` in it.

    `form` is "faiss" (`index.faiss`, an IndexFlatIP, and `ids.parquet`: its row → passage id), "parquet"
    (`vectors.parquet`: passages with their vectors) or "trec" (`run.trec`, `run.parquet`, `qrels`: what the release
    answers to the held-out queries). Only a batch of passages is in memory at a time.

    Raises:
        NightshiftError: no such release or form, `to` is there already and `force` is not given or it is no export.
        Mismatch: the vectors are not those of the release.
    """
    if form not in _WRITERS:
        raise NightshiftError(f"format {form!r}: unknown; there are {', '.join(_WRITERS)}")
    to = to.absolute()
    _check_free(to, force)
    release = find_release(settings, name, opener)
    source = Source(settings, release, load_snapshot(settings.home, release.snapshot), loader, opener)
    aside = to.with_name(f".{to.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _WRITERS[form](source, aside)
        digests = {file.name: file_digest(file) for file in files_under(aside)}
        write_json(aside / IDENTITY, {**_identity(release), "format": form, "sha256": digests})
        sync_files(aside)
        _put(aside, to)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    log.info("release %s: exported to %s", release.release, to)
    return to


def _check_free(to: Path, force: bool) -> None:
    if not to.exists():
        return
    if not force:
        raise NightshiftError(f"{to}: is there already; give another --to, or --force to replace it")
    if not (to / IDENTITY).is_file():
        raise NightshiftError(f"{to}: is no export ({IDENTITY} is not in it), so it is not replaced; give another --to")


def _identity(release: Release) -> dict[str, object]:
    named = ("release", "created", "fingerprint", "encoder", "embeddings", "snapshot", "dimension", "metric", "rows")
    return release.model_dump(mode="json", include=set(named))


def _put(aside: Path, to: Path) -> None:
    old = to.with_name(f".{to.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if to.exists():
        to.rename(old)
    aside.rename(to)
    sync_folder(to.parent)
    shutil.rmtree(old, ignore_errors=True)


def _pairs(source: Source) -> Iterator[pa.RecordBatch]:
    embeddings = load(source.settings.home, Embeddings, source.release.embeddings)
    return (
        batch.drop_columns(["whole"]) for batch in rows_with_vectors(source.snapshot, embeddings, BATCH, limit=None)
    )


def _parquet(source: Source, folder: Path) -> None:
    """Passages with vectors; texts are the snapshot's, entire where Milvus holds only the first 65,535 bytes."""
    metadata = {f"nightshift.{name}": str(value) for name, value in _identity(source.release).items()}
    writer: pq.ParquetWriter | None = None
    try:
        for batch in _pairs(source):
            if writer is None:
                schema = batch.schema.with_metadata(metadata)
                writer = pq.ParquetWriter(folder / "vectors.parquet", schema, compression="zstd")
            writer.write_batch(batch)
    finally:
        if writer is not None:
            writer.close()


def _faiss(source: Source, folder: Path) -> None:
    import faiss

    rows, dimension = source.release.rows, source.release.dimension
    file, ids = folder / "index.faiss", pa.schema({"row": pa.int64(), "passage_id": pa.string()})
    with file.open("wb") as index, pq.ParquetWriter(folder / "ids.parquet", ids, compression="zstd") as writer:
        index.write(_header(dimension, rows))
        for batch in _pairs(source):
            vectors = matrix(batch["vector"], dimension)
            index.write(np.ascontiguousarray(vectors, "<f4").data)
            writer.write_table(pa.table([batch["row"], batch["passage_id"]], schema=ids))
    read = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)  # mapped: its vectors are not read into memory
    if (read.ntotal, read.d, read.metric_type) != (rows, dimension, faiss.METRIC_INNER_PRODUCT):
        raise Mismatch(
            f"{file}: FAISS reads {read.ntotal} vectors of {read.d} numbers, {rows} of {dimension} were meant"
        )


def _header(dimension: int, rows: int) -> bytes:
    """What comes before the vectors in the file of an IndexFlatIP of so many rows.

    FAISS itself would want all vectors in memory. Its own header of an empty index gets the counts, which is tried
    here on an index of two: a FAISS that writes anything else is noticed.
    """
    import faiss

    empty = bytes(faiss.serialize_index(faiss.IndexFlatIP(dimension)))

    def counted(n: int) -> bytes:
        before, between = empty[:_AT_ROWS], empty[_AT_ROWS + 8 : -8]
        return before + struct.pack("<q", n) + between + struct.pack("<Q", n * dimension)

    sample = np.arange(2 * dimension, dtype=np.float32).reshape(2, dimension)
    index = faiss.IndexFlatIP(dimension)
    index.add(sample)
    if counted(2) + sample.tobytes() != bytes(faiss.serialize_index(index)):
        raise NightshiftError(
            f"faiss {faiss.__version__} writes another form of index than 1.15; export parquet and build the index"
        )
    return counted(rows)


def _trec(source: Source, folder: Path) -> None:
    """The queries are encoded in one go, as evaluation does it.

    In bf16 a vector depends a little on what is encoded beside it: in another go a few near ties change places, and
    the nDCG@10 its fourth digit. For the same reason the service may rank near ties differently.
    """
    settings, release = source.settings, source.release
    asked = judged(source.snapshot, settings.evaluation.split)
    depth, rows = settings.evaluation.depth, 0
    encoder = source.loader(settings.home / Encoder.shelf / release.encoder)
    vectors = encoder.encode_queries(asked["text"].to_pylist())
    step = max(1, HITS // depth)
    with (
        closing((source.opener or open_publisher(settings)).open(release.collection)) as reader,
        run_writer(folder) as writer,
    ):
        check_pair(reader, encoder, release.release)
        for first in range(0, asked.num_rows, step):
            answers = reader.search(vectors[first : first + step], depth)
            hits = [(first + at, hit.passage_id, hit.score) for at, one in enumerate(answers) for hit in one]
            at, ids, scores = (list(column) for column in zip(*hits, strict=True)) if hits else ([], [], [])
            rows += append_run(writer, asked, np.array(at, np.int64), pa.array(ids, pa.string()), np.array(scores))
    run = Run(digest=release.release, path=folder, rows=rows, queries=asked.num_rows, depth=depth)
    write_trec(run, folder / "run.trec", tag=release.release)
    write_trec_qrels(source.snapshot, settings.evaluation.split, folder / "qrels")


_WRITERS: Mapping[str, Callable[[Source, Path], None]] = {"faiss": _faiss, "parquet": _parquet, "trec": _trec}
