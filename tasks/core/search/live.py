"""Shadow live queries: after answering, send a share of them to a challenger, and write the comparison to a file."""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from tasks.core.base.errors import NightshiftError
from tasks.core.base.ranking import Mode
from tasks.core.release.shadow_files import FOLDER
from tasks.core.search.filters import Filters
from tasks.core.search.pinned import Answer
from tasks.core.search.searcher import Searcher
from tasks.core.search.shadow import Shadow, ShadowResult, compare_answers, summary

log = logging.getLogger("nightshift.search")

WAITING = 64  # requests queued for the challenger; further requests are dropped, never delayed


class LiveShadow:
    """Search a challenger in one background thread. Closes the challenger at the end.

    Results go to `home/shadow/<release>-<day>.jsonl`, one `ShadowResult` per line. The file contains users' queries.
    """

    def __init__(self, home: Path, challenger: Searcher, share: float) -> None:
        self._folder, self._challenger, self._share = home / FOLDER, challenger, share
        self._draws = random.Random()  # noqa: S311
        self._waiting: queue.Queue[tuple[list[Answer], int, Filters, Mode | None] | None] = queue.Queue(WAITING)
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name="nightshift-shadow", daemon=True)
        self._thread.start()

    def offer(self, answers: list[Answer], k: int, where: Filters, mode: Mode | None) -> None:
        """Queue a share of the answered requests; returns immediately."""
        if not answers or self._draws.random() >= self._share:
            return
        try:
            self._waiting.put_nowait((answers, k, where, mode))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Process queued requests, then stop."""
        self._waiting.put(None)
        self._thread.join()
        self._challenger.close()
        if self.dropped:
            log.warning("shadow release %s was too slow: dropped %d requests", self._challenger.release, self.dropped)

    def _work(self) -> None:
        reported = ""
        while (request := self._waiting.get()) is not None:
            try:
                self._compare(*request)
                reported = ""
            except Exception as error:  # the service must keep answering
                if str(error) != reported:
                    log.warning("shadow release %s: %s", self._challenger.release, error)
                reported = str(error)

    def _compare(self, served: list[Answer], k: int, where: Filters, mode: Mode | None) -> None:
        shadowed = self._challenger.search([answer.query for answer in served], k, where=where, mode=mode)
        results = [compare_answers(left, right, k) for left, right in zip(served, shadowed, strict=True)]
        lines = "".join(result.model_dump_json() + "\n" for result in results)
        self._folder.mkdir(parents=True, exist_ok=True)
        day = datetime.now(UTC).date().isoformat()
        # One append, so lines of several services do not mix.
        file = os.open(
            self._folder / f"{self._challenger.release}-{day}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        try:
            os.write(file, lines.encode())
        finally:
            os.close(file)


def live_summary(home: Path, release: str, show: int = 5) -> Shadow:
    """Summarize the shadow results of a release.

    Raises:
        NightshiftError: there are none.
    """
    files = sorted((home / FOLDER).glob(f"{release}-*.jsonl"))
    results: list[ShadowResult] = []
    damaged = 0
    # Split at line feeds only: queries may contain other line separators.
    for line in (line for file in files for line in file.read_bytes().split(b"\n") if line.strip()):
        try:
            results.append(ShadowResult.model_validate_json(line))
        except ValidationError:  # incomplete or damaged
            damaged += 1
    if damaged:
        log.warning("shadow release %s: skipped %d damaged lines in %s", release, damaged, home / FOLDER)
    if not results:
        raise NightshiftError(
            f"release {release}: no shadow results. Serve with [service] shadow_release = {release!r}"
        )
    return summary(results, show)
