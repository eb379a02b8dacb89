"""A home serves one feed and refuses another collection."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_forms import beir, put

from tasks.core.base.errors import BadInput
from tasks.core.base.receipts import Release
from tasks.core.base.sections.data import DataSettings
from tasks.core.base.settings import Settings
from tasks.core.ingest.feed import refuse_another_feed
from tasks.core.ingest.ingest import ingest


def settings_and_release(home: Path, source: Path, **data: object) -> tuple[Settings, Release]:
    """Return settings for the source, and a release of its snapshot."""
    settings = Settings(home=home, data=DataSettings.model_validate({"format": "beir", "path": source, **data}))
    snapshot = ingest(settings)[1]
    release = Release.model_construct(snapshot=snapshot.digest, release="r0001-00000000")
    return settings, release


def check(settings: Settings, serving: Release) -> None:
    refuse_another_feed(settings.home, serving, ingest(settings)[1], settings.data)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Write two collections with equal ids and without common texts."""
    old, new = tmp_path / "feed-2024.05", tmp_path / "feed-2024.06"
    beir(old)
    beir(new)
    corpus = (new / "corpus.jsonl").read_text()
    put(new, "corpus.jsonl", corpus.replace('"text": "', '"text": "another text, '))
    return old, new


def test_another_collection_is_refused_with_both_names_and_the_setting_that_allows_it(
    tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    old, new = folders
    _, serving = settings_and_release(tmp_path / "home", old)
    settings, _ = settings_and_release(tmp_path / "home", new)
    with pytest.raises(BadInput, match=rf"serves {old} .*{new} .*0\.0% of the texts") as refused:
        check(settings, serving)
    assert f'set [data] feed = "{old}"' in str(refused.value)
    for allowed in ({"feed": str(old), "compare": False}, {"replace_feed": True}):
        check(settings_and_release(tmp_path / "home", new, **allowed)[0], serving)


def test_a_feed_that_moved_grew_or_changed_in_place_passes(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    old, new = folders
    settings, serving = settings_and_release(tmp_path / "home", old)
    check(settings, serving)
    refuse_another_feed(settings.home, None, ingest(settings)[1], settings.data)
    old.rename(tmp_path / "moved")
    with (tmp_path / "moved" / "corpus.jsonl").open("a") as file:
        file.write((new / "corpus.jsonl").read_text().replace('"p', '"x'))
    check(settings_and_release(tmp_path / "home", tmp_path / "moved")[0], serving)
    new.rename(old)  # other content at the same path is the same feed, with its own rules
    check(settings_and_release(tmp_path / "home", old, compare=False)[0], serving)


def test_a_feed_is_the_same_from_every_working_directory(
    tmp_path: Path, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.core.base.settings_file import load_settings

    (tmp_path / "night.toml").write_text('home = "home"\n[data]\nformat = "beir"\npath = "feed-2024.05"\n')
    feeds = set()
    for folder in (tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        feeds.add(ingest(load_settings(tmp_path / "night.toml"))[0].feed)
    assert feeds == {"feed-2024.05"}
