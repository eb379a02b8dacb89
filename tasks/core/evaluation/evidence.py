"""Gather the evidence for the gate from the artifacts of a night."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from tasks.core.base.files import find_artifact
from tasks.core.base.ranking import Ranking
from tasks.core.base.receipts import Embeddings, Encoder, Evaluation, Release, Snapshot
from tasks.core.base.sections.evaluation import GateSettings
from tasks.core.evaluation.evaluate import read_run, run_of
from tasks.core.evaluation.gate import Evidence
from tasks.core.evaluation.golden import answer_golden_queries, read_golden
from tasks.core.evaluation.own_measures import read_measures
from tasks.core.evaluation.segments import segments_of
from tasks.core.evaluation.systems import System
from tasks.core.snapshot.splits import SYNTHETIC
from tasks.core.text.synthetic_queries import JUDGED

TOP = 10  # ranks that `overlap` compares


def gather_evidence(
    home: Path,
    evaluations: Mapping[System, Evaluation],
    encoder: Encoder,
    embeddings: Embeddings,
    snapshot: Snapshot,
    ranking: Ranking,
    serving: Release | None,
    settings: GateSettings,
    *,
    withdrawn: str | None = None,
    trained: bool = False,
) -> Evidence:
    """Gather measures per query, segments, golden queries, and overlap.

    Args:
        home: folder of the artifacts.
        evaluations: by system: challenger, BM25, and, where measured, the others.
        encoder, embeddings: of the challenger, over `snapshot`.
        ranking: how the challenger would rank.
        snapshot: passages, queries, and qrels of all evaluations.
        serving: the serving release; passages that its snapshot lacks form the segment "new passages".
        settings: measures, file of the golden queries, and the rank up to which they count as answered.
        withdrawn: name of the release with the same parts that a person rolled back.
        trained: whether this night trained the challenger.

    Raises:
        BadInput: the golden queries cannot be read.
    """
    tables = {name: read_measures(home, evaluation, snapshot, settings) for name, evaluation in evaluations.items()}
    challenger = evaluations[System.CHALLENGER]
    previous = None if serving is None else find_artifact(home, Snapshot, serving.snapshot)
    golden = None
    if settings.golden is not None:
        golden = answer_golden_queries(
            home, read_golden(settings.golden), encoder, embeddings, snapshot, ranking, settings.golden_depth
        )
    return Evidence(
        challenger=tables[System.CHALLENGER],
        bm25=tables[System.BM25],
        base=tables.get(System.BASE),
        serving=tables.get(System.SERVING),
        segments=segments_of(snapshot, challenger.split, tables[System.CHALLENGER]["query_id"].to_pylist(), previous),
        golden=golden,
        overlap=overlap(home, challenger, evaluations[System.SERVING]) if System.SERVING in evaluations else None,
        withdrawn=withdrawn,
        trained=trained,
        dense=tables.get(System.DENSE),
        base_dense=tables.get(System.BASE_DENSE),
        label_note=_label_note(challenger.split, tables[System.CHALLENGER]["query_id"].to_pylist()),
        same_as_base={System.DENSE, System.BASE_DENSE} <= evaluations.keys()
        and _same_ranking(home, evaluations[System.DENSE], evaluations[System.BASE_DENSE]),
    )


def _label_note(split: str, query_ids: Sequence[str]) -> str:
    if split == SYNTHETIC:
        return "measured on synthetic queries only: the quality on real queries is unknown"
    judged = sum(query_id.startswith(JUDGED) for query_id in query_ids)
    return f"a language model labeled {judged:,} of {len(query_ids):,} held-out queries" if judged else ""


def _same_ranking(home: Path, left: Evaluation, right: Evaluation) -> bool:
    columns = ["query_id", "passage_id", "rank"]
    left_run, right_run = (read_run(run_of(home, system)).select(columns) for system in (left, right))
    return bool(left_run.equals(right_run))


def overlap(home: Path, left: Evaluation, right: Evaluation, top: int = TOP) -> float:
    """Return the mean over all queries of |A ∩ B| / `top`, in [0, 1]; A and B are the `top` passages of each system.

    If both systems return fewer than `top` passages for a query, the longer list is the denominator.
    """
    left_hits, right_hits = (_top_passages(read_run(run_of(home, system)), top) for system in (left, right))
    shares = [
        len(left_hits[query] & right_hits[query]) / max(len(left_hits[query]), len(right_hits[query]))
        for query in left_hits.keys() | right_hits.keys()
    ]
    return sum(shares) / len(shares) if shares else 1.0


def _top_passages(run: pa.Table, top: int) -> dict[str, set[str]]:
    passages: dict[str, set[str]] = defaultdict(set)
    columns = (run[name].to_pylist() for name in ("query_id", "passage_id", "rank"))
    for query, passage, rank in zip(*columns, strict=True):
        if rank <= top:
            passages[query].add(passage)
    return passages
