"""A release opened for searching: its collection and its encoder, which are never parted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tasks.core.base.errors import Damaged, Mismatch, NightshiftError
from tasks.core.base.files import read_verified
from tasks.core.base.receipts import Snapshot
from tasks.core.release.publisher import Found, Pointer, Reader, VectorEncoder
from tasks.core.search.filters import Filters
from tasks.core.search.fusion import DEPTH, Ranker, fused

CLOSED = "this searcher is closed; open another"
HITS_A_REQUEST = 8192  # bounds the answer of one request: texts come with it
FIELDS = ("title", "text", "whole")
SPARE = 8  # times as many hits, where some may have to go


class Hit(BaseModel):
    """A passage of an answer; `score` is the inner product of query and passage."""

    model_config = ConfigDict(frozen=True)

    rank: int  # from 1
    score: float
    passage_id: str
    title: str
    text: str


class Answer(BaseModel):
    """What one release says to one query, best passage first."""

    model_config = ConfigDict(frozen=True)

    release: str
    query: str
    hits: tuple[Hit, ...]


class Pinned:
    """A collection and its encoder, until retired and no longer in use; its owner's lock guards the count."""

    def __init__(
        self,
        pointer: Pointer,
        reader: Reader,
        encoder: VectorEncoder,
        folder: Path,
        snapshot: Path,
        lexical: Ranker,
    ) -> None:
        self.pointer, self.encoder, self.folder = pointer, encoder, folder  # the folder the encoder was read from
        self.damage: NightshiftError | None = None  # why it answers no more
        self.instead_of: Pointer | None = None  # the damaged release that it stands in for
        self._reader, self._snapshot, self._lexical = reader, snapshot, lexical
        self._users, self._retired = 0, False

    def search(self, queries: Sequence[str], k: int, where: Filters, fuse: bool) -> list[Answer]:
        """One answer per query. Raises what `damage` holds, also when it was noticed during the search."""
        self._check_whole()
        answers = self._answers(queries, k, where, fuse)
        self._check_whole()
        return answers

    def check(self) -> None:
        """Verify what answers: damage to the collection is raised, and damage to the BM25 index kept by `Ranker`.

        Raises Damaged; Unreachable when a Milvus server does not answer.
        """
        self._reader.check()
        self._lexical.check()

    @property
    def lexical_damage(self) -> NightshiftError | None:
        """Why BM25 does not answer; None while nobody noticed any damage."""
        return self._lexical.damage

    def _check_whole(self) -> None:
        if self.damage is not None:
            raise self.damage

    def _answers(self, queries: Sequence[str], k: int, where: Filters, fuse: bool) -> list[Answer]:
        vectors = self.encoder.encode_queries(list(queries))
        found = self._nearest(vectors, max(k, DEPTH) if fuse else k, where)
        if fuse:
            ranked = self._lexical.search(queries, max(k, DEPTH))
            found = fused(found, ranked, lambda rows: self._fetch(rows, where), k)
        return [
            Answer(
                release=self.pointer.release,
                query=query,
                hits=tuple(self._hit(rank, one) for rank, one in enumerate(hits, 1)),
            )
            for query, hits in zip(queries, found, strict=True)
        ]

    def _nearest(self, vectors: np.ndarray, k: int, where: Filters) -> list[list[Found]]:
        width, rule = k if where.exact else min(SPARE * k, HITS_A_REQUEST), where.expression()
        step = max(1, HITS_A_REQUEST // width)
        return [
            [hit for hit in hits if where.keeps(_fields(hit))][:k]
            for first in range(0, len(vectors), step)
            for hits in self._reader.search(vectors[first : first + step], width, FIELDS, rule)
        ]

    def _fetch(self, rows: Sequence[int], where: Filters) -> dict[int, Found]:
        found = self._reader.fetch(rows, FIELDS, where.expression())
        return {row: hit for row, hit in found.items() if where.keeps(_fields(hit))}

    def _hit(self, rank: int, found: Found) -> Hit:
        texts = found.fields if found.fields["whole"] else _entire(self._snapshot, found.row)
        title, text = texts["title"] or "", texts["text"]
        return Hit(rank=rank, score=found.score, passage_id=found.passage_id, title=title, text=text)

    def enter(self) -> None:
        """A search begins. Raises NightshiftError once the release is retired."""
        if self._retired:
            raise NightshiftError(CLOSED)
        self._users += 1

    def retire(self) -> bool:
        """No search may begin any more; true when none is under way, and the collection is to be closed."""
        self._retired, before = True, self._retired
        return not before and self._users == 0

    def leave(self) -> bool:
        """A search has ended; true when it was the last one on a retired release, which is to be closed."""
        self._users -= 1
        return self._retired and self._users == 0

    def close(self) -> None:
        """Give back what it holds: once, when `retire` or `leave` said so, and not under the owner's lock."""
        self._reader.close()
        self._lexical.close()


def _fields(found: Found) -> dict[str, Any]:
    return {**found.fields, "passage_id": found.passage_id}


def check_pair(reader: Reader, encoder: VectorEncoder, release: str) -> None:
    """Raise Mismatch unless encoder and collection are those of `release`, and the collection is whole."""
    identity = reader.identity
    if (encoder.fingerprint, encoder.dimension) != (identity.fingerprint, identity.dimension):
        raise Mismatch(
            f"release {release}: its collection holds vectors of {identity.fingerprint} (dimension "
            f"{identity.dimension}), encoder {identity.encoder} is {encoder.fingerprint} (dimension "
            f"{encoder.dimension}). The encoder's files were altered; `nightshift rollback` serves the release before."
        )
    if identity.release != release or reader.count() != identity.rows:
        raise Mismatch(
            f"release {release}: its collection says {identity.release} and {reader.count()} of "
            f"{identity.rows} rows; `nightshift rollback` serves the release before"
        )


def _entire(snapshot: Path, row: int) -> dict[str, Any]:
    """Title and text of a passage too long for Milvus, from the one row group of the snapshot that holds its row."""
    import pyarrow.parquet as pq

    if read_verified(snapshot, Snapshot) is None:
        raise Damaged(f"{snapshot}: damaged or removed, so this text is not to be had; restore it, or run a night")
    with pq.ParquetFile(snapshot / "passages.parquet") as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                table: pa.Table = file.read_row_group(group, columns=["title", "text"]).slice(row, 1)
                return dict(table.to_pylist()[0])
            row -= rows
    raise Mismatch(f"{snapshot}: holds fewer rows than the release made of it; restore it from a backup")
