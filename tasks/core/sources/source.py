"""The source that `[data]` names: what it is called, what its content is named by, and how its tables are read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tasks.core.base.errors import BadInput
from tasks.core.base.settings import DataSettings
from tasks.core.sources import beir, demo, dpr, msmarco, pairs, tevatron
from tasks.core.sources import parquet as columnar
from tasks.core.sources.locations import Location, find
from tasks.core.sources.nested import NestedSource

_log = logging.getLogger("nightshift.ingest")
_VERSION = 2  # raise it when the same files would give other rows

Read = Callable[[str], Iterator[pa.RecordBatch]]  # table -> its rows, in the schema rows.SCHEMAS[table]


@dataclass(frozen=True)
class Source:
    """What an ingest reads."""

    name: str  # for people
    identity: Mapping[str, object]  # what the ingest is named by: the digests of all files
    open: Callable[[Path], Read]  # given a scratch folder that stays while it is read


@dataclass(frozen=True)
class Recognized:
    """The format of a source that was looked at, and how it is read."""

    format: str
    open: Callable[[Path], Read]
    left_out: tuple[str, ...]  # names of files that are no data
    columns: Mapping[str, str]  # of pairs: the columns of query and passage


def find_source(data: DataSettings) -> Source:
    """Find the source and name its content, which reads every file once; remote ones too.

    Raises BadInput when a file is missing or cannot be read.
    """
    if data.format == "demo":
        identity = demo.identity(data.max_passages, data.seed)
        return Source("demo", {**identity, "reader": _VERSION}, lambda scratch: _demo(scratch, data))
    assert data.path is not None
    place = find(data.path)
    located = _locate(data.format, place, data.query_column, data.passage_column)
    if place.left_out:
        _log.info("%s: not read, because they are no data: %s", place.shown, ", ".join(sorted(place.left_out)))
    digests = {file.name: place.digest(file) for file in located.files()}
    dialect = located.dialect()
    identity = {data.format: digests, "reader": _VERSION, **({"dialect": dialect} if dialect else {})}
    return Source(place.shown, identity, _opener(located))


def recognize(path: Path | str, query: str = "", passage: str = "") -> Recognized:
    """The format of the source at `path`, by its files' names and first records, and how it is read.

    With the name of a column in `query` or `passage` it is a source of pairs.

    Raises BadInput when nothing is there, or nothing that any reader knows.
    """
    place = find(path)
    name, located = _recognize(place, query, passage)
    columns = located.columns if isinstance(located, NestedSource) else {}
    return Recognized(name, _opener(located), tuple(sorted(place.left_out)), columns)


def _recognize(place: Location, query: str, passage: str) -> tuple[str, _Located]:
    if query or passage:
        return "pairs", pairs.locate(place, query, passage)
    names = [file.bare for file in place.files()]
    for name, mark in (("beir", "corpus.jsonl"), ("msmarco", "collection.tsv"), ("parquet", "")):
        try:
            return name, _LOCATE[name](place)
        except BadInput:
            if mark in names:
                raise  # it is of this format, and says what it lacks
    for ending in (".jsonl", ".json"):
        if files := [file for file in place.files() if file.bare.endswith(ending)]:
            return _of_records(place, set(pairs.columns_of(place, files[0])))
    if any(file.bare.endswith(pairs.ENDINGS) for file in place.files(deep=True)):
        return "pairs", pairs.locate(place)
    listed = ", ".join(names[:5]) + (" …" if len(names) > 5 else "") or "no file that could be data"
    raise BadInput(
        f"{place.shown}: no source that Nightshift knows. It holds {listed}. Nightshift reads a BEIR folder "
        "(corpus.jsonl, queries.jsonl, qrels/train.tsv), MS MARCO's .tsv, Parquet or datasets folders (corpus, "
        "queries, qrels), DPR's .json, .jsonl of Tevatron or sentence-transformers, and pairs in two columns of "
        ".jsonl, .csv, .tsv or .parquet; infra/settings has an example of each."
    )


def _of_records(place: Location, fields: set[str]) -> tuple[str, _Located]:
    for name, names in (("dpr", dpr.NAMES), ("tevatron", tevatron.NAMES)):
        if fields & set(names.positives) and fields & set(names.query):
            return name, _LOCATE[name](place)
    return "pairs", pairs.locate(place)


def _locate(name: str, place: Location, query: str, passage: str) -> _Located:
    return pairs.locate(place, query, passage) if name == "pairs" else _LOCATE[name](place)


def _opener(located: _Located) -> Callable[[Path], Read]:
    return located.open if isinstance(located, NestedSource) else lambda _: located.read


def _demo(scratch: Path, data: DataSettings) -> Read:
    return beir.locate(find(demo.write(scratch / "demo", data.max_passages, data.seed))).read


_Located = beir.BeirFolder | msmarco.MsMarcoFolder | columnar.ColumnarFiles | NestedSource
_LOCATE: Mapping[str, Callable[[Location], _Located]] = {
    "beir": beir.locate,
    "msmarco": msmarco.locate,
    "parquet": columnar.locate,
    "tevatron": tevatron.locate,
    "dpr": dpr.locate,
}
