"""The demo collection: the documentation of the Python packages that are installed anyway.

The same environment, cap and seed give the same bytes. It is written as a BEIR folder, so that the demo takes the
way of any other source.
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
from tasks.core.sources.demo_modules import read_modules
from tasks.core.sources.demo_near_duplicates import NearDuplicates, words
from tasks.core.sources.demo_pairs import Pair, passage_text, read_pairs

_log = logging.getLogger("nightshift.ingest")
_VERSION = 1  # raise it when the same environment would give other pairs
_STANDARD_LIBRARY = "python"
# What is read -> the distribution it comes from. Of torch the parts that are written in Python.
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
_COMMON = 3  # a summary that more definitions share says nothing about any of them
_NEAR = 0.8  # Jaccard similarity from which two texts count as one
_SPLITS = (("train", 0.7), ("dev", 0.8), ("test", 1.0))  # upper ends on the unit line


def identity(max_passages: int, seed: int) -> dict[str, object]:
    """All that the demo collection depends on."""
    return {
        "demo": _VERSION,
        "python": platform.python_version(),
        "distributions": {name: _version(name) for name in sorted(set(_DOCUMENTED.values()))},
        "max_passages": max_passages,
        "seed": seed,
    }


def write(folder: Path, max_passages: int, seed: int, roots: Mapping[str, Path] | None = None) -> Path:
    """Write the collection into `folder` and return it; at most `max_passages` passages, each with one query.

    Packages take turns, each with its best known names first. Splits are by defining module: no module is in two.
    `roots` (package name -> folder) replaces the installed packages. Raises BadInput when no pair is found.
    """
    found = {name: _ordered(name, root, seed) for name, root in (roots or _installed()).items()}
    chosen = _chosen(found, max_passages)
    if not chosen:
        raise BadInput("the demo found no documented source files. Set [data] format and path to a collection.")
    _log.info(
        "demo: %d of %d documented definitions from %s", len(chosen), sum(map(len, found.values())), ", ".join(found)
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
    """The split of all pairs that a module defines: train, dev or test."""
    place = int(_drawn(module, seed)[:12], 16) / 16**12
    return next(split for split, end in _SPLITS if place < end)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _installed() -> dict[str, Path]:
    """Folders of the packages that are there. Only top-level names are looked up, which imports nothing."""
    roots = {_STANDARD_LIBRARY: Path(sysconfig.get_paths()["stdlib"])}
    for name in _DOCUMENTED:
        top, *below = name.split(".")
        spec = importlib.util.find_spec(top)
        if spec is not None and spec.submodule_search_locations:
            roots[name] = Path(spec.submodule_search_locations[0]).joinpath(*below)
    return roots


def _ordered(name: str, root: Path, seed: int) -> list[Pair]:
    """A package's pairs, the best known names first, then in an order drawn with the seed."""
    stdlib = name == _STANDARD_LIBRARY
    modules = read_modules("" if stdlib else name, root, only_public=stdlib)
    pairs = read_pairs(modules)
    return sorted(pairs, key=lambda pair: (pair.tier, pair.title.count("."), _drawn(pair.title, seed), pair.title))


def _chosen(found: Mapping[str, list[Pair]], cap: int) -> list[tuple[Pair, str]]:
    """Take turns among the packages until `cap` pairs and their texts are there."""
    shared = Counter(_bag(pair.query) for pairs in found.values() for pair in pairs)
    seen = _Seen()
    turns = [_fresh(pairs, shared, seen) for pairs in found.values()]
    rounds = itertools.zip_longest(*turns)
    chosen = (one for taken in rounds for one in taken if one is not None)
    return list(itertools.islice(chosen, cap))


def _fresh(pairs: list[Pair], shared: Counter[str], seen: _Seen) -> Iterator[tuple[Pair, str]]:
    for pair in pairs:
        if shared[_bag(pair.query)] <= _COMMON:
            text = passage_text(pair)
            if text is not None and seen.is_new(pair, text):
                yield pair, text


class _Seen:
    """Remembers titles, queries and passages, to say whether a pair repeats one."""

    def __init__(self) -> None:
        self._titles: set[str] = set()
        self._queries = NearDuplicates(_NEAR, shingle=1)
        self._passages = NearDuplicates(_NEAR, shingle=5)

    def is_new(self, pair: Pair, text: str) -> bool:
        """Whether nothing like it was seen; if so, it is remembered."""
        if pair.title in self._titles or self._queries.find(pair.query) or self._passages.find(text):
            return False
        self._titles.add(pair.title)
        self._queries.add(pair.title, pair.query)
        self._passages.add(pair.title, text)
        return True


def _bag(query: str) -> str:
    return " ".join(words(query))


def _drawn(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def _line(**fields: str) -> str:
    return json.dumps(fields, ensure_ascii=False) + "\n"
