"""A first look at a source: which format, how much, how long; and the settings that follow from it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from tasks.core.data.readers.source import Read, recognise
from tasks.core.data.text import full_text
from tasks.core.data_warnings import token_counts, warn_of_cut_passages, warn_of_few_queries
from tasks.core.errors import NightshiftError
from tasks.core.plain_text import visible
from tasks.core.settings import DataSettings, EncoderSettings
from tasks.core.toml import toml_value

MOST_ROWS = 500_000  # of a table that are counted
SAMPLE = 2_000  # texts whose tokens are counted: the first ones
COVERED = 0.95  # share of the texts that a suggested limit leaves whole
STEP = 32  # suggested limits are multiples of it
LONGEST = 256  # suggested: beyond it a night gets long on a CPU, and most models learnt on shorter texts
ENDINGS = {".json", ".jsonl", ".ndjson", ".tsv", ".csv", ".txt", ".parquet", ".arrow", ".gz", ".zst"}  # of data files
EMBEDDED_MOST = 100_000  # passages that the embedded Milvus searches quickly enough


class Limit(NamedTuple):
    """A suggested token limit, special tokens included, and the share of the sampled texts that it leaves whole."""

    tokens: int
    whole: float


@dataclass(frozen=True)
class Look:
    """What a source holds; counts stop at MOST_ROWS, and `more` names the tables that go on."""

    format: str
    path: str
    passages: int
    queries: int
    qrels: dict[str, int]  # split -> judgements
    more: tuple[str, ...]
    passage_limit: Limit
    query_limit: Limit
    judged: dict[str, int] = field(default_factory=dict)  # split -> queries with a judgement

    @property
    def warnings(self) -> list[str]:
        """What speaks against nights on this source, each with the next step."""
        split = _judging(self)
        held_out = self.judged.get(split, int(self.judged.get("train", 0) * DataSettings().dev_share))
        few = [] if "qrels" in self.more else warn_of_few_queries(held_out, split)
        return [*few, *warn_of_cut_passages(self.passage_limit.whole, self.passage_limit.tokens)]

    @property
    def name(self) -> str:
        """What the source may be called: the last part of its path."""
        name = PurePosixPath(urlsplit(self.path).path if "://" in self.path else self.path).name
        while (ending := PurePosixPath(name).suffix.lower()) in ENDINGS:
            name = name[: -len(ending)]
        return name or "mine"


def look_at(path: str) -> Look:
    """Read a source once, up to MOST_ROWS rows a table, and count tokens with the default base model's tokenizer.

    Raises BadInput when it is of no format that is known, or cannot be read; NightshiftError when a table is empty.
    """
    name, opened = recognise(path if "://" in path else Path(path).expanduser())
    with TemporaryDirectory() as scratch:
        read = opened(Path(scratch))
        passages, texts = _texts(read, "passages")
        queries, asked = _texts(read, "queries")
        qrels, judged = _qrels(read)
    counted = {"passages": passages, "queries": queries, "qrels": sum(qrels.values())}
    for table, count in counted.items():
        if not count:
            raise NightshiftError(f"{path}: no row of its {table} can be read. Look at its first lines.")
    return Look(
        format=name,
        path=path if "://" in path else str(Path(path).expanduser().resolve()),
        passages=passages,
        queries=queries,
        qrels=qrels,
        more=tuple(table for table, count in counted.items() if count >= MOST_ROWS),
        passage_limit=_covering(texts),
        query_limit=_covering(asked),
        judged=judged,
    )


def settings_text(look: Look, home: str) -> str:
    """A commented settings file for the source: what was found, and what follows from it."""
    more = "+" if "qrels" in look.more else ""
    judged = ", ".join(f"{split} {count:,}{more}" for split, count in look.qrels.items())
    rows = {
        table: f"{count:,}{'+' if table in look.more else ''}"
        for table, count in (("passages", look.passages), ("queries", look.queries))
    }
    lines = [
        f"# A night over {_on_one_line(look.path)}:",
        f"# {rows['passages']} passages, {rows['queries']} queries, qrels: {_on_one_line(judged)}.",
        "# Every other setting has a default; nightshift settings prints them all with their meaning.",
        "",
        f"home = {toml_value(home)} ".ljust(32)
        + "# encoders, vectors, releases, reports; NIGHTSHIFT_HOME overrides it",
        "",
        "[data]",
        f'format = "{look.format}"',
        f"path = {toml_value(look.path)}",
        "max_refused = 0.05".ljust(32) + "# a larger share of refused rows in a table stops the night",
        *(["dev_share = 0.1".ljust(32) + _held_back(look)] if len(set(look.qrels) - {"train"}) < 2 else []),
        "",
        "[encoder]",
        f"passage_tokens = {look.passage_limit.tokens}".ljust(32)
        + _limit(look.passage_limit, "passages", "; time grows with it"),
        f"query_tokens = {look.query_limit.tokens}".ljust(32) + _limit(look.query_limit, "queries"),
        "",
        "[evaluation]",
        f"split = {toml_value(_judging(look))} ".ljust(32) + "# the held-out queries that decide about a challenger",
    ]
    if look.passages > EMBEDDED_MOST:
        lines += [
            "",
            "[milvus]",
            'index = "IVF_FLAT"'.ljust(32) + "# quicker than FLAT, which reads all vectors for every query",
            '# uri = "http://127.0.0.1:19530"'.ljust(32) + "# a Milvus server: the embedded one is slow from here on",
        ]
    return "\n".join(lines) + "\n"


def _on_one_line(text: str) -> str:
    return visible(text).replace("\n", "␊")


def _texts(read: Read, table: str) -> tuple[int, list[str]]:
    count = 0
    sample: list[str] = []
    for batch in read(table):
        whole = [row for row in batch.select(_columns(table)).to_pylist() if row["text"] is not None]
        sample += [full_text(row.get("title"), row["text"]) for row in whole[: SAMPLE - len(sample)]]
        count += len(whole)
        if count >= MOST_ROWS:
            break
    return count, sample


def _columns(table: str) -> list[str]:
    return ["title", "text"] if table == "passages" else ["text"]


def _qrels(read: Read) -> tuple[dict[str, int], dict[str, int]]:
    """The judgements of each split, and the different queries that they are of."""
    counts: Counter[str] = Counter()
    queries: dict[str, set[str]] = {}
    for batch in read("qrels"):
        splits = batch.column("split").to_pylist()
        for split, query in zip(splits, batch.column("query_id").to_pylist(), strict=True):
            if split is not None:
                counts[split] += 1
                queries.setdefault(split, set()).add(query)
        if counts.total() >= MOST_ROWS:
            break
    return dict(sorted(counts.items())), {split: len(ids) for split, ids in queries.items()}


def _covering(texts: list[str]) -> Limit:
    lengths = token_counts(texts, EncoderSettings())
    tokens = min(LONGEST, math.ceil(np.quantile(lengths, COVERED) / STEP) * STEP)
    return Limit(tokens, float((lengths <= tokens).mean()))


def _limit(limit: Limit, what: str, cost: str = "") -> str:
    return f"# tokens; leaves {limit.whole:.0%} of the {what} whole{cost}"


def _held_back(look: Look) -> str:
    missing = " and ".join(split for split in ("dev", "test") if split not in look.qrels)
    return f"# of the train queries, for {missing}: the source has none"


def _judging(look: Look) -> str:
    """Not dev: training looks at it to choose its weights. Where there is no test split, one is made."""
    others = [split for split in look.qrels if split not in ("train", "dev", "test")]
    return "test" if "test" in look.qrels or not others else others[0]
