"""Finds the source that `[data]` names, computes its identity, and opens its tables; recognizes formats."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tasks.core.base.errors import BadInput
from tasks.core.base.sections.data import DataSettings, SourceSettings
from tasks.core.sources import beir, clicks, combined, corpus, demo, dpr, msmarco, pairs, tevatron
from tasks.core.sources import parquet as columnar
from tasks.core.sources.digest_cache import digest_files
from tasks.core.sources.locations import Location, find
from tasks.core.sources.nested import NestedSource

_log = logging.getLogger("nightshift.ingest")
_VERSION = 2  # increase when the same files would give other rows

Read = Callable[[str], Iterator[pa.RecordBatch]]  # table -> its rows, in the schema rows.SCHEMAS[table]


@dataclass(frozen=True)
class Source:
    """A source of passages, queries, and qrels."""

    name: str  # shown to users
    identity: Mapping[str, object]  # the digests of all files; part of the artifact key of the ingest
    open: Callable[[Path], Read]  # takes a scratch folder that must exist while the source is read


@dataclass(frozen=True)
class Recognized:
    """A source whose format was recognized from its files."""

    format: str
    open: Callable[[Path], Read]
    left_out: tuple[str, ...]  # names of files that are not data
    columns: Mapping[str, str]  # for pairs: the columns of query and passage


def find_source(data: DataSettings, home: Path | None = None) -> Source:
    """Find the source of the section `[data]` and hash its content.

    Reads every file once, including remote files; with `home`, only files that changed since the last call, see
    `digest_cache`.

    Raises BadInput when a file is missing or cannot be read.
    """
    if data.parts:
        return _find_parts(data.parts, home)
    if data.format == "demo":
        identity = demo.identity(data.max_passages, data.seed)
        return Source("demo", {**identity, "reader": _VERSION}, lambda scratch: _demo(scratch, data))
    assert data.path is not None
    location = find(data.path)
    located = _locate(data.format, location, data.query_column, data.passage_column)
    if location.left_out:
        _log.info("%s: skipped files that are not data: %s", location.shown, ", ".join(sorted(location.left_out)))
    digests = digest_files(location, located.files(), str(data.path), home)
    return Source(location.shown, source_identity(data.format, digests, located.dialect()), _opener(located))


def _find_parts(parts: Sequence[SourceSettings], home: Path | None) -> Source:
    """Find several sources of one collection. Raises BadInput when a file of one is missing or cannot be read."""
    sources = []
    for part in parts:
        only = part.model_dump(include={"format", "path", "query_column", "passage_column"})
        source = _find_clicks(part, home) if part.format == "clicks" else find_source(DataSettings(**only), home)
        sources.append((part, source))
    openers = [(part, source.open) for part, source in sources]
    return Source(
        name=", ".join(f"{part.name} ({source.name})" for part, source in sources),
        identity=combined.identity_of([(part, source.identity) for part, source in sources]),
        open=lambda scratch: combined.open_sources(openers, scratch),
    )


def _find_clicks(part: SourceSettings, home: Path | None) -> Source:
    location = find(part.path)
    located = clicks.locate(location)
    digests = digest_files(location, located.files(), f"{part.path} {part.name}", home)
    return Source(location.shown, source_identity("clicks", digests), lambda _: located.read)


def source_identity(
    form: str, digests: Mapping[str, str], dialect: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Return the identity of a source: the digests of its files, and what else its rows depend on."""
    return {form: dict(digests), "reader": _VERSION, **({"dialect": dialect} if dialect else {})}


def recognize(path: Path | str, query: str = "", passage: str = "", *, cold: bool = False) -> Recognized:
    """Recognize the format of the source at `path` from its file names and first records.

    Args:
        path: a path or an address such as s3://bucket/folder.
        query: name of the query column. With it or `passage`, the source is read as pairs.
        passage: name of the passage column.
        cold: the source has only passages, or its queries are not used.

    Raises BadInput when the path does not exist, or no reader knows the format.
    """
    location = find(path)
    if cold:
        passages = corpus.locate(location, passage)
        chosen = {"passage": passage} if passage else {}
        return Recognized("corpus", _opener(passages), tuple(sorted(location.left_out)), chosen)
    name, located = _recognize(location, query, passage)
    columns = located.columns if isinstance(located, NestedSource) else {}
    return Recognized(name, _opener(located), tuple(sorted(location.left_out)), columns)


def _recognize(location: Location, query: str, passage: str) -> tuple[str, _Located]:
    if query or passage:
        return "pairs", pairs.locate(location, query, passage)
    names = [file.bare for file in location.files()]
    for name, mark in (("beir", "corpus.jsonl"), ("msmarco", "collection.tsv"), ("parquet", "")):
        try:
            return name, _LOCATE[name](location)
        except BadInput:
            if mark in names:
                raise  # the source has this format; the error names the missing file
    for ending in (".jsonl", ".json"):
        if files := [file for file in location.files() if file.bare.endswith(ending)]:
            return _recognize_records(location, set(pairs.columns_of(location, files[0])))
    if any(file.bare.endswith(pairs.ENDINGS) for file in location.files(deep=True)):
        return "pairs", pairs.locate(location)
    listed = ", ".join(names[:5]) + (" …" if len(names) > 5 else "") or "no data files"
    raise BadInput(
        f"{location.shown}: no source that Nightshift knows. It contains {listed}. Nightshift reads a BEIR folder "
        "(corpus.jsonl, queries.jsonl, qrels/train.tsv), MS MARCO's .tsv, Parquet or datasets folders (corpus, "
        "queries, qrels), DPR's .json, .jsonl of Tevatron or sentence-transformers, and pairs in two columns of "
        ".jsonl, .csv, .tsv or .parquet; see infra/settings for examples. Passages without queries: nightshift init "
        "PATH --cold."
    )


def _recognize_records(location: Location, fields: set[str]) -> tuple[str, _Located]:
    for name, names in (("dpr", dpr.NAMES), ("tevatron", tevatron.NAMES)):
        if fields & set(names.positives) and fields & set(names.query):
            return name, _LOCATE[name](location)
    return "pairs", pairs.locate(location)


def _locate(name: str, location: Location, query: str, passage: str) -> _Located:
    if name == "corpus":
        return corpus.locate(location, passage)
    return pairs.locate(location, query, passage) if name == "pairs" else _LOCATE[name](location)


def _opener(located: _Located) -> Callable[[Path], Read]:
    return located.open if isinstance(located, NestedSource) else lambda _: located.read


def _demo(scratch: Path, data: DataSettings) -> Read:
    return beir.locate(find(demo.write(scratch / "demo", data.max_passages, data.seed))).read


_Located = beir.BeirFolder | corpus.CorpusFiles | msmarco.MsMarcoFolder | columnar.ColumnarFiles | NestedSource
_LOCATE: Mapping[str, Callable[[Location], _Located]] = {
    "beir": beir.locate,
    "msmarco": msmarco.locate,
    "parquet": columnar.locate,
    "tevatron": tevatron.locate,
    "dpr": dpr.locate,
}
