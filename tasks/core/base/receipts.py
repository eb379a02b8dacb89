"""Receipts: the small frozen records that one step hands to the next. Never a table, never a model.

Each is also the manifest of its artifact: what `files.produce` writes last into the artifact's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Receipt(BaseModel):
    """What every receipt says: which artifact, where, how many rows, made from what."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    shelf: ClassVar[str]  # the folder under NIGHTSHIFT_HOME where artifacts of this kind lie
    tables: ClassVar[Mapping[str, str]] = {}  # Parquet file -> the field that counts its rows
    arrays: ClassVar[Mapping[str, int]] = {}  # file of plain numbers -> bytes for each of `rows`

    digest: str
    path: Path
    rows: int
    parents: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_mb: int = 0  # largest resident memory of the process meanwhile
    reused: bool = False  # true when an earlier run had finished it and this one did no work


class RuleCount(BaseModel):
    """How one contract rule fared: rows it refused (`error`), pointed at (`warn`), or merged as equal copies (`merge`).

    A rule about a whole table checks one figure instead: `checked_rows` is false, and `checked` 1 or 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    rule: str
    severity: str
    checked: int
    failed: int
    checked_rows: bool = True
    description: str = ""  # what is wrong with what fails it
    statement: str = ""  # what is true of what passes it
    observed: str = ""  # the figure, or the share of rows that failed
    threshold: str = ""  # what was allowed
    offenders: tuple[str, ...] = ()  # the first rows that failed, as file:row


class Snapshot(Receipt):
    """An immutable, validated version of passages + queries + qrels.

    `rows` counts passages. Its folder holds `passages.parquet` (passage_id, title, text, text_hash),
    `queries.parquet` (query_id, text) and `qrels.parquet` (query_id, passage_id, relevance, split).
    """

    shelf: ClassVar[str] = "snapshots"
    tables: ClassVar[Mapping[str, str]] = {
        "passages.parquet": "rows",
        "queries.parquet": "queries",
        "qrels.parquet": "qrels",
    }

    queries: int
    qrels: int
    splits: dict[str, int]  # split name -> queries with at least one positive in it


class Ingested(Receipt):
    """One reading of the source: `rows` read = `accepted` + `quarantined`, exactly; `accepted` includes `merged`.

    Its folder holds `quarantine.parquet` (table, file, row, key, rule, reason, record), `warnings.parquet` (the same
    without reason and record), `validation.json`, and the rules' outcome as a page, `contracts.html`. `parents` holds
    the snapshot that it was compared with.
    """

    shelf: ClassVar[str] = "ingests"
    tables: ClassVar[Mapping[str, str]] = {"quarantine.parquet": "quarantined"}

    source: str
    snapshot: str  # digest of the snapshot that the accepted rows make
    accepted: int
    quarantined: int
    rules: tuple[RuleCount, ...]
    feed: str = ""  # what nights are compared with each other by
    identity: str = ""  # names source, contracts and settings, whatever it was compared with
    merged: int = 0  # equal copies of an earlier row
    reading: int = 1  # version of the rules by which readers and contracts refuse rows

    @property
    def balance(self) -> str:
        """What became of the rows, in words."""
        copies = f" (of these {self.merged:,} equal copies, merged)" if self.merged else ""
        return f"{self.rows:,} rows read = {self.accepted:,} accepted{copies} + {self.quarantined:,} in quarantine"


class Index(Receipt):
    """A BM25 index over one snapshot's passages; its folder holds the Lucene index in `lucene/`."""

    shelf: ClassVar[str] = "indexes"
    tables: ClassVar[Mapping[str, str]] = {"ids.parquet": "rows"}


class Run(Receipt):
    """Ranked passages for queries; `run.parquet` (query_id, passage_id, rank from 1, score), `rows` lines."""

    shelf: ClassVar[str] = "runs"
    tables: ClassVar[Mapping[str, str]] = {"run.parquet": "rows"}

    queries: int
    depth: int


class TextIndex(Receipt):
    """Where every text of a snapshot stands: `rows` text hashes, in row order and sorted, as plain arrays."""

    shelf: ClassVar[str] = "texts"
    arrays: ClassVar[Mapping[str, int]] = {"hashes.s16": 16, "sorted.s16": 16, "rows.i64": 8, "first.i64": 8}

    snapshot: str
    distinct: int  # different texts


class Tokens(Receipt):
    """Token ids of a snapshot's passages, one copy of each different text, as plain arrays in blocks of rows."""

    shelf: ClassVar[str] = "tokens"

    tokenizer: str  # names tokenizer, token limit and prompt; nothing of it hangs on weights
    snapshot: str
    kind: str  # of the numbers on disk: "uint16" where the vocabulary fits, else "int32"
    texts: int  # different texts
    tokenised: int  # of them, those that went through the tokenizer
    copied: int  # of them, those whose ids an earlier night had
    tokens: int


class Shingles(Receipt):
    """What texts are compared by, for every passage of a snapshot, as plain arrays that are mapped and not read."""

    shelf: ClassVar[str] = "shingles"
    arrays: ClassVar[Mapping[str, int]] = {"starts.i64": 8, "sizes.i64": 8, "classes.u64": 8}


