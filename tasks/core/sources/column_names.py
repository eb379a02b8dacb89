"""The column and field names that all readers know, and the parser of headers of tab-separated files."""

from __future__ import annotations

from functools import cache

from tasks.core.base.errors import BadInput

NAMES = {  # table -> its columns in order -> the names that sources use; the first name present is used
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
        "weight": ("weight",),
    },
}
OPTIONAL = ("title", "split", "weight")
_UNUSED = ("iter", "iteration", "q0")  # the second column of TREC's qrels


@cache
def all_names(table: str) -> tuple[str, ...]:
    """Return all names of all columns of a table."""
    return tuple(dict.fromkeys(name for names in NAMES[table].values() for name in names))


def read_header(table: str, line: bytes, where: str) -> dict[str, int] | None:
    """Parse the first line of a tab-separated file as a header.

    Returns column -> column number, or None if the line is a row: it has fewer than two known names, and no known name
    with a hyphen.

    Raises BadInput for a header with a missing, repeated, or unknown column.
    """
    text = line.decode("utf-8", "replace")
    fields = text.split() if table == "qrels" and "\t" not in text else text.split("\t")
    names = [field.strip().lower() for field in fields]
    known = [name for name in names if name in all_names(table)]
    if len(known) < 2 and not any("-" in name for name in known):
        return None
    numbers = {
        column: names.index(name)
        for column, aliases in NAMES[table].items()
        if (name := next((name for name in aliases if name in names), None)) is not None
    }
    missing = [column for column in NAMES[table] if column not in numbers and column not in OPTIONAL]
    if missing or len(set(known)) < len(known) or set(names) - {*known, *_UNUSED}:
        expected = ", ".join(aliases[0] for column, aliases in NAMES[table].items() if column not in OPTIONAL)
        raise BadInput(f"{where}: header is {', '.join(names)}; expected {expected}. Rename the columns.")
    return numbers
