"""Read the query log that a search service appends to, from the end of the last window."""

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
from tasks.core.drift.decide import LogPosition

log = logging.getLogger("nightshift.drift")

BLOCK = 2**20  # bytes read at once to count lines


@dataclass
class LogReader:
    """Read the queries after `position`; afterwards, `position` is behind them."""

    position: LogPosition
    refused: Counter[str] = field(default_factory=Counter)  # skipped lines by reason

    @property
    def skipped(self) -> int:
        """The number of skipped lines."""
        return self.refused.total()

    def texts(self) -> Iterator[str]:
        """Yield each query. Only complete lines are read; a line that is still being written is left for the next time.

        A line that is not a JSON object with a text under `query` is skipped; file, line, reasons, and counts are
        logged. Bad lines must not stop drift detection.

        Raises:
            BadInput: the log is missing or cannot be read.
        """
        path = Path(self.position.path)
        try:
            file = path.open("rb")
        except FileNotFoundError as error:
            raise BadInput(f"[drift] queries = {path}: not found. Let the search service append to it.") from error
        except OSError as error:
            raise BadInput(f"[drift] queries = {describe(error)}") from error
        with file:
            self.position = self._find_start(file)
            file.seek(self.position.offset)
            end, first_refused = self.position.offset, 0
            for line in file:
                if not line.endswith(b"\n"):
                    break
                try:
                    yield from _queries(line.removeprefix(codecs.BOM_UTF8) if end == 0 else line)
                except ValueError as error:
                    first_refused = first_refused if self.refused else end
                    self.refused[str(error).partition(":")[0]] += 1
                end += len(line)
            self.position = self.position.model_copy(update={"offset": end})
            if self.refused:
                reasons = "; ".join(f"{count} × {reason}" for reason, count in self.refused.most_common(3))
                log.warning(
                    '%s: skipped %d lines that are not {"query": text}, the first is line %d: %s',
                    path, self.skipped, _line_number(file, first_refused), reasons,
                )  # fmt: skip

    def _find_start(self, file: BinaryIO) -> LogPosition:
        """Return where to start reading: at the start if the file was rotated (shorter, or another first line)."""
        first = file.readline()
        head = sha256(first).hexdigest()[:20] if first.endswith(b"\n") else ""
        size = file.seek(0, 2)
        if size < self.position.offset or (self.position.head and head != self.position.head):
            log.info("%s: the log was rotated; reading it from the start", self.position.path)
            return LogPosition(path=self.position.path, head=head)
        return self.position.model_copy(update={"head": head})


def _queries(line: bytes) -> Iterator[str]:
    """Yield the query in a line, without surrounding white space; nothing for an empty line.

    Raises:
        ValueError: the line has no query; the message is the reason.
    """
    try:
        decoded = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    if not decoded.strip():
        return
    text = parse_object(decoded).get("query")
    if not isinstance(text, str):
        raise ValueError("no text under query")
    if not text.strip():
        raise ValueError("an empty query")
    yield check_text(text.strip())


def _line_number(file: BinaryIO, offset: int) -> int:
    """Return the number, from 1, of the line that starts at byte `offset`."""
    file.seek(0)
    lines = 0
    while offset > 0 and (block := file.read(min(BLOCK, offset))):
        lines += block.count(b"\n")
        offset -= len(block)
    return lines + 1
