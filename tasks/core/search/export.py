"""Export a release: a FAISS index, vectors in Parquet, a TREC run, a model folder, or training data."""

from __future__ import annotations

import functools
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.checksums import CHECKSUMS, MANIFEST
from tasks.core.base.errors import Mismatch, NightshiftError
from tasks.core.base.files import file_digest, files_under, find_artifact, load, sync_files, sync_folder, write_json
from tasks.core.base.receipts import Embeddings, Encoder, Negatives, Release, Run, Snapshot
from tasks.core.base.sections.evaluation import EvaluationSettings
from tasks.core.base.settings import Settings
from tasks.core.embedding.stored_shards import matrix
from tasks.core.evaluation.trec import write_trec, write_trec_qrels
from tasks.core.release.card import read_card
from tasks.core.release.names import CARD
from tasks.core.release.publisher import Loader, Opener, default_loader
from tasks.core.release.rows import rows_with_vectors
from tasks.core.release.vector_stores import open_publisher
from tasks.core.retrieval.runs import append_run, run_writer
from tasks.core.search.named_releases import find_release, open_release
from tasks.core.search.searcher import Searcher
from tasks.core.snapshot.reader import judged, load_snapshot
from tasks.core.training.training_files import LAYOUTS, fill_folder

log = logging.getLogger("nightshift.release")

IDENTITY = "release.json"  # identity of the exported release; written last
BATCH = 8192  # passages in memory at a time
RECORDS = (MANIFEST, CHECKSUMS, "encoder.json", "openvino", ".*")  # in an encoder's folder, for Nightshift alone
HITS = 8192  # hits per search request


