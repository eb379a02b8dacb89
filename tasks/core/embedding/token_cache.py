"""Token ids of a snapshot's passages, made once for a tokenizer, a token limit and a prompt.

They lie in blocks of 16,384 snapshot rows: `00003.ids`, all ids of a block one after the other; `00003.ends`, int64,
where each row's end, none for a row whose text stands in an earlier one; `00003.json`, written last, says that the
block is whole. Shards, trainings and later nights read them; whoever needs a block first makes it, so reading and
tokenising run beside the encoder, and several shards divide the work. A block takes what an earlier night's newest
cache has of its texts.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
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
from tasks.core.base.receipts import Snapshot, TextIndex, Tokens
from tasks.core.embedding.text_index import find, first_between, hashes_between, index_of
from tasks.core.encoder.tokenizer_digest import number_kind, tokenizer_key
from tasks.core.encoder.tower import Tower
from tasks.core.snapshot.passage_ranges import passages_between
from tasks.core.text.normalization import full_text

log = logging.getLogger("nightshift.embedding")

BLOCK_ROWS = 16_384
TEXTS_AT_ONCE = 1024  # enough for the tokenizer's threads to share; it takes some 60 kB a text
END = np.dtype("<i8")
COUNTS = ("texts", "tokenised", "copied", "tokens")


class TokenReader:
    """Token ids in a folder of blocks, by snapshot row; only the first row of a text has any."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind = folder, np.dtype(kind).newbyteorder("<")

    def take(self, rows: np.ndarray) -> list[np.ndarray]:
        """The token ids int32 of each of `rows` int64 (n,), in their order."""
        found: list[np.ndarray] = [np.zeros(0, np.int32)] * len(rows)
        for block, places, starts, ends in self._spans(rows):
            file = self._folder / f"{block:05d}.ids"
            flat = np.asarray(np.memmap(file, self._kind, "r")) if file.stat().st_size else np.zeros(0, self._kind)
            for place, start, end in zip(places.tolist(), starts.tolist(), ends.tolist(), strict=True):
                found[place] = flat[start:end].astype(np.int32)  # a copy: the mapping is let go
        return found

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """The number of tokens int64 of each of `rows` int64 (n,)."""
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
    """The token ids of a finished artifact, by text hash."""

    def __init__(self, tokens: Tokens, index: TextIndex) -> None:
        self._index, self._reader = index, TokenReader(tokens.path, tokens.kind)

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """The rows int64 (n,) to ask `take` for, of text hashes S16 (n,); -1 where a text is not known."""
        return find(self._index, hashes)

    def take(self, rows: np.ndarray) -> list[np.ndarray]:
        """The token ids int32 of each of `rows` int64 (n,) that `find` gave."""
        return self._reader.take(rows)


def known_tokens(home: Path, tokenizer: str, snapshot: Snapshot) -> KnownTokens | None:
    """What is finished under this tokenizer: of this snapshot, or else the newest of another; None: nothing."""
    found = [one for one in receipts_newest_first(home, Tokens) if one.tokenizer == tokenizer]
    for tokens in sorted(found, key=lambda one: one.snapshot != snapshot.digest):
        index = index_of(home, tokens.snapshot)
        if index is not None and read_verified(tokens.path, Tokens) is not None:
            return KnownTokens(tokens, index)
    return None


