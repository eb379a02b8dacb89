"""The names of columns and fields that all readers know, and headers of tab-separated files."""

from __future__ import annotations

from functools import cache

from tasks.core.base.errors import BadInput

NAMES = {  # table -> its columns in order, each with the names that sources use; the first that is there counts
    "passages": {
        "passage_id": ("_id", "id", "docid", "passage_id", "pid"),
        "title": ("title",),
        "text": ("text", "passage", "contents"),
    },
    "queries": {"query_id": ("_id", "id", "query_id", "query-id", "qid"), "text": ("text", "query", "question")},
    "qrels": {
        "query_id": ("query-id", "query_id", "qid"),
        "passage_id": ("corpus-id", "corpus_id", "passage_id", "docid", "pid"),
        "split": ("split",),
        "relevance": ("score", "relevance", "label"),
    },
}
OPTIONAL = ("title", "split")
_UNUSED = ("iter", "iteration", "q0")  # the second column of TREC's qrels


@cache
def all_names(table: str) -> tuple[str, ...]:
    """Every name of every column of a table."""
    return tuple(dict.fromkeys(name for names in NAMES[table].values() for name in names))


def read_header(table: str, line: bytes, where: str) -> dict[str, int] | None:
    """Read the first line of a tab-separated file as the names of its columns.

    Returns the place of each column of the table; None for a row: a line with fewer than two known names, and none
    with a hyphen, which no row has.

    Raises BadInput for a header that lacks a column, repeats one, or has others.
    """
    text = line.decode("utf-8", "replace")
    fields = text.split() if table == "qrels" and "\t" not in text else text.split("\t")
    names = [field.strip().lower() for field in fields]
    known = [name for name in names if name in all_names(table)]
    if len(known) < 2 and not any("-" in name for name in known):
        return None
    places = {
        column: names.index(name)
        for column, several in NAMES[table].items()
        if (name := next((name for name in several if name in names), None)) is not None
    }
    missing = [column for column in NAMES[table] if column not in places and column not in OPTIONAL]
    if missing or len(set(known)) < len(known) or set(names) - {*known, *_UNUSED}:
        expected = ", ".join(several[0] for column, several in NAMES[table].items() if column not in OPTIONAL)
        raise BadInput(f"{where}: header is {', '.join(names)}; expected {expected}. Rename the columns.")
    return places
