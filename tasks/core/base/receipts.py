"""Receipts: small frozen records that a step passes to the next step. They never contain a table or a model.

A receipt is also the manifest of its artifact: `files.produce` writes it last into the artifact's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from tasks.core.base.merge import Merge
from tasks.core.base.mining_checks import Hidden, MarginCheck, TeacherCheck
from tasks.core.base.ranking import DENSE, Ranking
from tasks.core.base.rule_count import RuleCount


class Receipt(BaseModel):
    """Fields of every receipt: identity, location, row count, and parents of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    shelf: ClassVar[str]  # folder below NIGHTSHIFT_HOME with the artifacts of this kind
    tables: ClassVar[Mapping[str, str]] = {}  # Parquet file -> field with its number of rows
    arrays: ClassVar[Mapping[str, int]] = {}  # binary file of numbers -> bytes per row

    digest: str
    path: Path
    rows: int
    parents: tuple[str, ...] = ()
    seconds: float = 0.0
    peak_mb: int = 0  # peak resident memory of the process while it was built, MiB
    reused: bool = False  # true if an earlier run had built it


class Snapshot(Receipt):
    """An immutable, validated version of passages (`rows` of them), queries, and qrels.

    Its files: `passages.parquet` (passage_id, title, text, text_hash), `queries.parquet` (query_id, text),
    `qrels.parquet` (query_id, passage_id, relevance, split; weight if any is not 1; source if there are several), and
    `given_negatives.parquet` (query_id, passage_id) if people judged passages of training queries as not relevant.
    """

    shelf: ClassVar[str] = "snapshots"
    tables: ClassVar[Mapping[str, str]] = {
        "passages.parquet": "rows", "queries.parquet": "queries", "qrels.parquet": "qrels"
    }  # fmt: skip

    queries: int
    qrels: int
    splits: dict[str, int]  # split name -> number of queries with at least one positive in it
    given_negatives: int = 0


class Ingested(Receipt):
    """Ingestion of a source. Always `rows` = `accepted` + `quarantined` + `forgotten`; `accepted` includes `merged`.

    Its folder contains `quarantine.parquet` (table, file, row, key, rule, reason, record), `warnings.parquet` (without
    reason and record), `validation.json`, and `contracts.html`, a page of all rules; `parents`: the earlier snapshot.
    """

    shelf: ClassVar[str] = "ingests"
    tables: ClassVar[Mapping[str, str]] = {"quarantine.parquet": "quarantined"}

    source: str
    snapshot: str  # digest of the snapshot of the accepted rows
    accepted: int
    quarantined: int
    rules: tuple[RuleCount, ...]
    feed: str = ""  # nights of the same feed are compared
    identity: str = ""  # digest of source, contracts, and settings, without the snapshot it was compared with
    merged: int = 0  # number of equal copies of earlier rows
    reading: int = 1  # version of the rejection rules of readers and contracts
    forgotten: int = 0  # number of rows that `nightshift forget` keeps out
    pairs_from: dict[str, int] = {}  # origin -> training pairs or given negatives; empty without judgments in the home
    notes: tuple[str, ...] = ()  # about click logs: sessions, pairs, and position bias

    @property
    def balance(self) -> str:
        """Sentence with the numbers of read, accepted, merged, quarantined, and forgotten rows."""
        copies = f" (including {self.merged:,} merged copies)" if self.merged else ""
        end = f"quarantined + {self.forgotten:,} forgotten" if self.forgotten else "quarantined"
        return f"{self.rows:,} rows read = {self.accepted:,} accepted{copies} + {self.quarantined:,} {end}"


class Index(Receipt):
    """A BM25 index of a snapshot's passages. The Lucene index is in the subfolder `lucene`."""

    shelf: ClassVar[str] = "indexes"
    tables: ClassVar[Mapping[str, str]] = {"ids.parquet": "rows"}


