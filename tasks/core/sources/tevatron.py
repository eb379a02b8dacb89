"""Reads training files of JSON lines, Tevatron's or sentence-transformers'; plain, .gz or .zst.

    {"query_id": "q1", "query": "when do owls hunt",                                  (Tevatron, one line)
     "positive_passages": [{"docid": "p1", "title": "Owls", "text": "Owls hunt at night."}], "negative_passages": []}
    {"anchor": "when do owls hunt", "positive": "Owls hunt at night.", "negative": "Larks sing at dawn."}

Both are told apart by their fields, line by line; in the second, `query` may stand for `anchor`, each passage may be
a list, and more negatives may follow (negative_1 …). Where an id is missing a digest of the text is the id. The
file's name says the split (train.jsonl, dev-00000-of-00002.jsonl.gz).
"""

from __future__ import annotations

from tasks.core.base.errors import BadInput
from tasks.core.sources.examples import Names
from tasks.core.sources.lines import lines
from tasks.core.sources.locations import Location
from tasks.core.sources.nested import NestedSource

NAMES = Names(
    query_id=("query_id",),
    query=("query", "anchor", "question"),
    positives=("positive_passages", "positive"),
    others=("negative_passages", "negative", "negative_*"),
    passage_id=("docid", "passage_id"),
)


def locate(place: Location) -> NestedSource:
    """Find the .jsonl files in `place`. Raises BadInput when there is none, or when one is there in two forms."""
    found = [file for file in place.files() if file.bare.endswith(".jsonl")]
    if not found:
        raise BadInput(f"{place.shown}: holds no .jsonl file. [data] path takes such files or the folder they lie in.")
    place.once(found)
    return NestedSource(place, found, lines, NAMES)
