"""Count the rows that were appended to a source since it was last hashed, without reading the rest of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tasks.core.base.sections.data import DataSettings
from tasks.core.snapshot.splits import Split
from tasks.core.sources import beir
from tasks.core.sources.digest_cache import known_files, size_before_growth
from tasks.core.sources.locations import Stored, find
from tasks.core.sources.source import source_identity

CHUNK = 2**20  # bytes read at once


@dataclass(frozen=True)
class Appended:
    """Rows that were appended to a source, valid or not."""

    before: Mapping[str, object]  # identity of the source without them
    passages: int
    pairs: int  # training pairs


def find_appended(data: DataSettings, home: Path) -> Appended | None:
    """Return the rows appended to a local BEIR folder of plain files.

    Returns None if the source has another form, was never hashed, did not change, or changed in another way; see
    `digest_cache.size_before_growth`.

    Raises BadInput when a file is missing.
    """
    if data.format != "beir" or data.path is None:
        return None
    location, known = find(data.path), known_files(str(data.path), home)
    located = beir.locate(location)
    files = located.files()
    if {file.name for file in files} != set(known) or any(file.ending for file in files):
        return None
    sizes = {file.name: size_before_growth(location, file, known[file.name]) for file in files}
    if None in sizes.values() or all(sizes[file.name] == file.size for file in files):
        return None
    judged = [file for split, file in located.qrels if split == Split.TRAIN]
    return Appended(
        before=source_identity("beir", {file.name: known[file.name]["digest"] for file in files}),
        passages=_count_lines(located.corpus, sizes),
        pairs=sum(_count_lines(file, sizes) for file in judged),
    )


def _count_lines(file: Stored, sizes: Mapping[str, int | None]) -> int:
    """Count the lines behind the old end of a file."""
    lines = 0
    with Path(file.path).open("rb") as stream:
        stream.seek(sizes[file.name] or 0)
        while chunk := stream.read(CHUNK):
            lines += chunk.count(b"\n")
    return lines
