"""Training data: the positives and mined negatives of a snapshot, as rows of token tables."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.errors import BadInput
from tasks.core.base.receipts import Negatives, Snapshot
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.encoder.dual_encoder import DualEncoder
from tasks.core.snapshot.drawn_queries import drawn_queries
from tasks.core.snapshot.reader import pair_weights, qrels, queries
from tasks.core.snapshot.splits import Split
from tasks.core.training.synthetic_pairs import add_rests
from tasks.core.training.texts import PassageTexts, TokenTable

log = logging.getLogger("nightshift.training")

NEGATIVES, POSITIVES, TEACHER = "negatives.parquet", "positives.parquet", "teacher_score"
SPREAD = 4.0  # standard deviation of teacher scores within a query; MiniLM's q·p/τ on SciFact have .21 / .05 = 4.2
Scores = tuple[np.ndarray, np.ndarray]
Weights = dict[tuple[int, int], float]  # (query, passage) → weight, in order


@dataclass(frozen=True)
class TrainingPairs:
    """Inputs of all batches. Queries and passages are row numbers; equal texts share a row.

    pairs: int64 (n, 2): query, one of its positives; each pair once. The first `fresh` pairs are from this snapshot;
        the others are replayed from the serving release's snapshot.
    weight: float32 (n,) in (0, 1], how sure each pair is.
    positives: query → its positives among the pairs, ascending.
    negatives: query → its mined negatives, best first.
    cluster: int64 (passages,): same number for equal and near-duplicate texts.
    known: query → clusters of all its known positives, of any split, ascending.
    teacher: query → passages (ascending) and the teacher's scores (float32).
    drawn: number of drawn pairs, with repeated texts, if negatives were mined for a draw of the queries; else 0.
    hashes: S16 (passages,): text hash of each passage.
    """

    query_tokens: TokenTable
    passage_tokens: TokenTable
    pairs: np.ndarray
    fresh: int
    weight: np.ndarray
    positives: dict[int, np.ndarray]
    negatives: dict[int, np.ndarray]
    cluster: np.ndarray
    known: dict[int, np.ndarray]
    teacher: dict[int, Scores] = field(default_factory=dict)
    drawn: int = 0
    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, "S16"))


def load_pairs(
    snapshot: Snapshot,
    negatives: Negatives,
    encoder: DualEncoder,
    settings: TrainingSettings,
    older: Snapshot | None = None,
    *,
    leave_out_self: bool = False,
    stored_vectors: bool = False,
) -> TrainingPairs:
    """Read and tokenize the training pairs of a snapshot with their mined negatives.

    Queries with equal texts share all their positives. A pair that occurs several times has its highest weight.

    Args:
        snapshot: training pairs, and all judged pairs. Only the pairs of mined queries are read.
        negatives: folder with `negatives.parquet`. For distillation it has a column `teacher_score`, and the folder has
            `positives.parquet` (query_id, passage_id, teacher_score).
        encoder: its tokenizers.
        settings: `[training]`.
        older: snapshot of the serving release. With `replay`, its training pairs that this snapshot lacks follow,
            unless their query is now held out.
        leave_out_self: treat the passage whose id equals the query's id as a known positive.
        stored_vectors: passages are vectors, not texts, so synthetic queries stay in their passages; likewise for
            distillation, whose teacher scored whole passages.

    Raises:
        BadInput: the training split has no positive, or the loss needs teacher scores and there are none.
    """
    query_rows, texts = dict[str, int](), PassageTexts(encoder.passage)
    mined = _read_mined(negatives)
    drawn = drawn_queries(snapshot, negatives.pairs).qrels
    train, judged, query_row, passage_row = _read_pairs(snapshot, drawn, query_rows, texts, mined["passage_id"])
    rests = {} if stored_vectors or settings.distills else add_rests(snapshot, drawn, query_rows, texts)
    train = {rests.get(pair, pair): weight for pair, weight in train.items()}
    judged = judged + list(rests.values())
    pairs = train
    if older is not None and settings.replay > 0:
        replayed, judged_before = _replayed(snapshot, older, judged, query_rows, texts)
        pairs, judged = {**train, **replayed}, judged + judged_before
        log.info("replaying %d pairs of the serving release's snapshot that this snapshot lacks", len(replayed))
    if leave_out_self:
        judged = judged + [(row, passage_row[query]) for query, row in query_row.items() if query in passage_row]
    cluster = texts.clusters(settings.near_duplicate)
    for (_, whole), (_, rest) in rests.items():
        cluster[rest] = cluster[whole]
    return TrainingPairs(
        query_tokens=TokenTable([encoder.query.tokenize(list(query_rows))]),
        passage_tokens=texts.tokens().cut(settings.passage_tokens),
        pairs=np.array(list(pairs), np.int64),
        fresh=len(train),
        weight=np.fromiter(pairs.values(), np.float32, len(pairs)),
        positives={query: np.unique(rows) for query, rows in _grouped(pairs).items()},
        negatives=_grouped(_rows(mined, query_row, passage_row)),
        cluster=cluster,
        known={query: np.unique(cluster[rows]) for query, rows in _grouped(judged).items()},
        teacher=_teacher(negatives, mined, query_row, passage_row, settings),
        drawn=drawn.num_rows if negatives.pairs else 0,
        hashes=texts.hashes(),
    )


def _read_mined(negatives: Negatives) -> pa.Table:
    """Read query_id and passage_id of the mined negatives, and the teacher's scores if there are any."""
    file = negatives.path / NEGATIVES
    scored = [TEACHER] if TEACHER in pq.read_schema(file).names else []
    return pq.read_table(file, columns=["query_id", "passage_id", *scored])


