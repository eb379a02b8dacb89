"""Token ids of training texts in compact tables, one row per distinct text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.base.receipts import Snapshot
from tasks.core.embedding.text_index import hash_bytes
from tasks.core.embedding.token_cache import KnownTokens, known_tokens
from tasks.core.encoder.tokenizer_digest import tokenizer_key
from tasks.core.encoder.tower import Tower
from tasks.core.snapshot.reader import passages
from tasks.core.text.duplicate_clusters import ShingleCollector, clusters
from tasks.core.text.normalization import full_text, text_hash


class TokenTable:
    """Token ids of many texts in one int32 array (4 bytes per token)."""

    def __init__(self, texts: Iterable[Sequence[Sequence[int]]]) -> None:
        """Copy batches of token id lists."""
        parts = [np.fromiter(row, np.int32, len(row)) for batch in texts for row in batch]
        self.flat = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        self.ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> list[int]:
        start = self.ends[row - 1] if row else 0
        ids: list[int] = self.flat[start : self.ends[row]].tolist()
        return ids

    def cut(self, limit: int) -> TokenTable:
        """Return a table with at most `limit` tokens for each text: the first, and the last, which often ends a text.

        limit: 0 or less keeps all tokens.
        """
        sizes = np.diff(self.ends, prepend=0)
        if limit <= 0 or sizes.max(initial=0) <= limit:
            return self
        place = np.arange(len(self.flat)) - np.repeat(self.ends - sizes, sizes)  # of each token in its text
        table = TokenTable([])
        table.flat = self.flat[(place < limit - 1) | (place == np.repeat(sizes, sizes) - 1)]
        table.ends = np.cumsum(np.minimum(sizes, limit))
        return table

    def take(self, rows: Iterable[int]) -> list[list[int]]:
        """Return the token ids of these rows, in the given order."""
        return [self[int(row)] for row in rows]


class PassageTexts:
    """Token ids and shingles of passages of several snapshots. Passages with equal texts share a row.

    Token ids come from the snapshot's token cache, if an embedding step wrote one. Missing texts are tokenized.
    """

    def __init__(self, tower: Tower) -> None:
        self._tower, self._tokenizer = tower, tokenizer_key(tower)
        self._rows: dict[str, int] = {}  # text hash → row
        self._tokens: list[TokenTable] = []
        self._shingles = ShingleCollector()

    def add(self, snapshot: Snapshot, ids: pa.Array) -> dict[str, int]:
        """Read the passages with these ids in one pass over the snapshot; return passage id → row."""
        row_by_id: dict[str, int] = {}
        cache = known_tokens(snapshot.path.parents[1], self._tokenizer, snapshot)
        for batch in passages(snapshot):
            selected = batch.filter(pc.is_in(batch["passage_id"], value_set=ids))
            hashes = selected["text_hash"].to_pylist()
            first = {digest: place for place, digest in reversed(list(enumerate(hashes))) if digest not in self._rows}
            new = selected.take(pa.array(sorted(first.values()), pa.int64()))
            pairs = zip(new["title"].to_pylist(), new["text"].to_pylist(), strict=True)
            texts = [full_text(title, text) for title, text in pairs]
            self._tokens.append(TokenTable([self._token_ids(cache, new["text_hash"], texts)]))
            self._shingles.add(pa.array(texts, pa.string()))
            for digest in new["text_hash"].to_pylist():
                self._rows[digest] = len(self._rows)
            row_by_id.update(
                zip(selected["passage_id"].to_pylist(), (self._rows[digest] for digest in hashes), strict=True)
            )
        return row_by_id

    def add_texts(self, texts: Sequence[tuple[str, str]]) -> list[int | None]:
        """Tokenize texts (title, text) that no snapshot contains; return the row of each, None if a passage equals it.

        A text that occurs twice has one row.
        """
        rows: list[int | None] = []
        new: dict[str, str] = {}
        before = set(self._rows)
        for title, text in texts:
            digest = text_hash(title, text)
            if digest not in self._rows:
                self._rows[digest] = len(self._rows)
                new[digest] = full_text(title, text)
            rows.append(None if digest in before else self._rows[digest])
        self._tokens.append(TokenTable([self._tower.tokenize(list(new.values()))] if new else []))
        self._shingles.add(pa.array(new.values(), pa.string()))
        return rows

    def _token_ids(self, cache: KnownTokens | None, hashes: pa.Array, texts: Sequence[str]) -> list[Sequence[int]]:
        if cache is None:
            return list(self._tower.tokenize(texts))
        rows = cache.find(hash_bytes(hashes))
        ids: list[Sequence[int]] = [()] * len(texts)
        for place, cached in zip(np.flatnonzero(rows >= 0), cache.take(rows[rows >= 0]), strict=True):
            ids[place] = cached.tolist()
        missing = np.flatnonzero(rows < 0)
        for place, tokens in zip(
            missing, self._tower.tokenize([texts[place] for place in missing.tolist()]), strict=True
        ):
            ids[place] = tokens
        return ids

    def tokens(self) -> TokenTable:
        """Return the token ids of all rows."""
        table = TokenTable([])
        table.flat = np.concatenate([table.flat, *(part.flat for part in self._tokens)])
        sizes = [np.diff(part.ends, prepend=0) for part in self._tokens]
        table.ends = np.cumsum(np.concatenate([np.zeros(0, np.int64), *sizes]))
        return table

    def hashes(self) -> np.ndarray:
        """Return the text hash of each row: S16 (rows,)."""
        return hash_bytes(pa.array(list(self._rows), pa.string()))

    def clusters(self, threshold: float) -> np.ndarray:
        """Return the near-duplicate cluster of each row, int64 (rows,). See `clusters`."""
        return clusters(self._shingles.sets(), threshold)
