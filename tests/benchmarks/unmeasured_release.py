"""Publish a release for a benchmark, which has no figures of a night."""

from __future__ import annotations

from typing import Any

from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.release.publish import publish, serving


def publish_unmeasured(
    settings: Settings, encoder: Encoder, embeddings: Embeddings, snapshot: Snapshot, **more: Any
) -> Release:
    """Publish these passages as the next release. `more`: other arguments of `publish`."""
    figures: dict[str, Any] = {"metrics": {}, "bm25": {}, "base": {}, "previous": None, "recipe": ""}
    return publish(
        settings,
        encoder=encoder,
        embeddings=embeddings,
        snapshot=snapshot,
        reason="benchmark",
        expected_epoch=serving(settings)[1],
        **figures | more,
    )
