"""An open release: a collection and the encoder that made its vectors, always used together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tasks.core.base.errors import Damaged, Mismatch, NightshiftError
from tasks.core.base.files import read_verified
from tasks.core.base.ranking import DEPTH, Mode, Ranking
from tasks.core.base.receipts import Snapshot
from tasks.core.release.publisher import Found, Pointer, Reader, VectorEncoder
from tasks.core.search.filters import Filters
from tasks.core.search.hybrid import HybridQuery, rank_hybrid
from tasks.core.search.lexical import Lexical
from tasks.core.search.stages import Stage, note_mode, timed

CLOSED = "this searcher is closed; open another"
HITS_A_REQUEST = 8192  # limits the size of a response, which includes texts
FIELDS = ("title", "text", "whole")
FILTERED = 1000  # hits of BM25 that a filter is applied to
EVEN = {"weight": 0.5}  # for a hybrid search of a release that ranks in another mode
SPARE = 8  # factor of extra hits to request if a filter must be checked here


class Hit(BaseModel):
    """A passage in an answer. `score` is the inner product with the query, the BM25 score, or the hybrid score."""

    model_config = ConfigDict(frozen=True)

    rank: int  # from 1
    score: float
    passage_id: str
    title: str
    text: str


class Answer(BaseModel):
    """The hits of one release for one query, best first."""

    model_config = ConfigDict(frozen=True)

    release: str
    query: str
    hits: tuple[Hit, ...]


class Pinned:
    """A collection with its encoder. It is closed after it is retired and its last search has ended.

    The caller's lock guards `enter`, `leave`, and `retire`.
    """

    def __init__(
        self,
        pointer: Pointer,
        reader: Reader,
        encoder: VectorEncoder,
        folder: Path,
        snapshot: Path,
        ranking: Ranking,
        lexical: Lexical,
    ) -> None:
        self.pointer, self.encoder, self.folder = pointer, encoder, folder  # folder of the encoder
        self.damage: NightshiftError | None = None  # why it no longer answers
        self.instead_of: Pointer | None = None  # the damaged release that it replaces
        self._reader, self.snapshot, self.ranking, self._lexical = reader, snapshot, ranking, lexical
        self._users, self._retired = 0, False

    def search(self, queries: Sequence[str], k: int, where: Filters, mode: Mode | None) -> list[Answer]:
        """Return one answer per query, in the mode of the release unless `mode` is given.

        Raises `damage` if it is set, even if it was set during the search.
        """
        self._check_whole()
        mode = mode or self.ranking.mode
        note_mode(mode)
        answers = self._answers(queries, k, where, mode)
        self._check_whole()
        return answers

    def check(self) -> None:
        """Verify the files of the collection and the lexical index.

        Damage of the index only sets `lexical_damage` if the release ranks without it.

        Raises:
            Damaged: a file of the collection is damaged, or of the index of a release that ranks with BM25.
            Unreachable: the Milvus server does not answer.
        """
        self._reader.check()
        self._lexical.check()
        if self._lexical.damage is not None and self.ranking.mode is not Mode.DENSE:
            raise self._lexical.damage

    @property
    def rows(self) -> int:
        """Passages in the collection."""
        return self._reader.identity.rows

    @property
    def lexical_damage(self) -> NightshiftError | None:
        """Why BM25 cannot answer; None if no damage was detected."""
        return self._lexical.damage

    def _check_whole(self) -> None:
        if self.damage is not None:
            raise self.damage

    def _answers(self, queries: Sequence[str], k: int, where: Filters, mode: Mode) -> list[Answer]:
        if mode is Mode.LEXICAL:
            hits = self._rank_lexical(queries, k, where)
        else:
            with timed(Stage.EMBED):
                vectors = self.encoder.encode_queries(list(queries))
            if mode is Mode.HYBRID:
                hits = self._rank_hybrid(queries, vectors, k, where)
            else:
                with timed(Stage.SEARCH):
                    hits = self._nearest(vectors, k, where, FIELDS)
        return [
            Answer(
                release=self.pointer.release,
                query=query,
                hits=tuple(self._hit(rank, hit) for rank, hit in enumerate(query_hits, 1)),
            )
            for query, query_hits in zip(queries, hits, strict=True)
        ]

    def _rank_lexical(self, queries: Sequence[str], k: int, where: Filters) -> list[list[Found]]:
        """Return the best `k` by BM25; with a filter, of the first `FILTERED`."""
        depth = max(k, FILTERED) if where.expression() else k
        with timed(Stage.SEARCH):
            ranked = self._lexical.search(queries, depth)
        fetched = self._fetch_texts(sorted({row for rows, _ in ranked for row in rows.tolist()}), where)
        answers = []
        for rows, scores in ranked:
            hits = zip(rows.tolist(), scores.tolist(), strict=True)
            answers.append([fetched[row]._replace(score=score) for row, score in hits if row in fetched][:k])
        return answers

    def _rank_hybrid(self, queries: Sequence[str], vectors: np.ndarray, k: int, where: Filters) -> list[list[Found]]:
        """Return the best `k` by the hybrid score. Texts are read for these only, by their key."""
        depth = max(k, DEPTH)
        fields = () if where.exact else FIELDS
        with timed(Stage.SEARCH):
            weights = self._lexical.weights(queries)
            lexical = self._lexical.search_later(weights, max(depth, FILTERED) if where.expression() else depth)
            dense = self._nearest(vectors, depth, where, fields)  # while BM25 searches in another thread
            inputs = [
                HybridQuery(weighted, vector, hits, *best)
                for weighted, vector, hits, best in zip(weights, vectors, dense, lexical.result(), strict=True)
            ]
            ranking = self.ranking if self.ranking.mode is Mode.HYBRID else self.ranking.model_copy(update=EVEN)
            ranked = rank_hybrid(inputs, self._lexical.scorer, ranking, k, lambda rows: self._vectors(rows, where))
        wanted = sorted({row for best in ranked for row, _ in best})
        fetched = self._fetch_texts(wanted, where)
        return [[fetched[row]._replace(score=score) for row, score in best] for best in ranked]

    def _vectors(self, rows: Sequence[int], where: Filters) -> dict[int, np.ndarray]:
        """Return row → vector of the rows that match the filter."""
        matching = sorted(self._fetch(rows, where, FIELDS)) if where.expression() else list(rows)
        vectors = self._reader.vectors(matching, self._lexical.passage_ids(matching))
        return dict(zip(matching, vectors, strict=True))

    def _nearest(self, vectors: np.ndarray, k: int, where: Filters, fields: Sequence[str]) -> list[list[Found]]:
        width, rule = k if where.exact else min(SPARE * k, HITS_A_REQUEST), where.expression()
        step = max(1, HITS_A_REQUEST // width)
        return [
            [hit for hit in hits if _matches(hit, where)][:k]
            for first in range(0, len(vectors), step)
            for hits in self._reader.search(vectors[first : first + step], width, fields, rule)
        ]

    def _fetch(self, rows: Sequence[int], where: Filters, fields: Sequence[str]) -> dict[int, Found]:
        hits = self._reader.fetch(self._lexical.passage_ids(rows), fields, where.expression())
        return {row: hit for row, hit in hits.items() if _matches(hit, where)}

    def _fetch_texts(self, rows: Sequence[int], where: Filters) -> dict[int, Found]:
        with timed(Stage.FETCH):
            return self._fetch(rows, where, FIELDS)

    def _hit(self, rank: int, hit: Found) -> Hit:
        if hit.fields["whole"]:
            texts = hit.fields
        else:
            with timed(Stage.FETCH):
                texts = _read_full_text(self.snapshot, hit.row)
        title, text = texts["title"] or "", texts["text"]
        return Hit(rank=rank, score=hit.score, passage_id=hit.passage_id, title=title, text=text)

    def enter(self) -> None:
        """Begin a search. Raises NightshiftError if the release is retired."""
        if self._retired:
            raise NightshiftError(CLOSED)
        self._users += 1

    def retire(self) -> bool:
        """Refuse new searches. Return true if no search is in progress and the caller must close the collection."""
        self._retired, before = True, self._retired
        return not before and self._users == 0

    def leave(self) -> bool:
        """End a search. Return true if it was the last search of a retired release and the caller must close it."""
        self._users -= 1
        return self._retired and self._users == 0

    def close(self) -> None:
        """Release all resources. Call it once, after `retire` or `leave` returned true, and without the lock."""
        self._reader.close()
        self._lexical.close()


def _matches(hit: Found, where: Filters) -> bool:
    return where.exact or where.keeps({**hit.fields, "passage_id": hit.passage_id})


def check_pair(reader: Reader, encoder: VectorEncoder, release: str) -> None:
    """Raise Mismatch unless encoder and collection belong to `release`, and the collection has all its rows."""
    identity = reader.identity
    if (encoder.fingerprint, encoder.dimension) != (identity.fingerprint, identity.dimension):
        raise Mismatch(
            f"release {release}: its collection holds vectors of {identity.fingerprint} (dimension "
            f"{identity.dimension}), but encoder {identity.encoder} has fingerprint {encoder.fingerprint} (dimension "
            f"{encoder.dimension}). Its files were changed. `nightshift rollback` serves the previous release."
        )
    if identity.release != release or reader.count() != identity.rows:
        raise Mismatch(
            f"release {release}: its collection belongs to {identity.release} and has {reader.count()} of "
            f"{identity.rows} rows. `nightshift rollback` serves the previous release."
        )


def _read_full_text(snapshot: Path, row: int) -> dict[str, Any]:
    """Read title and text of a passage that is too long for Milvus, from its row group in the snapshot."""
    import pyarrow.parquet as pq

    if read_verified(snapshot, Snapshot) is None:
        raise Damaged(
            f"{snapshot}: damaged or removed, so the full text of a passage is missing. Restore it, or run a night"
        )
    with pq.ParquetFile(snapshot / "passages.parquet") as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                table: pa.Table = file.read_row_group(group, columns=["title", "text"]).slice(row, 1)
                return dict(table.to_pylist()[0])
            row -= rows
    raise Mismatch(f"{snapshot}: has fewer rows than the release made from it. Restore it from a backup")
