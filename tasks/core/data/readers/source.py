"""The source that `[data]` names: what it is called, what its content is named by, and how its tables are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tasks.core.data import demo
from tasks.core.data.readers import beir, columnar, dpr, msmarco, tevatron
from tasks.core.data.readers.lines import lines
from tasks.core.data.readers.nested import NestedFiles
from tasks.core.data.readers.places import Place, find
from tasks.core.errors import BadInput
from tasks.core.settings import DataSettings

_VERSION = 2  # raise it when the same files would give other rows

Read = Callable[[str], Iterator[pa.RecordBatch]]  # table -> its rows, in the schema rows.SCHEMAS[table]


@dataclass(frozen=True)
class Source:
    """What an ingest reads."""

    name: str  # for people
    identity: Mapping[str, object]  # what the ingest is named by: the digests of all files
    open: Callable[[Path], Read]  # given a scratch folder that stays while it is read


def find_source(data: DataSettings) -> Source:
    """Find the source and name its content, which reads every file once; remote ones too.

    Raises BadInput when a file is missing or cannot be read.
    """
    if data.format == "demo":
        identity = demo.identity(data.max_passages, data.seed)
        return Source("demo", {**identity, "reader": _VERSION}, lambda scratch: _demo(scratch, data))
    assert data.path is not None
    place = find(data.path)
    located = _LOCATE[data.format](place)
    digests = {file.name: place.digest(file) for file in located.files()}
    return Source(place.shown, {data.format: digests, "reader": _VERSION}, _opener(located))


def recognise(path: Path | str) -> tuple[str, Callable[[Path], Read]]:
    """The format of the source at `path`, told by its files' names and first record, and how it is read.

    Raises BadInput when nothing is there, or nothing that any reader knows.
    """
    place = find(path)
    marks = {file.bare for file in place.files()} & set(_MARKS)
    for name, locate in _LOCATE.items():
        try:
            located = locate(place)
        except BadInput:
            if any(_MARKS[mark] == name for mark in marks):
                raise  # it is of this format, and says what it lacks
            continue
        return ("dpr" if name == "tevatron" and _asks_as_dpr(place) else name), _opener(located)
    raise BadInput(
        f"{place.shown}: no source that Nightshift knows. It reads a BEIR folder (corpus.jsonl, queries.jsonl, "
        "qrels/train.tsv), MS MARCO's .tsv, Parquet or datasets folders (corpus, queries, qrels), DPR's .json and "
        ".jsonl of Tevatron or sentence-transformers; infra/settings has an example of each."
    )


def _asks_as_dpr(place: Place) -> bool:
    file = next(file for file in place.files() if file.bare.endswith(".jsonl"))
    return b'"positive_ctxs"' in next(lines(place, file)).content


def _opener(located: _Located) -> Callable[[Path], Read]:
    return located.open if isinstance(located, NestedFiles) else lambda _: located.read


def _demo(scratch: Path, data: DataSettings) -> Read:
    return beir.locate(find(demo.write(scratch / "demo", data.max_passages, data.seed))).read


_MARKS = {"corpus.jsonl": "beir", "collection.tsv": "msmarco"}
_Located = beir.BeirFolder | msmarco.MsMarcoFolder | columnar.ColumnarFiles | NestedFiles
_LOCATE: Mapping[str, Callable[[Place], _Located]] = {
    # In the order in which `recognise` tries them: from the most particular names of files to the least.
    "beir": beir.locate,
    "msmarco": msmarco.locate,
    "parquet": columnar.locate,
    "tevatron": tevatron.locate,
    "dpr": dpr.locate,
}
