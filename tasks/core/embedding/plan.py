"""Plan where the vector of each passage of a shard comes from, before encoding starts.

A shard's bytes depend only on its plan, not on where an earlier run was killed or what finished in the meantime.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass

import numpy as np

from tasks.core.base.files import sync_files, write_json
from tasks.core.base.receipts import Embeddings, TextIndex
from tasks.core.embedding.known_vectors import find_sources, load_source
from tasks.core.embedding.shard_work import ShardWork
from tasks.core.embedding.text_index import find_rows, read_first_rows, read_hashes

ENCODE, REPEAT = -1, -2  # special sources: the encoder; an earlier passage of this snapshot
CHUNK_ROWS = 1 << 16  # rows looked up at once, to search each earlier night only a few times
SOURCE, ROW, DONE = "source.i32", "row.i64", "plan.json"


@dataclass(frozen=True)
class Plan:
    """For each row of the shard: the source of its vector, and the row in that source.

    source: int32 (rows,): an index into `earlier`, or ENCODE, or REPEAT.
    row: int64 (rows,): a row of that source; for ENCODE and REPEAT a row of this snapshot.
    """

    source: np.ndarray
    row: np.ndarray
    earlier: tuple[Embeddings, ...]

    @property
    def encode(self) -> np.ndarray:
        """The snapshot rows int64 (n,) to encode, ascending."""
        rows: np.ndarray = self.row[self.source == ENCODE]
        return rows

    def counts(self) -> dict[str, int]:
        """Return the number of passages embedded, avoided, and repeated; repeated passages also count as avoided."""
        embedded, repeated = (int((self.source == kind).sum()) for kind in (ENCODE, REPEAT))
        return {"embedded": embedded, "avoided": len(self.source) - embedded, "repeated": repeated}


def prepare_plan(work: ShardWork, index: TextIndex) -> Plan:
    """Load the plan of an earlier run. Make a new plan if there is none or one of its sources is gone or damaged."""
    plan = _read(work)
    if plan is None:
        shutil.rmtree(work.scratch, ignore_errors=True)  # windows of another plan cannot be reused
        work.scratch.mkdir(parents=True)
        _write_plan(work, index)
        plan = _read(work)
    assert plan is not None
    return plan


def _read(work: ShardWork) -> Plan | None:
    try:
        digests = json.loads((work.scratch / DONE).read_text(encoding="utf-8"))
        source, row = np.fromfile(work.scratch / SOURCE, "<i4"), np.fromfile(work.scratch / ROW, "<i8")
    except (FileNotFoundError, ValueError):
        return None
    earlier = [load_source(work.home, digest) for digest in digests]
    usable = tuple(embeddings for embeddings in earlier if embeddings is not None)
    if len(usable) < len(earlier) or not len(source) == len(row) == work.end - work.start:
        return None
    return Plan(source, row, usable)


def _write_plan(work: ShardWork, index: TextIndex) -> None:
    earlier = find_sources(work.home, work.encoder.passage_fingerprint, work.vectors)
    used: list[str] = []  # digests of the sources that have vectors for this shard; only these are verified
    with (work.scratch / SOURCE).open("wb") as source_file, (work.scratch / ROW).open("wb") as row_file:
        for start in range(work.start, work.end, CHUNK_ROWS):
            end = min(start + CHUNK_ROWS, work.end)
            hashes, row = read_hashes(index, start, end), read_first_rows(index, start, end)
            source = np.where(row == np.arange(start, end), ENCODE, REPEAT)
            missing = np.arange(len(row))
            for candidate in earlier:
                if len(missing) == 0:
                    break
                source_rows = find_rows(candidate.index, hashes[missing])
                known = source_rows >= 0
                digest = candidate.embeddings.digest
                if not known.any() or load_source(work.home, digest) is None:
                    continue
                used += [] if digest in used else [digest]
                source[missing[known]], row[missing[known]] = used.index(digest), source_rows[known]
                missing = missing[~known]
            source_file.write(source.astype("<i4").tobytes())
            row_file.write(row.astype("<i8").tobytes())
    sync_files(work.scratch)
    write_json(work.scratch / DONE, used)
