"""The source that `[data]` names: what it is called, what its content is named by, and how its tables are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from tasks.core.data import demo
from tasks.core.data.readers import beir, columnar, dpr, msmarco, tevatron
from tasks.core.data.readers.nested import NestedFiles
from tasks.core.data.readers.places import Place, find
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
    identity = {data.format: digests, "reader": _VERSION}
    if isinstance(located, NestedFiles):
        return Source(place.shown, identity, located.open)
    return Source(place.shown, identity, lambda _: located.read)


def _demo(scratch: Path, data: DataSettings) -> Read:
    return beir.locate(find(demo.write(scratch / "demo", data.max_passages, data.seed))).read


_Located = beir.BeirFolder | msmarco.MsMarcoFolder | columnar.ColumnarFiles | NestedFiles
_LOCATE: Mapping[str, Callable[[Place], _Located]] = {
    "beir": beir.locate,
    "msmarco": msmarco.locate,
    "dpr": dpr.locate,
    "tevatron": tevatron.locate,
    "parquet": columnar.locate,
}
