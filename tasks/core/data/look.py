"""A first look at a source: which format, how much, how long; and the settings that follow from it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from tasks.core.data.readers.source import Read, recognise
from tasks.core.data.text import full_text
from tasks.core.errors import NightshiftError
from tasks.core.settings import EncoderSettings
from tasks.core.training.base import find_base

MOST_ROWS = 500_000  # of a table that are counted
SAMPLE = 2_000  # texts whose tokens are counted: the first ones
COVERED = 0.95  # share of the texts that a suggested limit leaves whole
STEP = 32  # suggested limits are multiples of it
LONGEST = 256  # suggested: beyond it a night gets long on a CPU, and most models learnt on shorter texts
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
    notes: tuple[str, ...] = ()  # what a person should know: texts that the base model or BM25 cannot read

    @property
    def name(self) -> str:
        """What the source may be called: the last part of its path."""
        return PurePosixPath(urlsplit(self.path).path).stem or "mine"


def look_at(path: str) -> Look:
    """Read a source once, up to MOST_ROWS rows a table, and count tokens with the default base model's tokenizer.

    Raises BadInput when it is of no format that is known, or cannot be read; NightshiftError when a table is empty.
    """
    name, opened = recognise(path if "://" in path else Path(path))
    with TemporaryDirectory() as scratch:
        read = opened(Path(scratch))
        passages, texts = _texts(read, "passages")
        queries, asked = _texts(read, "queries")
        qrels = _qrels(read)
    counted = {"passages": passages, "queries": queries, "qrels": sum(qrels.values())}
    for table, count in counted.items():
        if not count:
            raise NightshiftError(f"{path}: no row of its {table} can be read. Look at its first lines.")
    return Look(
        format=name,
        path=path if "://" in path else str(Path(path).resolve()),
        passages=passages,
        queries=queries,
        qrels=qrels,
        more=tuple(table for table, count in counted.items() if count >= MOST_ROWS),
        passage_limit=_covering(texts),
        query_limit=_covering(asked),
        notes=tuple(_language_notes(asked, texts)),
    )


def settings_text(look: Look, home: str) -> str:
    """A commented settings file for the source: what was found, and what follows from it."""
    judged = ", ".join(f"{split} {count:,}{'+' if 'qrels' in look.more else ''}" for split, count in look.qrels.items())
    rows = {
        table: f"{count:,}{'+' if table in look.more else ''}"
        for table, count in (("passages", look.passages), ("queries", look.queries))
    }
    lines = [
        f"# A night over {look.path}:",
        f"# {rows['passages']} passages, {rows['queries']} queries, qrels: {judged}.",
        "# Every other setting has a default; nightshift settings prints them all with their meaning.",
        "",
        f'home = "{home}"'.ljust(32) + "# encoders, vectors, releases, reports; NIGHTSHIFT_HOME overrides it",
        "",
        "[data]",
        f'format = "{look.format}"',
        f'path = "{look.path}"',
        "max_refused = 0.05".ljust(32) + "# a larger share of refused rows in a table stops the night",
        *(["dev_share = 0.1".ljust(32) + _held_back(look)] if len(set(look.qrels) - {"train"}) < 2 else []),
        "",
        "[encoder]",
        f"passage_tokens = {look.passage_limit.tokens}".ljust(32)
        + _limit(look.passage_limit, "passages", "; time grows with it"),
        f"query_tokens = {look.query_limit.tokens}".ljust(32) + _limit(look.query_limit, "queries"),
        "",
        "[evaluation]",
        f'split = "{_judging(look)}"'.ljust(32) + "# the held-out queries that decide about a challenger",
    ]
    if look.passages > EMBEDDED_MOST:
        lines += [
            "",
            "[milvus]",
            'index = "IVF_FLAT"'.ljust(32) + "# quicker than FLAT, which reads all vectors for every query",
            '# uri = "http://127.0.0.1:19530"'.ljust(32) + "# a Milvus server: the embedded one is slow from here on",
        ]
    return "\n".join(lines) + "\n"


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


def _qrels(read: Read) -> dict[str, int]:
    found: Counter[str] = Counter()
    for batch in read("qrels"):
        found.update(split for split in batch.column("split").to_pylist() if split is not None)
        if found.total() >= MOST_ROWS:
            break
    return dict(sorted(found.items()))


def _covering(texts: list[str]) -> Limit:
    from tasks.core.training.parts import read_tokenizer

    tokenizer = read_tokenizer(find_base(EncoderSettings().model))
    lengths = np.array([len(ids) for ids in tokenizer(texts, truncation=False, verbose=False)["input_ids"]])
    tokens = min(LONGEST, math.ceil(np.quantile(lengths, COVERED) / STEP) * STEP)
    return Limit(tokens, float((lengths <= tokens).mean()))


def _language_notes(queries: list[str], passages: list[str]) -> list[str]:
    from tasks.core.data.language import language_notes
    from tasks.core.training.parts import read_tokenizer

    model = EncoderSettings().model
    return language_notes(model, read_tokenizer(find_base(model)), queries, passages)


def _limit(limit: Limit, what: str, cost: str = "") -> str:
    return f"# tokens; leaves {limit.whole:.0%} of the {what} whole{cost}"


def _held_back(look: Look) -> str:
    missing = " and ".join(split for split in ("dev", "test") if split not in look.qrels)
    return f"# of the train queries, for {missing}: the source has none"


def _judging(look: Look) -> str:
    """Not dev: training looks at it to choose its weights. Where there is no test split, one is made."""
    others = [split for split in look.qrels if split not in ("train", "dev", "test")]
    return "test" if "test" in look.qrels or not others else others[0]
