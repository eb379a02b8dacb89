"""A small clean collection to spoil: 30 passages, 20 train, 5 dev and 5 test queries, one positive each."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from tasks.core.base.receipts import Ingested, Snapshot
from tasks.core.base.settings import DataSettings, Settings

SPLITS = {"train": range(20), "dev": range(20, 25), "test": range(25, 30)}


@dataclass
class Collection:
    """The folder, and ways to add a line to its files."""

    root: Path
    home: Path

    def add(self, file: str, *lines: bytes | str | dict[str, object]) -> int:
        """Append lines; returns the line number of the first."""
        path = self.root / file
        old = path.read_bytes() if path.exists() else b""
        raw = [
            line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
            for line in lines
        ]
        path.write_bytes(old + b"".join(line + b"\n" for line in raw))
        return old.count(b"\n") + 1

    def settings(self, **data: object) -> Settings:
        chosen = {"format": "beir", "path": self.root, "max_refused": 0.5, **data}
        return Settings(home=self.home, data=DataSettings.model_validate(chosen))


def passage(number: int) -> dict[str, object]:
    return {"_id": f"p{number}", "title": f"Title {number}", "text": f"The text of passage number {number}."}


def query(number: int) -> dict[str, object]:
    return {"_id": f"q{number}", "text": f"what is written in passage {number}"}


def build(folder: Path) -> Collection:
    root = folder / "source"
    (root / "qrels").mkdir(parents=True)
    made = Collection(root, folder / "home")
    made.add("corpus.jsonl", *(passage(n) for n in range(30)))
    made.add("queries.jsonl", *(query(n) for n in range(30)))
    for split, numbers in SPLITS.items():
        made.add(f"qrels/{split}.tsv", "query-id\tcorpus-id\tscore", *(f"q{n}\tp{n}\t1" for n in numbers))
    return made


def quarantine_of(ingested: Ingested) -> list[dict[str, object]]:
    return pq.read_table(ingested.path / "quarantine.parquet").to_pylist()


def ids(snapshot: Snapshot) -> set[str]:
    return set(pq.read_table(snapshot.path / "passages.parquet")["passage_id"].to_pylist())