class Postings(Receipt):
    """The lexical index of a snapshot's passages: which passages contain a term, and how often.

    Its folder contains `terms.parquet` (term, end of its postings), `documents.i32` and `frequencies.u16` (passage row
    and count of each posting, by term), and `norms.u8` (encoded length of each passage).
    """

    shelf: ClassVar[str] = "postings"
    tables: ClassVar[Mapping[str, str]] = {"terms.parquet": "terms"}
    arrays: ClassVar[Mapping[str, int]] = {"norms.u8": 1}

    snapshot: str
    terms: int
    postings: int
    tokens: int  # length of all passages
    documents: int  # passages with at least one token


class Run(Receipt):
    """Ranked passages for queries, in `run.parquet` (query_id, passage_id, rank from 1, score) with `rows` rows."""

    shelf: ClassVar[str] = "runs"
    tables: ClassVar[Mapping[str, str]] = {"run.parquet": "rows"}

    queries: int
    depth: int


class ArmScores(Receipt):
    """Scores of both retrievers, dense and BM25, for the passages that either ranks high, in `arms.parquet`."""

    shelf: ClassVar[str] = "arms"
    tables: ClassVar[Mapping[str, str]] = {"arms.parquet": "rows"}

    queries: int
    depth: int  # passages of each retriever per query


class TextIndex(Receipt):
    """Index of a snapshot's passages by text: `rows` text hashes, in row order and sorted, as binary arrays."""

    shelf: ClassVar[str] = "texts"
    arrays: ClassVar[Mapping[str, int]] = {"hashes.s16": 16, "sorted.s16": 16, "rows.i64": 8, "first.i64": 8}

    snapshot: str
    distinct: int  # number of distinct texts


class Tokens(Receipt):
    """Token ids of the distinct texts of a snapshot's passages, as binary arrays in blocks of rows."""

    shelf: ClassVar[str] = "tokens"

    tokenizer: str  # digest of tokenizer, token limit, and prompt; independent of model weights
    snapshot: str
    kind: str  # number type on disk: "uint16" if the vocabulary fits, else "int32"
    texts: int  # number of distinct texts
    tokenised: int  # distinct texts that were tokenized
    copied: int  # distinct texts whose ids were copied from an earlier night
    tokens: int


class Shingles(Receipt):
    """Shingle sets of a snapshot's passages, to detect near duplicates, as memory-mapped binary arrays."""

    shelf: ClassVar[str] = "shingles"
    arrays: ClassVar[Mapping[str, int]] = {"starts.i64": 8, "sizes.i64": 8, "classes.u64": 8}


class Negatives(Receipt):
    """Mined hard negatives, and the reasons why candidates were rejected.

    `negatives.parquet` has query_id, passage_id, source, rank, score, dense_score, round, and `trail`, the values that
    each rule compared. `sample.json` has examples for manual inspection. With an accepted teacher, `negatives.parquet`
    has a column teacher_score, and `positives.parquet` has query_id, passage_id, teacher_score of all known positives.
    """

    shelf: ClassVar[str] = "negatives"
    tables: ClassVar[Mapping[str, str]] = {"negatives.parquet": "rows"}

    round: int
    queries: int  # mined training queries
    pairs: int = 0  # training pairs that were needed, see `drawn_queries`; 0: all
    starved: int  # queries with fewer negatives than requested
    candidates: int  # candidates before any rule
    refused: dict[str, int]  # rule -> candidates it rejected
    sources: dict[str, int] = {}  # retriever -> number of its negatives
    hidden: Hidden | None = None  # None if no query has two positives
    teacher: TeacherCheck | None = None  # None if they were mined without a teacher
    margin_check: MarginCheck | None = None  # None without an encoder, or without BM25
    churn: float | None = None  # fraction of pairs that the serving encoder was not trained on; set by each night