def without_refused_teacher(settings: TrainingSettings, negatives: Negatives) -> TrainingSettings:
    """Return the settings with the loss infonce if they name a distillation loss and mining refused the teacher."""
    if not settings.distills or negatives.teacher is None or negatives.teacher.accepted:
        return settings
    return settings.model_copy(update={"loss": "infonce"})


def check_negatives(data: TrainingPairs, settings: TrainingSettings) -> None:
    """Warn if no query has a mined negative.

    Raises:
        BadInput: no query has a negative at all, not even in a batch; or the loss learns from mined negatives alone.
    """
    if settings.distills and settings.contrastive_share == 0 and (settings.hard_negatives == 0 or not data.negatives):
        missing = "hard_negatives is 0" if settings.hard_negatives == 0 else "no query has a mined negative"
        raise BadInput(
            f'nothing can be learned: [training] loss = "{settings.loss}" compares a positive with mined negatives, '
            f"and {missing}. Set [training] contrastive_share = 0.5, which adds the other passages of a batch."
        )
    if settings.hard_negatives == 0 or data.negatives:
        return
    passages = np.unique(data.pairs[:, 1])
    if len(np.unique(data.cluster[passages])) == 1:
        raise BadInput(
            f"nothing can be learned: the {len(passages):,} passages of the training pairs are copies or near "
            "duplicates of each other, and no query has a mined negative. Add training pairs with other passages."
        )
    log.warning(
        "No query has a mined negative, so only the other passages of a batch are negatives. Check the log of mining: "
        "the retrievers had no hits, or the filters removed all hits."
    )


def _read_pairs(
    snapshot: Snapshot,
    train: pa.Table,
    query_rows: dict[str, int],
    texts: PassageTexts,
    extra_passages: pa.ChunkedArray,
    held_out: Iterable[str] = (),
) -> tuple[Weights, list[tuple[int, int]], dict[str, int], dict[str, int]]:
    """Read the training pairs and judged pairs of a snapshot; add new texts to `query_rows` (text → row) and `texts`.

    Args:
        train: qrels to train on.
        extra_passages: ids of more passages to read.
        held_out: query texts to skip.

    Returns:
        Training pairs with their weights, judged pairs of the training queries, query id → row, and passage id → row.
    """
    text_by_id = dict(zip(*(column.to_pylist() for column in queries(snapshot).columns), strict=True))
    judged, skipped = qrels(snapshot), set(held_out)
    for query in train["query_id"].to_pylist():
        if text_by_id[query] not in skipped:
            query_rows.setdefault(text_by_id[query], len(query_rows))
    query_row = {query: query_rows[text] for query, text in text_by_id.items() if text in query_rows}
    query_ids = pa.array(query_row, pa.string())
    judged = judged.filter(pc.is_in(judged["query_id"], value_set=query_ids))
    passage_ids = pc.unique(pa.chunked_array([*judged["passage_id"].chunks, *extra_passages.chunks], pa.string()))
    passage_row = texts.add(snapshot, passage_ids)
    train = train.filter(pc.is_in(train["query_id"], value_set=query_ids))
    pairs: Weights = {}
    for pair, weight in zip(_rows(train, query_row, passage_row), pair_weights(train).tolist(), strict=True):
        pairs[pair] = max(weight, pairs.get(pair, 0.0))
    return pairs, list(_rows(judged, query_row, passage_row)), query_row, passage_row


