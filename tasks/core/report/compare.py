"""Compare two systems query by query: releases, evaluations, the base model, or BM25."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import MANIFEST, load, read_verified, receipts_newest_first
from tasks.core.base.ranking import DENSE
from tasks.core.base.receipts import Encoder, Evaluation, Release, Snapshot
from tasks.core.base.resolved_settings import Change, differences
from tasks.core.base.settings import Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.evaluation.evaluate import evaluate_ranked, evaluate_ranking, run_of
from tasks.core.evaluation.evidence import overlap
from tasks.core.evaluation.own_measures import read_measures
from tasks.core.evaluation.query_cases import Case, most_different
from tasks.core.evaluation.significance import MEASURE, Comparison, compare_paired
from tasks.core.evaluation.systems import System
from tasks.core.evaluation.trec import write_trec, write_trec_qrels
from tasks.core.release.home_settings import HomeSettings
from tasks.core.release.names import NoSuchRelease, pick_name
from tasks.core.release.publish import list_releases, serving
from tasks.core.retrieval.bm25_without_index import search_postings
from tasks.core.retrieval.postings import build_postings
from tasks.core.snapshot.held_out import held_out
from tasks.core.snapshot.reader import load_snapshot

log = logging.getLogger("nightshift.evaluation")

RETRIEVERS = (System.BASE, System.BM25)  # systems that belong to no release

Target = Release | Evaluation | System


class QueryPair(BaseModel):
    """nDCG@10 of one query under both systems."""

    model_config = ConfigDict(frozen=True)

    query_id: str
    a: float
    b: float


class SystemComparison(BaseModel):
    """Gains of B over A. In a `Case`, “ours” is B and “theirs” is A."""

    model_config = ConfigDict(frozen=True)

    a: str
    b: str
    evaluations: tuple[str, str]
    snapshot: str
    split: str
    metrics: tuple[dict[str, float], dict[str, float]]
    comparison: Comparison
    better: int  # queries that B answers better
    worse: int
    overlap: float
    losses: tuple[Case, ...]
    gains: tuple[Case, ...]
    queries: tuple[QueryPair, ...]
    settings: tuple[Change, ...] | None = None  # differences; None unless both are releases with recorded settings


def compare_systems(settings: Settings, a: str, b: str, cases: int) -> SystemComparison:
    """Compare B with A on the same queries of the same snapshot.

    Two releases are evaluated on the snapshot of the newer one. The base model and BM25 are evaluated on the snapshot
    of the release or evaluation that they are compared with. Existing evaluations and embeddings are reused.

    Args:
        a: Release name or its beginning, "serving", "base", "bm25", or the digest of an evaluation.
        b: Same choices as `a`.
        cases: Number of worst losses, and of best gains, to return.

    Raises:
        NightshiftError: a name is neither a release nor an evaluation, or the evaluations have different queries.
    """
    left, right = _find_target(settings, a), _find_target(settings, b)
    snapshot_digest, split = _find_snapshot(settings, left, right, settings.evaluation.split)
    snapshot = load_snapshot(settings.home, snapshot_digest)
    theirs, ours = (_evaluate(settings, target, snapshot, split) for target in (left, right))
    before, after = (read_measures(settings.home, system, snapshot, settings.gate) for system in (theirs, ours))
    pairs = [
        QueryPair(query_id=query, a=old, b=new)
        for query, old, new in zip(
            before["query_id"].to_pylist(), before[MEASURE].to_pylist(), after[MEASURE].to_pylist(), strict=True
        )
    ]
    losses, gains = most_different(settings.home, ours, theirs, snapshot, cases)
    return SystemComparison(
        a=_label(left),
        b=_label(right),
        evaluations=(theirs.digest, ours.digest),
        snapshot=snapshot.digest,
        split=split,
        metrics=(theirs.metrics, ours.metrics),
        comparison=compare_paired(_label(left), after, before, settings.gate),
        better=sum(pair.b > pair.a for pair in pairs),
        worse=sum(pair.b < pair.a for pair in pairs),
        overlap=overlap(settings.home, ours, theirs),
        losses=tuple(losses),
        gains=tuple(gains),
        queries=tuple(pairs),
        settings=_compare_settings(left, right),
    )


def export(home: Path, comparison: SystemComparison, folder: Path) -> None:
    """Write `a.run`, `b.run`, and `qrels` to `folder`, in TREC format."""
    for name, digest in zip(("a", "b"), comparison.evaluations, strict=True):
        write_trec(run_of(home, load(home, Evaluation, digest)), folder / f"{name}.run", tag=name)
    measured = [pair.query_id for pair in comparison.queries]
    write_trec_qrels(load_snapshot(home, comparison.snapshot), comparison.split, folder / "qrels", measured)


def _find_target(settings: HomeSettings, name: str) -> Target:
    if name in RETRIEVERS:
        return System(name)
    current, _ = serving(settings)
    if name == System.SERVING and current is not None:
        return current
    releases = {release.release: release for release in list_releases(settings)}
    with suppress(NoSuchRelease):
        return releases[pick_name(name, releases)]
    shelf = settings.home / Evaluation.shelf
    folders = [path.parent for path in shelf.glob(f"{name}*/{MANIFEST}") if name and name.isalnum()]
    evaluation = read_verified(folders[0], Evaluation) if len(folders) == 1 else None
    if evaluation is None:
        known = ", ".join(releases) or "none yet"
        problem = f"matches {len(folders)} evaluations" if folders else "no release and no evaluation"
        raise NightshiftError(
            f"{name!r}: {problem} in {settings.home}. Releases: {known}. Other names: serving, base, bm25. Each "
            "night's report lists the digests of its evaluations at the end."
        )
    return evaluation


def _find_snapshot(settings: HomeSettings, left: Target, right: Target, split: str) -> tuple[str, str]:
    """Return the digest of the snapshot, and its split, on which both systems are evaluated; `split` for releases."""
    measured = {(target.parents[1], target.split) for target in (left, right) if isinstance(target, Evaluation)}
    if len(measured) > 1:
        raise NightshiftError(
            f"{_label(left)} and {_label(right)} were evaluated on different queries or passages. "
            "Compare evaluations of the same night, or releases."
        )
    if measured:
        return measured.pop()
    releases = [target for target in (left, right) if isinstance(target, Release)]
    releases = releases or [release for release in (serving(settings)[0],) if release is not None]
    if not releases:
        raise NightshiftError(
            "no release serves yet, so there is no snapshot to compare on. Run `nightshift run` to make one"
        )
    return max(releases, key=lambda release: release.generation).snapshot, split


def _compare_settings(left: Target, right: Target) -> tuple[Change, ...] | None:
    """Return the settings that differ between two releases, or None if either has no recorded settings."""
    known = [target.settings for target in (left, right) if isinstance(target, Release) and target.settings]
    return differences(*known) if len(known) == 2 else None


def _evaluate(settings: Settings, target: Target, snapshot: Snapshot, split: str) -> Evaluation:
    if isinstance(target, Evaluation):
        return target
    log.info("Evaluating %s on the %s queries of snapshot %s", _label(target), split, snapshot.digest)
    home, embedding = settings.home, settings.embedding
    evaluation = settings.evaluation.model_copy(update={"split": split})
    if target is System.BM25:
        postings = build_postings(home, snapshot, settings.mining.language, settings.mining.stemmer)
        queries = held_out(snapshot, split, evaluation.max_queries).queries
        run = search_postings(home, snapshot, postings, queries, evaluation.searched_depth, settings.mining)
        return evaluate_ranking(home, target, run, snapshot, evaluation)
    encoder = (
        load(home, Encoder, target.encoder) if isinstance(target, Release) else _find_base(home, settings.encoder.model)
    )
    vectors = gather_shards(home, encoder, snapshot, embedding.shards, vectors=embedding.vectors)
    ranking = target.ranking if isinstance(target, Release) else DENSE
    return evaluate_ranked(home, _label(target), encoder, vectors, snapshot, ranking, evaluation)


def _find_base(home: Path, model: str) -> Encoder:
    """Return the newest stored encoder of a base model."""
    for encoder in receipts_newest_first(home, Encoder):
        if encoder.steps == 0 and encoder.base == model:
            return encoder
    raise NightshiftError(f"base model {model}: no night has used it yet. Run `nightshift run` first")


def _label(target: Target) -> str:
    if isinstance(target, Evaluation):
        return f"{target.system} ({target.digest[:8]})"
    return target.release if isinstance(target, Release) else target.value
