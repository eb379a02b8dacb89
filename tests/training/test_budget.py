from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_training import next_passages, small_settings, stories, trained
from tiny_kinds import save_kind

from tasks.core.base.errors import NightshiftError
from tasks.core.base.receipts import Encoder
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.settings import Settings
from tasks.core.base.training_receipts import Pace
from tasks.core.report.night import recipe_of
from tasks.core.training import trainer, trials
from tasks.core.training.budget import Recipe, Work, plan_recipe, tokens_per_step
from tasks.core.training.pace import plan_within_budget, training_pace
from tasks.core.training.step import Stepper

WORK = Work(
    pairs=3200, passages=1000, query_tokens=10.0, passage_tokens=45.0, dev_queries=0, width=384
)  # 100 tokens per pair


def within(minutes: float, *, has_serving: bool = False, work: Work = WORK, **training: object) -> Recipe:
    settings = Settings.model_validate({"training": {"minutes": minutes, **training}})
    return plan_recipe(settings, work, 3200.0, has_serving=has_serving)  # a step of 32 pairs per second


def test_a_budget_becomes_steps_at_the_recorded_pace() -> None:
    assert tokens_per_step(Settings(), WORK, 1) == 3200
    recipe = within(1.5)
    assert (recipe.steps, recipe.rounds) == (90, 1)
    assert within(1.5, hard_negatives=2).steps == 62  # 145 tokens per pair
    assert within(1.5, max_steps=7).steps == 7
    assert recipe == within(1.5)


def test_dev_evaluations_are_paid_from_the_budget() -> None:
    dev = WORK._replace(dev_queries=500)  # an evaluation costs (100 · 10 + 500 · 45) / 3 tokens: 2.4 steps
    assert within(0.5, work=dev).steps == 17  # of 30 steps, five evaluations take twelve


def test_two_rounds_if_both_have_enough_steps() -> None:
    recipe = within(2)  # 120 steps; embedding 1,000 passages costs 5 of them
    assert (recipe.rounds, recipe.steps) == (2, 57)
    assert "Two rounds, because each has at least 50 steps" in recipe.describe()
    many = WORK._replace(passages=100_000)  # embedding costs 1.5 million tokens
    assert within(2, work=many).rounds == 1


def test_a_long_budget_ends_after_four_passes_over_the_pairs() -> None:
    recipe = within(60)
    assert (recipe.steps, recipe.rounds) == (197, 2)  # of 400 steps, embedding takes five
    assert "part of the budget stays unused" in recipe.describe()


def test_a_short_budget_continues_the_serving_encoder() -> None:
    assert (within(0.5).start, within(0.5).replay) == ("base", 0.0)
    warm = within(0.5, has_serving=True)  # 30 of the 100 steps of an epoch
    assert (warm.start, warm.replay) == ("serving", 0.2)
    assert within(0.5, has_serving=True, replay=0.4).replay == 0.4
    assert within(1.5, has_serving=True).start == "base"


def test_a_budget_too_small_for_a_step_is_refused_with_the_least_budget() -> None:
    with pytest.raises(NightshiftError, match=r"give at least 0\.033"):
        within(0.001)
    with pytest.raises(ValueError, match='launcher = "torchrun"'):
        TrainingSettings(minutes=1, launcher="ray", processes=2)


def test_a_recipe_is_written_into_the_settings_as_if_by_a_user() -> None:
    settings = Settings.model_validate({"training": {"minutes": 1.5}})
    applied = within(1.5).apply(settings)
    assert (applied.training.minutes, applied.training.max_steps, applied.mining.rounds) == (0, 90, 1)
    manual = {"max_steps": 90, "epochs": applied.training.epochs, "evaluate_every": 23, "learning_rate": 1e-4}
    assert applied.training == TrainingSettings(**manual)  # type: ignore[arg-type]
    assert "minutes" not in applied.training.recipe()
    assert recipe_of(settings) != recipe_of(Settings())  # another budget starts a retrain


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Settings:
    return small_settings(tmp_path, tiny_model, minutes=0.5, evaluate_every=3)


def base_of(settings: Settings) -> Encoder:
    return trainer.base_encoder(settings.home, stories(settings.home), settings.encoder, settings.embedding)


def test_the_pace_is_measured_once_and_recorded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    base, snapshot = base_of(settings), stories(settings.home)
    measured = training_pace(settings.home, base, snapshot, settings)
    assert measured.tokens_per_second > 0
    assert not measured.reused
    monkeypatch.setattr(Stepper, "pace", lambda *_: pytest.fail("measured again"))
    again = training_pace(settings.home, base, snapshot, settings)
    assert (again.tokens_per_second, again.reused) == (measured.tokens_per_second, True)
    first, second = (plan_within_budget(settings.home, base, snapshot, settings) for _ in range(2))
    assert first == second
    assert first.tokens_per_second == measured.tokens_per_second
    assert len(list((settings.home / Pace.shelf).glob("*/manifest.json"))) == 1


