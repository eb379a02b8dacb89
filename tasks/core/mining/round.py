"""The work of one round, a block of training queries at a time, so that memory does not grow with their candidates."""

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
from tasks.core.base.settings import MiningSettings
from tasks.core.mining.audit import Outcome, draw_queries, sample_of, write_sample
from tasks.core.mining.candidates import Candidates, blocks, known_positives
from tasks.core.mining.choice import ScorePairs, choose, choose_with_cross_encoder
from tasks.core.mining.cross_encoder import CrossEncoder
from tasks.core.mining.false_negative_estimate import count_hidden_let_through, draw_hidden, summarize_hidden
from tasks.core.mining.filters import REASONS, FilterInputs, Reason, apply_filters, measure_candidates
from tasks.core.mining.passage_texts import Texts, text_classes, texts_of
from tasks.core.mining.random_draws import draw_random_candidates
from tasks.core.retrieval.exact import ids_of, score_pairs
from tasks.core.snapshot.reader import PASSAGES
from tasks.core.text.normalization import text_hash

log = logging.getLogger("nightshift.mining")

CANDIDATES_AT_ONCE = 1_000_000  # in memory: some 0.4 GB with all that is made of them
RANDOM = "random"  # the source that is no run
NEGATIVES_FILE = "negatives.parquet"
SAMPLE_FILE = "sample.json"
TRAIL = (Reason.NEAR_DUPLICATE, Reason.ABOVE_MARGIN, Reason.CROSS_ENCODER)  # the rules that measure something
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
    """The inputs of a round. `runs` and `shares` are by source; `vectors` float32 (queries, dimension)."""

    snapshot: Snapshot
    number: int
    wording: pa.Table  # query_id, text: the training queries
    runs: Mapping[str, Run]
    shares: Mapping[str, float]
    embeddings: Embeddings | None  # None: no encoder scores anything, and no margin refuses
    vectors: np.ndarray | None
    texts: Texts
    mining: MiningSettings
    cross_encoder: CrossEncoder | None

    @property
    def sources(self) -> list[str]:
        """The names that candidates' source numbers stand for."""
        return [*self.runs, *([RANDOM] if RANDOM in self.shares else [])]


def mine_round(folder: Path, this: MiningRound) -> dict[str, Any]:
    """Write negatives and sample into `folder`; return the receipt's own figures."""
    facts = filter_inputs(this)
    hidden = draw_hidden(facts, this.mining.seed)
    hidden_query = facts.positive_query[hidden]
    drawn = draw_queries(this.wording.num_rows, this.mining.seed)
    refused: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    sample, tried, candidates, starved = {}, np.zeros(2, np.int64), 0, 0
    with pq.ParquetWriter(folder / NEGATIVES_FILE, NEGATIVES_SCHEMA, compression="zstd") as writer:
        for rows, some in candidate_blocks(this):
            outcome = _decide(some, facts, this)
            candidates += len(some)
            refused.update(_counts(outcome))
            kept = some.take(outcome.chosen)
            sources.update(_by_source(kept, this.sources))
            starved += int((np.bincount(kept.query - rows.start, minlength=len(rows)) < this.mining.per_query).sum())
            low, high = np.searchsorted(hidden_query, (rows.start, rows.stop))
            tried += count_hidden_let_through(some, facts, hidden[low:high], this.mining, cross_encoder_scorer(this))
            sample.update({row: sample_of(row, outcome, facts) for row in drawn if row in rows})
            writer.write_table(_table(kept, outcome, this))
            log.log(
                logging.DEBUG if rows.stop == this.wording.num_rows else logging.INFO,
                *("mined for %d of %d queries", rows.stop, this.wording.num_rows),
            )
            report_progress("mine negatives", rows.stop, this.wording.num_rows)
    write_sample(folder / SAMPLE_FILE, this.snapshot, this.wording, sample)
    return {
        "rows": sources.total(),
        "starved": starved,
        "candidates": candidates,
        "refused": {reason.value: refused[reason.value] for reason in REASONS},
        "sources": {source: sources[source] for source in this.sources},
        "hidden": summarize_hidden(len(hidden), int(tried[0]), int(tried[1])),
    }


