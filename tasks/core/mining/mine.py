"""One round of mining: which sources it has, what names its artifact, and what must belong together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.base.errors import Mismatch
from tasks.core.base.files import produce
from tasks.core.base.receipts import Embeddings, Negatives, Run, Snapshot
from tasks.core.base.settings import MiningSettings, Shares
from tasks.core.mining.cross_encoder import CrossEncoder, cross_encoder_digest, find_cross_encoder
from tasks.core.mining.passage_texts import build_shingles, open_texts
from tasks.core.mining.round import NEGATIVES_FILE, RANDOM, MiningRound, mine_round
from tasks.core.retrieval.runs import QueryVectors, vectors_digest, vectors_of
from tasks.core.snapshot.reader import queries

__all__ = ["NEGATIVES_FILE", "mine", "source_shares"]

log = logging.getLogger("nightshift.mining")

VERSION = 3  # of what a round writes; a change makes new artifacts
DIALS = {"per_query", "margin", "margin_over", "skip_top", "last_rank", "near_duplicate", "seed"}


def source_shares(round_number: int, mining: MiningSettings) -> dict[str, float]:
    """The sources of a round and their shares: BM25 alone in round 0, then those that the settings give a share."""
    if round_number == 0:
        return {"bm25": 1.0}
    return {name: share for name, share in mining.shares.model_dump().items() if share > 0}


def mine(
    home: Path,
    snapshot: Snapshot,
    runs: Sequence[tuple[str, Run]],
    embeddings: Embeddings | None,
    query_vectors: QueryVectors | None,
    round_number: int,
    mining: MiningSettings,
) -> Negatives:
    """Choose hard negatives for the training queries from `runs` (name of the source, "bm25" or "dense", and its run).

    A run whose source has no share in this round (`schedule`) is left out; random draws are made here. query_vectors:
    float32 (queries, dimension), row i for row i of `queries(snapshot, "train")`, made by the encoder of the
    embeddings; or `Later` ones, not made when the artifact is there. With None for both no encoder is needed: no
    margin refuses a candidate, and dense scores are null. A run may hold other
    queries too, and has them in the snapshot's order. `negatives.parquet` has the queries in snapshot order and
    their negatives in the order chosen; `sample.json` is for human eyes.

    Every candidate is accounted for: `candidates` = `rows` + all of `refused` + those beyond `per_query`. Memory grows
    with the vectors and known positives of the training queries, not with passages or candidates.

    Raises Mismatch when runs, embeddings, vectors and snapshot do not belong together, NightshiftError when the
    cross-encoder of the settings cannot be used.
    """
    shares = source_shares(round_number, mining)
    _check(snapshot, embeddings, [source for source, _ in runs])
    used = {source: run for source, run in runs if source in shares}
    judging = find_cross_encoder(mining.cross_encoder) if mining.cross_encoder.model else None
    key = {
        "snapshot": snapshot.digest,
        "runs": [[source, run.digest] for source, run in used.items()],
        "shares": shares,
        "embeddings": embeddings and embeddings.digest,
        "vectors": None if query_vectors is None else vectors_digest(query_vectors),
        "round": round_number,
        "settings": mining.model_dump(include=DIALS),
        "cross_encoder": judging
        and [cross_encoder_digest(judging), mining.cross_encoder.model_dump(include={"most", "tokens"})],
        "version": VERSION,
    }

    def build(folder: Path) -> Mapping[str, Any]:
        wording = queries(snapshot, "train")
        vectors = None if query_vectors is None else vectors_of(query_vectors)
        if vectors is not None and len(vectors) != wording.num_rows:
            raise Mismatch(f"{len(vectors)} query vectors for {wording.num_rows} training queries")
        this = MiningRound(
            snapshot=snapshot,
            number=round_number,
            wording=wording,
            runs=used,
            shares=shares,
            embeddings=embeddings,
            vectors=vectors,
            texts=open_texts(build_shingles(home, snapshot)),
            mining=mining,
            cross_encoder=CrossEncoder(judging, mining.cross_encoder.tokens) if judging else None,
        )
        figures = mine_round(folder, this)
        log.info(
            "mined %s negatives for %s queries (%s queries got fewer than %d)",
            *(f"{figures['rows']:,}", f"{wording.num_rows:,}", f"{figures['starved']:,}", mining.per_query),
        )
        inputs = [snapshot, embeddings, *used.values()]
        parents = tuple(receipt.digest for receipt in inputs if receipt is not None)
        return {**figures, "round": round_number, "queries": wording.num_rows, "parents": parents}

    return produce(home, Negatives, key, build)


def _check(snapshot: Snapshot, embeddings: Embeddings | None, sources: Sequence[str]) -> None:
    if embeddings is not None and (embeddings.snapshot, embeddings.rows) != (snapshot.digest, snapshot.rows):
        raise Mismatch(
            f"embeddings {embeddings.digest} are of snapshot {embeddings.snapshot}, not of {snapshot.digest};"
            " embed this snapshot first"
        )
    known = [name for name in Shares.model_fields if name != RANDOM]
    if len(set(sources)) < len(sources) or not set(sources) <= set(known):
        raise Mismatch(
            f"runs of the sources {', '.join(sources)}: at most one each of {', '.join(known)} is understood"
        )