def test_only_an_encoder_of_the_same_shape_is_a_start(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stepper, "pace", lambda *_: 1000.0)
    base, snapshot = base_of(settings), stories(settings.home)
    short = settings.training.model_copy(update={"minutes": 0.036})  # two steps, of the four and a half of an epoch
    short_settings = settings.model_copy(update={"training": short})
    warm = plan_within_budget(settings.home, base, snapshot, short_settings, base)
    assert (warm.steps, warm.start) == (2, "serving")
    projected = settings.encoder.model_copy(update={"dimension": 8})
    narrow = trainer.base_encoder(settings.home, snapshot, projected, settings.embedding)
    assert plan_within_budget(settings.home, base, snapshot, short_settings, narrow).start == "base"
    assert plan_within_budget(settings.home, base, snapshot, short_settings).start == "base"


def test_a_budget_uses_the_settings_that_the_base_model_was_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stepper, "pace", lambda *_: 1000.0)
    settings = small_settings(tmp_path, save_kind("labse", tmp_path / "labse"), minutes=0.5, evaluate_every=3)
    snapshot, base = stories(settings.home), base_of(settings)
    recipe = plan_within_budget(settings.home, base, snapshot, settings, base).model_copy(update={"trial_steps": 1})
    chosen = trials.try_recipes(
        settings.home, recipe, base, snapshot, next_passages(settings.home, snapshot), recipe.apply(settings)
    )
    assert len(chosen.trials) == 7  # of an encoder with the pooling and the Dense layer of the model


def test_trials_choose_the_learning_rate_that_pays(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, base = stories(settings.home), base_of(settings)
    negatives = next_passages(settings.home, snapshot)
    low = settings.model_copy(update={"training": settings.training.model_copy(update={"learning_rate": 1e-6})})
    recipe = plan_within_budget(settings.home, base, snapshot, low).model_copy(update={"trial_steps": 2, "reasons": ()})
    chosen = trials.try_recipes(settings.home, recipe, base, snapshot, negatives, recipe.apply(low))
    assert [name.partition(", ")[0] for name in chosen.trials] == ["2 steps"] * 5 + ["4 steps"] * 2
    assert "4 steps, as set" in chosen.trials
    assert chosen.reasons[-1].startswith("In trials of 4 steps, ")
    assert len(list(settings.home.glob("trials/*/manifest.json"))) == 7
    assert not list(settings.home.glob("trials/*/*.safetensors"))
    monkeypatch.setattr(trials, "run_job", lambda *_: pytest.fail("trained again"))
    assert trials.try_recipes(settings.home, recipe, base, snapshot, negatives, recipe.apply(low)) == chosen
    without = recipe.model_copy(update={"trial_steps": 0})
    assert trials.try_recipes(settings.home, without, base, snapshot, negatives, low) == without


@pytest.mark.parametrize(
    ("better", "gain", "chosen"),
    [
        ({"learning_rate": 4e-3}, 0.2, {"learning_rate": 4e-3, "hard_negatives": 1, "steps": 57}),
        ({"hard_negatives": 3}, 0.2, {"learning_rate": 1e-3, "hard_negatives": 3, "steps": 30}),
        ({"hard_negatives": 0}, 0.2, {"learning_rate": 1e-3, "hard_negatives": 0, "steps": 104}),
        ({"learning_rate": 4e-3}, -0.2, {"learning_rate": 1e-3, "hard_negatives": 1, "steps": 57}),
    ],
)
def test_another_recipe_is_chosen_only_if_it_beats_the_settings(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    better: dict[str, float],
    gain: float,
    chosen: dict[str, float],
) -> None:
    """The dev evaluations are known values: the recipe `better` gains `gain`."""

    def values(*inputs: object) -> np.ndarray:
        tried: Settings = inputs[4]  # type: ignore[assignment]
        is_better = all(getattr(tried.training, name) == value for name, value in better.items())
        return np.linspace(0.3, 0.5, 30) + gain * is_better

    monkeypatch.setattr(trials, "_try", values)
    snapshot, base = stories(settings.home), base_of(settings)
    negatives = next_passages(settings.home, snapshot)
    recipe = within(2, learning_rate=1e-3).model_copy(update={"trial_steps": 8})
    decided = trials.try_recipes(settings.home, recipe, base, snapshot, negatives, recipe.apply(settings))
    assert decided.model_dump(include=chosen.keys()) == chosen
    assert ("was chosen" in decided.describe()) == (gain > 0)


def test_a_budgeted_training_is_the_training_with_the_same_steps_set(settings: Settings) -> None:
    base, snapshot = base_of(settings), stories(settings.home)
    bounded = settings.model_copy(update={"training": settings.training.model_copy(update={"max_steps": 3})})
    applied = plan_within_budget(settings.home, base, snapshot, bounded).apply(bounded)
    first = trained(snapshot, applied)
    assert first.steps == 3
    with pytest.raises(NightshiftError, match="a budget of a whole night"):
        trained(snapshot, bounded)
    values = applied.training.model_dump()
    manual = applied.model_copy(update={"training": TrainingSettings.model_validate(values)})
    assert trained(snapshot, manual).digest == first.digest
