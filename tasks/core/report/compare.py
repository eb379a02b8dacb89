"""Two systems side by side, query by query: releases, or evaluations that a night left."""

from __future__ import annotations

import logging
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import MANIFEST, load, read_verified, receipts_newest_first
from tasks.core.base.receipts import Encoder, Evaluation, Release, Snapshot
from tasks.core.base.resolved_settings import Change, differences
from tasks.core.base.settings import Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.evaluation.evaluate import evaluate_encoder, evaluate_ranking, read_per_query, run_of
from tasks.core.evaluation.evidence import overlap
from tasks.core.evaluation.query_cases import Case, most_different
from tasks.core.evaluation.significance import MEASURE, Comparison, compare_paired
from tasks.core.evaluation.trec import write_trec, write_trec_qrels
from tasks.core.release.names import NoSuchRelease, pick_name
from tasks.core.release.publish import list_releases, serving
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.snapshot.reader import judged, load_snapshot

log = logging.getLogger("nightshift.evaluation")


class System(StrEnum):
    """What every night measures besides releases."""

    BASE = "base"
    BM25 = "bm25"


Named = Release | Evaluation | System


class QueryPair(BaseModel):
    """nDCG@10 of one query under both systems."""

    model_config = ConfigDict(frozen=True)

    query_id: str
    a: float
    b: float


class SystemComparison(BaseModel):
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


def compare_systems(settings: Settings, a: str, b: str, cases: int) -> SystemComparison:
    """Compare B with A on the same queries of the same snapshot.

    `a` and `b` are releases or the beginning of their names, "serving", "base", "bm25", or digests of evaluations. Two
    releases are measured on the snapshot of the newer one; anything else on the snapshot of the evaluation or release
    that it is compared with.
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
        settings=_settings(left, right),
    )


def export(home: Path, found: SystemComparison, folder: Path) -> None:
    """Write `a.run`, `b.run` and `qrels` into `folder`, in TREC's form."""
    for name, digest in zip(("a", "b"), found.evaluations, strict=True):
        write_trec(run_of(home, load(home, Evaluation, digest)), folder / f"{name}.run", tag=name)
    write_trec_qrels(load_snapshot(home, found.snapshot), found.split, folder / "qrels")


def _named(settings: Settings, name: str) -> Named:
    if name in set(System):
        return System(name)
    current, _ = serving(settings)
    if name == "serving" and current is not None:
        return current
    releases = {release.release: release for release in list_releases(settings)}
    with suppress(NoSuchRelease):
        return releases[pick_name(name, releases)]
    shelf = settings.home / Evaluation.shelf
    found = [path.parent for path in shelf.glob(f"{name}*/{MANIFEST}") if name and name.isalnum()]
    evaluation = read_verified(found[0], Evaluation) if len(found) == 1 else None
    if evaluation is None:
        known = ", ".join(releases) or "none yet"
        what = f"the beginning of {len(found)} evaluations" if found else "no release and no evaluation"
        raise NightshiftError(
            f"{name!r}: {what} in {settings.home}. Releases: {known}; other names are serving, base, and bm25; the "
            "digests of evaluations are at the end of each night's report."
        )
    return evaluation


def _ground(settings: Settings, left: Named, right: Named) -> tuple[str, str]:
    """Digest of the snapshot, and the split, that both are measured on."""
    measured = {(one.parents[1], one.split) for one in (left, right) if isinstance(one, Evaluation)}
    if len(measured) > 1:
        raise NightshiftError(
            f"{_label(left)} and {_label(right)} were measured on different queries or passages; "
            "compare evaluations of the same night, or releases"
        )
    if measured:
        return measured.pop()
    releases = [one for one in (left, right) if isinstance(one, Release)]
    releases = releases or [release for release in (serving(settings)[0],) if release is not None]
    if not releases:
        raise NightshiftError("no release serves yet, so there is no snapshot to compare on: nightshift run makes one")
    return max(releases, key=lambda one: one.generation).snapshot, settings.evaluation.split


def _settings(left: Named, right: Named) -> tuple[Change, ...] | None:
    """The settings of two releases that differ; None where either was recorded without settings."""
    known = [one.settings for one in (left, right) if isinstance(one, Release) and one.settings]
    return differences(*known) if len(known) == 2 else None


def _evaluation(settings: Settings, one: Named, snapshot: Snapshot, split: str) -> Evaluation:
    if isinstance(one, Evaluation):
        return one
    log.info("measuring %s on the %s queries of snapshot %s", _label(one), split, snapshot.digest)
    home, rules, held_out = settings.home, settings.embedding, settings.evaluation.model_copy(update={"split": split})
    if one is System.BM25:
        index = build_index(home, snapshot, settings.mining)
        run = search_bm25(home, index, judged(snapshot, split), held_out.searched_depth, settings.mining)
        return evaluate_ranking(home, one, run, snapshot, held_out)
    encoder = load(home, Encoder, one.encoder) if isinstance(one, Release) else _base(settings)
    vectors = gather_shards(home, encoder, snapshot, rules.shards, vectors=rules.vectors)
    return evaluate_encoder(home, _label(one), encoder, vectors, snapshot, held_out)


def _base(settings: Settings) -> Encoder:
    """The base model of the settings, as the newest night that used it left it."""
    model = settings.encoder.model
    for encoder in receipts_newest_first(settings.home, Encoder):
        if encoder.steps == 0 and encoder.base == model:
            return encoder
    raise NightshiftError(f"base model {model}: no night has used it yet; nightshift run does")


def _label(one: Named) -> str:
    if isinstance(one, Evaluation):
        return f"{one.system} ({one.digest[:8]})"
    return one.release if isinstance(one, Release) else one.value
