"""Resolution of paths in settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.core.base.errors import BadUsage
from tasks.core.base.settings import Settings
from tasks.core.base.settings_file import load_settings
from tasks.core.ingest.source_summary import Limit, SourceSummary, settings_text
from tasks.core.report.night import recipe_of

TEXT = """
home = "var/x"
[data]
format = "beir"
path = "collections/x"
[encoder]
model = "models/base"
[mining.cross_encoder]
model = "models/judge"
[gate]
golden = "golden.jsonl"
[drift]
queries = "logs/queries.jsonl"
[milvus]
uri = "http://127.0.0.1:19530"
bulk = "bulk"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a settings file with a relative path in every path setting, and its models next to it."""
    folder = tmp_path / "sub"
    for name in ("base", "judge"):
        (folder / "models" / name).mkdir(parents=True)
    (folder / "night.toml").write_text(TEXT)
    return folder / "night.toml"


def paths(settings: Settings) -> list[Path | str | None]:
    return [
        settings.home,
        settings.data.path,
        settings.encoder.model,
        settings.mining.cross_encoder.model,
        settings.gate.golden,
        settings.drift.queries,
        settings.milvus.bulk,
    ]


NAMES = ["var/x", "collections/x", "models/base", "models/judge", "golden.jsonl", "logs/queries.jsonl", "bulk"]


def test_relative_paths_resolve_from_the_settings_file_and_in_the_environment_from_the_working_directory(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = file.parent
    assert [str(path) for path in paths(load_settings(Path("sub/night.toml")))] == [str(here / name) for name in NAMES]
    monkeypatch.setenv("NIGHTSHIFT_HOME", "elsewhere")
    assert load_settings(file).home.absolute() == tmp_path / "elsewhere"
    monkeypatch.delenv("NIGHTSHIFT_HOME")
    monkeypatch.chdir(here)
    assert [str(path) for path in paths(load_settings(file))] == NAMES  # relative to the working directory


def test_the_recipe_does_not_depend_on_the_working_directory(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = set()
    for folder in (file.parent, tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        recipes.add(recipe_of(load_settings(file)))
    assert len(recipes) == 1
    monkeypatch.setenv("NIGHTSHIFT_ENCODER__MODEL", "/models/other")  # overrides all that the file sets for the model
    assert recipe_of(load_settings(file)) not in recipes
    assert load_settings(file).as_written("encoder") == {}


def test_a_path_that_exists_only_below_the_working_directory_is_used_with_a_warning(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "var/x").mkdir(parents=True)
    loaded = load_settings(file)
    assert loaded.home.absolute() == tmp_path / "var/x"
    assert loaded.gate.golden == file.parent / "golden.jsonl"
    assert f"Using the path in the working directory: {tmp_path / 'var/x'}" in caplog.text
    caplog.clear()
    load_settings(file)
    assert not caplog.text  # the warning appears once
    (file.parent / "var/x").mkdir(parents=True)
    assert load_settings(file).home == file.parent / "var/x"


def test_a_tilde_is_the_home_folder_of_the_user_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    file = tmp_path / "night.toml"
    text = TEXT
    for name in NAMES:
        text = text.replace(json.dumps(name), json.dumps(f"~/{name}"))
    file.write_text(text)
    for folder in (tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        assert [str(path) for path in paths(load_settings(file))] == [str(tmp_path / "me" / name) for name in NAMES]
    monkeypatch.setenv("NIGHTSHIFT_ENCODER__QUERY_MODEL", "~/query")
    monkeypatch.setenv("NIGHTSHIFT_ENCODER__SHARED", "false")
    monkeypatch.setenv("NIGHTSHIFT_SETTINGS", "~/night.toml")
    (tmp_path / "me").mkdir()
    file.replace(tmp_path / "me" / "night.toml")
    assert load_settings().encoder.query_model == str(tmp_path / "me/query")
    monkeypatch.setenv("NIGHTSHIFT_HOME", "~nobody-of-this-name/x")
    with pytest.raises(BadUsage, match="this user has no home folder"):
        load_settings()


def test_hub_ids_and_addresses_are_not_resolved_as_paths(tmp_path: Path) -> None:
    file = tmp_path / "night.toml"
    file.write_text('[data]\nformat = "parquet"\npath = "s3://feed/x"\n[encoder]\nmodel = "org/model"\n')
    loaded = load_settings(file)
    assert (loaded.data.path, loaded.encoder.model) == ("s3://feed/x", "org/model")


def summary_of(path: str) -> SourceSummary:
    return SourceSummary("beir", path, 1, 1, {"train": 1, 'te"st\n': 1}, (), Limit(32, 1.0), Limit(32, 1.0))


def test_init_writes_any_path_so_that_it_loads_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "night.toml"
    for name in ('folder "with" quotes', "back\\slash", "tab\t", "line\nbreak", "\x1b[31m\x7f", "ünï ' 狐", "#=[]"):
        path = str(tmp_path / name)
        file.write_text(settings_text(summary_of(path), f"/homes/{name}"), encoding="utf-8")
        loaded = load_settings(file)
        assert (loaded.data.path, loaded.home) == (Path(path), Path(f"/homes/{name}"))


def test_sources_of_different_names_get_different_homes() -> None:
    names = {
        summary_of(f"/feeds/{name}").name for name in ("feed-2024.05", "feed-2024.06", "feed-2024", "v1.0.json.gz")
    }
    assert names == {"feed-2024.05", "feed-2024.06", "feed-2024", "v1.0"}
    assert summary_of("s3://bucket/feed-2024.05/?region=eu").name == "feed-2024.05"
    assert summary_of("/").name == "mine"
