"""Cut a collection from the documentation of Python packages that are installed.

    python tests/benchmarks/cut_docstrings.py FOLDER [--passages docs|code] [--packages torch scipy ...] [--limit 8000]

Each function or class with a docstring gives a query, the summary of its docstring, and a passage: the rest of its
docstring (`docs`), or its code without the docstring and without its name (`code`). Equal summaries are queries with
several relevant passages. All of a module goes to one split, by a hash of its name: 80 % train, 10 % dev, 10 % test.
With the locked versions of the packages, the result is always the same. FOLDER is written in BEIR layout.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tasks.core.text.normalization import text_hash, uniform

PACKAGES = (
    "torch",
    "transformers",
    "scipy",
    "sklearn",
    "numpy",
    "pandas",
    "sympy",
    "networkx",
    "sqlalchemy",
    "prefect",
)
WORDS_OF_QUERY, WORDS_OF_PASSAGE = (4, 40), 20


class Entry(NamedTuple):
    """A documented function or class."""

    module: str
    summary: str
    passage: str


def main() -> None:
    """Write the collection and print its counts."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="folder of the collection")
    arguments.add_argument("--passages", choices=["docs", "code"], default="docs", help="text of a passage")
    arguments.add_argument("--packages", nargs="+", default=list(PACKAGES), help="packages to read, if installed")
    arguments.add_argument("--limit", type=int, default=8_000, help="largest number of passages")
    chosen = arguments.parse_args()
    entries = {text_hash(None, entry.passage): entry for entry in _entries(chosen.packages, chosen.passages)}
    kept = sorted(entries, key=lambda digest: uniform(digest + "kept"))[: chosen.limit]
    _write(chosen.folder, {digest[:16]: entries[digest] for digest in sorted(kept)})


def _entries(packages: list[str], passages: str) -> Iterator[Entry]:
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.origin:
            print(f"{package} is not installed; left out")
            continue
        root = Path(spec.origin).parent
        for file in sorted(root.rglob("*.py")):
            module = ".".join(file.relative_to(root.parent).with_suffix("").parts)
            if "test" not in module:
                yield from _entries_of(file, module, passages)


def _entries_of(file: Path, module: str, passages: str) -> Iterator[Entry]:
    for node in ast.walk(ast.parse(file.read_bytes())):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or not (text := ast.get_docstring(node)):
            continue
        head, _, rest = text.partition("\n\n")
        summary = re.split(r"(?<=[.!?]) ", " ".join(head.split()), maxsplit=1)[0].rstrip(".")
        if passages == "code":
            node.body, node.name = node.body[1:] or [ast.Pass()], "_"
            rest = ast.unparse(node)
        passage = inspect.cleandoc(rest)
        low, high = WORDS_OF_QUERY
        if low <= len(summary.split()) <= high and len(passage.split()) >= WORDS_OF_PASSAGE:
            yield Entry(module, summary, passage)


def _write(folder: Path, entries: dict[str, Entry]) -> None:
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    queries: dict[str, str] = {}
    splits: dict[str, dict[str, list[str]]] = {"train": {}, "dev": {}, "test": {}}
    with (folder / "corpus.jsonl").open("w") as corpus:
        for name, entry in entries.items():
            corpus.write(json.dumps({"_id": name, "title": "", "text": entry.passage}) + "\n")
            query = queries.setdefault(entry.summary.lower(), f"q{len(queries)}")
            draw = uniform(entry.module)
            split = "train" if draw < 0.8 else "dev" if draw < 0.9 else "test"
            taken = [other for other in splits if query in splits[other]]
            splits[taken[0] if taken else split].setdefault(query, []).append(name)
    with (folder / "queries.jsonl").open("w") as file:
        file.writelines(json.dumps({"_id": query, "text": text}) + "\n" for text, query in queries.items())
    for split, judged in splits.items():
        rows = [f"{query}\t{name}\t1" for query, names in judged.items() for name in names]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows, ""]))
        print(f"{split}: {len(judged)} queries, {len(rows)} pairs")
    print(f"{len(entries)} passages")


if __name__ == "__main__":
    main()
