"""Two systems side by side, query by query: releases, or evaluations that a night left."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.core.data.snapshot import load_snapshot
from tasks.core.embedding.shards import gather_shards
from tasks.core.errors import NightshiftError
from tasks.core.evaluation.cases import Case, most_different
from tasks.core.evaluation.evaluate import evaluate_encoder, read_per_query, run_of
from tasks.core.evaluation.evidence import overlap
from tasks.core.evaluation.significance import MEASURE, Comparison, compare
from tasks.core.evaluation.trec import write_trec, write_trec_qrels
from tasks.core.files import MANIFEST, load, read_verified
from tasks.core.receipts import Encoder, Evaluation, Release, Snapshot
from tasks.core.release.publish import list_releases, serving
from tasks.core.resolved import Change, differences
from tasks.core.settings import Settings

log = logging.getLogger("nightshift.evaluation")


class QueryPair(BaseModel):
    """nDCG@10 of one query under both systems."""

    model_config = ConfigDict(frozen=True)

    query_id: str
    a: float
    b: float


class Duel(BaseModel):
    """What B gains over A. In a case, “ours” is B and “theirs” is A."""

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
    settings: tuple[Change, ...] | None = None  # that differ; None: not both are releases with recorded settings


def duel(settings: Settings, a: str, b: str, cases: int) -> Duel:
    """Compare B with A on the same queries of the same snapshot.

    Two releases are measured on the snapshot of the newer one; a release beside an evaluation on the evaluation's.
    What an earlier night measured is not measured again; passages that one encoder has not seen are embedded.

    Raises:
        NightshiftError: a name that is no release and no evaluation, or two evaluations of different queries.
    """
    left, right = _named(settings, a), _named(settings, b)
    snapshot_digest, split = _ground(settings, left, right)
    snapshot = load_snapshot(settings.home, snapshot_digest)
    theirs, ours = (_evaluation(settings, one, snapshot, split) for one in (left, right))
    before, after = read_per_query(theirs), read_per_query(ours)
    pairs = [
        QueryPair(query_id=query, a=old, b=new)
        for query, old, new in zip(
            before["query_id"].to_pylist(), before[MEASURE].to_pylist(), after[MEASURE].to_pylist(), strict=True
        )
    ]
    losses, gains = most_different(settings.home, ours, theirs, snapshot, cases)
    return Duel(
        a=_label(left),
        b=_label(right),
        evaluations=(theirs.digest, ours.digest),
        snapshot=snapshot.digest,
        split=split,
        metrics=(theirs.metrics, ours.metrics),
        comparison=compare(_label(left), after, before, settings.gate),
        better=sum(pair.b > pair.a for pair in pairs),
        worse=sum(pair.b < pair.a for pair in pairs),
        overlap=overlap(settings.home, ours, theirs),
        losses=tuple(losses),
        gains=tuple(gains),
        queries=tuple(pairs),
        settings=_settings(left, right),
    )


def export(home: Path, found: Duel, folder: Path) -> None:
    """Write `a.run`, `b.run` and `qrels` into `folder`, in TREC's form."""
    for name, digest in zip(("a", "b"), found.evaluations, strict=True):
        write_trec(run_of(home, load(home, Evaluation, digest)), folder / f"{name}.run", tag=name)
    write_trec_qrels(load_snapshot(home, found.snapshot), found.split, folder / "qrels")


def _named(settings: Settings, name: str) -> Release | Evaluation:
    current, _ = serving(settings)
    if name == "serving" and current is not None:
        return current
    releases = [one for one in list_releases(settings) if one.release == name]
    if releases:
        return releases[0]
    shelf = settings.home / Evaluation.shelf
    found = [path.parent for path in shelf.glob(f"{name}*/{MANIFEST}") if name and name.isalnum()]
    evaluation = read_verified(found[0], Evaluation) if len(found) == 1 else None
    if evaluation is None:
        known = ", ".join(one.release for one in list_releases(settings)) or "none yet"
        what = f"the beginning of {len(found)} evaluations" if found else "no release and no evaluation"
        raise NightshiftError(
            f"{name!r}: {what} in {settings.home}. Releases: {known}; the digests of evaluations stand at the end of "
            "each night's report."
        )
    return evaluation


def _ground(settings: Settings, left: Release | Evaluation, right: Release | Evaluation) -> tuple[str, str]:
    """Digest of the snapshot, and the split, that both are measured on."""
    measured = {(one.parents[1], one.split) for one in (left, right) if isinstance(one, Evaluation)}
    if len(measured) > 1:
        raise NightshiftError(
            f"{_label(left)} and {_label(right)} were measured on different queries or passages; "
            "compare evaluations of the same night, or releases"
        )
    if measured:
        return measured.pop()
    newer = max((one for one in (left, right) if isinstance(one, Release)), key=lambda one: one.generation)
    return newer.snapshot, settings.evaluation.split


def _settings(left: Release | Evaluation, right: Release | Evaluation) -> tuple[Change, ...] | None:
    """The settings of two releases that differ; None where either was recorded without settings."""
    known = [one.settings for one in (left, right) if isinstance(one, Release) and one.settings]
    return differences(*known) if len(known) == 2 else None


def _evaluation(settings: Settings, one: Release | Evaluation, snapshot: Snapshot, split: str) -> Evaluation:
    if isinstance(one, Evaluation):
        return one
    log.info("measuring %s on %s queries of snapshot %s", one.release, split, snapshot.digest)
    encoder = load(settings.home, Encoder, one.encoder)
    rules = settings.embedding
    vectors = gather_shards(settings.home, encoder, snapshot, rules.shards, vectors=rules.vectors)
    held_out = settings.evaluation.model_copy(update={"split": split})
    return evaluate_encoder(settings.home, one.release, encoder, vectors, snapshot, held_out)


def _label(one: Release | Evaluation) -> str:
    return one.release if isinstance(one, Release) else f"{one.system} ({one.digest[:8]})"