def _replayed(
    snapshot: Snapshot, older: Snapshot, judged: list[tuple[int, int]], query_rows: dict[str, int], texts: PassageTexts
) -> tuple[Weights, list[tuple[int, int]]]:
    """Return training pairs that only the older snapshot has, and all its judged pairs of the training queries."""
    splits = qrels(snapshot)
    held_out_ids = pc.unique(splits.filter(pc.not_equal(splits["split"], Split.TRAIN))["query_id"])
    current = queries(snapshot)
    held_out = current.filter(pc.is_in(current["query_id"], value_set=held_out_ids))["text"].to_pylist()
    none = pa.chunked_array([], pa.string())
    trained, judged_before, _, _ = _read_pairs(older, qrels(older, Split.TRAIN), query_rows, texts, none, held_out)
    known = set(judged)
    return {pair: weight for pair, weight in trained.items() if pair not in known}, judged_before


def _rows(table: pa.Table, query_row: dict[str, int], passage_row: dict[str, int]) -> Iterable[tuple[int, int]]:
    ids = zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True)
    return ((query_row[query], passage_row[passage]) for query, passage in ids)


def _grouped(pairs: Iterable[tuple[int, int]]) -> dict[int, np.ndarray]:
    """Group passages by query; each passage once, in order."""
    grouped: dict[int, dict[int, None]] = {}
    for query, passage in pairs:
        grouped.setdefault(query, {})[passage] = None
    return {query: np.fromiter(rows, np.int64, len(rows)) for query, rows in grouped.items()}


def _teacher(
    negatives: Negatives,
    mined: pa.Table,
    query_row: dict[str, int],
    passage_row: dict[str, int],
    settings: TrainingSettings,
) -> dict[int, Scores]:
    """Read the teacher's scores: query → passages and scores, divided by `_divisor`."""
    folder = negatives.path
    if not settings.distills:
        return {}
    if TEACHER not in mined.column_names or not (folder / POSITIVES).exists():
        raise BadInput(
            f'[training] loss = "{settings.loss}" learns from a teacher, but {folder} has no '
            f"{POSITIVES}, or its {NEGATIVES} has no column {TEACHER}. Set [mining.teacher] source, or another loss."
        )
    grouped: dict[int, dict[int, float]] = {}
    for table in (mined, pq.read_table(folder / POSITIVES)):
        scored = zip(_rows(table, query_row, passage_row), table[TEACHER].to_pylist(), strict=True)
        for (query, passage), score in scored:
            if score is not None:
                grouped.setdefault(query, {})[passage] = score
    divisor = _divisor(settings, negatives)
    return {query: _by_row(scores, divisor) for query, scores in grouped.items()}


def _divisor(settings: TrainingSettings, negatives: Negatives) -> float:
    """Return the divisor of teacher scores.

    The scores of a checked teacher get the standard deviation `SPREAD` within a query, for every source, divided
    by `teacher_temperature`. Scores of other origin are divided by `teacher_temperature` alone.
    """
    if negatives.teacher is None:
        return settings.teacher_temperature
    return negatives.teacher.spread / SPREAD * settings.teacher_temperature


def _by_row(scores: dict[int, float], divisor: float) -> Scores:
    rows = np.array(sorted(scores), np.int64)
    return rows, np.array([scores[row] for row in rows.tolist()], np.float32) / np.float32(divisor)
