from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Action, Changes, Drift
from tasks.core.embedding.shards import gather_shards
from tasks.core.ingest.ingest import ingest
from tasks.core.report.forecast import Forecast, forecast
from tasks.core.training.trainer import base_encoder


@pytest.fixture
def settings(tiny_model: Path, collection: Callable[..., Path], tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        data={"format": "beir", "path": collection(more=40)},  # type: ignore[arg-type]
        encoder={"model": str(tiny_model), "passage_tokens": 24},  # type: ignore[arg-type]
        embedding={"precision": "fp32"},  # type: ignore[arg-type]
        training={"epochs": 8, "batch_size": 12},  # type: ignore[arg-type]
    )


def forecast_of(settings: Settings, verdict: Action, **changes: int) -> Forecast:
    drift = Drift(verdict=verdict, cause="for the test", passages=Changes(**changes))
    return forecast(settings, ingest(settings)[1], drift)


def test_a_skipped_night_is_forecast_to_cost_nothing(settings: Settings) -> None:
    assert forecast_of(settings, Action.SKIP) == ([], 0)
    assert forecast_of(settings, Action.SUSPECT) == ([], 0)


def test_the_first_night_is_forecast_to_mine_train_and_embed_everything(settings: Settings) -> None:
    plan = forecast_of(settings, Action.RETRAIN, new=100)
    amounts = {step.step: step.amount for step in plan.steps}
    assert amounts == {
        "mine": "36 queries",
        "embed (compared encoder)": "100 passages",
        "train": "24 steps of 12 queries",  # 36 pairs, 8 epochs, batches of 12
        "embed (challenger)": "100 passages",
        "publish": "100 rows",
    }
    assert all(step.seconds > 0 for step in plan.steps)
    assert plan.bytes > 3 * 100 * 32 * 4


def test_a_refresh_is_forecast_to_embed_only_changed_passages(settings: Settings) -> None:
    plan = forecast_of(settings, Action.REFRESH, new=3, changed=2)
    assert [(step.step, step.amount) for step in plan.steps] == [
        ("embed (changed passages, serving encoder)", "5 passages"),
        ("publish", "100 rows"),
    ]


def test_durations_are_forecast_from_earlier_nights(settings: Settings) -> None:
    snapshot = ingest(settings)[1]
    gather_shards(
        settings.home, base_encoder(settings.home, snapshot, settings.encoder, settings.embedding), snapshot, 1
    )
    plan = forecast_of(settings, Action.REFRESH, new=50)
    assert plan.steps[0].basis == "100 encoded passages"  # too few embedded passages for an estimate
    more = settings.model_copy(update={"mining": settings.mining.model_copy(update={"rounds": 2})})
    assert {step.step: step.amount for step in forecast_of(more, Action.RETRAIN, new=7).steps} == {
        "mine": "36 queries in 2 rounds",
        "embed (compared encoder)": "7 passages",
        "train": "48 steps of 12 queries",
        "embed (challenger)": "200 passages",
        "publish": "100 rows",
    }
