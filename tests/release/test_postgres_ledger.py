"""A ledger in PostgreSQL belongs to one home, and a lost session cannot move the pointer."""

from __future__ import annotations

import builtins

import psycopg
import pytest
from pydantic import ValidationError
from release_fixtures import server
from release_world import at, release_night, served, small

from tasks.core.base.errors import NightshiftError, Unreachable
from tasks.core.base.sections.release import ReleaseSettings
from tasks.core.release.history import list_releases
from tasks.core.release.ledger import open_ledger
from tasks.core.release.ledger_database import BOUND

in_postgres = pytest.mark.parametrize("settings", ["postgres"], indirect=True)


def for_home(settings, home, **changed):
    """Return the same settings for another home."""
    release = settings.release.model_copy(update=changed)
    return small(home, release, **settings.milvus.model_dump(exclude_unset=True))


@in_postgres
def test_a_ledger_of_another_home_is_left_alone(settings, tmp_path):
    release_night(settings)
    with pytest.raises(NightshiftError, match="belongs to another home"):
        list_releases(for_home(settings, tmp_path / "other"))


@in_postgres
def test_a_home_seen_under_another_path_has_the_same_ledger(settings, tmp_path):
    release = release_night(settings)
    (tmp_path / "mounted").symlink_to(settings.home)
    (listed,) = list_releases(for_home(settings, tmp_path / "mounted"))
    assert listed.release == release.release


@in_postgres
def test_a_home_with_a_ledger_in_postgresql_gets_no_sqlite_ledger(settings):
    release_night(settings)
    with pytest.raises(NightshiftError, match=r"\[release\] ledger"):
        list_releases(for_home(settings, settings.home, ledger=""))


@in_postgres
def test_a_home_that_moves_to_postgresql_keeps_its_releases(settings):
    inside = for_home(settings, settings.home, ledger="")
    releases = [release_night(inside, seed=seed).release for seed in (1, 2)]
    assert [entry.release for entry in list_releases(settings)] == releases[::-1]
    assert served(settings) == releases[-1]
    assert release_night(settings, seed=3).generation == 3
    (settings.home / BOUND).unlink()
    assert [entry.generation for entry in list_releases(inside)] == [3, 2, 1]  # the home returns to SQLite


@in_postgres
def test_a_night_that_loses_its_session_does_not_move_the_pointer(settings):
    before = release_night(settings, seed=1)

    def end_sessions():
        password = settings.release.password.get_secret_value()
        with psycopg.connect(settings.release.ledger, password=password) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'nightshift'"
            )

    with at(": keys", end_sessions), pytest.raises(Unreachable, match="no answer"):
        release_night(settings, seed=2)
    assert served(settings) == before.release
    assert release_night(settings, seed=2).release == served(settings)


@in_postgres
def test_names_that_postgresql_truncates_are_refused(settings):
    long = small(settings.home, settings.release, alias="a" * 57)
    with pytest.raises(NightshiftError, match="at most 56 characters"), open_ledger(long):
        pass


def test_a_ledger_without_a_server_is_unreachable(tmp_path):
    away = small(tmp_path, {"ledger": "postgresql://nightshift@127.0.0.1:1/nightshift"})
    with pytest.raises(Unreachable, match="no answer"), open_ledger(away):
        pass


def test_without_psycopg_the_error_names_the_extra(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def without(name, *rest):
        if name == "psycopg":
            raise ImportError(name)
        return real_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    away = small(tmp_path, {"ledger": "postgresql://db/nightshift"})
    with pytest.raises(NightshiftError, match="postgres extra"), open_ledger(away):
        pass


@pytest.mark.parametrize(
    "address", ["mysql://db/one", "postgresql://me:secret@db/one", "postgresql://db/one?password=secret"]
)
def test_an_address_with_a_password_or_of_another_database_is_refused(address):
    with pytest.raises(ValidationError, match=r"omit it|contains a password"):
        ReleaseSettings(ledger=address)


def test_no_message_contains_the_password_of_the_server(settings):
    ledger, password = server("postgres")
    wrong = small(settings.home, {"ledger": ledger, "password": password + "x"}, alias="wrong")
    with pytest.raises(Unreachable) as error, open_ledger(wrong):
        pass
    assert password not in f"{error.value} {wrong!r}"
