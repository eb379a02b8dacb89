"""Cache the token ids of a snapshot's passages, computed once for a tokenizer, token limit, and prompt.

Ids are stored in blocks of 16,384 snapshot rows. `00003.ids` holds all ids of a block, concatenated. `00003.ends`
(int64) holds the end of each row's ids; a row that repeats the text of an earlier row has no ids. `00003.json` is
written last and marks the block as complete.

Shards, training, and later nights read the cache. The first reader of a block creates it, so tokenization runs in
parallel with the encoder and is shared among shards. A block copies the ids of known texts from finished caches.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.base.files import (
    artifact_digest,
    exclusive,
    partial_folder,
    produce,
    read_verified,
    receipts_newest_first,
    write_json,
)
from tasks.core.base.mapped_arrays import map_array
from tasks.core.base.receipts import Snapshot, TextIndex, Tokens
from tasks.core.embedding.text_index import find_rows, index_of, read_first_rows, read_hashes
from tasks.core.encoder.serving import ServingTower
from tasks.core.encoder.tokenizer_digest import number_kind, tokenizer_key
from tasks.core.snapshot.passage_ranges import passages_between
from tasks.core.text.normalization import full_text

log = logging.getLogger("nightshift.embedding")

BLOCK_ROWS = 16_384
TEXTS_AT_ONCE = 1024  # enough to keep the tokenizer's threads busy; needs about 60 kB per text
END = np.dtype("<i8")
COUNTS = ("texts", "tokenised", "copied", "tokens")


class TokenReader:
    """Reads token ids from a folder of blocks, by snapshot row. Only the first row of a text has ids."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind = folder, np.dtype(kind).newbyteorder("<")

    def take(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the token ids int32 of each of `rows` int64 (n,), in that order."""
        ids: list[np.ndarray] = [np.zeros(0, np.int32)] * len(rows)
        for block, places, starts, ends in self._spans(rows):
            flat = np.asarray(map_array(self._folder / f"{block:05d}.ids", self._kind))
            for place, start, end in zip(places.tolist(), starts.tolist(), ends.tolist(), strict=True):
                ids[place] = flat[start:end].astype(np.int32)  # a copy, so the mapping can be closed
        return ids

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of tokens int64 of each of `rows` int64 (n,)."""
        sizes = np.zeros(len(rows), np.int64)
        for _, places, starts, ends in self._spans(rows):
            sizes[places] = ends - starts
        return sizes

    def _spans(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        blocks = rows // BLOCK_ROWS
        for block in np.unique(blocks).tolist():
            places = np.flatnonzero(blocks == block)
            ends = np.concatenate([np.zeros(1, END), np.fromfile(self._folder / f"{block:05d}.ends", END)])
            at = rows[places] - block * BLOCK_ROWS
            yield block, places, ends[at], ends[at + 1]


class KnownTokens:
    """Finds token ids in finished artifacts, by text hash; a row number counts through all artifacts."""

    def __init__(self, sources: Sequence[tuple[Tokens, TextIndex]]) -> None:
        self._sources = [(index, TokenReader(tokens.path, tokens.kind)) for tokens, index in sources]
        self._edges = np.cumsum([0, *(index.rows for _, index in sources)])

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """Return the rows int64 (n,) to pass to `take`, for text hashes S16 (n,); -1 for an unknown text."""
        rows = np.full(len(hashes), -1, np.int64)
        for (index, _), first in zip(self._sources, self._edges, strict=False):
            missing = np.flatnonzero(rows < 0)
            in_artifact = find_rows(index, hashes[missing])
            rows[missing] = np.where(in_artifact < 0, -1, in_artifact + first)
        return rows

    def take(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the token ids int32 of each of `rows` int64 (n,), which `find` returned."""
        ids: list[np.ndarray] = [np.zeros(0, np.int32)] * len(rows)
        for (_, reader), first, end in zip(self._sources, self._edges, self._edges[1:], strict=False):
            places = np.flatnonzero((rows >= first) & (rows < end))
            for place, row_ids in zip(places.tolist(), reader.take(rows[places] - first), strict=True):
                ids[place] = row_ids
        return ids


def known_tokens(home: Path, tokenizer: str, snapshot: Snapshot) -> KnownTokens | None:
    """Return the finished token ids of this tokenizer, those of this snapshot first, then the newest; None if none.

    All artifacts are searched, since the newest may be of a small pool of passages.
    """
    receipts = [receipt for receipt in receipts_newest_first(home, Tokens) if receipt.tokenizer == tokenizer]
    sources = []
    for tokens in sorted(receipts, key=lambda receipt: receipt.snapshot != snapshot.digest):
        index = index_of(home, tokens.snapshot)
        if index is not None and read_verified(tokens.path, Tokens) is not None:
            sources.append((tokens, index))
            if tokens.snapshot == snapshot.digest:  # has every text
                break
    return KnownTokens(sources) if sources else None


class TokenCache:
    """The token ids of one snapshot under one tokenizer. Missing blocks are created when they are first read."""

    def __init__(self, home: Path, tower: ServingTower, snapshot: Snapshot, index: TextIndex) -> None:
        self._home, self._tower, self._snapshot, self._index = home, tower, snapshot, index
        self.tokenizer, self._kind = tokenizer_key(tower), number_kind(tower)
        self._earlier = known_tokens(home, self.tokenizer, snapshot)
        self._sealed = False  # a process verifies the sealed files only once

    def take(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the token ids int32 of each of `rows` int64 (n,), the first rows of their texts."""
        return self._open_reader(rows).take(rows)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of tokens int64 of each of `rows` int64 (n,), the first rows of their texts."""
        return self._open_reader(rows).lengths(rows)

    def seal(self) -> Tokens:
        """Create the missing blocks and finish the artifact."""

        def build(folder: Path) -> Mapping[str, Any]:
            blocks = range(-(-self._snapshot.rows // BLOCK_ROWS))
            all_counts = [self._ensure_block(folder, block) for block in blocks]
            for lock in folder.glob(".*.lock"):
                lock.unlink()
            counts = {name: sum(int(block_counts[name]) for block_counts in all_counts) for name in COUNTS}
            log.debug("Tokenized %d texts, copied %d from an earlier night", counts["tokenised"], counts["copied"])
            return {
                **counts,
                "rows": self._snapshot.rows,
                "tokenizer": self.tokenizer,
                "snapshot": self._snapshot.digest,
                "kind": self._kind,
                "parents": (self._snapshot.digest, self._index.digest),
            }

        return produce(self._home, Tokens, _key(self.tokenizer, self._snapshot), build, resumable=True)

    def _open_reader(self, rows: np.ndarray) -> TokenReader:
        digest = artifact_digest(Tokens, _key(self.tokenizer, self._snapshot))
        folder = self._home / Tokens.shelf / digest
        self._sealed = self._sealed or read_verified(folder, Tokens) is not None
        if not self._sealed:
            folder = partial_folder(self._home, Tokens, digest)
            folder.mkdir(parents=True, exist_ok=True)
            for block in np.unique(rows // BLOCK_ROWS).tolist():
                self._ensure_block(folder, block)
        return TokenReader(folder, self._kind)

    def _ensure_block(self, folder: Path, block: int) -> dict[str, Any]:
        """Return the counts of a block; create the block first if it is missing."""
        counts = self._read_counts(folder, block)
        if counts is None:
            with exclusive(folder / f".{block:05d}.lock"):
                counts = self._read_counts(folder, block)
                if counts is None:
                    counts = self._write_block(folder, block)
                    write_json(folder / f"{block:05d}.json", counts)
        return counts

    def _read_counts(self, folder: Path, block: int) -> dict[str, Any] | None:
        """Return the counts of a complete block; None if it is missing or its files are truncated."""
        try:
            counts: dict[str, Any] = json.loads((folder / f"{block:05d}.json").read_bytes())
            ids, ends = (folder / f"{block:05d}.{name}" for name in ("ids", "ends"))
            whole = ids.stat().st_size == counts["tokens"] * np.dtype(self._kind).itemsize
            rows = min(BLOCK_ROWS, self._snapshot.rows - block * BLOCK_ROWS)
            return counts if whole and ends.stat().st_size == rows * END.itemsize else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _write_block(self, folder: Path, block: int) -> dict[str, int]:
        start = block * BLOCK_ROWS
        end = min(start + BLOCK_ROWS, self._snapshot.rows)
        first_of_text = read_first_rows(self._index, start, end) == np.arange(start, end)
        known = np.full(end - start, -1)
        if self._earlier is not None:
            known[first_of_text] = self._earlier.find(read_hashes(self._index, start, end)[first_of_text])
        missing = first_of_text & (known < 0)
        total = 0
        with (folder / f"{block:05d}.ids").open("wb") as ids, (folder / f"{block:05d}.ends").open("wb") as ends:
            for low, texts in self._text_batches(start, end, read=bool(missing.any())):
                part = slice(low, low + TEXTS_AT_ONCE)
                ids_of_rows = self._token_ids(texts, missing[part], known[part])
                sizes = np.fromiter(map(len, ids_of_rows), END, len(ids_of_rows))
                ids.write(np.fromiter(chain.from_iterable(ids_of_rows), self._kind, int(sizes.sum())).tobytes())
                ends.write((total + np.cumsum(sizes, dtype=END)).tobytes())
                total += int(sizes.sum())
            for file in (ids, ends):
                file.flush()
                os.fsync(file.fileno())
        distinct, tokenized = int(first_of_text.sum()), int(missing.sum())
        return {"texts": distinct, "tokenised": tokenized, "copied": distinct - tokenized, "tokens": total}

    def _text_batches(self, start: int, end: int, *, read: bool) -> Iterator[tuple[int, pa.Table | None]]:
        """Yield (first row within the block, table of up to 1,024 texts, or None if no text is needed)."""
        for low in range(start, end, TEXTS_AT_ONCE):
            high = min(low + TEXTS_AT_ONCE, end)
            batches = passages_between(self._snapshot, low, high, ["title", "text"]) if read else ()
            yield low - start, pa.Table.from_batches(batches) if read else None

    def _token_ids(self, texts: pa.Table | None, missing: np.ndarray, known: np.ndarray) -> list[Any]:
        """Return token ids of a batch of rows: tokenized, copied, or empty for a row that repeats an earlier text."""
        ids: list[Any] = [()] * len(missing)
        if texts is not None:
            new = np.flatnonzero(missing)
            rows = texts.take(pa.array(new)).to_pylist()
            tokenized = self._tower.tokenize([full_text(row["title"], row["text"]) for row in rows])
            for place, row_ids in zip(new, tokenized, strict=True):
                ids[place] = row_ids
        copied = np.flatnonzero(known >= 0)
        if self._earlier is not None:
            for place, array in zip(copied, self._earlier.take(known[copied]), strict=True):
                ids[place] = array.tolist()
        return ids


def _key(tokenizer: str, snapshot: Snapshot) -> dict[str, object]:
    return {"tokenizer": tokenizer, "snapshot": snapshot.digest}
