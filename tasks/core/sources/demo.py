"""Writes the demo collection: the documentation of installed Python packages.

The same environment, cap, and seed give the same bytes. The collection is a BEIR folder, so the demo is ingested like
any other source.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import logging
import platform
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from tasks.core.base.errors import BadInput
from tasks.core.snapshot.splits import Split
from tasks.core.sources.demo_modules import read_modules
from tasks.core.sources.demo_near_duplicates import NearDuplicates
from tasks.core.sources.demo_pairs import Pair, passage_text, read_pairs
from tasks.core.text.words import alphanumeric_words

_log = logging.getLogger("nightshift.ingest")
_VERSION = 1  # increase when the same environment would give other pairs
_STANDARD_LIBRARY = "python"
# Package -> distribution. Of torch, only packages written in Python.
_DOCUMENTED = {
    "networkx": "networkx",
    "numpy": "numpy",
    "pandas": "pandas",
    "prefect": "prefect",
    "pyarrow": "pyarrow",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch.distributions": "torch",
    "torch.nn": "torch",
    "torch.optim": "torch",
    "torch.utils.data": "torch",
}
_MOST_SHARED = 3  # definitions with the same summary; a more common summary is too vague
_NEAR = 0.8  # Jaccard similarity from which two texts are near duplicates
_SPLITS = ((Split.TRAIN, 0.7), (Split.DEV, 0.8), (Split.TEST, 1.0))  # name, upper end of its part of [0, 1)


def identity(max_passages: int, seed: int) -> dict[str, object]:
    """Return everything that the demo collection depends on."""
    return {
        "demo": _VERSION,
        "python": platform.python_version(),
        "distributions": {name: _version(name) for name in sorted(set(_DOCUMENTED.values()))},
        "max_passages": max_passages,
        "seed": seed,
    }


def write(folder: Path, max_passages: int, seed: int, roots: Mapping[str, Path] | None = None) -> Path:
    """Write the collection into `folder`, and return the folder.

    Passages are taken from each package in turn, most prominent names first. All pairs of a module are in one split.

    Args:
        folder: the folder to write to.
        max_passages: most passages; each has one query.
        seed: seed of the order within a package, and of the splits.
        roots: package name -> folder, instead of the installed packages.

    Raises BadInput when the packages have no documented definitions.
    """
    pairs = {name: _ordered_pairs(name, root, seed) for name, root in (roots or _installed()).items()}
    chosen = _choose_pairs(pairs, max_passages)
    if not chosen:
        raise BadInput("the demo found no documented source files. Set [data] format and path to your own collection.")
    _log.info(
        "demo: %d of %d documented definitions from %s", len(chosen), sum(map(len, pairs.values())), ", ".join(pairs)
    )
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as corpus:
        corpus.writelines(_line(_id=pair.title, title=pair.title, text=text) for pair, text in chosen)
    with (folder / "queries.jsonl").open("w", encoding="utf-8") as queries:
        queries.writelines(_line(_id=f"q-{pair.title}", text=pair.query) for pair, _ in chosen)
    for split, _ in _SPLITS:
        lines = [f"q-{pair.title}\t{pair.title}\t1\n" for pair, _ in chosen if split_of(pair.module, seed) == split]
        header = "query-id\tcorpus-id\tscore\n"
        (folder / "qrels" / f"{split}.tsv").write_text(header + "".join(lines), encoding="utf-8")
    return folder


def split_of(module: str, seed: int) -> str:
    """Return the split of all pairs of a module: train, dev, or test."""
    position = int(_seeded_hash(module, seed)[:12], 16) / 16**12
    return next(split for split, end in _SPLITS if position < end)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _installed() -> dict[str, Path]:
    """Return the folders of the installed packages. Looking up top-level names imports nothing."""
    roots = {_STANDARD_LIBRARY: Path(sysconfig.get_paths()["stdlib"])}
    for name in _DOCUMENTED:
        top, *below = name.split(".")
        spec = importlib.util.find_spec(top)
        if spec is not None and spec.submodule_search_locations:
            roots[name] = Path(spec.submodule_search_locations[0]).joinpath(*below)
    return roots


def _ordered_pairs(name: str, root: Path, seed: int) -> list[Pair]:
    """Return the pairs of a package, most prominent names first, then in an order that depends on the seed."""
    stdlib = name == _STANDARD_LIBRARY
    modules = read_modules("" if stdlib else name, root, only_public=stdlib)
    pairs = read_pairs(modules)
    return sorted(
        pairs, key=lambda pair: (pair.tier, pair.title.count("."), _seeded_hash(pair.title, seed), pair.title)
    )


def _choose_pairs(packages: Mapping[str, list[Pair]], cap: int) -> list[tuple[Pair, str]]:
    """Take pairs and their texts from each package in turn, up to `cap`."""
    shared = Counter(_wording(pair.query) for pairs in packages.values() for pair in pairs)
    seen = _Seen()
    turns = [_new_pairs(pairs, shared, seen) for pairs in packages.values()]
    rounds = itertools.zip_longest(*turns)
    chosen = (pair for taken in rounds for pair in taken if pair is not None)
    return list(itertools.islice(chosen, cap))


def _new_pairs(pairs: list[Pair], shared: Counter[str], seen: _Seen) -> Iterator[tuple[Pair, str]]:
    for pair in pairs:
        if shared[_wording(pair.query)] <= _MOST_SHARED:
            text = passage_text(pair)
            if text is not None and seen.add(pair, text):
                yield pair, text


class _Seen:
    """Stores titles, queries, and passages, to detect pairs that repeat one of them."""

    def __init__(self) -> None:
        self._titles: set[str] = set()
        self._queries = NearDuplicates(_NEAR, shingle=1)
        self._passages = NearDuplicates(_NEAR, shingle=5)

    def add(self, pair: Pair, text: str) -> bool:
        """Add the pair unless it repeats a title, query, or passage. Return whether it was added."""
        if pair.title in self._titles or self._queries.find(pair.query) or self._passages.find(text):
            return False
        self._titles.add(pair.title)
        self._queries.add(pair.title, pair.query)
        self._passages.add(pair.title, text)
        return True


def _wording(query: str) -> str:
    return " ".join(alphanumeric_words(query))


def _seeded_hash(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _line(**fields: str) -> str:
    return json.dumps(fields, ensure_ascii=False) + "\n"
