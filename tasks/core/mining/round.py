"""Mine one round, one batch of training queries at a time: memory does not grow with the number of candidates."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.progress import report_progress
from tasks.core.base.receipts import Embeddings, Run, Snapshot
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.mining.audit import MinedBatch, draw_queries, sample_query, write_sample
from tasks.core.mining.candidates import Candidates, Source, known_positives, read_batches, read_given
from tasks.core.mining.choice import ScorePairs, choose, choose_with_cross_encoder
from tasks.core.mining.cross_encoder import CrossEncoder, pair_scorer
from tasks.core.mining.false_negative_estimate import count_hidden_let_through, draw_hidden, summarize_hidden
from tasks.core.mining.filters import REASONS, FilterInputs, Reason, apply_filters, measure_candidates
from tasks.core.mining.passage_texts import Texts, text_classes
from tasks.core.mining.random_draws import draw_random_candidates
from tasks.core.retrieval.exact import ids_of, score_pairs
from tasks.core.snapshot.reader import PASSAGES
from tasks.core.text.normalization import text_hash

log = logging.getLogger("nightshift.mining")

CANDIDATES_AT_ONCE = 1_000_000  # in memory: about 0.4 GB with everything computed from them
NEGATIVES_FILE = "negatives.parquet"
POSITIVES_FILE = "positives.parquet"
TEACHER_SCORE = pa.field("teacher_score", pa.float32())
SAMPLE_FILE = "sample.json"
TRAIL = (Reason.NEAR_DUPLICATE, Reason.ABOVE_MARGIN, Reason.CROSS_ENCODER)  # the filters that measure a value
NEGATIVES_SCHEMA = pa.schema(
    {
        "query_id": pa.string(),
        "passage_id": pa.string(),
        "source": pa.string(),
        "rank": pa.int32(),
        "score": pa.float32(),
        "dense_score": pa.float32(),
        "round": pa.int32(),
        "trail": pa.struct({rule.value: pa.float32() for rule in TRAIL}),
    }
)


@dataclass(frozen=True)
class MiningRound:
    """The inputs of a round. `runs` and `shares` map source names; `vectors` is float32 (queries, dimension)."""

    snapshot: Snapshot
    number: int
    training_queries: pa.Table  # query_id, text
    runs: Mapping[str, Run]
    shares: Mapping[str, float]
    embeddings: Embeddings | None  # None: no dense scores, and the margin filter is off
    vectors: np.ndarray | None
    texts: Texts
    mining: MiningSettings
    cross_encoder: CrossEncoder | None
    teacher: ScorePairs | None = None  # scores pairs of training queries and passages
    margin_applies: bool = True

    @property
    def sources(self) -> list[str]:
        """The source names; element i is source number i of the candidates."""
        given = [Source.JUDGED] if self.snapshot.given_negatives else []
        return [*self.runs, *([Source.RANDOM] if Source.RANDOM in self.shares else []), *given]


def mine_round(folder: Path, inputs: MiningRound) -> dict[str, Any]:
    """Write the negatives and the sample into `folder`; return the counts for the receipt."""
    filtering = filter_inputs(inputs)
    hidden = draw_hidden(filtering, inputs.mining.seed)
    hidden_query = filtering.positive_query[hidden]
    sampled_rows = draw_queries(inputs.training_queries.num_rows, inputs.mining.seed)
    refused: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    samples, hidden_counts, candidate_count, starved = {}, np.zeros(2, np.int64), 0, 0
    schema = NEGATIVES_SCHEMA if inputs.teacher is None else NEGATIVES_SCHEMA.append(TEACHER_SCORE)
    with pq.ParquetWriter(folder / NEGATIVES_FILE, schema, compression="zstd") as writer:
        for rows, candidates in candidate_batches(inputs):
            batch = _choose_negatives(candidates, filtering, inputs)
            candidate_count += len(candidates)
            refused.update(_count_refused(batch))
            kept = candidates.take(batch.chosen)
            sources.update(_count_sources(kept, inputs.sources))
            starved += int((np.bincount(kept.query - rows.start, minlength=len(rows)) < inputs.mining.per_query).sum())
            low, high = np.searchsorted(hidden_query, (rows.start, rows.stop))
            hidden_counts += count_hidden_let_through(
                candidates, filtering, hidden[low:high], inputs.mining, cross_encoder_scorer(inputs)
            )
            samples.update({row: sample_query(row, batch, filtering) for row in sampled_rows if row in rows})
            writer.write_table(_negatives_table(kept, batch, inputs))
            log.log(
                logging.DEBUG if rows.stop == inputs.training_queries.num_rows else logging.INFO,
                *("mined negatives for %d of %d queries", rows.stop, inputs.training_queries.num_rows),
            )
            report_progress("mine negatives", rows.stop, inputs.training_queries.num_rows)
    if inputs.teacher is not None:
        _write_positives(folder / POSITIVES_FILE, inputs.teacher, filtering, inputs)
    write_sample(folder / SAMPLE_FILE, inputs.snapshot, inputs.training_queries, samples)
    return {
        "rows": sources.total(),
        "starved": starved,
        "candidates": candidate_count,
        "refused": {reason.value: refused[reason.value] for reason in REASONS},
        "sources": {source: sources[source] for source in inputs.sources},
        "hidden": summarize_hidden(len(hidden), int(hidden_counts[0]), int(hidden_counts[1])),
    }


def filter_inputs(inputs: MiningRound) -> FilterInputs:
    """Collect the texts and known positives of all training queries for the filters."""
    query, passage = known_positives(inputs.snapshot, inputs.training_queries)
    return FilterInputs(
        texts=inputs.texts,
        query_class=text_classes([text_hash(None, text) for text in inputs.training_queries["text"].to_pylist()]),
        positive_query=query,
        positive_passage=passage,
        positive_score=_dense_scores(inputs, query, passage),
        margin_applies=inputs.margin_applies,
    )


def _dense_scores(inputs: MiningRound, query: np.ndarray, passage: np.ndarray) -> np.ndarray:
    """Score pairs of query and passage rows with the encoder, float32 (n,); NaN without an encoder."""
    if inputs.embeddings is None or inputs.vectors is None:
        return np.full(len(query), np.nan, np.float32)
    return score_pairs(inputs.vectors, inputs.embeddings, query, passage)


def candidate_batches(inputs: MiningRound) -> Iterator[tuple[range, Candidates]]:
    """Yield batches of query rows with their candidates, with random draws, given negatives, and dense scores."""
    draws = inputs.mining.per_query if Source.RANDOM in inputs.shares else 0
    width = sum(run.depth for run in inputs.runs.values()) + draws
    all_ids, seed = inputs.training_queries["query_id"], (inputs.mining.seed, inputs.number)
    for rows, from_runs in read_batches(
        inputs.snapshot,
        list(inputs.runs.values()),
        inputs.training_queries,
        max(1, CANDIDATES_AT_ONCE // max(1, width)),
    ):
        query_ids = all_ids[rows.start : rows.stop].to_pylist()
        random = draw_random_candidates(
            query_ids, rows.start, draws, inputs.snapshot.rows, seed, source=len(inputs.runs)
        )
        row_of_query = {query_id: row for row, query_id in enumerate(query_ids, start=rows.start)}
        given = read_given(inputs.snapshot, row_of_query, source=len(inputs.sources) - 1)
        candidates = Candidates.joined([from_runs, random, given])
        yield rows, replace(candidates, dense=_dense_scores(inputs, candidates.query, candidates.passage))


def _choose_negatives(candidates: Candidates, filtering: FilterInputs, inputs: MiningRound) -> MinedBatch:
    refusals = apply_filters(candidates, filtering, inputs.mining)
    shares = np.array([inputs.shares.get(source, np.inf) for source in inputs.sources])  # given negatives come first
    score_cross_encoder = cross_encoder_scorer(inputs)
    if score_cross_encoder is None:
        chosen = choose(candidates, refusals, inputs.texts, shares, inputs.mining.per_query)
        probability = np.full(len(chosen), np.nan, np.float32)
    else:
        max_probability = inputs.mining.cross_encoder.most
        chosen, probabilities = choose_with_cross_encoder(
            candidates, refusals, inputs.texts, shares, inputs.mining.per_query, score_cross_encoder, max_probability
        )
        probability = probabilities[chosen]
    trail = {**measure_candidates(candidates.take(chosen), filtering, inputs.mining), Reason.CROSS_ENCODER: probability}
    return MinedBatch(candidates, refusals, chosen, trail, inputs.sources)


def cross_encoder_scorer(inputs: MiningRound) -> ScorePairs | None:
    """Return a function that scores rows of queries and passages with the cross-encoder; None without one."""
    if inputs.cross_encoder is None:
        return None
    return pair_scorer(inputs.snapshot, inputs.training_queries, inputs.cross_encoder.probabilities)


def _count_refused(batch: MinedBatch) -> dict[str, int]:
    return {reason.value: int((batch.refusals == index).sum()) for index, reason in enumerate(REASONS)}


def _count_sources(kept: Candidates, sources: Sequence[str]) -> dict[str, int]:
    return dict(zip(sources, np.bincount(kept.source, minlength=len(sources)).tolist(), strict=True))


def _negatives_table(kept: Candidates, batch: MinedBatch, inputs: MiningRound) -> pa.Table:
    trail = [pa.array(batch.trail[rule], from_pandas=True) for rule in TRAIL]  # NaN becomes null
    columns = [
        inputs.training_queries["query_id"].take(pa.array(kept.query)),
        ids_of([inputs.snapshot.path / PASSAGES], kept.passage),
        pa.array(batch.sources, pa.string()).take(pa.array(kept.source)),
        kept.rank,
        pa.array(kept.score, from_pandas=True),
        pa.array(kept.dense, from_pandas=True),  # NaN becomes null
        np.full(len(kept), inputs.number, np.int32),
        pa.StructArray.from_arrays(trail, [rule.value for rule in TRAIL]),
    ]
    table = pa.table(columns, names=NEGATIVES_SCHEMA.names).cast(NEGATIVES_SCHEMA)
    if inputs.teacher is None:
        return table
    return table.append_column(TEACHER_SCORE, pa.array(inputs.teacher(kept.query, kept.passage), pa.float32()))


def _write_positives(file: Path, teacher: ScorePairs, filtering: FilterInputs, inputs: MiningRound) -> None:
    """Write the teacher's scores of all known positives of the training queries."""
    query, passage = filtering.positive_query, filtering.positive_passage
    columns = {
        "query_id": inputs.training_queries["query_id"].take(pa.array(query)),
        "passage_id": ids_of([inputs.snapshot.path / PASSAGES], passage),
        TEACHER_SCORE.name: pa.array(teacher(query, passage), pa.float32()),
    }
    pq.write_table(pa.table(columns), file, compression="zstd")
