"""Token ids of training texts in compact tables, one row for each distinct text."""

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
from tasks.core.text.normalization import full_text


class TokenTable:
    """Token ids of many texts in one int32 array, 4 bytes a token."""

    def __init__(self, texts: Iterable[Sequence[Sequence[int]]]) -> None:
        """Take batches of token id lists."""
        parts = [np.fromiter(row, np.int32, len(row)) for batch in texts for row in batch]
        self.flat = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        self.ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> list[int]:
        start = self.ends[row - 1] if row else 0
        ids: list[int] = self.flat[start : self.ends[row]].tolist()
        return ids

    def take(self, rows: Iterable[int]) -> list[list[int]]:
        """The token ids of these rows, in their order."""
        return [self[int(row)] for row in rows]


class PassageTexts:
    """Passages of snapshots, shingled once for each distinct text, whatever ids it goes by.

    Their token ids come from the token cache that an embedding of the snapshot left; what that lacks is tokenised.
    """

    def __init__(self, tower: Tower) -> None:
        self._tower, self._tokenizer = tower, tokenizer_key(tower)
        self._rows: dict[str, int] = {}  # text hash → row
        self._tokens: list[TokenTable] = []
        self._shingles = ShingleCollector()

    def add(self, snapshot: Snapshot, ids: pa.Array) -> dict[str, int]:
        """Read the passages of these ids in one pass; return the row of each by its id."""
        found: dict[str, int] = {}
        cache = known_tokens(snapshot.path.parents[1], self._tokenizer, snapshot)
        for batch in passages(snapshot):
            some = batch.filter(pc.is_in(batch["passage_id"], value_set=ids))
            hashes = some["text_hash"].to_pylist()
            first = {name: place for place, name in reversed(list(enumerate(hashes))) if name not in self._rows}
            new = some.take(pa.array(sorted(first.values()), pa.int64()))
            pairs = zip(new["title"].to_pylist(), new["text"].to_pylist(), strict=True)
            texts = [full_text(title, text) for title, text in pairs]
            self._tokens.append(TokenTable([self._token_ids(cache, new["text_hash"], texts)]))
            self._shingles.add(pa.array(texts, pa.string()))
            for name in new["text_hash"].to_pylist():
                self._rows[name] = len(self._rows)
            found.update(zip(some["passage_id"].to_pylist(), (self._rows[name] for name in hashes), strict=True))
        return found

    def _token_ids(self, cache: KnownTokens | None, hashes: pa.Array, texts: Sequence[str]) -> list[Sequence[int]]:
        if cache is None:
            return list(self._tower.tokenize(texts))
        rows = cache.find(hash_bytes(hashes))
        ids: list[Sequence[int]] = [()] * len(texts)
        for place, one in zip(np.flatnonzero(rows >= 0), cache.take(rows[rows >= 0]), strict=True):
            ids[place] = one.tolist()
        missing = np.flatnonzero(rows < 0)
        for place, made in zip(
            missing, self._tower.tokenize([texts[place] for place in missing.tolist()]), strict=True
        ):
            ids[place] = made
        return ids

    def tokens(self) -> TokenTable:
        """The token ids of all rows."""
        table = TokenTable([])
        table.flat = np.concatenate([table.flat, *(part.flat for part in self._tokens)])
        sizes = [np.diff(part.ends, prepend=0) for part in self._tokens]
        table.ends = np.cumsum(np.concatenate([np.zeros(0, np.int64), *sizes]))
        return table

    def clusters(self, threshold: float) -> np.ndarray:
        """A near-duplicate cluster for each row, int64, see `clusters`."""
        return clusters(self._shingles.sets(), threshold)
