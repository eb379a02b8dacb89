"""What training reads: the positives and mined negatives of a snapshot, as rows of token tables."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.errors import BadInput
from tasks.core.base.receipts import Negatives, Snapshot
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.encoder.dual_encoder import DualEncoder
from tasks.core.snapshot.reader import qrels, queries
from tasks.core.training.losses.choose import TAUGHT
from tasks.core.training.texts import PassageTexts, TokenTable

log = logging.getLogger("nightshift.training")

NEGATIVES, POSITIVES, TEACHER = "negatives.parquet", "positives.parquet", "teacher_score"
Scores = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class TrainingPairs:
    """Everything a batch is made of; a query or passage is the row of its text, and equal texts are one row.

    pairs: int64 (n, 2): query, one of its positives; each pair once. The first `fresh` are the night's own, the
        others are replayed from the serving release's snapshot.
    positives: a query → its positives among the pairs, ascending.
    negatives: a query → its mined negatives, best first.
    cluster: int64 (passages,): equal numbers for equal and near-duplicate texts.
    known: a query → the clusters of all its known positives, of any split, ascending.
    teacher: a query → passages (ascending) and a teacher's scores of them (float32).
    """

    query_tokens: TokenTable
    passage_tokens: TokenTable
    pairs: np.ndarray
    fresh: int
    positives: dict[int, np.ndarray]
    negatives: dict[int, np.ndarray]
    cluster: np.ndarray
    known: dict[int, np.ndarray]
    teacher: dict[int, Scores] = field(default_factory=dict)


def load_pairs(
    snapshot: Snapshot,
    negatives: Negatives,
    encoder: DualEncoder,
    settings: TrainingSettings,
    older: Snapshot | None = None,
    *,
    leave_out_self: bool = False,
) -> TrainingPairs:
    """Read and tokenise the training pairs of a snapshot with their mined negatives.

    With `replay` in the settings, pairs that only `older` trains on come behind them: those whose query is not
    held out now. Equally worded queries share all their positives. `negatives.parquet` may have a column
    `teacher_score`, and beside it may lie `positives.parquet` (query_id, passage_id, teacher_score). With
    `leave_out_self` no query is pushed away from the passage that has its id.

    Raises BadInput when the training split holds no positive, or the loss needs teacher scores and there are none.
    """
    asked, texts = dict[str, int](), PassageTexts(encoder.passage)
    mined = pq.read_table(negatives.path / NEGATIVES)
    train, judged, query_row, passage_row = _judged(snapshot, asked, texts, mined["passage_id"])
    if not train:
        raise BadInput("the snapshot holds no training pair: qrels/train.tsv needs lines with a score above 0")
    pairs = train
    if older is not None and settings.replay > 0:
        replayed, before = _replayed(snapshot, older, judged, asked, texts)
        pairs, judged = train + replayed, judged + before
        log.info("replay: %d pairs that this snapshot lacks", len(replayed))
    if leave_out_self:
        judged = judged + [(row, passage_row[query]) for query, row in query_row.items() if query in passage_row]
    cluster = texts.clusters(settings.near_duplicate)
    return TrainingPairs(
        query_tokens=TokenTable([encoder.query.tokenize(list(asked))]),
        passage_tokens=texts.tokens(),
        pairs=np.array(pairs, np.int64),
        fresh=len(train),
        positives={query: np.unique(rows) for query, rows in _grouped(pairs).items()},
        negatives=_grouped(_rows(mined, query_row, passage_row)),
        cluster=cluster,
        known={query: np.unique(cluster[rows]) for query, rows in _grouped(judged).items()},
        teacher=_teacher(negatives.path, mined, query_row, passage_row, settings),
    )


def check_negatives(data: TrainingPairs, settings: TrainingSettings) -> None:
    """Warn where no query has a mined negative.

    Raises BadInput where no query has any negative at all, not even in a batch: there is nothing to learn then.
    """
    if settings.hard_negatives == 0 or data.negatives:
        return
    passages = np.unique(data.pairs[:, 1])
    if len(np.unique(data.cluster[passages])) == 1:
        raise BadInput(
            f"nothing can be learned: the {len(passages):,} passages of the training pairs are copies or near "
            "duplicates of one, and no query has a mined negative. Add training pairs with other passages."
        )
    log.warning(
        "No query has a mined negative, so the other passages of a batch are the only ones. See the log of mining: a "
        "retriever had no hits, or a filter refused them all."
    )


def _judged(
    snapshot: Snapshot, asked: dict[str, int], texts: PassageTexts, more: pa.ChunkedArray, held: Iterable[str] = ()
) -> tuple[list[tuple[int, int]], list[tuple[int, int]], dict[str, int], dict[str, int]]:
    """Training pairs (without queries of the texts `held`), judged pairs of all queries asked, and rows by id.

    Texts that were not there get new rows, in `asked` by wording and in `texts`.
    """
    wording = dict(zip(*(column.to_pylist() for column in queries(snapshot).columns), strict=True))
    train, everything, held = qrels(snapshot, "train"), qrels(snapshot), set(held)
    for query in train["query_id"].to_pylist():
        if wording[query] not in held:
            asked.setdefault(wording[query], len(asked))
    query_row = {query: asked[text] for query, text in wording.items() if text in asked}
    ours = pa.array(query_row, pa.string())
    everything = everything.filter(pc.is_in(everything["query_id"], value_set=ours))
    wanted = pc.unique(pa.chunked_array([*everything["passage_id"].chunks, *more.chunks], pa.string()))
    passage_row = texts.add(snapshot, wanted)
    train = train.filter(pc.is_in(train["query_id"], value_set=ours))
    pairs = list(dict.fromkeys(_rows(train, query_row, passage_row)))
    return pairs, list(_rows(everything, query_row, passage_row)), query_row, passage_row


def _replayed(
    snapshot: Snapshot, older: Snapshot, judged: list[tuple[int, int]], asked: dict[str, int], texts: PassageTexts
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Pairs that only the older snapshot trains on, and all that it judged of the queries asked."""
    splits = qrels(snapshot)
    held_out = pc.unique(splits.filter(pc.not_equal(splits["split"], "train"))["query_id"])
    now = queries(snapshot)
    held = now.filter(pc.is_in(now["query_id"], value_set=held_out))["text"].to_pylist()
    trained, before, _, _ = _judged(older, asked, texts, pa.chunked_array([], pa.string()), held)
    kept = set(judged)
    return [pair for pair in trained if pair not in kept], before


