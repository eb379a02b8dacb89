"""A log of queries that a search service appends to, read from where the last window ended."""

from __future__ import annotations

import codecs
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from tasks.core.base.errors import BadInput, describe
from tasks.core.base.plain_text import check_text
from tasks.core.base.side_files import parse_object
from tasks.core.drift.decide import LogPlace

log = logging.getLogger("nightshift.drift")

BLOCK = 2**20  # bytes read at once to count lines


@dataclass
class Reading:
    """The queries after a place, and the place after them once all were taken."""

    place: LogPlace
    refused: Counter[str] = field(default_factory=Counter)  # reason -> lines that are no query

    @property
    def skipped(self) -> int:
        """The number of lines that are no query."""
        return self.refused.total()

    def texts(self) -> Iterator[str]:
        """Yield each query. Only whole lines are read; a line that is still being written waits for the next reading.

        A line that is no JSON object with a text under `query` is skipped, whatever is wrong with it; file, line,
        reasons and counts are logged. A service that writes nonsense must not keep drift from being seen.

        Raises BadInput when the log is missing or cannot be read.
        """
        path = Path(self.place.path)
        try:
            file = path.open("rb")
        except FileNotFoundError as error:
            raise BadInput(f"[drift] queries = {path}: not found. Let the search service append to it.") from error
        except OSError as error:
            raise BadInput(f"[drift] queries = {describe(error)}") from error
        with file:
            self.place = self._begun(file)
            file.seek(self.place.offset)
            end, first_refused = self.place.offset, 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    yield from _queries(line.removeprefix(codecs.BOM_UTF8) if end == 0 else line)
                except ValueError as error:
                    first_refused = first_refused if self.refused else end
                    self.refused[str(error).partition(":")[0]] += 1
                end += len(line)
            self.place = self.place.model_copy(update={"offset": end})
            if self.refused:
                reasons = "; ".join(f"{count} × {reason}" for reason, count in self.refused.most_common(3))
                log.warning(
                    '%s: skipped %d lines that are not {"query": text}, the first is line %d: %s',
                    path, self.skipped, _line_number(file, first_refused), reasons,
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


def _queries(line: bytes) -> Iterator[str]:
    """Yield the query in a line without white space around it; none in an empty line.

    Raises ValueError with the reason why a line is no query.
    """
    try:
        whole = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    if not whole.strip():
        return
    text = parse_object(whole).get("query")
    if not isinstance(text, str):
        raise ValueError("no text under query")
    if not text.strip():
        raise ValueError("an empty query")
    yield check_text(text.strip())


def _line_number(file: BinaryIO, offset: int) -> int:
    """The number, from 1, of the line that begins at byte `offset`."""
    file.seek(0)
    lines = 0
    while offset > 0 and (block := file.read(min(BLOCK, offset))):
        lines += block.count(b"\n")
        offset -= len(block)
    return lines + 1
