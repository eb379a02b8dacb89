"""A first look at a source: which format, how much, how long; and the settings that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np

from tasks.core.base.errors import NightshiftError
from tasks.core.base.plain_text import visible
from tasks.core.base.settings import DataSettings, EncoderSettings
from tasks.core.base.toml import toml_value
from tasks.core.ingest.data_warnings import token_counts, warn_of_cut_passages, warn_of_few_queries
from tasks.core.ingest.table_counts import TableCount, count_qrels, count_texts
from tasks.core.sources.source import recognize

COVERED = 0.95  # share of the texts that a suggested limit leaves whole
STEP = 32  # suggested limits are multiples of it
LONGEST = 256  # suggested: beyond it a night gets long on a CPU, and most models learnt on shorter texts
OWN = 0.5  # share of the sampled queries that are passages themselves, from which leave_out_self is suggested
ENDINGS = {".json", ".jsonl", ".ndjson", ".tsv", ".csv", ".txt", ".parquet", ".arrow", ".gz", ".zst"}  # of data files
EMBEDDED_MOST = 100_000  # passages that the embedded Milvus searches quickly enough


class Limit(NamedTuple):
    """A suggested token limit, special tokens included, and the share of the sampled texts that it leaves whole."""

    tokens: int
    whole: float


@dataclass(frozen=True)
class SourceSummary:
    """What a source holds; counts stop at MOST_ROWS, and `more` names the tables that go on."""

    format: str
    path: str
    passages: int
    queries: int
    qrels: dict[str, int]  # split -> positives
    more: tuple[str, ...]
    passage_limit: Limit
    query_limit: Limit
    columns: Mapping[str, str] = field(default_factory=dict)  # of pairs: the columns of query and passage
    own_passage: float = 0.0  # share of the queries that are passages themselves, under the same id
    notes: tuple[str, ...] = ()  # what a person should know: unreadable rows or texts, files that are left out
    judged: dict[str, int] = field(default_factory=dict)  # split -> queries with a positive

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


def summarize_source(path: str, query: str = "", passage: str = "") -> SourceSummary:
    """Read a source once, up to MOST_ROWS rows a table, and count tokens with the default base model's tokenizer.

    `query` and `passage` name the columns of a source of pairs.

    Raises BadInput when it is of no format that is known, or cannot be read; NightshiftError when a table is empty.
    """
    source = recognize(path if "://" in path else Path(path).expanduser(), query, passage)
    with TemporaryDirectory() as scratch:
        read = source.open(Path(scratch))
        queries = count_texts(read, "queries")
        passages = count_texts(read, "passages", queries)
        qrels = count_qrels(read)
    tables = [passages, queries, qrels]
    for count in tables:
        if not count.rows:
            first = f" The first: {count.first_fault}" if count.first_fault else " The table is empty."
            raise NightshiftError(f"{path}: no row of its {count.table} can be read.{first}")
    return SourceSummary(
        format=source.format,
        path=path if "://" in path else str(Path(path).expanduser().resolve()),
        passages=passages.rows,
        queries=queries.rows,
        qrels=dict(sorted(qrels.splits.items())),
        more=tuple(count.table for count in tables if count.full),
        passage_limit=_covering(passages.sample),
        query_limit=_covering(queries.sample),
        columns=source.columns,
        own_passage=queries.own_passage / max(1, len(queries.ids)),
        notes=(*_notes(tables, source.left_out), *_language_notes(queries.sample, passages.sample)),
        judged={split: len(ids) for split, ids in qrels.judged.items()},
    )


def settings_text(look: SourceSummary, home: str) -> str:
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
        *(f"{name}_column = {toml_value(column)}" for name, column in look.columns.items()),
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
        *(["leave_out_self = true".ljust(32) + _own(look)] if look.own_passage >= OWN else []),
    ]
    if look.passages > EMBEDDED_MOST:
        lines += [
            "",
            "[milvus]",
            'index = "IVF_FLAT"'.ljust(32) + "# quicker than FLAT, which reads all vectors for every query",
            '# uri = "http://127.0.0.1:19530"'.ljust(32) + "# a Milvus server: the embedded one is slow from here on",
        ]
    return "\n".join(lines) + "\n"


def _notes(tables: list[TableCount], left_out: tuple[str, ...]) -> list[str]:
    notes = [note for count in tables if (note := count.unreadable_rows())]
    if zeros := sum(count.not_relevant for count in tables):
        notes.append(f"{zeros:,} judgments say 'not relevant' (0 or less): they are not used as positives")
    if left_out:
        notes.append(f"not read, because they are no data: {', '.join(left_out)}")
    return notes


def _on_one_line(text: str) -> str:
    return visible(text).replace("\n", "␊")


def _covering(texts: list[str]) -> Limit:
    lengths = token_counts(texts, EncoderSettings())
    tokens = min(LONGEST, math.ceil(np.quantile(lengths, COVERED) / STEP) * STEP)
    return Limit(tokens, float((lengths <= tokens).mean()))


def _language_notes(queries: list[str], passages: list[str]) -> list[str]:
    from tasks.core.encoder.base_model import find_base
    from tasks.core.encoder.model_parts import read_tokenizer
    from tasks.core.ingest.language import language_notes

    model = EncoderSettings().model
    return language_notes(model, read_tokenizer(find_base(model)), queries, passages)


def _limit(limit: Limit, what: str, cost: str = "") -> str:
    return f"# tokens; leaves {limit.whole:.0%} of the {what} whole{cost}"


def _held_back(look: SourceSummary) -> str:
    missing = " and ".join(split for split in ("dev", "test") if split not in look.qrels)
    return f"# of the train queries, for {missing}: the source has none"


def _own(look: SourceSummary) -> str:
    return f"# {look.own_passage:.0%} of the queries are passages too: a query is no answer to itself"


def _judging(look: SourceSummary) -> str:
    """Not dev: training looks at it to choose its weights. Where there is no test split, one is made."""
    others = [split for split in look.qrels if split not in ("train", "dev", "test")]
    return "test" if "test" in look.qrels or not others else others[0]
