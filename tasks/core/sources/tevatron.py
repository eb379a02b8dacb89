"""Reads training files in the JSON lines formats of Tevatron and sentence-transformers; plain, .gz, or .zst.

    {"query_id": "q1", "query": "when do owls hunt",                                  (Tevatron, one line)
     "positive_passages": [{"docid": "p1", "title": "Owls", "text": "Owls hunt at night."}], "negative_passages": []}
    {"anchor": "when do owls hunt", "positive": "Owls hunt at night.", "negative": "Larks sing at dawn."}

The fields of each line determine its format. In the second format, `anchor` may be called `query`, each passage may be
a list, and more negatives may follow (negative_1 …). Where an id is missing, a digest of the text is the id. The file
name gives the split (train.jsonl, dev-00000-of-00002.jsonl.gz).
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
    negatives=("negative_passages", "negative", "negative_*"),
    passage_id=("docid", "passage_id"),
)


def locate(location: Location) -> NestedSource:
    """Find the .jsonl files in `location`.

    Raises BadInput when there is no such file, or when a file exists both plain and compressed.
    """
    files = [file for file in location.files() if file.bare.endswith(".jsonl")]
    if not files:
        raise BadInput(
            f"{location.shown}: contains no .jsonl file. Set [data] path to a .jsonl file or a folder of them."
        )
    location.refuse_duplicates(files)
    return NestedSource(location, files, lines, NAMES)