class Hidden(BaseModel):
    """What became of known positives that were hidden from the rules: how often false negatives get through.

    Each was hidden alone, the other positives of its query staying known. `low` to `high` is the 95 % interval of
    `let_through / hidden`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int
    found: int  # of them, those that a retriever gave as candidates
    let_through: int  # of those, the ones that no rule refused
    low: float
    high: float


class Negatives(Receipt):
    """Mined hard negatives, and what kept others out.

    `negatives.parquet` has query_id, passage_id, source, rank, score, dense_score, round and `trail`: what each rule
    saw of it. `sample.json` is for human eyes.
    """

    shelf: ClassVar[str] = "negatives"
    tables: ClassVar[Mapping[str, str]] = {"negatives.parquet": "rows"}

    round: int
    queries: int  # training queries looked at
    starved: int  # of them, those with fewer negatives than asked for
    candidates: int  # candidates looked at before any rule
    refused: dict[str, int]  # rule -> candidates it refused
    sources: dict[str, int] = {}  # retriever -> negatives that came from it
    hidden: Hidden | None = None  # None: no query has two positives
    churn: float | None = None  # of this night, not of the artifact: share of pairs that the serving encoder had not


class Encoder(Receipt):
    """A dual encoder on disk. `rows` counts the training pairs it has seen (0 for a base model)."""

    shelf: ClassVar[str] = "encoders"

    fingerprint: str  # names the vector space
    passage_fingerprint: str  # names what it makes of passages: the same while only its query side changes
    dimension: int
    base: str  # name or folder of the model that it all started from
    steps: int  # optimizer steps of this training; 0 for a base model
    precision: str  # the numeric path that encodes
    fidelity: float  # cosine of that path to fp32 on a sample: the lowest, for int8 what 95 % of the texts keep
    ndcg_change: float | None = None  # nDCG@10 on dev queries less that of fp32; None: fp32, or no dev queries
    loss: tuple[float, ...] = ()  # one a step
    kept: int = 0  # the step whose weights these are: the best on dev queries, where there are any
    improved: bool = True  # false: on dev queries every later step was worse than step 0, whose weights these are
    dev: tuple[tuple[int, float], ...] = ()  # (finished steps, nDCG@10 on a pool of the snapshot's dev queries)
    forgetting: tuple[float, float] | None = None  # the same on the older snapshot's held-out queries, before and after


class Embeddings(Receipt):
    """All passages of one snapshot under one passage encoder: `shard-RRRRR-of-WWWWW.parquet` files."""

    shelf: ClassVar[str] = "embeddings"

    fingerprint: str  # the `passage_fingerprint` of the encoders that these vectors belong to
    snapshot: str
    dimension: int
    shards: int
    embedded: int  # passages that went through the encoder
    avoided: int  # passages whose vector was already known (an equal text, an earlier night)
    repeated: int = 0  # of the avoided, those whose text stands in an earlier passage of this snapshot
    tokens: int  # real tokens encoded, without padding
    vectors: str = "float32"  # the type of the numbers on disk
    digests: tuple[str, ...] = ()  # SHA-256 of each shard's file: what a reader holds it against


class Evaluation(Receipt):
    """Measures of one retriever on one split; `per_query.parquet` and `run.parquet` beside. `rows` counts queries."""

    shelf: ClassVar[str] = "evaluations"
    tables: ClassVar[Mapping[str, str]] = {"per_query.parquet": "rows"}

    system: str
    split: str
    metrics: dict[str, float]


class Reference(Receipt):
    """How ordinary held-out queries look to one encoder over one snapshot: what drift is measured against.

    `held-out.parquet` has text and vector of `rows` of them, `topics.npy` the centres of their topics and
    `topic-shares.npy` how often each one's queries score low; `terms.npy` has the hashes of all terms of passages and
    training queries, `queries.npy` those of all queries.
    """

    shelf: ClassVar[str] = "references"
    tables: ClassVar[Mapping[str, str]] = {"held-out.parquet": "rows"}

    fingerprint: str
    snapshot: str
    embeddings: str
    low_score: float  # 5th percentile of the best passage's score; `rows` queries were asked
    unseen_terms: float  # share of the queries' terms that stand in no passage and no training query
    judged: int  # of the queries, those with a positive among the passages
    recall: float  # @10, of those


class Release(Receipt):
    """An encoder and a collection that belong together, with the snapshot and the figures they were judged on."""

    shelf: ClassVar[str] = "releases"

    release: str
    created: str  # UTC, ISO 8601
    generation: int
    fingerprint: str
    encoder: str  # digest of the Encoder artifact
    embeddings: str  # digest of the Embeddings artifact
    snapshot: str
    collection: str
    dimension: int
    metric: str
    recipe: str  # digest of the settings that shaped it
    reason: str
    metrics: dict[str, float]
    bm25: dict[str, float]
    base: dict[str, float]
    previous: dict[str, float] | None
    recall: float | None = None  # @10, of the index against exact search
    pruned: bool = False  # its collection was removed; only its figures are left
    settings: dict[str, Any] = {}  # in effect when it was made, without secrets; empty: made before they were recorded
