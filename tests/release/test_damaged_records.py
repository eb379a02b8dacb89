"""A damaged pointer or ledger is set aside and rebuilt from intact files."""

from __future__ import annotations

import json
import shutil
import sqlite3

import pytest
from damage_in_place import HARMS, delete, empty, flip, truncate
from release_world import HashingEncoder, release_night, served, small

from tasks.core.base.errors import Mismatch
from tasks.core.release.history import known_releases, list_releases, serving
from tasks.core.release.retention import remove_unused
from tasks.core.release.rollback import rollback
from tasks.core.search.searcher import Searcher


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Create a home with three releases, the last of which was rolled back."""
    settings = small(tmp_path_factory.mktemp("records") / "var")
    for seed in (1, 2, 3):
        release_night(settings, seed=seed)
    rollback(settings)
    return settings


@pytest.fixture
def fresh(original, tmp_path):
    """Return a function that restores a copy of that home, always in the same folder."""

    def copy():
        shutil.rmtree(tmp_path / "var", ignore_errors=True)
        shutil.copytree(original.home, tmp_path / "var")
        return small(tmp_path / "var")

    return copy


def facts(settings):
    return [(entry.release, entry.metrics, entry.pruned) for entry in list_releases(settings)]


def garbage(file):
    file.write_bytes(b"\xff\xfe not a database \x00" * 100)


def not_a_dictionary(file):
    file.write_text("[1, 2]")


def test_a_damaged_pointer_is_rebuilt_from_the_ledger(fresh, original, caplog):
    right = json.loads((original.home / "serving.json").read_text())
    for harm in (*HARMS, garbage, not_a_dictionary):
        settings = fresh()
        pointer = settings.home / "serving.json"
        harm(pointer)
        assert served(settings) == right["release"], harm.__name__
        again = json.loads(pointer.read_text())
        assert {**again, "epoch": 0, "why": ""} == {**right, "epoch": 0, "why": ""}
    assert "Set aside as .serving.json.damaged-" in caplog.text
    assert [*settings.home.glob(".serving.json.damaged-*")]


def test_a_searcher_opens_after_any_damage_to_pointer_ledger_and_manifests(fresh, original):
    name = served(original)
    for harm in (*HARMS, garbage):
        settings = fresh()
        for file in ("serving.json", "ledger.sqlite", f"releases/{name}/manifest.json"):
            harm(settings.home / file)
        with Searcher.open(settings, HashingEncoder) as searcher:
            assert searcher.search("lamp")[0].hits
        with Searcher.open(settings, HashingEncoder) as searcher:
            (settings.home / "serving.json").write_text("{")
            assert not searcher.refresh()


def other_tables(file):
    file.unlink()
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE generations (name TEXT)")
    connection.close()


def no_record(file):
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE releases SET record = substr(record, 1, 40)")
    connection.close()


def no_text(file):
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE moves SET why = CAST(x'ff' AS TEXT)")
    connection.close()


def page(file):
    """Overwrite the page of a table."""
    with file.open("r+b") as handle:
        handle.seek(4096)
        handle.write(b"\xa5" * 4096)


def test_a_damaged_ledger_is_rebuilt(fresh, original, caplog):
    name, facts_before = served(original), facts(original)
    noticed = (truncate, garbage, other_tables, no_record, no_text, page)
    for harm in (*noticed, flip, empty, delete):
        settings = fresh()
        ledger = settings.home / "ledger.sqlite"
        with sqlite3.connect(ledger) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        harm(ledger)
        assert [entry.release for entry in known_releases(settings)] == [release for release, *_ in facts_before], (
            harm.__name__
        )
        assert (served(settings), facts(settings)) == (name, facts_before), harm.__name__
        assert rollback(settings).release == facts_before[-1][0], harm.__name__
        assert harm not in noticed or [*settings.home.glob(".ledger.sqlite.damaged-*")], harm.__name__
    assert "rebuilding the ledger from collections and release manifests" in caplog.text


def test_when_pointer_and_ledger_are_both_lost_the_newest_release_serves(fresh, caplog):
    settings = fresh()
    truncate(settings.home / "serving.json")
    garbage(settings.home / "ledger.sqlite")
    newest = max(path.name for path in (settings.home / "releases").iterdir())
    assert serving(settings)[0].release == newest
    assert f"the newest release, {newest}, serves now" in caplog.text


def test_artifacts_of_releases_are_kept_while_the_ledger_is_damaged(fresh):
    settings = fresh()
    encoders = {entry.encoder for entry in list_releases(settings)}
    garbage(settings.home / "ledger.sqlite")
    remove_unused(settings, now=4e9)
    assert {path.name for path in (settings.home / "encoders").glob("[!.]*")} >= encoders


def test_a_manifest_lost_with_its_ledger_is_rebuilt_from_the_collection(fresh, original, caplog):
    name, facts_before = served(original), facts(original)
    for harm in HARMS:
        settings = fresh()
        garbage(settings.home / "ledger.sqlite")
        harm(settings.home / "releases" / facts_before[-1][0] / "manifest.json")
        assert served(settings) == name
        assert [entry.release for entry in list_releases(settings)] == [release for release, *_ in facts_before]
    assert "rebuilt from its collection, without metrics" in caplog.text


def test_the_error_names_a_record_of_another_version(fresh):
    settings = fresh()
    with sqlite3.connect(settings.home / "ledger.sqlite") as connection:
        connection.execute("""UPDATE releases SET record = json_set(record, '$.colour', 'red')""")
    connection.close()
    with pytest.raises(Mismatch, match="another version of Nightshift"):
        list_releases(settings)
