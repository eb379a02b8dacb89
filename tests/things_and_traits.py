"""A collection of sixty passages, each about a trait of a thing, with a query for each."""

from __future__ import annotations

import json
from pathlib import Path

THINGS = ["river", "castle", "violin", "engine", "orchid", "glacier", "market", "lantern", "falcon", "harbour"]
TRAITS = ["ancient", "silent", "golden", "broken", "distant", "narrow"]
FILLERS = ["the", "a", "is", "was", "seen", "near", "where", "find", "story", "of", "one", "and", "told"]
WORDS = [*THINGS, *TRAITS, *FILLERS]


def write_collection(folder: Path, more: int = 0) -> Path:
    """Write it as a BEIR folder; `more` adds passages that no query asks for."""
    pairs = [(trait, thing) for trait in TRAITS for thing in THINGS]
    passages = [
        {"_id": f"p{n}", "title": f"{trait} {thing}", "text": f"the story of a {trait} {thing} told near one {thing}"}
        for n, (trait, thing) in enumerate(pairs)
    ]
    passages += [
        {"_id": f"x{n}", "title": "", "text": f"one story {n} of a {TRAITS[n % 6]} {THINGS[n % 10]}"}
        for n in range(more)
    ]
    queries = [
        {"_id": f"q{n}", "text": f"where was the {trait} {thing} seen"} for n, (trait, thing) in enumerate(pairs)
    ]
    (folder / "qrels").mkdir(parents=True)
    _lines(folder / "corpus.jsonl", passages)
    _lines(folder / "queries.jsonl", queries)
    for split, numbers in {"train": range(36), "dev": range(36, 40), "test": range(40, 60)}.items():
        rows = "".join(f"q{n}\tp{n}\t1\n" for n in numbers)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


def _lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