def filter_inputs(this: MiningRound) -> FilterInputs:
    """What the rules know of all training queries and their known positives."""
    query, passage = known_positives(this.snapshot, this.wording)
    return FilterInputs(
        texts=this.texts,
        query_class=text_classes([text_hash(None, text) for text in this.wording["text"].to_pylist()]),
        positive_query=query,
        positive_passage=passage,
        positive_score=_dense_scores(this, query, passage),
    )


def _dense_scores(this: MiningRound, query: np.ndarray, passage: np.ndarray) -> np.ndarray:
    """Score pairs of query and passage rows with the encoder, float32 (n,); NaN without an encoder."""
    if this.embeddings is None or this.vectors is None:
        return np.full(len(query), np.nan, np.float32)
    return score_pairs(this.vectors, this.embeddings, query, passage)


def candidate_blocks(this: MiningRound) -> Iterator[tuple[range, Candidates]]:
    """Blocks of queries with their candidates, those of the random draw included, and all dense scores."""
    draws = this.mining.per_query if RANDOM in this.shares else 0
    width = sum(run.depth for run in this.runs.values()) + draws
    names, seed = this.wording["query_id"], (this.mining.seed, this.number)
    for rows, found in blocks(
        this.snapshot, list(this.runs.values()), this.wording, max(1, CANDIDATES_AT_ONCE // max(1, width))
    ):
        own = names[rows.start : rows.stop].to_pylist()
        more = draw_random_candidates(own, rows.start, draws, this.snapshot.rows, seed, source=len(this.runs))
        some = Candidates.joined([found, more])
        yield rows, replace(some, dense=_dense_scores(this, some.query, some.passage))


def _decide(some: Candidates, facts: FilterInputs, this: MiningRound) -> Outcome:
    verdict = apply_filters(some, facts, this.mining)
    shares = np.array([this.shares[source] for source in this.sources])
    ask = cross_encoder_scorer(this)
    if ask is None:
        chosen = choose(some, verdict, this.texts, shares, this.mining.per_query)
        probability = np.full(len(chosen), np.nan, np.float32)
    else:
        most = this.mining.cross_encoder.most
        chosen, asked = choose_with_cross_encoder(some, verdict, this.texts, shares, this.mining.per_query, ask, most)
        probability = asked[chosen]
    trail = {**measure_candidates(some.take(chosen), facts, this.mining), Reason.CROSS_ENCODER: probability}
    return Outcome(some, verdict, chosen, trail, this.sources)


def cross_encoder_scorer(this: MiningRound) -> ScorePairs | None:
    """A function that asks the cross-encoder about rows of queries and passages; None without one."""
    if (model := this.cross_encoder) is None:
        return None

    def ask(query_rows: np.ndarray, passage_rows: np.ndarray) -> np.ndarray:
        texts = texts_of(this.snapshot, passage_rows)
        asked = this.wording["text"].take(pa.array(query_rows)).to_pylist()
        return model.probabilities(asked, [texts[row] for row in passage_rows.tolist()])

    return ask


def _counts(outcome: Outcome) -> dict[str, int]:
    return {reason.value: int((outcome.verdict == number).sum()) for number, reason in enumerate(REASONS)}


def _by_source(kept: Candidates, sources: Sequence[str]) -> dict[str, int]:
    return dict(zip(sources, np.bincount(kept.source, minlength=len(sources)).tolist(), strict=True))


def _table(kept: Candidates, outcome: Outcome, this: MiningRound) -> pa.Table:
    trail = [pa.array(outcome.trail[rule], from_pandas=True) for rule in TRAIL]  # NaN becomes null
    columns = [
        this.wording["query_id"].take(pa.array(kept.query)),
        ids_of([this.snapshot.path / PASSAGES], kept.passage),
        pa.array(outcome.sources, pa.string()).take(pa.array(kept.source)),
        kept.rank,
        pa.array(kept.score, from_pandas=True),
        pa.array(kept.dense, from_pandas=True),  # NaN becomes null
        np.full(len(kept), this.number, np.int32),
        pa.StructArray.from_arrays(trail, [rule.value for rule in TRAIL]),
    ]
    return pa.table(columns, names=NEGATIVES_SCHEMA.names).cast(NEGATIVES_SCHEMA)
