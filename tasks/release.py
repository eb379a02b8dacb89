"""Tasks around the pointer: what serves, publish, prune."""

from __future__ import annotations

from prefect import task

from tasks import report
from tasks.core.base.files import load
from tasks.core.base.receipts import Embeddings, Encoder, Evaluation, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.statistics import build_reference
from tasks.core.release import publish as releases
from tasks.core.release import reindex as again
from tasks.core.release import retention
from tasks.core.release.comparable import comparable
from tasks.core.release.generation import Parts
from tasks.core.release.publisher import default_loader
from tasks.core.release.repair import repair
from tasks.policy import OVER_THE_WIRE, STEP


@task(name="reconcile", task_run_name="reconcile", **OVER_THE_WIRE)
def reconcile(settings: Settings, *, rebuild: bool = False) -> tuple[Release | None, int]:
    """Repair what a crashed night left; return the release to compare with, and the pointer's epoch.

    With `rebuild` verify the serving release too, and rebuild its damaged parts.
    """
    serving, epoch = repair(settings) if rebuild else releases.serving(settings)
    return comparable(settings, serving), epoch


def encoder_of(settings: Settings, release: Release) -> Encoder:
    """The encoder that belongs to a release."""
    return load(settings.home, Encoder, release.encoder)


def withdrawn(settings: Settings, encoder: Encoder, embeddings: Embeddings, snapshot: Snapshot) -> str | None:
    """The release of these very parts that a person rolled back, if any."""
    parts = Parts(encoder, embeddings, snapshot, settings.milvus, default_loader)
    return releases.find_withdrawn(settings, parts.digest)


@task(name="publish", task_run_name="publish {encoder.fingerprint}", **OVER_THE_WIRE)
def publish(
    settings: Settings,
    encoder: Encoder,
    embeddings: Embeddings,
    snapshot: Snapshot,
    figures: dict[str, Evaluation],
    *,
    recipe: str,
    reason: str,
    expected_epoch: int,
) -> Release:
    """Build, verify and swap in the night's collection."""
    build_reference(settings.home, encoder, embeddings, snapshot)
    release = releases.publish(
        settings,
        encoder=encoder,
        embeddings=embeddings,
        snapshot=snapshot,
        metrics=figures["challenger"].metrics,
        bm25=figures["bm25"].metrics,
        base=figures["base"].metrics,
        previous=figures["serving"].metrics if "serving" in figures else None,
        recipe=recipe,
        reason=reason,
        expected_epoch=expected_epoch,
    )
    report.release_card(release)
    return release


@task(name="prune", task_run_name="prune", **OVER_THE_WIRE)
def prune(settings: Settings) -> list[str]:
    """Remove collections that retention no longer keeps, and those that crashed nights left."""
    return releases.prune(settings)


@task(name="remove-unused", task_run_name="remove unused artifacts", **STEP)
def remove_unused(settings: Settings) -> int:
    """Remove artifacts that no release is made of and no night has used for `keep_days`; how many."""
    return len(retention.remove_unused(settings))


@task(name="rollback", task_run_name="rollback", **STEP)
def rollback(settings: Settings, to: str | None) -> Release:
    """Point to an older release. Never tried again by itself: a second time it would go back one more."""
    release = releases.rollback(settings, to)
    report.release_card(release)
    return release


@task(name="reindex", task_run_name="reindex", **OVER_THE_WIRE)
def reindex(settings: Settings, reason: str) -> Release:
    """Build the serving release's collection anew, and swap."""
    release = again.reindex(settings, reason)
    report.release_card(release)
    return release
