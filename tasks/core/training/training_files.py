"""Write queries, positives, and mined negatives with their texts, in the layouts that other trainers read.

| layout | files | a row |
|---|---|---|
| triplets | `train.jsonl` | anchor, positive, negative: each positive with each negative of its query |
| n-tuples | `train.jsonl` | anchor, positive, negative_1 … negative_N |
| sentence-transformers | `data/train-00000-of-00001.parquet` | as n-tuples |
| tevatron | `train.jsonl` | query_id, query, positive_passages, negative_passages |

If both the positive and the negatives have teacher scores, the first three have a column `label`: the teacher's score
of the positive minus that of each negative, as MarginMSELoss expects. N is the largest number of negatives of a query;
queries with fewer are left out of n-tuples, because all rows must have the same columns.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import sync_files, write_json
from tasks.core.base.receipts import Negatives, Snapshot
from tasks.core.snapshot.reader import passages_by_id, qrels, queries
from tasks.core.snapshot.splits import Split
from tasks.core.text.normalization import full_text
from tasks.core.training.pairs import NEGATIVES, POSITIVES, TEACHER

RECORD = "export.json"  # what the folder was made from; marks a folder that may be replaced
ROWS_AT_ONCE = 10_000
Row = dict[str, Any]

log = logging.getLogger("nightshift.training")


@dataclass(frozen=True)
class Example:
    """A training query with its positives and its mined negatives, best first."""

    query_id: str
    query: str
    positives: tuple[str, ...]  # passage ids
    negatives: tuple[str, ...]


@dataclass(frozen=True)
class TrainingData:
    """The training queries, the texts of their passages, and the scores of a teacher for (query, passage)."""

    examples: tuple[Example, ...]
    passages: Mapping[str, tuple[str, str]]  # passage id → title, text
    teacher: Mapping[tuple[str, str], float]

    def text(self, passage_id: str) -> str:
        """Return title and text of a passage, joined as the encoder reads them."""
        return full_text(*self.passages[passage_id])


def write_training_files(form: str, snapshot: Snapshot, negatives: Negatives, to: Path, *, force: bool = False) -> Path:
    """Write the training split in a layout of this module; the folder is complete or does not exist.

    Args:
        form: name of the layout.
        snapshot: queries, passages, and qrels.
        negatives: negatives mined from `snapshot`.
        to: folder to write.
        force: replace an earlier export.

    Returns:
        The absolute path of the folder.

    Raises:
        NightshiftError: `to` exists and `force` is false, or it is no export; or no row can be written.
    """
    to = to.absolute()
    if to.exists() and not (force and (to / RECORD).is_file()):
        raise NightshiftError(f"{to}: already exists. Give another --to, or --force to replace an earlier export")
    partial = to.with_name(f".{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        fill_folder(form, snapshot, negatives, partial)
        write_json(partial / RECORD, {"format": form, "snapshot": snapshot.digest, "negatives": negatives.digest})
        sync_files(partial)
        if to.exists():
            shutil.rmtree(to)
        partial.rename(to)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return to


def fill_folder(form: str, snapshot: Snapshot, negatives: Negatives, folder: Path) -> None:
    """Write the files of a layout into an existing folder. Raises NightshiftError when no row can be written."""
    rows, write = LAYOUTS[form]
    written = write(rows(read_training_data(snapshot, negatives)), folder)
    if not written:
        raise NightshiftError(f"--format {form}: no training query has a mined negative. Lower the limits in [mining]")
    log.info("wrote %s rows of %s", f"{written:,}", form)


def read_training_data(snapshot: Snapshot, negatives: Negatives) -> TrainingData:
    """Read the training split and its negatives. Queries without a negative are left out."""
    mined = pq.read_table(negatives.path / NEGATIVES)
    positives = qrels(snapshot, Split.TRAIN)
    texts = dict(zip(*(queries(snapshot, Split.TRAIN)[name].to_pylist() for name in ("query_id", "text")), strict=True))
    by_query: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, table in enumerate((positives, mined)):
        for query, passage in zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True):
            by_query[query][side].append(passage)
    examples = tuple(
        Example(query, texts[query], tuple(good), tuple(bad))
        for query, (good, bad) in by_query.items()
        if query in texts and good and bad
    )
    ids = pc.unique(pa.chunked_array([*positives["passage_id"].chunks, *mined["passage_id"].chunks], pa.string()))
    return TrainingData(examples, _passages(snapshot, ids), _teacher_scores(negatives, mined))


def _passages(snapshot: Snapshot, ids: pa.Array) -> dict[str, tuple[str, str]]:
    return {passage: (title or "", text) for passage, (title, text) in passages_by_id(snapshot, ids).items()}


def _teacher_scores(negatives: Negatives, mined: pa.Table) -> dict[tuple[str, str], float]:
    tables = [mined, pq.read_table(negatives.path / POSITIVES)] if (negatives.path / POSITIVES).is_file() else [mined]
    return {
        (row["query_id"], row["passage_id"]): row[TEACHER]
        for table in tables
        if TEACHER in table.column_names
        for row in table.select(["query_id", "passage_id", TEACHER]).to_pylist()
        if row[TEACHER] is not None
    }


def triplets(data: TrainingData) -> Iterator[Row]:
    """Yield each positive with each negative of its query."""
    for example in data.examples:
        for positive in example.positives:
            for negative in example.negatives:
                row = {"anchor": example.query, "positive": data.text(positive), "negative": data.text(negative)}
                yield row | _label(data, example.query_id, positive, (negative,))


def n_tuples(data: TrainingData) -> Iterator[Row]:
    """Yield each positive with N negatives; queries with fewer than N are left out."""
    width = max((len(example.negatives) for example in data.examples), default=0)
    shorter = sum(len(example.negatives) < width for example in data.examples)
    if shorter:
        log.warning("left out %d queries with fewer than %d negatives; triplets contain them", shorter, width)
    for example in data.examples:
        if len(example.negatives) < width:
            continue
        texts = {f"negative_{place}": data.text(passage) for place, passage in enumerate(example.negatives, start=1)}
        for positive in example.positives:
            row = {"anchor": example.query, "positive": data.text(positive), **texts}
            yield row | _label(data, example.query_id, positive, example.negatives)


def _label(data: TrainingData, query: str, positive: str, negatives: tuple[str, ...]) -> Row:
    """Return the teacher's margins; nothing if there is no teacher. Raises NightshiftError if a score is missing."""
    if not data.teacher:
        return {}
    try:
        margins = [data.teacher[query, positive] - data.teacher[query, negative] for negative in negatives]
    except KeyError as error:
        raise NightshiftError(f"no teacher score for (query, passage) {error}; use --format tevatron") from error
    return {"label": margins[0] if len(margins) == 1 else margins}


