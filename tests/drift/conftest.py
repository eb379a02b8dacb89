"""A source that serves, and what changes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.data.ingest import ingest
from tasks.core.embedding.shards import gather_shards
from tasks.core.night import recipe_of
from tasks.core.receipts import Release
from tasks.core.settings import Settings
from tasks.core.training.trainer import base_encoder


@pytest.fixture
def settings(tiny_model: Path, collection: Callable[..., Path], tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        data={"format": "beir", "path": collection(more=40)},  # type: ignore[arg-type]
        encoder={"model": str(tiny_model)},  # type: ignore[arg-type]
        embedding={"precision": "fp32"},  # type: ignore[arg-type]
        drift={"min_queries": 20},  # type: ignore[arg-type]
    )


@pytest.fixture
def serving(settings: Settings) -> Release:
    """A release record of the source as it is at first; assess reads no collection."""
    snapshot = ingest(settings)[1]
    encoder = base_encoder(settings.home, snapshot, settings)
    embeddings = gather_shards(settings.home, encoder, snapshot, 1)
    figures = {"ndcg@10": 0.5}
    return Release(
        digest="d",
        path=settings.home,
        rows=snapshot.rows,
        release="r0001-d",
        created="2026-01-01T00:00:00Z",
        generation=1,
        fingerprint=encoder.fingerprint,
        encoder=encoder.digest,
        embeddings=embeddings.digest,
        snapshot=snapshot.digest,
        collection="c",
        dimension=encoder.dimension,
        metric="IP",
        recipe=recipe_of(settings),
        reason="test",
        metrics=figures,
        bm25=figures,
        base=figures,
        previous=None,
    )
