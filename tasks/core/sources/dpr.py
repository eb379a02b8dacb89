"""Reads the training files of DPR: .json with an array of questions and their passages; plain, .gz, or .zst.

    [{"question": "when do owls hunt", "answers": ["at night"],
      "positive_ctxs": [{"title": "Owls", "text": "Owls hunt at night.", "passage_id": "p1"}],
      "negative_ctxs": [], "hard_negative_ctxs": [{"title": "Larks", "text": "Larks sing at dawn."}]}]

All passages of all lists are read; those of positive_ctxs are positives. Where a question or passage has no id, a
digest of its text is the id. The file name gives the split (biencoder-nq-train.json: train). A row number is the
position of a question in its array, from 1. `answers` is not used.
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
    negatives=("negative_ctxs", "hard_negative_ctxs"),
    passage_id=("passage_id", "psg_id"),
)


def locate(location: Location) -> NestedSource:
    """Find the files in `location`: .json, or .jsonl with one question per line.

    Raises BadInput when there is no such file, or when a file exists both plain and compressed.
    """
    files = [file for file in location.files() if file.bare.endswith((".json", ".jsonl"))]
    if not files:
        raise BadInput(f"{location.shown}: contains no .json file. Set [data] path to a DPR file or a folder of them.")
    location.refuse_duplicates(files)
    return NestedSource(location, files, records, NAMES)
