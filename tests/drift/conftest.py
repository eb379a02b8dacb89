"""A source with a serving release, and settings for drift checks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from things_and_traits import write_collection

from tasks.core.base.files import load
from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.ingest.ingest import ingest
from tasks.core.report.night import recipe_of
from tasks.core.training.trainer import base_encoder

First = tuple[Path, Snapshot, Encoder, Embeddings]


@pytest.fixture(scope="session")
def first(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> First:
    """Build source and artifacts of a first night once; return their folder and the receipts."""
    folder = tmp_path_factory.mktemp("first")
    write_collection(folder / "source", more=40)
    settings = settings_in(folder, tiny_model)
    snapshot = ingest(settings)[1]
    encoder = base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
    return folder, snapshot, encoder, gather_shards(settings.home, encoder, snapshot, 1)


@pytest.fixture
def settings(first: First, tiny_model: Path, tmp_path: Path) -> Settings:
    """Copy source and artifacts of the first night; return the settings."""
    shutil.copytree(first[0], tmp_path, dirs_exist_ok=True)
    return settings_in(tmp_path, tiny_model)


def settings_in(folder: Path, model: Path) -> Settings:
    return Settings(
        home=folder / "home",
        data={"format": "beir", "path": folder / "source"},  # type: ignore[arg-type]
        encoder={"model": str(model)},  # type: ignore[arg-type]
        embedding={"precision": "fp32"},  # type: ignore[arg-type]
        drift={"min_queries": 20},  # type: ignore[arg-type]
    )


@pytest.fixture
def serving(settings: Settings, first: First) -> Release:
    """Return a release of the original source, without a collection: drift does not read it."""
    _, snapshot, encoder, embeddings = first
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


@pytest.fixture
def snapshot(settings: Settings, serving: Release) -> Snapshot:
    return load(settings.home, Snapshot, serving.snapshot)


@pytest.fixture
def logged(settings: Settings, tmp_path: Path) -> Settings:
    log = tmp_path / "queries.jsonl"
    log.touch()
    return settings.model_copy(update={"drift": settings.drift.model_copy(update={"queries": log})})
