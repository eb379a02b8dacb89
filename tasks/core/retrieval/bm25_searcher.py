"""Search a release's snapshot with BM25, one query at a time, through a long-running Java process.

Mining starts a new Java process for every batch. That is cheap for thousands of queries, but expensive for a single
one.
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
from tasks.core.base.settings import MiningSettings
from tasks.core.retrieval.bm25 import find_index, one_line
from tasks.core.retrieval.jvm import anserini_jar, find_java, java_environment
from tasks.core.retrieval.lucene_files import check_lucene, damaged_indexes

HEAP_MB = 256
NEXT = "Search without fusion until `nightshift releases repair` or the next night has rebuilt the index"
CHILD = Path(__file__).with_name("lucene.py")


class Bm25Searcher:
    """BM25 search over one snapshot. The first search starts Java. Thread-safe: searches run one after the other."""

    def __init__(self, home: Path, snapshot: str, settings: MiningSettings, query_seconds: float) -> None:
        """Read the index of a snapshot.

        Args:
            home: folder of the artifacts.
            snapshot: digest of the snapshot.
            settings: BM25 parameters.
            query_seconds: maximum seconds per search.
        """
        self._home, self._snapshot, self._settings, self._query_seconds = home, snapshot, settings, query_seconds
        self.damage: NightshiftError | None = None
        self._lock = threading.Lock()
        self._child: subprocess.Popen[str] | None = None
        self._inode = 0  # inode of the index folder that the child reads

    def search(self, queries: Sequence[str], depth: int) -> list[list[int]]:
        """Return the snapshot rows of the `depth` best passages for each query, best first; ties by lower row.

        Raises Impossible when the snapshot has no index or Java does not answer within `[milvus] query_seconds`, and
        Damaged when the index is damaged.
        """
        with self._lock:
            if self.damage is not None:
                raise self.damage
            request = {"queries": [one_line(query) for query in queries], "depth": depth}
            results = self._send(request)
        return [[row for row, _ in sorted(hits, key=lambda hit: (-hit[1], hit[0]))] for hits in results]

    def check(self) -> None:
        """Verify the index again if it is in use or was damaged, and store the error, if any, in `damage`."""
        if self._child is None and self.damage is None:
            return
        with self._lock:
            try:
                inode, self.damage = self._verify_index().stat().st_ino, None
            except NightshiftError as error:
                inode, self.damage = 0, error
            if inode != self._inode:  # damaged or rebuilt: the child would keep reading the old files
                self._stop()

    def close(self) -> None:
        """Stop the Java process, after the current search finishes."""
        with self._lock:
            self._stop()

    def _send(self, request: dict[str, Any]) -> Any:
        child = self._child or self._start()
        timeout = threading.Timer(self._query_seconds, child.kill)
        timeout.start()
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            print(json.dumps(request), file=child.stdin, flush=True)
            return json.loads(child.stdout.readline())
        except (OSError, ValueError) as error:
            self._stop()
            raise Impossible(
                f"BM25 over snapshot {self._snapshot}: Java exited or took longer than "
                f"{self._query_seconds:g} s ([milvus] query_seconds); the next query restarts it. "
                "`nightshift doctor` checks Java. Dense search works without it."
            ) from error
        finally:
            timeout.cancel()

    def _verify_index(self) -> Path:
        """Return the folder of the Lucene index after verifying its files."""
        index = find_index(self._home, self._snapshot, self._settings)
        if index is None and damaged_indexes(self._home):
            raise Damaged(f"BM25 index of snapshot {self._snapshot}: damaged, and set aside. {NEXT}")
        if index is None:
            raise Impossible(
                f"snapshot {self._snapshot}: no BM25 index with stemmer {self._settings.stemmer!r}, so fusion is "
                "impossible. Search without fusion, run a night to build one, or restore the earlier [mining] stemmer."
            )
        try:
            check_lucene(index.path / "lucene")
        except Damaged as error:
            raise Damaged(f"{error}. {NEXT}") from error
        return index.path / "lucene"

    def _start(self) -> subprocess.Popen[str]:
        try:
            index = self._verify_index()
        except Damaged as error:
            self.damage = error
            raise
        self._inode = index.stat().st_ino
        settings = self._settings
        arguments = (anserini_jar(), index, settings.stemmer, settings.k1, settings.b, HEAP_MB)
        self._child = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", str(CHILD), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C must not stop Java before the current search is answered
            env={**java_environment(), "JAVA_HOME": str(find_java().parent.parent)},
        )
        if self._child.stdout is None or json.loads(self._child.stdout.readline() or "0") != "ready":
            self._stop()
            raise Impossible(f"BM25: Java did not start or could not read {index}; `nightshift doctor` reports why")
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
