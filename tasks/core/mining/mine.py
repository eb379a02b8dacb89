"""Mine hard negatives for one round: check the inputs, name the artifact, and build it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.base.errors import Mismatch
from tasks.core.base.files import produce
from tasks.core.base.receipts import Embeddings, Negatives, Run, Snapshot
from tasks.core.base.sections.mining import MiningSettings, Shares
from tasks.core.mining.candidates import Source
from tasks.core.mining.check_margin import check_margin
from tasks.core.mining.check_teacher import CheckedTeacher
from tasks.core.mining.cross_encoder import CrossEncoder, cross_encoder_digest, find_cross_encoder
from tasks.core.mining.passage_texts import build_shingles, open_texts
from tasks.core.mining.round import NEGATIVES_FILE, MiningRound, mine_round
from tasks.core.retrieval.runs import QueryVectors, vectors_digest, vectors_of
from tasks.core.snapshot.drawn_queries import drawn_queries, is_draw
from tasks.core.snapshot.reader import qrels
from tasks.core.snapshot.splits import Split

__all__ = ["NEGATIVES_FILE", "mine", "source_shares"]

log = logging.getLogger("nightshift.mining")

VERSION = 4  # of the artifact format; a change makes new artifacts
KEYED_SETTINGS = {"per_query", "margin", "margin_over", "skip_top", "last_rank", "near_duplicate", "seed"}


def source_shares(round_number: int, mining: MiningSettings) -> dict[str, float]:
    """Return the sources of a round and their shares: only BM25 in round 0, then those with a share in the settings."""
    if round_number == 0:
        return {Source.BM25: 1.0}
    return {name: share for name, share in mining.shares.model_dump().items() if share > 0}


def mine(
    home: Path,
    snapshot: Snapshot,
    runs: Sequence[tuple[str, Run]],
    embeddings: Embeddings | None,
    query_vectors: QueryVectors | None,
    round_number: int,
    mining: MiningSettings,
    teacher: CheckedTeacher | None = None,
    *,
    pairs: int = 0,
) -> Negatives:
    """Mine hard negatives for the training queries of a snapshot.

    Writes `negatives.parquet`, with the queries in snapshot order and their negatives in the order chosen, and
    `sample.json` for review. Every candidate is counted: `candidates` = `rows` + all of `refused` + those beyond
    `per_query`. Memory grows with the vectors and known positives of the training queries, not with passages or
    candidates.

    Args:
        home: folder of the artifacts.
        snapshot: passages, queries, and qrels.
        runs: pairs of source name (BM25 or DENSE) and run, with queries in snapshot order. Queries of other splits
            are ignored. Runs whose source has no share in this round (`source_shares`) are not read.
        embeddings: passage vectors of the current encoder; None: no dense scores, and the margin filter is off.
        query_vectors: float32 (queries, dimension), row i for row i of the training queries, from the encoder
            of `embeddings`; or `Later`, computed only if the artifact is missing. None if `embeddings` is None.
        round_number: 0 for the first round.
        mining: the settings.
        teacher: scores positives and negatives if it is better than the encoder of `embeddings`. None: no scores.
        pairs: training pairs that are needed; mines for queries that have as many (`drawn_queries`). 0: all.

    Returns:
        The receipt of the negatives.

    Raises:
        Mismatch: runs, embeddings, vectors, and snapshot do not belong together.
        NightshiftError: the cross-encoder of the settings cannot be used.
    """
    shares = source_shares(round_number, mining)
    _check_inputs(snapshot, embeddings, [source for source, _ in runs])
    if teacher is not None and (embeddings is None or query_vectors is None):
        raise Mismatch("a teacher is compared with the encoder that mines: give its embeddings and query vectors")
    used = {source: run for source, run in runs if source in shares}
    cross_encoder_folder = find_cross_encoder(mining.cross_encoder) if mining.cross_encoder.model else None
    key = {
        "snapshot": snapshot.digest,
        "runs": [[source, run.digest] for source, run in used.items()],
        "shares": shares,
        "embeddings": embeddings and embeddings.digest,
        "vectors": None if query_vectors is None else vectors_digest(query_vectors),
        "round": round_number,
        "settings": mining.model_dump(include=KEYED_SETTINGS),
        "cross_encoder": cross_encoder_folder
        and [cross_encoder_digest(cross_encoder_folder), mining.cross_encoder.model_dump(include={"most", "tokens"})],
        "version": VERSION,
        **({"teacher": teacher.key} if teacher is not None else {}),
        **({"pairs": pairs} if is_draw(pairs, qrels(snapshot, Split.TRAIN)) else {}),
    }

    def build(folder: Path) -> Mapping[str, Any]:
        training_queries = drawn_queries(snapshot, pairs).queries
        vectors = None if query_vectors is None else vectors_of(query_vectors)
        if vectors is not None and len(vectors) != training_queries.num_rows:
            raise Mismatch(f"{len(vectors)} query vectors for {training_queries.num_rows} training queries")
        check, score_pairs = None, None
        if teacher is not None and vectors is not None:
            check, score_pairs = teacher.prepare(training_queries, vectors, mining.seed)
        judge = None
        if embeddings is not None and vectors is not None and Source.BM25 in used:
            judge = check_margin(snapshot, used[Source.BM25], embeddings, training_queries, vectors, mining.seed)
        inputs = MiningRound(
            snapshot=snapshot,
            number=round_number,
            training_queries=training_queries,
            runs=used,
            shares=shares,
            embeddings=embeddings,
            vectors=vectors,
            texts=open_texts(build_shingles(home, snapshot)),
            mining=mining,
            cross_encoder=CrossEncoder(cross_encoder_folder, mining.cross_encoder.tokens)
            if cross_encoder_folder
            else None,
            teacher=score_pairs,
            margin_applies=judge is None or judge.applies,
        )
        counts = mine_round(folder, inputs)
        log.info(
            "mined %s negatives for %s queries (%s queries got fewer than %d)",
            *(f"{counts['rows']:,}", f"{training_queries.num_rows:,}", f"{counts['starved']:,}", mining.per_query),
        )
        receipts = [snapshot, embeddings, *used.values()]
        parents = tuple(receipt.digest for receipt in receipts if receipt is not None)
        facts = {"round": round_number, "queries": training_queries.num_rows, "pairs": pairs}
        return {**counts, **facts, "teacher": check, "margin_check": judge, "parents": parents}

    negatives = produce(home, Negatives, key, build)
    if negatives.margin_check is not None and not negatives.margin_check.applies:
        log.info(negatives.margin_check.summary)
    if negatives.teacher is not None:
        log.log(logging.INFO if negatives.teacher.accepted else logging.WARNING, negatives.teacher.summary)
    return negatives


def _check_inputs(snapshot: Snapshot, embeddings: Embeddings | None, sources: Sequence[str]) -> None:
    if embeddings is not None and (embeddings.snapshot, embeddings.rows) != (snapshot.digest, snapshot.rows):
        raise Mismatch(
            f"embeddings {embeddings.digest} are of snapshot {embeddings.snapshot}, not of {snapshot.digest}."
            " Embed this snapshot first."
        )
    known = [name for name in Shares.model_fields if name != Source.RANDOM]
    if len(set(sources)) < len(sources) or not set(sources) <= set(known):
        raise Mismatch(f"runs of the sources {', '.join(sources)}: give at most one run for each of {', '.join(known)}")
