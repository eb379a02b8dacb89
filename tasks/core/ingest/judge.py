"""Records judgments of people: whether a passage is relevant to a query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.base.errors import BadInput, BadUsage
from tasks.core.base.files import find_artifact
from tasks.core.base.plain_text import check_text
from tasks.core.base.receipts import Snapshot
from tasks.core.base.side_files import numbered_lines, parse_object, read_side_file
from tasks.core.ingest.ingest import last_ingest
from tasks.core.snapshot.reader import passages
from tasks.core.sources.feedback_log import Origin, Record, Verdict, append_records, now

LONGEST = 10_000  # characters of a query, as in the contract of queries
_RELEVANT = {"relevant": True, "not_relevant": False, "true": True, "false": False}
_HEADER = "query"  # first field of a header


class Judgment(NamedTuple):
    """A person's verdict on a pair. `place` is the line in a file, for errors."""

    query: str
    passage_id: str
    relevant: bool
    place: str = ""


def record_judgments(home: Path, judgments: Sequence[Judgment], judge: str) -> None:
    """Append judgments to the log of the home; all of them or, on an error, none. The next night uses them.

    Args:
        home: folder of the log, and of the newest ingest, whose passages must include the judged ones.
        judgments: what a person found.
        judge: name of the person.

    Raises:
        BadUsage: a query, a passage, or the name is invalid.
        NightshiftError: the log cannot be written.
    """
    if not judge.strip() or len(judge) > 200:
        raise BadUsage("the name of the judge must have 1 to 200 characters. Give --by NAME")
    for judgment in judgments:
        _check_query(judgment)
    _check_passages(home, judgments)
    recorded = [
        Record(
            query=judgment.query,
            passage_id=judgment.passage_id,
            verdict=Verdict.RELEVANT if judgment.relevant else Verdict.NOT_RELEVANT,
            judge=judge,
            judged_at=now(),
        )
        for judgment in judgments
    ]
    append_records(home, Origin.JUDGE, recorded)


def read_judgments(file: Path) -> list[Judgment]:
    """Read one judgment per line: query, passage id, and relevance.

    Lines are JSON objects (`{"query": …, "passage_id": …, "relevant": true}`) or have three fields between tabs. A
    relevance above 0, `true`, or `relevant` is relevant; 0 and below, `false`, or `not_relevant` is not. A header is
    skipped.

    Raises:
        BadInput: the file cannot be read, has no judgment, or has an invalid line; the message names it.
    """
    judgments = []
    for number, line in numbered_lines(read_side_file(file, "a file with judgments:")):
        if number == 1 and line.split("\t")[0] == _HEADER:
            continue
        try:
            fields = _from_json(line) if line.startswith("{") else line.split("\t")
            judgments.append(_judgment(fields, f"{file}:{number}"))
        except ValueError as error:
            raise BadInput(
                f"{file}:{number}: {error}. Each line has query, passage id, and relevance between tabs, or is JSON "
                'such as {"query": "…", "passage_id": "…", "relevant": true}. Nothing was recorded.'
            ) from error
    if not judgments:
        raise BadInput(f"{file}: no judgments")
    return judgments


def _from_json(line: str) -> list[Any]:
    record = parse_object(line)
    names = [next((name for name in choice if name in record), choice[0]) for choice in _NAMES]
    if missing := [name for name in names if name not in record]:
        raise ValueError(f"no field {missing[0]}")
    return [record[name] for name in names]


_NAMES = (("query", "text"), ("passage_id", "passage"), ("relevant", "relevance", "verdict"))


def _judgment(fields: Sequence[Any], place: str) -> Judgment:
    if len(fields) != 3:
        raise ValueError(f"{len(fields)} fields, expected 3")
    query, passage, relevance = fields
    if not isinstance(query, str) or not isinstance(passage, str):
        raise ValueError("query and passage id must be text")
    return Judgment(query.strip(), passage.strip(), _is_relevant(relevance), place)


def _is_relevant(value: Any) -> bool:
    if isinstance(value, bool | int):
        return value > 0
    text = str(value).strip().lower()
    if text in _RELEVANT:
        return _RELEVANT[text]
    try:
        return int(text) > 0
    except ValueError:
        raise ValueError(f"relevance {str(value)[:40]!r} is no whole number, true, or false") from None


def _check_query(judgment: Judgment) -> None:
    where = f"{judgment.place}: " if judgment.place else ""
    try:
        check_text(judgment.query)
        check_text(judgment.passage_id)
    except ValueError as error:
        raise BadUsage(f"{where}{error}. Nothing was recorded") from error
    if not judgment.query.strip() or len(judgment.query) > LONGEST:
        raise BadUsage(f"{where}the query must have 1 to {LONGEST:,} characters. Nothing was recorded")


def _check_passages(home: Path, judgments: Sequence[Judgment]) -> None:
    ingested = last_ingest(home)
    snapshot = None if ingested is None else find_artifact(home, Snapshot, ingested.snapshot)
    if snapshot is None:
        raise BadUsage(f"nothing was ingested into {home} yet, so there are no passages to judge. Run a night first")
    unknown = {judgment.passage_id for judgment in judgments}
    for batch in passages(snapshot, ["passage_id"]):
        known = pc.is_in(batch["passage_id"], value_set=pa.array(unknown, pa.string()))
        unknown -= set(batch["passage_id"].filter(known).to_pylist())
    for judgment in judgments:
        if judgment.passage_id in unknown:
            where = f"{judgment.place}: " if judgment.place else ""
            raise BadUsage(
                f"{where}no passage has the id {judgment.passage_id!r} in the newest snapshot. Nothing was recorded. "
                "`nightshift search --json` and the night report show ids"
            )