@dataclass(frozen=True)
class Source:
    """Inputs of an export."""

    home: Path
    release: Release
    snapshot: Snapshot
    settings: EvaluationSettings
    open_searcher: Callable[[], Searcher]


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
    """Export a release to a folder with `release.json` in it. The folder is complete or does not exist.

    Only one batch of passages is in memory at a time, except for "faiss", which needs all vectors in memory.

    Args:
        settings: all settings.
        name: name of the release, its beginning, or "serving".
        form: "faiss" (`index.faiss`, an IndexFlatIP, and `ids.parquet`: row → passage id), "parquet"
            (`vectors.parquet`: passages with vectors), or "trec" (`run.trec`, `run.parquet`, and `qrels`: the
            release's hits for the held-out queries), or "hub" (the encoder as sentence-transformers, transformers, and
            Nightshift load it, with its model card), or a layout of `training.training_files` (the negatives that
            trained the encoder).
        to: folder to write.
        force: replace an existing export.
        loader: loads encoders.
        opener: opens collections; None: the vector store of the settings.

    Returns:
        The absolute path of the folder.

    Raises:
        NightshiftError: there is no such release or format; `to` exists and `force` is false, or `to` is no export;
            the index of "faiss" does not fit into memory.
        Mismatch: the vectors do not belong to the release.
    """
    if form not in _WRITERS:
        raise NightshiftError(f"format {form!r}: unknown. Use one of {', '.join(_WRITERS)}")
    to = to.absolute()
    _check_free(to, force)
    home, opener = settings.home, opener or open_publisher(settings.home, settings.milvus)
    release = find_release(settings, name, opener)
    open_searcher = functools.partial(open_release, settings, release.release, loader, opener)
    source = Source(home, release, load_snapshot(home, release.snapshot), settings.evaluation, open_searcher)
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _WRITERS[form](source, partial)
        digests = {str(file.relative_to(partial)): file_digest(file) for file in files_under(partial)}
        write_json(partial / IDENTITY, {**_identity(release), "format": form, "sha256": digests})
        sync_files(partial)
        _move_into_place(partial, to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("exported release %s to %s", release.release, to)
    return to


def _check_free(to: Path, force: bool) -> None:
    if not to.exists():
        return
    if not force:
        raise NightshiftError(f"{to}: already exists. Give another --to, or --force to replace it")
    if not (to / IDENTITY).is_file():
        raise NightshiftError(f"{to}: is no export (it has no {IDENTITY}), so it is not replaced. Give another --to")


def _identity(release: Release) -> dict[str, object]:
    fields = (
        "release",
        "created",
        "fingerprint",
        "encoder",
        "embeddings",
        "snapshot",
        "dimension",
        "metric",
        "rows",
        "ranking",
    )
    return release.model_dump(mode="json", include=set(fields))


def _move_into_place(partial: Path, to: Path) -> None:
    old = to.with_name(f".{to.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if to.exists():
        to.rename(old)
    partial.rename(to)
    sync_folder(to.parent)
    shutil.rmtree(old, ignore_errors=True)


def _passages_with_vectors(source: Source) -> Iterator[pa.RecordBatch]:
    embeddings = load(source.home, Embeddings, source.release.embeddings)
    return (
        batch.drop_columns(["whole"]) for batch in rows_with_vectors(source.snapshot, embeddings, BATCH, limit=None)
    )


def _parquet(source: Source, folder: Path) -> None:
    """Write passages with vectors. Texts come from the snapshot; Milvus holds only their first 65,535 bytes."""
    metadata = {f"nightshift.{name}": str(value) for name, value in _identity(source.release).items()}
    writer: pq.ParquetWriter | None = None
    try:
        for batch in _passages_with_vectors(source):
            if writer is None:
                schema = batch.schema.with_metadata(metadata)
                writer = pq.ParquetWriter(folder / "vectors.parquet", schema, compression="zstd")
            writer.write_batch(batch)
    finally:
        if writer is not None:
            writer.close()


def _faiss(source: Source, folder: Path) -> None:
    """Build the index in memory, because FAISS writes only an index that it holds whole, and write it."""
    import faiss

    rows, dimension = source.release.rows, source.release.dimension
    needed, installed = 2 * 4 * rows * dimension, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > installed:  # twice, because a growing index is copied
        raise NightshiftError(
            f"a FAISS index of {rows:,} vectors needs up to {needed / 2**30:,.1f} GiB of memory, but this host has "
            f"{installed / 2**30:,.1f} GiB. Use --format parquet, which needs little memory, or a larger host"
        )
    index, schema = faiss.IndexFlatIP(dimension), pa.schema({"row": pa.int64(), "passage_id": pa.string()})
    with pq.ParquetWriter(folder / "ids.parquet", schema, compression="zstd") as writer:
        for batch in _passages_with_vectors(source):
            index.add(np.ascontiguousarray(matrix(batch["vector"], dimension), np.float32))
            writer.write_table(pa.table([batch["row"], batch["passage_id"]], schema=schema))
    if index.ntotal != rows:
        raise Mismatch(f"the embeddings have {index.ntotal} vectors, but the release has {rows} passages")
    faiss.write_index(index, str(folder / "index.faiss"))


def _trec(source: Source, folder: Path) -> None:
    """Write the release's run over the held-out queries, ranked as the service ranks them, and their qrels.

    In bf16 a vector depends slightly on the other texts of its batch. So a few near ties may swap ranks compared with
    the evaluation, and the fourth digit of nDCG@10 may change.
    """
    settings, name = source.settings, source.release.release
    queries = judged(source.snapshot, settings.split)
    rows, step = 0, max(1, HITS // settings.depth)
    with source.open_searcher() as searcher, run_writer(folder) as writer:
        for first in range(0, queries.num_rows, step):
            part = queries.slice(first, step)
            answers = searcher.search(part["text"].to_pylist(), settings.depth)
            hits = [(row, hit.passage_id, hit.score) for row, answer in enumerate(answers) for hit in answer.hits]
            rows_of_hits, ids, scores = (list(column) for column in zip(*hits, strict=True)) if hits else ([], [], [])
            rows += append_run(
                writer, part, np.array(rows_of_hits, np.int64), pa.array(ids, pa.string()), np.array(scores)
            )
    run = Run(digest=name, path=folder, rows=rows, queries=queries.num_rows, depth=settings.depth)
    write_trec(run, folder / "run.trec", tag=name)
    write_trec_qrels(source.snapshot, settings.split, folder / "qrels")


def _hub(source: Source, folder: Path) -> None:
    """Copy the encoder's files without Nightshift's records, and write the model card."""
    encoder = load(source.home, Encoder, source.release.encoder)
    shutil.copytree(encoder.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*RECORDS))
    (folder / CARD).write_text(read_card(source.home, source.release), encoding="utf-8")


def _training(form: str, source: Source, folder: Path) -> None:
    """Write the negatives that the encoder was trained on, with the texts of the snapshot that they were mined from."""
    name, encoder = source.release.release, load(source.home, Encoder, source.release.encoder)
    negatives = next(filter(None, (find_artifact(source.home, Negatives, digest) for digest in encoder.parents)), None)
    if negatives is None:
        raise NightshiftError(
            f"release {name}: its encoder was not trained, or its negatives were deleted after keep_days. "
            "`nightshift mine` mines the negatives of the current source"
        )
    fill_folder(form, load_snapshot(source.home, negatives.parents[0]), negatives, folder)


_WRITERS: Mapping[str, Callable[[Source, Path], None]] = {
    "faiss": _faiss,
    "parquet": _parquet,
    "trec": _trec,
    "hub": _hub,
    **{form: functools.partial(_training, form) for form in LAYOUTS},
}