class Encoder(Receipt):
    """A dual encoder on disk. `rows` is the number of training pairs (0 for a base model)."""

    shelf: ClassVar[str] = "encoders"

    fingerprint: str  # digest of the vector space
    passage_fingerprint: str  # digest of the passage side; unchanged if only the query side was trained
    trunk: str = ""  # passage fingerprint without the passage map; empty: there is no map
    dimension: int
    base: str  # name or folder of the base model of the first training
    steps: int  # optimizer steps of this training; 0 for a base model
    precision: str  # numeric path
    fidelity: float  # lowest cosine to fp32 vectors on a sample; for int8, the cosine that 95 % of the texts reach
    ndcg_change: float | None = None  # nDCG@10 on dev queries minus that of fp32; None: fp32, or no dev queries
    loss: tuple[float, ...] = ()  # one value per step
    kept: int = 0  # step of the stored weights: the best on dev queries; the last without dev queries
    improved: bool = True  # false if every later step was worse on dev queries; then step 0 is stored
    dev: tuple[tuple[int, float], ...] = ()  # (finished steps, nDCG@10 of dev queries on a passage pool)
    forgetting: tuple[float, float] | None = None  # nDCG@10 on held-out queries of the older snapshot, before and after
    merge: Merge | None = None  # None: [training] merge was "none"


class Embeddings(Receipt):
    """Vectors of a snapshot's passages from a passage encoder, in files `shard-RRRRR-of-WWWWW.parquet`."""

    shelf: ClassVar[str] = "embeddings"

    fingerprint: str  # `passage_fingerprint` of the encoder
    snapshot: str
    dimension: int
    shards: int
    embedded: int  # encoded passages
    avoided: int  # passages whose vector was copied (from an equal text or an earlier night)
    repeated: int = 0  # avoided passages with the same text as an earlier passage of this snapshot
    tokens: int  # encoded tokens without padding
    vectors: str = "float32"  # number type on disk
    digests: tuple[str, ...] = ()  # SHA-256 of each shard file, for readers to verify
    derived: int = 0  # avoided passages whose vector was computed from a vector of the trunk
    fidelity: float | None = None  # of derived vectors: lowest cosine to encoded ones, on a sample


class Evaluation(Receipt):
    """Metrics of a retriever on a split, with `per_query.parquet` and `run.parquet`. `rows` counts queries."""

    shelf: ClassVar[str] = "evaluations"
    tables: ClassVar[Mapping[str, str]] = {"per_query.parquet": "rows"}

    system: str
    split: str
    metrics: dict[str, float]


class Reference(Receipt):
    """Reference for drift detection: normal held-out queries, scored by an encoder on a snapshot.

    `held-out.parquet` has text and vector of `rows` queries. `topics.npy` has the centers of their topics, and
    `topic-shares.npy` the fraction of low scores in each topic. `terms.npy` has the hashes of all terms in passages and
    training queries, `term-counts.npy` the number of texts with each (earlier versions wrote none), and `queries.npy`
    the hashes of all queries.
    """

    shelf: ClassVar[str] = "references"
    tables: ClassVar[Mapping[str, str]] = {"held-out.parquet": "rows"}

    fingerprint: str
    snapshot: str
    embeddings: str
    low_score: float  # 5th percentile of the top passage's score, over `rows` queries
    unseen_terms: float  # fraction of query terms that are in no passage and no training query
    judged: int  # queries with a positive among the passages
    recall: float  # Recall@10 of the judged queries


class Release(Receipt):
    """A matching encoder and collection, with the snapshot and metrics of their evaluation."""

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
    recipe: str  # digest of the settings that affect its content
    reason: str
    metrics: dict[str, float]
    bm25: dict[str, float]
    base: dict[str, float]  # empty: not measured, as in a refresh
    previous: dict[str, float] | None
    recall: float | None = None  # recall@10 of the index compared with exact search
    pruned: bool = False  # its collection was deleted; only metrics remain
    settings: dict[str, Any] = {}  # settings in effect, without secrets; empty for releases of earlier versions
    ranking: Ranking = DENSE  # releases of earlier versions are dense
    dense: dict[str, float] = {}  # measures of its dense ranking alone, where `metrics` are those of a hybrid ranking
    since_training: dict[str, float] = {}  # drift signals that add up over refreshes until the next training
