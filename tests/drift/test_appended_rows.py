"""A check on a source that only grew reads the appended rows, and decides as a check that reads the whole source."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from traffic import append

from tasks import ingest as tasks
from tasks import report
from tasks.core.base.checksums import read_record, write_record
from tasks.core.base.receipts import Release
from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Drift
from tasks.core.drift.watch import state_file, watch
from tasks.core.ingest.ingest import ingest
from tasks.core.report.night import recipe_of
from tasks.core.sources import digest_cache
from tasks.core.sources.locations import Location

Check = Callable[[], Drift | None]


@pytest.fixture
def check(settings: Settings, serving: Release, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Ingest the source a day after it was written; return a function that checks what was appended since."""
    now = time.time
    with monkeypatch.context() as tomorrow:
        tomorrow.setattr(digest_cache.time, "time", lambda: now() + 86_400)
        ingest(settings)
    for name in ("drift_table", "drift_history"):
        monkeypatch.setattr(report, name, lambda drift: None)  # they need a Prefect server

    def no_reading(self: Location, file: object) -> str:
        raise AssertionError(f"{file} was read")

    def compare() -> Drift | None:
        with monkeypatch.context() as patched:
            patched.setattr(Location, "digest", no_reading)
            return tasks.compare_appended.fn(settings, serving, recipe_of(settings))

    return compare


def file_of(settings: Settings, name: str) -> Path:
    assert settings.data.path is not None
    return Path(settings.data.path) / name


def passages(count: int) -> list[str]:
    return [json.dumps({"_id": f"n{n}", "text": f"a silent market {n}"}) for n in range(count)]


@pytest.mark.parametrize(
    ("appended", "verdict"),
    [
        ({"corpus.jsonl": passages(1)}, "refresh"),
        ({"corpus.jsonl": passages(30)}, "retrain"),
        ({"qrels/train.tsv": ["q0\tp1\t1", "q1\tp2\t1"]}, "retrain"),
        ({"corpus.jsonl": passages(2), "qrels/train.tsv": ["q0\tn0\t1", "q1\tn1\t1"]}, "retrain"),
        ({"queries.jsonl": [json.dumps({"_id": "n", "text": "where was the river seen"})]}, "skip"),
    ],
    ids=["a passage", "many passages", "pairs", "passages and pairs", "a query"],
)
def test_appended_rows_give_the_result_of_a_complete_check(
    settings: Settings, serving: Release, check: Check, appended: dict[str, list[str]], verdict: str
) -> None:
    for name, lines in appended.items():
        append(settings, name, *lines)
    drift = check()
    assert drift is not None
    assert drift.verdict == verdict
    complete = watch(settings, serving, ingest(settings)[1], recipe_of(settings), datetime.now(UTC), remember=False)
    assert (drift.verdict, drift.passages) == (complete.verdict, complete.passages)
    assert drift.signals == complete.signals
    if verdict != "skip":
        assert drift.cause == complete.cause


def test_new_queries_in_the_log_are_examined(settings: Settings, serving: Release, check: Check) -> None:
    log = settings.home.parent / "queries.log"
    log.write_text("".join(json.dumps({"query": f"whree wsa hte brkoen riverr {n} sene"}) + "\n" for n in range(30)))
    drift_settings = settings.drift.model_copy(update={"queries": log})
    append(settings, "corpus.jsonl", *passages(1))
    logged = settings.model_copy(update={"drift": drift_settings})
    drift = tasks.compare_appended.fn(logged, serving, recipe_of(settings))
    assert drift is not None
    assert (drift.verdict, drift.fresh["log"], drift.passages.new) == ("suspect", 30, 1)


def test_labels_that_were_requested_are_left_to_a_complete_check(
    settings: Settings, serving: Release, check: Check
) -> None:
    watch(settings, serving, ingest(settings)[1], recipe_of(settings), datetime.now(UTC))
    state = state_file(settings.home)
    write_record(state, read_record(state) | {"labels_wanted": True})
    append(settings, "corpus.jsonl", *passages(1))
    assert check() is not None
    append(settings, "qrels/train.tsv", "q0\tp1\t1")
    assert check() is None


def edit(settings: Settings) -> None:
    file = file_of(settings, "corpus.jsonl")
    file.write_text(file.read_text().replace("ancient", "anxious") + "\n".join(passages(1)) + "\n")


def cut(settings: Settings) -> None:
    file = file_of(settings, "corpus.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def replace(settings: Settings) -> None:
    file = file_of(settings, "corpus.jsonl")
    other = file.with_name("other")
    other.write_text(file.read_text() + "\n".join(passages(1)) + "\n")
    other.rename(file)


def add_a_split(settings: Settings) -> None:
    append(settings, "qrels/new.tsv", "query-id\tcorpus-id\tscore", "q0\tp1\t1")


def pack(settings: Settings) -> None:
    file = file_of(settings, "corpus.jsonl")
    file.rename(file.with_name("corpus.jsonl.gz"))


def keep(settings: Settings) -> None:
    """Change nothing: the ingest is fast, and no row was appended."""


@pytest.mark.parametrize("change", [edit, cut, replace, add_a_split, pack, keep])
def test_any_other_change_is_left_to_a_complete_check(
    settings: Settings, check: Check, change: Callable[[Settings], None]
) -> None:
    change(settings)
    assert check() is None


def test_without_an_earlier_ingest_or_release_the_source_is_read(
    settings: Settings, check: Check, serving: Release
) -> None:
    append(settings, "corpus.jsonl", *passages(1))
    assert tasks.compare_appended.fn(settings, None, recipe_of(settings)) is None
    (settings.home / digest_cache.FILE).unlink()
    assert check() is None