def _rows(table: pa.Table, query_row: dict[str, int], passage_row: dict[str, int]) -> Iterable[tuple[int, int]]:
    ids = zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True)
    return ((query_row[query], passage_row[passage]) for query, passage in ids)


def _grouped(pairs: Iterable[tuple[int, int]]) -> dict[int, np.ndarray]:
    """A query → its passages, each once, in order."""
    grouped: dict[int, dict[int, None]] = {}
    for query, passage in pairs:
        grouped.setdefault(query, {})[passage] = None
    return {query: np.fromiter(rows, np.int64, len(rows)) for query, rows in grouped.items()}


def _teacher(
    folder: Path, mined: pa.Table, query_row: dict[str, int], passage_row: dict[str, int], settings: TrainingSettings
) -> dict[int, Scores]:
    if settings.loss not in TAUGHT:
        return {}
    if TEACHER not in mined.column_names or not (folder / POSITIVES).exists():
        raise BadInput(
            f'[training] loss = "{settings.loss}" learns from a teacher, and {folder} has no column {TEACHER} in '
            f"{NEGATIVES} or no {POSITIVES}. Mine with a teacher, or choose another loss."
        )
    grouped: dict[int, dict[int, float]] = {}
    for table in (mined, pq.read_table(folder / POSITIVES)):
        known = zip(_rows(table, query_row, passage_row), table[TEACHER].to_pylist(), strict=True)
        for (query, passage), score in known:
            if score is not None:
                grouped.setdefault(query, {})[passage] = score
    return {query: _by_row(scores, settings.teacher_temperature) for query, scores in grouped.items()}


def _by_row(scores: dict[int, float], temperature: float) -> Scores:
    rows = np.array(sorted(scores), np.int64)
    return rows, np.array([scores[row] for row in rows.tolist()], np.float32) / np.float32(temperature)