class TokenCache:
    """The token ids of one snapshot under one tokenizer: read where they are, made where they are not."""

    def __init__(self, home: Path, tower: Tower, snapshot: Snapshot, index: TextIndex) -> None:
        self._home, self._tower, self._snapshot, self._index = home, tower, snapshot, index
        self.tokenizer, self._kind = tokenizer_key(tower), number_kind(tower)
        self._earlier = known_tokens(home, self.tokenizer, snapshot)
        self._sealed = False  # verified once; a process does not compare the files again at every read

    def take(self, rows: np.ndarray) -> list[np.ndarray]:
        """The token ids int32 of each of `rows` int64 (n,), the first of their text."""
        return self._reader(rows).take(rows)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """The number of tokens int64 of each of `rows` int64 (n,), the first of their text."""
        return self._reader(rows).lengths(rows)

    def seal(self) -> Tokens:
        """Make what is missing and close the artifact."""

        def build(folder: Path) -> Mapping[str, Any]:
            blocks = range(-(-self._snapshot.rows // BLOCK_ROWS))
            facts = [self._made(folder, block) for block in blocks]
            for lock in folder.glob(".*.lock"):
                lock.unlink()
            counts = {name: sum(int(one[name]) for one in facts) for name in COUNTS}
            log.debug("%d texts tokenized, %d copied from an earlier night", counts["tokenised"], counts["copied"])
            return {
                **counts,
                "rows": self._snapshot.rows,
                "tokenizer": self.tokenizer,
                "snapshot": self._snapshot.digest,
                "kind": self._kind,
                "parents": (self._snapshot.digest, self._index.digest),
            }

        return produce(self._home, Tokens, _key(self.tokenizer, self._snapshot), build, resumable=True)

    def _reader(self, rows: np.ndarray) -> TokenReader:
        digest = artifact_digest(Tokens, _key(self.tokenizer, self._snapshot))
        folder = self._home / Tokens.shelf / digest
        self._sealed = self._sealed or read_verified(folder, Tokens) is not None
        if not self._sealed:
            folder = partial_folder(self._home, Tokens, digest)
            folder.mkdir(parents=True, exist_ok=True)
            for block in np.unique(rows // BLOCK_ROWS).tolist():
                self._made(folder, block)
        return TokenReader(folder, self._kind)

    def _made(self, folder: Path, block: int) -> dict[str, Any]:
        """The counts of a block, which is made now unless it is there."""
        facts = self._facts(folder, block)
        if facts is None:
            with exclusive(folder / f".{block:05d}.lock"):
                facts = self._facts(folder, block)
                if facts is None:
                    facts = self._make(folder, block)
                    write_json(folder / f"{block:05d}.json", facts)
        return facts

    def _facts(self, folder: Path, block: int) -> dict[str, Any] | None:
        """The counts of a block that is done; None for one that is not, or whose files were cut since."""
        try:
            facts: dict[str, Any] = json.loads((folder / f"{block:05d}.json").read_bytes())
            ids, ends = (folder / f"{block:05d}.{name}" for name in ("ids", "ends"))
            whole = ids.stat().st_size == facts["tokens"] * np.dtype(self._kind).itemsize
            rows = min(BLOCK_ROWS, self._snapshot.rows - block * BLOCK_ROWS)
            return facts if whole and ends.stat().st_size == rows * END.itemsize else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _make(self, folder: Path, block: int) -> dict[str, int]:
        start = block * BLOCK_ROWS
        end = min(start + BLOCK_ROWS, self._snapshot.rows)
        own = first_between(self._index, start, end) == np.arange(start, end)
        known = np.full(end - start, -1)
        if self._earlier is not None:
            known[own] = self._earlier.find(hashes_between(self._index, start, end)[own])
        missing = own & (known < 0)
        total = 0
        with (folder / f"{block:05d}.ids").open("wb") as ids, (folder / f"{block:05d}.ends").open("wb") as ends:
            for low, texts in self._pieces(start, end, read=bool(missing.any())):
                part = slice(low, low + TEXTS_AT_ONCE)
                made = self._ids(texts, missing[part], known[part])
                sizes = np.fromiter(map(len, made), END, len(made))
                ids.write(np.fromiter(chain.from_iterable(made), self._kind, int(sizes.sum())).tobytes())
                ends.write((total + np.cumsum(sizes, dtype=END)).tobytes())
                total += int(sizes.sum())
            for file in (ids, ends):
                file.flush()
                os.fsync(file.fileno())
        texts_, tokenised = int(own.sum()), int(missing.sum())
        return {"texts": texts_, "tokenised": tokenised, "copied": texts_ - tokenised, "tokens": total}

    def _pieces(self, start: int, end: int, *, read: bool) -> Iterator[tuple[int, pa.Table | None]]:
        """(row within the block, its texts and the following ones', None where no text has to be read)."""
        for low in range(start, end, TEXTS_AT_ONCE):
            high = min(low + TEXTS_AT_ONCE, end)
            batches = passages_between(self._snapshot, low, high, ["title", "text"]) if read else ()
            yield low - start, pa.Table.from_batches(batches) if read else None

    def _ids(self, texts: pa.Table | None, missing: np.ndarray, known: np.ndarray) -> list[Any]:
        """Token ids of some rows: tokenised, copied, or none for a row whose text stands in an earlier one."""
        ids: list[Any] = [()] * len(missing)
        if texts is not None:
            new = np.flatnonzero(missing)
            some = texts.take(pa.array(new)).to_pylist()
            for place, one in zip(
                new, self._tower.tokenize([full_text(t["title"], t["text"]) for t in some]), strict=True
            ):
                ids[place] = one
        copied = np.flatnonzero(known >= 0)
        if self._earlier is not None:
            for place, row in zip(copied, self._earlier.take(known[copied]), strict=True):
                ids[place] = row.tolist()
        return ids


def _key(tokenizer: str, snapshot: Snapshot) -> dict[str, object]:
    return {"tokenizer": tokenizer, "snapshot": snapshot.digest}
