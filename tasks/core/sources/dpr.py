"""Reads the training files of DPR: .json, each one array of questions with their passages; plain, .gz or .zst.

    [{"question": "when do owls hunt", "answers": ["at night"],
      "positive_ctxs": [{"title": "Owls", "text": "Owls hunt at night.", "passage_id": "p1"}],
      "negative_ctxs": [], "hard_negative_ctxs": [{"title": "Larks", "text": "Larks sing at dawn."}]}]

Every passage of every list is a passage; those of positive_ctxs are positives. A question has no id: a digest of its
text is its id, and that of a passage where it has none. The file's name says the split (biencoder-nq-train.json:
train). A row number is a question's place in its array, from 1. `answers` is not used.
"""

from __future__ import annotations

from tasks.core.base.errors import BadInput
from tasks.core.sources.examples import Names
from tasks.core.sources.json_array import records
from tasks.core.sources.locations import Location
from tasks.core.sources.nested import NestedSource

NAMES = Names(
    query_id=("question_id", "query_id"),
    query=("question",),
    positives=("positive_ctxs",),
    others=("negative_ctxs", "hard_negative_ctxs"),
    passage_id=("passage_id", "psg_id"),
)


def locate(place: Location) -> NestedSource:
    """Find the files in `place`: .json, or .jsonl with one question a line.

    Raises BadInput when there is none, or when one is there in two forms.
    """
    found = [file for file in place.files() if file.bare.endswith((".json", ".jsonl"))]
    if not found:
        raise BadInput(f"{place.shown}: holds no .json file. [data] path takes DPR's files or the folder they lie in.")
    place.once(found)
    return NestedSource(place, found, records, NAMES)
