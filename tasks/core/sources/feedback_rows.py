"""Reads the votes and judgments of a home as rows of the table `judgments`."""

from __future__ import annotations

import hashlib
import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from tasks.core.base.errors import BadInput, describe
from tasks.core.sources.feedback_log import FILES, FOLDER, Origin, Verdict, log_file
from tasks.core.sources.fields import has_lone_surrogate, json_object
from tasks.core.sources.rows import Fault, Raw, Values, batches
from tasks.core.text.tombstones import Tombstones, read_tombstones

_log = logging.getLogger("nightshift.ingest")
_FIELDS = ("query", "passage_id", "verdict", "judge", "judged_at", "release")
_OPTIONAL = {"release"}


@dataclass(frozen=True)
class Judgments:
    """The lines of both logs that may decide about a pair, and the votes that must agree."""

    lines: dict[Origin, list[Raw]]
    votes: int
    identity: str  # digest of lines and votes

    def read(self) -> Iterator[pa.RecordBatch]:
        """Stream the rows in the schema of judgments: those of people first."""
        first = 0
        for origin, lines in self.lines.items():
            for batch in batches("judgments", lines, partial(_row, origin), first):
                first += batch.num_rows
                yield batch


def find_judgments(home: Path, votes: int) -> Judgments | None:
    """Read the logs of a home; return None if no line may decide about a pair.

    A pair with fewer voters than `votes` waits: its votes are counted in the log and not read, so that a night that
    they do not change is recognized as such.

    Raises:
        BadInput: a log cannot be read.
    """
    lines = {origin: _complete_lines(log_file(home, origin), f"{FOLDER}/{name}") for origin, name in FILES.items()}
    if tombstones := read_tombstones(home):
        lines = {origin: _without_forgotten(raws, tombstones) for origin, raws in lines.items()}
    lines[Origin.FEEDBACK] = _with_enough_voters(lines[Origin.FEEDBACK], votes)
    if not any(lines.values()):
        return None
    digest = hashlib.sha256(str(votes).encode())
    for origin, raws in lines.items():
        for raw in raws:
            digest.update(b"\n" + origin.encode() + b" " + raw.content)
    return Judgments(lines, votes, digest.hexdigest()[:20])


def _complete_lines(path: Path, name: str) -> list[Raw]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadInput(f"votes and judgments: {describe(error)}") from error
    complete = content[: content.rfind(b"\n") + 1].split(b"\n")[:-1]
    return [Raw(name, number, line) for number, line in enumerate(complete, start=1) if line.strip()]


def _without_forgotten(lines: list[Raw], tombstones: Tombstones) -> list[Raw]:
    """Return the lines that name no forgotten passage and no forgotten query."""
    rows = ((raw, _row(Origin.JUDGE, raw.content)) for raw in lines)
    return [
        raw
        for raw, row in rows
        if isinstance(row, Fault)
        or not (tombstones.match_text(str(row[0])) or tombstones.match_id("passages", str(row[1])))
    ]


def _with_enough_voters(lines: list[Raw], votes: int) -> list[Raw]:
    """Return the votes on pairs with at least `votes` voters who did not withdraw, and the lines that are no votes."""
    verdicts: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    pairs: list[tuple[str, str] | None] = []
    for raw in lines:
        row = _row(Origin.FEEDBACK, raw.content)
        pair = None if isinstance(row, Fault) else (_wording(str(row[0])), str(row[1]))
        pairs.append(pair)
        if pair is not None:
            verdicts[pair][str(row[3])] = str(row[2])
    voters = {
        pair: sum(verdict != Verdict.WITHDRAWN for verdict in by_voter.values()) for pair, by_voter in verdicts.items()
    }
    kept = [raw for raw, pair in zip(lines, pairs, strict=True) if pair is None or voters[pair] >= votes]
    if len(kept) < len(lines):
        _log.info("%d votes wait until %d visitors voted on the same pair", len(lines) - len(kept), votes)
    return kept


def _wording(query: str) -> str:
    """Return the query as the contracts compare it: without case, repeated white space, and punctuation at its end."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", query)).lower().strip(" .?!")


def _row(origin: Origin, content: bytes) -> Values | Fault:
    record = json_object(content, _FIELDS)
    if isinstance(record, Fault):
        return record
    for name in _FIELDS:
        if name not in record and name not in _OPTIONAL:
            return Fault("missing_field", f"has no field {name}")
        if not isinstance(record.get(name, ""), str):
            return Fault("wrong_type", f"the {name} is a {type(record[name]).__name__}, expected text")
    values = tuple(record.get(name, "") for name in _FIELDS)
    if has_lone_surrogate(values):
        return Fault("invalid_utf8", "a text has half of a character")
    return (*values, origin.value)
