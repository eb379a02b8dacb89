"""Summarizes a source (format, row counts, text lengths), and suggests settings for it."""

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
from tasks.core.base.languages import ENGLISH
from tasks.core.base.plain_text import visible
from tasks.core.base.sections.data import DataSettings
from tasks.core.base.settings import EncoderSettings
from tasks.core.base.toml import toml_value
from tasks.core.ingest.data_warnings import token_counts, warn_of_cut_passages, warn_of_few_queries
from tasks.core.ingest.milvus_choice import milvus_lines
from tasks.core.ingest.table_counts import TableCount, count_qrels, count_texts
from tasks.core.snapshot.splits import HELD_OUT, SYNTHETIC, Split
from tasks.core.sources.source import recognize

COVERED = 0.95  # share of texts within a suggested token limit
STEP = 32  # suggested limits are multiples of this
LONGEST = 256  # highest suggested limit: more is slow on a CPU, and most models were trained on shorter texts
OWN = 0.5  # share of sampled queries that are also passages from which leave_out_self is suggested
ENDINGS = {".json", ".jsonl", ".ndjson", ".tsv", ".csv", ".txt", ".parquet", ".arrow", ".gz", ".zst"}  # of data files


_COLD = [
    "",
    "[training]",
    'merge = "half"'.ljust(32) + "# the mean with the base model: without labels, nothing shows whether training helps",
    "",
    "[synthetic]",
    "structure = true".ljust(32) + "# training pairs from titles, headings, questions, and first sentences",
    "",
    "# [generate]".ljust(32) + "# a language model writes queries as well; its key: NIGHTSHIFT_GENERATE__KEY",
    '# url = "http://127.0.0.1:8000/v1"',
    '# model = "the name of your model"',
    "# budget = 1000".ljust(32) + "# most requests that this home ever sends",
]


class Limit(NamedTuple):
    """A suggested token limit (special tokens included), and the share of sampled texts within it."""

    tokens: int
    whole: float


@dataclass(frozen=True)
class SourceSummary:
    """The contents of a source. Counts stop at MOST_ROWS; `more` names the tables with more rows."""

    format: str
    path: str
    passages: int
    queries: int
    qrels: dict[str, int]  # split -> positives
    more: tuple[str, ...]
    passage_limit: Limit
    query_limit: Limit
    columns: Mapping[str, str] = field(default_factory=dict)  # of pairs: the columns of query and passage
    own_passage: float = 0.0  # share of the queries that are also passages, with the same id and text
    notes: tuple[str, ...] = ()  # for the user: unreadable rows or texts, skipped files
    judged: dict[str, int] = field(default_factory=dict)  # split -> queries with a positive
    query_sample: tuple[str, ...] = field(default=(), repr=False)
    passage_sample: tuple[str, ...] = field(default=(), repr=False)  # texts with title
    language: str = ENGLISH  # of the passages; see `retrieval.language_notes`
    language_reason: str = ""  # how it was recognized

    @property
    def cold(self) -> bool:
        """Return whether the source has no queries, so training pairs are made from its passages."""
        return self.format == "corpus"

    @property
    def warnings(self) -> list[str]:
        """Return warnings about nights on this source, each with the next step."""
        if self.cold:
            return warn_of_cut_passages(self.passage_limit.whole, self.passage_limit.tokens)
        split = _evaluation_split(self)
        drawn = split not in self.judged
        held_out = int(self.judged.get(Split.TRAIN, 0) * DataSettings().dev_share) if drawn else self.judged[split]
        few = [] if "qrels" in self.more else warn_of_few_queries(held_out, split, about=drawn)
        return [*few, *warn_of_cut_passages(self.passage_limit.whole, self.passage_limit.tokens)]

    @property
    def name(self) -> str:
        """Return a name for the source: the last part of its path."""
        name = PurePosixPath(urlsplit(self.path).path if "://" in self.path else self.path).name
        while (ending := PurePosixPath(name).suffix.lower()) in ENDINGS:
            name = name[: -len(ending)]
        return name or "mine"


def summarize_source(path: str, query: str = "", passage: str = "", *, cold: bool = False) -> SourceSummary:
    """Read a source once, up to MOST_ROWS rows per table, and count tokens with the default tokenizer.

    Args:
        path: a path or an address such as s3://bucket/folder.
        query: name of the query column, for a source of pairs.
        passage: name of the passage column, for a source of pairs or a corpus.
        cold: read only the passages.

    Raises BadInput when the format is unknown or a file cannot be read; NightshiftError when a table has no readable
    row.
    """
    source = recognize(path if "://" in path else Path(path).expanduser(), query, passage, cold=cold)
    with TemporaryDirectory() as scratch:
        read = source.open(Path(scratch))
        queries = TableCount("queries") if cold else count_texts(read, "queries")
        passages = count_texts(read, "passages", queries)
        qrels = TableCount("qrels") if cold else count_qrels(read)
    tables = [passages] if cold else [passages, queries, qrels]
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
        passage_limit=_suggest_limit(passages.sample),
        query_limit=Limit(EncoderSettings().query_tokens, 1.0) if cold else _suggest_limit(queries.sample),
        columns=source.columns,
        own_passage=queries.own_passage / max(1, len(queries.ids)),
        notes=tuple(_notes(tables, source.left_out)),
        judged={split: len(ids) for split, ids in qrels.judged.items()},
        query_sample=tuple(queries.sample),
        passage_sample=tuple(passages.sample),
    )


