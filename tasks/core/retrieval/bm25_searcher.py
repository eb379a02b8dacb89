"""BM25 over a release's snapshot for queries one by one: a Java process that stays, behind a pipe.

Mining starts Java anew for every batch, which is cheap for thousands of queries and dear for one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks.core.base.errors import Damaged, Impossible, NightshiftError
from tasks.core.base.settings import Settings
from tasks.core.retrieval.bm25 import find_index, one_line
from tasks.core.retrieval.jvm import anserini_jar, find_java, java_environment
from tasks.core.retrieval.lucene_files import check_lucene, damaged_indexes

HEAP_MB = 256
NEXT = "Search without fusion until `nightshift releases repair` or the next night has built the index again"
CHILD = Path(__file__).with_name("lucene.py")


class Bm25Searcher:
    """BM25 over one snapshot, started by the first search; safe for several threads, which take turns."""

    def __init__(self, settings: Settings, snapshot: str) -> None:
        self._settings, self._snapshot = settings, snapshot
        self.damage: NightshiftError | None = None
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._inode = 0  # of the index that the child reads

    def search(self, queries: Sequence[str], depth: int) -> list[list[int]]:
        """The snapshot rows of the `depth` best passages for each query, best first; of equal scores the lower row.

        Raises Impossible when the snapshot has no index, or Java does not answer in `[milvus] query_seconds`; Damaged
        when the index is damaged.
        """
        with self._lock:
            if self.damage is not None:
                raise self.damage
            asked = {"queries": [one_line(query) for query in queries], "depth": depth}
            found = self._ask(asked)
        return [[row for row, _ in sorted(hits, key=lambda hit: (-hit[1], hit[0]))] for hits in found]

    def check(self) -> None:
        """Verify the index again if it was read or was damaged; `damage` holds what is wrong with it."""
        if self._child is None and self.damage is None:
            return
        with self._lock:
            try:
                inode, self.damage = self._verified().stat().st_ino, None
            except NightshiftError as error:
                inode, self.damage = 0, error
            if inode != self._inode:  # damaged, or built again: the child would go on reading the old files
                self._stop()

    def close(self) -> None:
        """End the Java process; a search that is under way finishes first."""
        with self._lock:
            self._stop()

    def _ask(self, asked: dict[str, Any]) -> Any:
        child = self._child or self._start()
        late = threading.Timer(self._settings.milvus.query_seconds, child.kill)
        late.start()
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            print(json.dumps(asked), file=child.stdin, flush=True)
            return json.loads(child.stdout.readline())
        except (OSError, ValueError) as error:
            self._stop()
            raise Impossible(
                f"BM25 over snapshot {self._snapshot}: Java ended or took longer than "
                f"{self._settings.milvus.query_seconds:g} s ([milvus] query_seconds); the next query starts it again, "
                "`nightshift doctor` tells whether Java works. Dense search does without it."
            ) from error
        finally:
            late.cancel()

    def _verified(self) -> Path:
        """The Lucene index, whose bytes are verified."""
        mining = self._settings.mining
        index = find_index(self._settings.home, self._snapshot, mining)
        if index is None and damaged_indexes(self._settings.home):
            raise Damaged(f"BM25 index of snapshot {self._snapshot}: was damaged, and set aside. {NEXT}")
        if index is None:
            raise Impossible(
                f"snapshot {self._snapshot}: no BM25 index with stemmer {mining.stemmer!r}, so nothing to fuse with. "
                "A night makes one; search without fusion, or set [mining] stemmer as it was."
            )
        try:
            check_lucene(index.path / "lucene")
        except Damaged as error:
            raise Damaged(f"{error}. {NEXT}") from error
        return index.path / "lucene"

    def _start(self) -> subprocess.Popen[str]:
        mining = self._settings.mining
        try:
            index = self._verified()
        except Damaged as error:
            self.damage = error
            raise
        self._inode = index.stat().st_ino
        given = (anserini_jar(), index, mining.stemmer, mining.k1, mining.b, HEAP_MB)
        self._child = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", str(CHILD), *map(str, given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for us: what is under way wants its answer
            env={**java_environment(), "JAVA_HOME": str(find_java().parent.parent)},
        )
        if self._child.stdout is None or json.loads(self._child.stdout.readline() or "0") != "ready":
            self._stop()
            raise Impossible(f"BM25: Java did not start, or does not read {index}; `nightshift doctor` reports why")
        return self._child

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
        child.kill()
        child.wait()
