"""Tasks that publish, roll back, reindex, and prune releases."""

from __future__ import annotations

from prefect import task

from tasks import report
from tasks.core.base.files import load
from tasks.core.base.ranking import Ranking
from tasks.core.base.receipts import Embeddings, Encoder, Evaluation, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.statistics import build_reference
from tasks.core.evaluation.systems import System
from tasks.core.release import publish as releases
from tasks.core.release import reindex as again
from tasks.core.release import retention
from tasks.core.release.comparable import find_comparable
from tasks.core.release.generation import Parts
from tasks.core.release.publisher import default_loader
from tasks.core.release.repair import repair
from tasks.core.report.tracking.outbox import track_serving
from tasks.core.retrieval.postings import over_snapshot
from tasks.policy import OVER_THE_WIRE, STEP


@task(name="reconcile", task_run_name="reconcile", **OVER_THE_WIRE)
def reconcile(settings: Settings, *, rebuild: bool = False) -> tuple[Release | None, int]:
    """Repair the state after a crashed night; return the serving release and the pointer's generation.

    Args:
        rebuild: Also verify the serving release, and rebuild its damaged parts.

    Returns:
        The release to compare with, or None, and the generation that `publish` expects.
    """
    serving, generation = repair(settings) if rebuild else releases.serving(settings)
    return find_comparable(settings, serving), generation


def encoder_of(settings: Settings, release: Release) -> Encoder:
    """Load the encoder of a release."""
    return load(settings.home, Encoder, release.encoder)


def ranking_over(settings: Settings, release: Release, snapshot: Snapshot) -> Ranking:
    """Return how a release ranks, with the lexical index of another snapshot."""
    return over_snapshot(settings.home, release.ranking, snapshot)


def withdrawn(
    settings: Settings, encoder: Encoder, embeddings: Embeddings, snapshot: Snapshot, ranking: Ranking
) -> str | None:
    """Return the release with exactly these parts that a user rolled back, if any."""
    parts = Parts(encoder, embeddings, snapshot, settings.milvus, default_loader, ranking)
    return releases.find_withdrawn(settings, parts.digest)


@task(name="publish", task_run_name="publish {encoder.fingerprint}", **OVER_THE_WIRE)
def publish(
    settings: Settings,
    encoder: Encoder,
    embeddings: Embeddings,
    snapshot: Snapshot,
    figures: dict[System, Evaluation],
    ranking: Ranking,
    *,
    recipe: str,
    reason: str,
    expected_epoch: int,
    since_training: dict[str, float],
) -> Release:
    """Build and verify the night's collection, and move the pointer to it."""
    build_reference(settings.home, encoder, embeddings, snapshot)
    release = releases.publish(
        settings,
        encoder=encoder,
        embeddings=embeddings,
        snapshot=snapshot,
        metrics=figures[System.CHALLENGER].metrics,
        bm25=figures[System.BM25].metrics,
        base=figures[System.BASE].metrics if System.BASE in figures else {},
        previous=figures[System.SERVING].metrics if System.SERVING in figures else None,
        recipe=recipe,
        reason=reason,
        expected_epoch=expected_epoch,
        ranking=ranking,
        dense=figures[System.DENSE].metrics,
        since_training=since_training,
    )
    from tasks.core.release.card import write_card  # imports torch

    write_card(settings.home, release, figures, settings.gate)
    report.release_card(release)
    return release


@task(name="prune", task_run_name="prune", **OVER_THE_WIRE)
def prune(settings: Settings) -> list[str]:
    """Remove collections that retention no longer keeps or that crashed nights left; return their names."""
    return releases.prune(settings)


@task(name="remove-unused", task_run_name="remove unused artifacts", **STEP)
def remove_unused(settings: Settings) -> int:
    """Delete artifacts that no release needs and no night used for `keep_days` days; return their number."""
    return len(retention.remove_unused(settings))


@task(name="rollback", task_run_name="rollback", **STEP)
def rollback(settings: Settings, to: str | None) -> Release:
    """Move the pointer to an older release. Never retried: a second attempt would go back one more release."""
    release = releases.rollback(settings, to)
    track_serving(settings.home, settings.tracking, release.release)
    report.release_card(release)
    return release


@task(name="reindex", task_run_name="reindex", **OVER_THE_WIRE)
def reindex(settings: Settings, reason: str) -> Release:
    """Rebuild the serving release's collection, and move the pointer to it."""
    release = again.reindex(settings, reason)
    report.release_card(release)
    return release
