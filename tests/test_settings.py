from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import NightshiftError
from tasks.core.night import recipe_of
from tasks.core.settings import Settings, load_settings


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return path


def test_the_environment_wins_over_the_file_and_the_file_over_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_TRAINING__BATCH_SIZE", "64")
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "elsewhere"))
    file = write(tmp_path, 'home = "here"\n[training]\nbatch_size = 16\nlearning_rate = 1e-4\n')
    settings = load_settings(file)
    assert settings.training.batch_size == 64
    assert settings.training.learning_rate == 1e-4
    assert settings.training.temperature == Settings().training.temperature
    assert settings.home == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[training]\nbatchsize = 3", "training.batchsize"),
        ("[training]\nbatch_size = 0", "training.batch_size"),
        ('[data]\nformat = "beir"', "needs \\[data\\] path"),
        ("[training", "not valid TOML"),
    ],
)
def test_a_wrong_settings_file_is_refused_with_the_key_that_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(NightshiftError, match=named):
        load_settings(write(tmp_path, text))


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NightshiftError, match=r"gone\.toml: not found"):
        load_settings(tmp_path / "gone.toml")


def test_every_setting_says_what_it_is_for() -> None:
    for section in Settings.model_fields.values():
        fields = getattr(section.annotation, "model_fields", {"": section})
        assert all(field.description for field in fields.values())


def test_only_settings_that_shape_an_encoder_change_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe_of(Settings())
    monkeypatch.setenv("NIGHTSHIFT_MINING__THREADS", "7")
    monkeypatch.setenv("NIGHTSHIFT_GATE__MARGIN", "0.5")
    assert recipe_of(Settings()) == before
    monkeypatch.setenv("NIGHTSHIFT_TRAINING__SEED", "7")
    assert recipe_of(Settings()) != before


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_SETTINGS", str(write(tmp_path, "[training]\nbatch_size = 16\n")))
    assert load_settings().training.batch_size == 16
    monkeypatch.setenv("NIGHTSHIFT_SETTINGS", str(tmp_path / "gone.toml"))
    with pytest.raises(NightshiftError, match=r"gone\.toml: not found"):
        load_settings()
