"""Gathers from a night's artifacts what the gate's verdict rests on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from tasks.core.base.files import find_artifact
from tasks.core.base.receipts import Embeddings, Encoder, Evaluation, Release, Snapshot
from tasks.core.base.settings import GateSettings
from tasks.core.evaluation.evaluate import read_per_query, read_run, run_of
from tasks.core.evaluation.gate import Evidence
from tasks.core.evaluation.golden import answer_golden_queries, read_golden
from tasks.core.evaluation.segments import segments_of

TOP = 10  # ranks that overlap looks at


def gather_evidence(
    home: Path,
    figures: Mapping[str, Evaluation],
    encoder: Encoder,
    embeddings: Embeddings,
    snapshot: Snapshot,
    serving: Release | None,
    settings: GateSettings,
    *,
    withdrawn: str | None = None,
    trained: bool = False,
) -> Evidence:
    """Per-query measures, slices, golden queries and overlap.

    Args:
        home: where the artifacts lie.
        figures: evaluations by system: challenger, bm25 and, where they were measured, base and serving.
        encoder, embeddings: the challenger's, over `snapshot`.
        snapshot: what all were measured on.
        serving: the release that serves; its snapshot, unless it is lost, says which passages are new.
        settings: where the golden queries lie, and the depth at which they count as answered.
        withdrawn: the release of these very parts that a person rolled back.
        trained: whether this night trained the challenger.

    Raises:
        BadInput: golden queries that cannot be read.
    """
    tables = {name: read_per_query(figure) for name, figure in figures.items()}
    challenger = figures["challenger"]
    before = None if serving is None else find_artifact(home, Snapshot, serving.snapshot)
    golden = None
    if settings.golden is not None:
        golden = answer_golden_queries(
            read_golden(settings.golden), encoder, embeddings, snapshot, settings.golden_depth
        )
    return Evidence(
        challenger=tables["challenger"],
        bm25=tables["bm25"],
        base=tables.get("base"),
        serving=tables.get("serving"),
        slices=segments_of(snapshot, challenger.split, tables["challenger"]["query_id"].to_pylist(), before),
        golden=golden,
        overlap=overlap(home, challenger, figures["serving"]) if "serving" in figures else None,
        withdrawn=withdrawn,
        trained=trained,
        same_as_base="base" in figures and _same_ranking(home, challenger, figures["base"]),
    )


def _same_ranking(home: Path, one: Evaluation, other: Evaluation) -> bool:
    columns = ["query_id", "passage_id", "rank"]
    ours, theirs = (read_run(run_of(home, system)).select(columns) for system in (one, other))
    return bool(ours.equals(theirs))


def overlap(home: Path, one: Evaluation, other: Evaluation, top: int = TOP) -> float:
    """Mean over the queries of |A ∩ B| / `top`, of the `top` first passages that each system found; in [0, 1].

    Where a corpus has fewer passages, or a run fewer hits, the longer of the two lists is what can be in common.
    """
    ours, theirs = (_first(read_run(run_of(home, system)), top) for system in (one, other))
    shares = [
        len(ours[query] & theirs[query]) / max(len(ours[query]), len(theirs[query]))
        for query in ours.keys() | theirs.keys()
    ]
    return sum(shares) / len(shares) if shares else 1.0


def _first(run: pa.Table, top: int) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    columns = (run[name].to_pylist() for name in ("query_id", "passage_id", "rank"))
    for query, passage, rank in zip(*columns, strict=True):
        if rank <= top:
            found[query].add(passage)
    return found
