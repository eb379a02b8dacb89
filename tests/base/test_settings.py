from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.core.base.errors import BadUsage
from tasks.core.base.setting_faults import check_environment
from tasks.core.base.settings import Settings
from tasks.core.base.settings_file import load_settings
from tasks.core.report.night import recipe_of

ROOT = Path(__file__).parents[2]


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
    ("text", "message"),
    [
        ("[training]\nbatchsize = 3", r"\[training\] batchsize = 3: no such setting. Did you mean batch_size\?"),
        ("[training]\nbatch_size = 0", r"\[training\] batch_size = 0: input should be greater than or equal to 2"),
        ('[encoder]\npooling = "sum"', r"\[encoder\] pooling = 'sum': input should be 'mean', 'cls'"),
        ("hom = 3", r"\[hom\] = 3: no such setting. Did you mean home\?"),
        ("[data.max_refused]\nqrel = 0.2", r"\[data\] max_refused"),
        ('[data]\nformat = "beir"', r"\[data\] format = \"beir\" needs \[data\] path"),
        ("[training", "not valid TOML"),
        ("a = " + "[" * 100_000, "not valid TOML"),
        ('home = ""', "the path is empty"),
    ],
)
def test_a_wrong_settings_file_is_refused_with_the_key_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadUsage, match=message):
        load_settings(write(tmp_path, text))


def test_the_error_names_a_missing_settings_file(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=r"gone\.toml: not found"):
        load_settings(tmp_path / "gone.toml")


def test_every_setting_has_a_description() -> None:
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


def test_an_environment_variable_can_name_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_SETTINGS", str(write(tmp_path, "[training]\nbatch_size = 16\n")))
    assert load_settings().training.batch_size == 16
    monkeypatch.setenv("NIGHTSHIFT_SETTINGS", str(tmp_path / "gone.toml"))
    with pytest.raises(BadUsage, match=r"gone\.toml: not found"):
        load_settings()


def test_only_the_demo_without_a_settings_file_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = Settings().training.max_steps, Settings().encoder.passage_tokens
    demo = load_settings()
    assert (demo.training.max_steps, demo.encoder.passage_tokens) == (80, 64)
    assert load_settings(write(tmp_path, '[data]\nformat = "demo"\n')).training.max_steps == defaults[0]
    monkeypatch.setenv("NIGHTSHIFT_ENCODER__PASSAGE_TOKENS", "32")
    assert load_settings().encoder.passage_tokens == 32
    monkeypatch.delenv("NIGHTSHIFT_ENCODER__PASSAGE_TOKENS")
    monkeypatch.setenv("NIGHTSHIFT_DATA__PATH", str(tmp_path))
    monkeypatch.setenv("NIGHTSHIFT_DATA__FORMAT", "beir")
    own = load_settings()
    assert (own.training.max_steps, own.encoder.passage_tokens) == defaults


def test_a_settings_file_may_have_a_byte_order_mark_and_other_encodings_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "night.toml"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_bytes('home = "/nächte"\r\n[training]\r\nseed = 7\r\n'.encode(encoding))
        loaded = load_settings(file)
        assert (loaded.home, loaded.training.seed) == (Path("/nächte"), 7)
    file.write_bytes('home = "/nächte"'.encode("utf-16-le"))
    with pytest.raises(BadUsage, match=r"night\.toml, line 1: .*Save the file as UTF-8"):
        load_settings(file)


def test_a_mistyped_variable_is_an_error_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    typos = {
        "NIGHTSHIFT_HOMEE": "NIGHTSHIFT_HOME",
        "NIGHTSHIFT_TRAINING_BATCH_SIZE": "NIGHTSHIFT_TRAINING__BATCH_SIZE",
        "NIGHTSHIFT_TRAINING__BATCHSIZE": "NIGHTSHIFT_TRAINING__BATCH_SIZE",
        "NIGHTSHIFT_SETTING": "NIGHTSHIFT_SETTINGS",
    }
    for typo, meant in typos.items():
        with monkeypatch.context() as patch:
            patch.setenv(typo, "1")
            with pytest.raises(BadUsage, match=rf"{typo}: no such setting. Did you mean {meant}\?"):
                load_settings()
    monkeypatch.setenv("NIGHTSHIFT_TRAINING__BATCH_SIZE", "few")
    with pytest.raises(BadUsage, match=r"NIGHTSHIFT_TRAINING__BATCH_SIZE = 'few': input should be a valid integer"):
        load_settings()
    monkeypatch.setenv("NIGHTSHIFT_TRAINING__BATCH_SIZE", "8")
    monkeypatch.setenv("NIGHTSHIFT_ENCODER__DIMENSIONS", "64,32")
    with pytest.raises(BadUsage, match="lists and tables as JSON"):
        load_settings()


def test_variables_that_are_not_settings_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "NIGHTSHIFT_DEBUG",
        "NIGHTSHIFT_ALERT_URL",
        "NIGHTSHIFT_TEST_KILLS",
        "NIGHTSHIFT_SERVICE_HOST",  # Kubernetes, next to a service called nightshift
        "NIGHTSHIFT_SEARCH_PORT_8080_TCP_ADDR",
    ):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("NIGHTSHIFT_DATA__MAX_REFUSED__QRELS", "0.5")
    monkeypatch.setenv("NIGHTSHIFT_MILVUS__INDEX", "IVF_FLAT")
    monkeypatch.setenv("NIGHTSHIFT_MILVUS__INDEX_PARAMS__NLIST", "8")
    loaded = load_settings()
    assert loaded.data.limit_of("qrels") == 0.5
    assert loaded.milvus.index_params["nlist"] == 8


def test_an_invalid_secret_is_not_in_the_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = '[milvus]\ntoken = 42424242\nuri = "http://root:Sesame42@127.0.0.1:19530"\n'
    with pytest.raises(BadUsage, match=r"\[milvus\] token: ") as error:
        load_settings(write(tmp_path, text))
    assert "42424242" not in str(error.value)
    assert "Sesame42" not in str(error.value)


def test_every_variable_in_our_files_is_a_known_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [path for path in (ROOT / "infra").rglob("*") if path.is_file() and path.suffix != ".png"]
    texts = [path.read_text(encoding="utf-8") for path in (*files, ROOT / "README.md")]
    names = {name for text in texts for name in re.findall(r"\bNIGHTSHIFT_[A-Z_]+\b(?!…)", text)}
    assert len(names) > 15
    for name in names:
        monkeypatch.setenv(name, "1")
    check_environment(Settings)
