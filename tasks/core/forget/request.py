"""Reads the ids of a request to forget."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tasks.core.base.errors import BadInput
from tasks.core.base.side_files import numbered_lines, parse_object, read_side_file


class Ids(NamedTuple):
    """Ids of passages and of queries."""

    passages: set[str]
    queries: set[str]


def read_ids(file: Path) -> Ids:
    """Read JSON lines with "passage_id" or "query_id".

    Raises:
        BadInput: the file cannot be read, or a line has another form; the message names the line.
    """
    ids = Ids(set(), set())
    for number, line in numbered_lines(read_side_file(file, "ids to forget:")):
        try:
            fields = parse_object(line)
            named = [(fields[name], place) for name, place in (("passage_id", 0), ("query_id", 1)) if name in fields]
            if len(named) != 1 or not isinstance(named[0][0], str):
                raise ValueError('no text under either "passage_id" or "query_id"')
        except ValueError as error:
            raise BadInput(f"{file}:{number}: {error}. Each line names a passage or a query") from error
        ids[named[0][1]].add(named[0][0])
    return ids
