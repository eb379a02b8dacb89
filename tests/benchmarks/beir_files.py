"""Read and write the files of a collection in BEIR layout as they are, without the data contracts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a JSON Lines file, plain or gzip."""
    packed = file.with_name(f"{file.name}.gz")
    with file.open(encoding="utf-8") if file.exists() else gzip.open(packed, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def read_positives(folder: Path) -> dict[str, set[str]]:
    """Return the positives of each query in all splits."""
    positives: dict[str, set[str]] = {}
    for file in sorted((folder / "qrels").glob("*.tsv")):
        for line in file.read_text(encoding="utf-8").splitlines()[1:]:
            query, passage, score = line.split("\t")
            if float(score) > 0:
                positives.setdefault(query, set()).add(passage)
    return positives


def write_rows(file: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write a JSON Lines file."""
    with file.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_qrels(folder: Path, split: str, pairs: Iterable[tuple[str, str]]) -> None:
    """Write a split of positives: query and passage of each pair."""
    lines = ["query-id\tcorpus-id\tscore\n", *(f"{query}\t{passage}\t1\n" for query, passage in pairs)]
    (folder / "qrels" / f"{split}.tsv").write_text("".join(lines), encoding="utf-8")
