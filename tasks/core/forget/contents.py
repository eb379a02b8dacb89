"""Decides which artifacts of a home may stay: those that were demonstrably made without any forgotten row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_contracts.contract import CLICKS, JUDGMENTS
from tasks.core.base.files import MANIFEST, read_receipt, receipts_newest_first
from tasks.core.base.receipts import Encoder, Ingested, Receipt, Release, Snapshot
from tasks.core.base.training_receipts import Pace
from tasks.core.ingest.ingest import REFUSED
from tasks.core.ingest.quarantine import QUARANTINE
from tasks.core.ingest.snapshot_without import Rows, find_forgotten
from tasks.core.text.normalization import full_text
from tasks.core.text.tombstones import Tombstones

WITHOUT_TEXTS = (Encoder, Release, Pace)  # weights, metrics, and speeds
_IDS = {  # table of a quarantine -> kinds of the ids in a row's key
    "passages": ("passages",),
    "queries": ("queries",),
    "qrels": ("queries", "passages"),
    CLICKS: (),
    JUDGMENTS: ("passages",),
}


def kinds_of_artifacts() -> dict[str, type[Receipt]]:
    """Return shelf -> kind of all artifacts."""
    kinds: list[type[Receipt]] = [Receipt]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.shelf: kind for kind in kinds[1:]}


class Contents:
    """The forgotten rows in the artifacts of a home. Everything is read when it is needed, and once."""

    def __init__(self, home: Path, tombstones: Tombstones) -> None:
        self._home, self._tombstones = home, tombstones

    @cached_property
    def rows(self) -> Mapping[str, Rows]:
        """The forgotten rows of each snapshot, by its digest; only snapshots with any."""
        by_digest = {
            snapshot.digest: find_forgotten(snapshot.path, self._tombstones)
            for snapshot in receipts_newest_first(self._home, Snapshot)
        }
        return {digest: rows for digest, rows in by_digest.items() if rows}

    @cached_property
    def quarantines(self) -> Mapping[Path, list[str]]:
        """The records of forgotten rows in each quarantine, by its folder; only folders with any."""
        folders = [*(receipt.path for receipt in receipts_newest_first(self._home, Ingested))]
        folders += [file.parent for file in (self._home / REFUSED).glob(f"[!.]*/{QUARANTINE}")]
        by_folder = {folder: list(self._refused(folder / QUARANTINE)) for folder in folders}
        return {folder: records for folder, records in by_folder.items() if records}

    @property
    def texts(self) -> set[str]:
        """All texts of the forgotten rows: whole, in parts as title and text, and as records of quarantines."""
        rows = self.rows.values()
        texts = {
            text for each in rows for table in (each.passages, each.queries) for row in table.values() for text in row
        }
        return texts | {record for records in self.quarantines.values() for record in records}

    @cached_property
    def unclean(self) -> list[Receipt]:
        """All artifacts that a forgotten row may be in."""
        receipts = [
            receipt
            for kind in kinds_of_artifacts().values()
            if kind not in WITHOUT_TEXTS
            for receipt in receipts_newest_first(self._home, kind)
        ]
        return [receipt for receipt in receipts if not self.is_clean(receipt.digest)]

    def is_clean(self, digest: str) -> bool:
        """Return whether the artifact with this digest is in the home, and was made without any forgotten row."""
        return self._clean.get(digest, False)

    def has(self, digest: str) -> bool:
        """Return whether the home has the artifact with this digest."""
        return digest in self._clean

    @cached_property
    def _clean(self) -> dict[str, bool]:
        known = {
            receipt.digest: receipt
            for kind in kinds_of_artifacts().values()
            if kind is not Release
            for receipt in receipts_newest_first(self._home, kind)
        }
        clean: dict[str, bool] = {}

        def decide(digest: str) -> bool:
            if digest not in clean:
                receipt = known.get(digest)
                clean[digest] = False  # of a circle, which there is none
                clean[digest] = receipt is not None and self._decide(receipt, decide)
            return clean[digest]

        for digest in known:
            decide(digest)
        return {digest: clean[digest] for digest in known}

    def _decide(self, receipt: Receipt, decide: Any) -> bool:
        if isinstance(receipt, WITHOUT_TEXTS):
            return True
        if isinstance(receipt, Snapshot):
            return receipt.digest not in self.rows
        if isinstance(receipt, Ingested):
            return decide(receipt.snapshot) and receipt.path not in self.quarantines
        made_from = {*receipt.parents, *(getattr(receipt, name, "") for name in ("snapshot", "embeddings"))} - {""}
        return bool(made_from) and all(map(decide, made_from))

    def _refused(self, file: Path) -> Iterator[str]:
        """Yield the records of forgotten rows, and of rows that name one, in a quarantine."""
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(columns=["table", "key", "record"]):
                for row in batch.to_pylist():
                    record = row["record"] or ""
                    if self._names_forgotten(row["table"], row["key"] or "") or self._has_text(record):
                        yield record

    def _names_forgotten(self, table: str, key: str) -> bool:
        names = key.split(" ") if table == "qrels" else [key]
        return any(self._tombstones.match_id(kind, name) for name in names for kind in _IDS[table])

    def _has_text(self, record: str) -> bool:
        try:
            fields = json.loads(record)
        except ValueError:
            return self._tombstones.match_text(record)
        values = [value for value in fields.values() if isinstance(value, str)] if isinstance(fields, dict) else []
        titled = full_text(fields.get("title"), fields.get("text", "")) if values else ""
        shown = fields.get("shown") if isinstance(fields, dict) else None  # of a result page of a click log
        passages = map(str, shown) if isinstance(shown, list) else ()
        return any(map(self._tombstones.match_text, [*values, titled])) or any(
            self._tombstones.match_id("passages", passage) for passage in passages
        )


def collection_has_forgotten(folder: Path, tombstones: Tombstones) -> bool:
    """Return whether a file of an embedded collection has a forgotten row, even if it was deleted from the collection.

    milvus-lite keeps deleted rows in its files, and a generation that is built from a copy shares them.
    """
    return any(_file_has_forgotten(file, tombstones) for file in sorted(folder.rglob("*.parquet")))


def _file_has_forgotten(file: Path, tombstones: Tombstones) -> bool:
    with pq.ParquetFile(file) as parquet:
        columns = [name for name in ("passage_id", "title", "text") if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(columns=columns):
            for row in batch.to_pylist():
                if tombstones.match_id("passages", row.get("passage_id")):
                    return True
                if "text" in row and tombstones.match_text(full_text(row.get("title"), row["text"] or "")):
                    return True
    return False


def find_encoders(home: Path, contents: Contents) -> list[str]:
    """Return the digests of encoders whose training may have read a forgotten row, sorted.

    An encoder that was trained from such an encoder is one of them. Without the snapshot of its training, it counts.
    """
    encoders = {encoder.digest: encoder for encoder in receipts_newest_first(home, Encoder)}
    negatives = kinds_of_artifacts()["negatives"]
    seen: dict[str, bool] = {}

    def has_read(digest: str) -> bool:
        encoder = encoders[digest]
        if digest not in seen:
            parents = [parent for parent in encoder.parents if parent in encoders and parent != digest]
            seen[digest] = any(map(has_read, parents)) or (encoder.steps > 0 and reads(encoder))
        return seen[digest]

    def reads(encoder: Encoder) -> bool:
        snapshots = [parent for parent in encoder.parents if (home / Snapshot.shelf / parent / MANIFEST).exists()]
        if not snapshots:
            return True
        mined = [read_receipt(home / negatives.shelf / parent, negatives) for parent in encoder.parents]
        return any(
            _trained_on(home / Snapshot.shelf / digest, contents.rows[digest], [m for m in mined if m is not None])
            for digest in snapshots
            if digest in contents.rows
        )

    return sorted(digest for digest in encoders if has_read(digest))


def _trained_on(snapshot: Path, rows: Rows, mined: list[Receipt]) -> bool:
    pairs = pq.read_table(snapshot / "qrels.parquet", columns=["query_id", "passage_id", "split"]).to_pydict()
    used = [place for place, split in enumerate(pairs["split"]) if split in ("train", "dev")]
    if any(pairs["query_id"][place] in rows.queries or pairs["passage_id"][place] in rows.passages for place in used):
        return True
    return any(
        passage in rows.passages
        for receipt in mined
        for passage in pq.read_table(receipt.path / "negatives.parquet", columns=["passage_id"])[
            "passage_id"
        ].to_pylist()
    )
