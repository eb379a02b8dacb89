"""Where the vector of each passage of a shard comes from, decided once, before the first is encoded.

So a shard's bytes hang on its plan alone: not on where it was killed, nor on what was finished meanwhile.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass

import numpy as np

from tasks.core.base.files import sync_files, write_json
from tasks.core.base.receipts import Embeddings, TextIndex
from tasks.core.embedding.known_vectors import source_named, sources
from tasks.core.embedding.shard_work import ShardWork
from tasks.core.embedding.text_index import find, first_between, hashes_between

ENCODE, REPEAT = -1, -2  # sources that are no earlier embeddings: the encoder; an earlier passage of this snapshot
CHUNK_ROWS = 1 << 16  # looked up at once, so that each earlier night is asked rarely
SOURCE, ROW, DONE = "source.i32", "row.i64", "plan.json"


@dataclass(frozen=True)
class Plan:
    """Of each row of the shard: the source of its vector, and the row it has there.

    source: int32 (rows,): a place in `earlier`, ENCODE or REPEAT.
    row: int64 (rows,): a row of that source; of this snapshot for ENCODE and REPEAT.
    """

    source: np.ndarray
    row: np.ndarray
    earlier: tuple[Embeddings, ...]

    @property
    def encode(self) -> np.ndarray:
        """The snapshot rows int64 (n,) whose texts go through the encoder, ascending."""
        rows: np.ndarray = self.row[self.source == ENCODE]
        return rows

    def counts(self) -> dict[str, int]:
        """Passages embedded, avoided, and of those repeated."""
        embedded, repeated = (int((self.source == kind).sum()) for kind in (ENCODE, REPEAT))
        return {"embedded": embedded, "avoided": len(self.source) - embedded, "repeated": repeated}


def plan_of(work: ShardWork, index: TextIndex) -> Plan:
    """The plan of an earlier try, or a new one when there is none, or what it builds on was removed or damaged."""
    plan = _read(work)
    if plan is None:
        shutil.rmtree(work.scratch, ignore_errors=True)  # parts of another plan are of no use
        work.scratch.mkdir(parents=True)
        _make(work, index)
        plan = _read(work)
    assert plan is not None
    return plan


def _read(work: ShardWork) -> Plan | None:
    try:
        digests = json.loads((work.scratch / DONE).read_text(encoding="utf-8"))
        source, row = np.fromfile(work.scratch / SOURCE, "<i4"), np.fromfile(work.scratch / ROW, "<i8")
    except (FileNotFoundError, ValueError):
        return None
    earlier = [source_named(work.home, digest) for digest in digests]
    there = tuple(one for one in earlier if one is not None)
    if len(there) < len(earlier) or not len(source) == len(row) == work.end - work.start:
        return None
    return Plan(source, row, there)


def _make(work: ShardWork, index: TextIndex) -> None:
    earlier = sources(work.home, work.encoder.passage_fingerprint, work.vectors)
    used: list[str] = []  # digests of the sources that have a vector for this shard; only their bytes are verified
    with (work.scratch / SOURCE).open("wb") as source_file, (work.scratch / ROW).open("wb") as row_file:
        for start in range(work.start, work.end, CHUNK_ROWS):
            end = min(start + CHUNK_ROWS, work.end)
            hashes, row = hashes_between(index, start, end), first_between(index, start, end)
            source = np.where(row == np.arange(start, end), ENCODE, REPEAT)
            missing = np.arange(len(row))
            for one in earlier:
                if len(missing) == 0:
                    break
                at = find(one.index, hashes[missing])
                found = at >= 0
                digest = one.embeddings.digest
                if not found.any() or source_named(work.home, digest) is None:
                    continue
                used += [] if digest in used else [digest]
                source[missing[found]], row[missing[found]] = used.index(digest), at[found]
                missing = missing[~found]
            source_file.write(source.astype("<i4").tobytes())
            row_file.write(row.astype("<i8").tobytes())
    sync_files(work.scratch)
    write_json(work.scratch / DONE, used)
