"""A log of queries that a search service appends to, read from where the last window ended."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from tasks.core.drift.decide import LogPlace
from tasks.core.errors import BadInput

log = logging.getLogger("nightshift.drift")


@dataclass
class Reading:
    """The queries after a place, and the place after them once all were taken."""

    place: LogPlace
    skipped: int = 0  # lines that are no query

    def texts(self) -> Iterator[str]:
        """Each query in turn. Only whole lines are read: what is being appended comes the next time.

        A line that is no JSON object with a text under `query` is skipped; how many, and where the first stands, is
        logged. One service that writes nonsense should not keep drift from being seen. Raises BadInput when the log
        is not there.
        """
        path = Path(self.place.path)
        try:
            file = path.open("rb")
        except FileNotFoundError as error:
            raise BadInput(f"[drift] queries = {path}: not found. Let the search service append to it.") from error
        with file:
            self.place = self._begun(file)
            file.seek(self.place.offset)
            end = first_bad = self.place.offset
            for line in file:
                if not line.endswith(b"\n"):
                    break
                text = _query(line)
                if text:
                    yield text
                elif line.strip():
                    first_bad = end if not self.skipped else first_bad
                    self.skipped += 1
                end += len(line)
            self.place = self.place.model_copy(update={"offset": end})
        if self.skipped:
            log.warning(
                '%s: %d lines are not {"query": text} and were skipped; the first begins at byte %d',
                path, self.skipped, first_bad,
            )  # fmt: skip

    def _begun(self, file: BinaryIO) -> LogPlace:
        """Where to begin: at the start of a file that is shorter than before or another one (it was rotated)."""
        first = file.readline()
        head = sha256(first).hexdigest()[:20] if first.endswith(b"\n") else ""
        size = file.seek(0, 2)
        if size < self.place.offset or (self.place.head and head != self.place.head):
            log.info("%s: a new file; read from its start", self.place.path)
            return LogPlace(path=self.place.path, head=head)
        return self.place.model_copy(update={"head": head})


def _query(line: bytes) -> str:
    """The text of a line, without spaces around it; empty: it has none."""
    try:
        row = json.loads(line)
    except ValueError:
        return ""
    text = row.get("query") if isinstance(row, dict) else None
    return text.strip() if isinstance(text, str) else ""
