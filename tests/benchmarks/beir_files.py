"""Read and write the files of a collection in BEIR layout as they are, without the data contracts."""

from __future__ import annotations

import gzip
import json
import random
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
        for query, passage in _pairs(file):
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


def cut_collection(original: Path, folder: Path, most: int, seed: int = 0) -> None:
    """Write a part of a collection: the passages of dev and test queries, and others drawn until there are `most`.

    Queries of other splits that lose a passage are left out.
    """
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    pairs = {file.stem: _pairs(file) for file in sorted((original / "qrels").glob("*.tsv"))}
    kept = {passage for split in pairs if split != "train" for _, passage in pairs[split]}
    passages = list(read_rows(original / "corpus.jsonl"))
    others = [row["_id"] for row in passages if row["_id"] not in kept]
    random.Random(seed).shuffle(others)
    kept.update(others[: max(0, most - len(kept))])
    write_rows(folder / "corpus.jsonl", (row for row in passages if row["_id"] in kept))
    write_rows(folder / "queries.jsonl", read_rows(original / "queries.jsonl"))
    for split, judged in pairs.items():
        lost = {query for query, passage in judged if passage not in kept}
        write_qrels(folder, split, (pair for pair in judged if pair[0] not in lost))


def _pairs(file: Path) -> list[tuple[str, str]]:
    """Return query and passage of each positive of a qrels file, in its order."""
    rows = (line.split("\t") for line in file.read_text(encoding="utf-8").splitlines()[1:])
    return [(query, passage) for query, passage, score in rows if float(score) > 0]