def settings_text(summary: SourceSummary, home: str, uri: str = "") -> str:
    """Return a commented settings file for the source, with the suggested settings. uri: address of a Milvus server."""
    more = "+" if "qrels" in summary.more else ""
    judged = ", ".join(f"{split} {count:,}{more}" for split, count in summary.qrels.items())
    rows = {
        table: f"{count:,}{'+' if table in summary.more else ''}"
        for table, count in (("passages", summary.passages), ("queries", summary.queries))
    }
    lines = [
        f"# A night over {_one_line(summary.path)}:",
        f"# {rows['passages']} passages, "
        + ("no queries." if summary.cold else f"{rows['queries']} queries, qrels: {_one_line(judged)}."),
        "# Every other setting has a default; nightshift settings prints them all with their meaning.",
        "",
        f"home = {toml_value(home)} ".ljust(32)
        + "# encoders, vectors, releases, reports; NIGHTSHIFT_HOME overrides it",
        "",
        "[data]",
        f'format = "{summary.format}"',
        f"path = {toml_value(summary.path)}",
        *(f"{name}_column = {toml_value(column)}" for name, column in summary.columns.items()),
        "max_refused = 0.05".ljust(32) + "# a larger share of refused rows in a table stops the night",
        *(
            ["dev_share = 0.1".ljust(32) + _dev_share_comment(summary)]
            if len(set(summary.qrels) - {Split.TRAIN}) < 2 and not summary.cold
            else []
        ),
        *(_COLD if summary.cold else []),
        "",
        "[encoder]",
        f"passage_tokens = {summary.passage_limit.tokens}".ljust(32)
        + _limit_comment(summary.passage_limit, "passages", "; a higher limit takes longer"),
        *(
            []
            if summary.cold
            else [
                f"query_tokens = {summary.query_limit.tokens}".ljust(32)
                + _limit_comment(summary.query_limit, "queries")
            ]
        ),
        "",
        "[mining]",
        f"language = {toml_value(summary.language)}".ljust(32) + _language_comment(summary),
        "",
        "[evaluation]",
        f"split = {toml_value(_evaluation_split(summary))} ".ljust(32)
        + (
            "# made from passages: the quality on real queries is unmeasured; set it to the split of your labels"
            if summary.cold
            else "# the held-out queries that decide about a challenger"
        ),
        *(["leave_out_self = true".ljust(32) + _leave_out_self_comment(summary)] if summary.own_passage >= OWN else []),
        *milvus_lines(summary.passages, uri),
    ]
    return "\n".join(lines) + "\n"


def _notes(tables: list[TableCount], left_out: tuple[str, ...]) -> list[str]:
    notes = [note for count in tables if (note := count.unreadable_rows())]
    if zeros := sum(count.not_relevant for count in tables):
        notes.append(f"{zeros:,} judgments of 0 or less (not relevant) are not used as positives")
    if left_out:
        notes.append(f"skipped files that are not data: {', '.join(left_out)}")
    return notes


def _one_line(text: str) -> str:
    return visible(text).replace("\n", "␊")


def _suggest_limit(texts: list[str]) -> Limit:
    lengths = token_counts(texts, EncoderSettings())
    tokens = min(LONGEST, math.ceil(np.quantile(lengths, COVERED) / STEP) * STEP)
    return Limit(tokens, float((lengths <= tokens).mean()))


def _limit_comment(limit: Limit, table: str, cost: str = "") -> str:
    return f"# tokens; {limit.whole:.0%} of the {table} are not cut{cost}"


def _language_comment(summary: SourceSummary) -> str:
    reason = f" ({summary.language_reason})" if summary.language_reason else ""
    return f"# of the passages{reason}; splits and stems words for BM25"


def _dev_share_comment(summary: SourceSummary) -> str:
    missing = " and ".join(split for split in HELD_OUT if split not in summary.qrels)
    return f"# share of the train queries used for {missing}, which the source lacks"


def _leave_out_self_comment(summary: SourceSummary) -> str:
    return f"# {summary.own_passage:.0%} of the queries are passages too: do not count a query as its own answer"


def _evaluation_split(summary: SourceSummary) -> str:
    """Return the split for the gate. Never dev: training chooses weights on it. A missing test split is created."""
    if summary.cold:
        return SYNTHETIC
    extra_splits = [split for split in summary.qrels if split not in set(Split)]
    return Split.TEST if Split.TEST in summary.qrels or not extra_splits else extra_splits[0]