def tevatron(data: TrainingData) -> Iterator[Row]:
    """Yield each query with all of its passages. Teacher scores are in the field `score` of a passage."""

    def passage(query: str, passage_id: str) -> Row:
        title, text = data.passages[passage_id]
        score = data.teacher.get((query, passage_id))
        return {"docid": passage_id, "title": title, "text": text} | ({} if score is None else {"score": score})

    for example in data.examples:
        yield {
            "query_id": example.query_id,
            "query": example.query,
            "positive_passages": [passage(example.query_id, positive) for positive in example.positives],
            "negative_passages": [passage(example.query_id, negative) for negative in example.negatives],
        }


def _write_lines(rows: Iterator[Row], folder: Path) -> int:
    written = 0
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    return written


def _write_parquet(rows: Iterator[Row], folder: Path) -> int:
    written, writer = 0, None
    (folder / "data").mkdir()
    while batch := list(islice(rows, ROWS_AT_ONCE)):
        table = pa.Table.from_pylist(batch)
        writer = writer or pq.ParquetWriter(folder / "data" / "train-00000-of-00001.parquet", table.schema)
        writer.write_table(table)
        written += len(batch)
    if writer is not None:
        writer.close()
    return written


LAYOUTS: Mapping[str, tuple[Callable[[TrainingData], Iterator[Row]], Callable[[Iterator[Row], Path], int]]] = {
    "triplets": (triplets, _write_lines),
    "n-tuples": (n_tuples, _write_lines),
    "sentence-transformers": (n_tuples, _write_parquet),
    "tevatron": (tevatron, _write_lines),
}
