"""A share of the live queries asked of a challenger too, after their answers went out, and written to a file."""

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
from tasks.core.release.shadow_files import FOLDER
from tasks.core.search.filters import Filters
from tasks.core.search.pinned import Answer
from tasks.core.search.searcher import Searcher
from tasks.core.search.shadow import Shadow, ShadowResult, compare_answers, summary

log = logging.getLogger("nightshift.search")

WAITING = 64  # requests that wait for the challenger; more are left out, never delayed


class LiveShadow:
    """Asks a challenger in one thread of its own; owns it, and closes it at the end.

    Lines go to `home/shadow/<release>-<day>.jsonl`, each a `Seen`. The file holds what people asked.
    """

    def __init__(self, home: Path, challenger: Searcher, share: float) -> None:
        self._folder, self._challenger, self._share = home / FOLDER, challenger, share
        self._draws = random.Random()  # noqa: S311
        self._waiting: queue.Queue[tuple[list[Answer], int, Filters, bool] | None] = queue.Queue(WAITING)
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name="nightshift-shadow", daemon=True)
        self._thread.start()

    def offer(self, answers: list[Answer], k: int, where: Filters, fuse: bool) -> None:
        """Take a share of what was answered; returns at once."""
        if not answers or self._draws.random() >= self._share:
            return
        try:
            self._waiting.put_nowait((answers, k, where, fuse))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Ask what waits, then end."""
        self._waiting.put(None)
        self._thread.join()
        self._challenger.close()
        if self.dropped:
            log.warning(
                "shadow %s: too slow for %d requests, which it was not asked", self._challenger.release, self.dropped
            )

    def _work(self) -> None:
        said = ""
        while (one := self._waiting.get()) is not None:
            try:
                self._compare(*one)
                said = ""
            except Exception as error:  # whatever it is, the service answers on
                if str(error) != said:
                    log.warning("shadow %s: %s", self._challenger.release, error)
                said = str(error)

    def _compare(self, served: list[Answer], k: int, where: Filters, fuse: bool) -> None:
        shadowed = self._challenger.search([one.query for one in served], k, where=where, fuse=fuse)
        found = [compare_answers(one, other, k) for one, other in zip(served, shadowed, strict=True)]
        lines = "".join(one.model_dump_json() + "\n" for one in found)
        self._folder.mkdir(parents=True, exist_ok=True)
        day = datetime.now(UTC).date().isoformat()
        # One write at the end of the file: lines of several services do not get into each other.
        file = os.open(
            self._folder / f"{self._challenger.release}-{day}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )
        try:
            os.write(file, lines.encode())
        finally:
            os.close(file)


def live_summary(home: Path, release: str, show: int = 5) -> Shadow:
    """What the service has seen of a release so far. Raises NightshiftError when that is nothing."""
    files = sorted((home / FOLDER).glob(f"{release}-*.jsonl"))
    noted: list[ShadowResult] = []
    damaged = 0
    # Only a line feed ends a line: a query may hold other separators.
    for line in (line for file in files for line in file.read_bytes().split(b"\n") if line.strip()):
        try:
            noted.append(ShadowResult.model_validate_json(line))
        except ValidationError:  # being written, or damaged
            damaged += 1
    if damaged:
        log.warning("shadow %s: %d damaged lines skipped in %s", release, damaged, home / FOLDER)
    if not noted:
        raise NightshiftError(
            f"release {release}: no live query was asked of it; serve with [service] shadow_release = {release!r}"
        )
    return summary(noted, show)
