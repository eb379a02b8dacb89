"""The state of several collections: what each serves, and the page that lists them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from release_world import release_night, small

from tasks.core.report.collections import display_age, status_of, write_page
from tasks.core.report.history import record
from tasks.core.report.night import Night


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    """Make a home with a release, and a night that failed after it."""
    settings = small(tmp_path_factory.mktemp("docs"))
    release = release_night(settings)
    later = datetime.now(UTC) + timedelta(hours=1)
    record(settings.home, Night(began=later, reason="test", outcome="Failed", failure="<b>no disk</b>"))
    return settings, release


def test_the_state_names_the_serving_release_its_quality_and_the_last_night(docs):
    settings, release = docs
    status = status_of(settings, "docs", datetime.fromisoformat(release.created) + timedelta(days=3))
    assert (status.release, status.passages, status.age) == (release.release, release.rows, timedelta(days=3))
    assert (status.ndcg, status.bm25) == (release.metrics["ndcg@10"], 0.5)
    assert (status.outcome, status.why, status.problem) == ("Failed", "<b>no disk</b>", "")


def test_a_collection_without_a_release_or_with_a_broken_pointer_is_shown_and_nothing_is_written(docs, tmp_path):
    empty = status_of(small(tmp_path / "none"), "none")
    assert (empty.release, empty.last_night, empty.problem) == (None, None, "")
    assert not (tmp_path / "none").exists()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "serving.json").write_text("{")
    broken = status_of(small(tmp_path / "broken"), "broken")
    assert "not a pointer to a release" in broken.problem
    assert [path.name for path in (tmp_path / "broken").iterdir()] == ["serving.json"]
    page = write_page([status_of(docs[0], "docs"), empty, broken], tmp_path / "pages" / "all.html").read_text()
    for text in (docs[1].release, "no release yet", "not a pointer to a release", "&lt;b&gt;no disk&lt;/b&gt;"):
        assert text in page


@pytest.mark.parametrize(
    ("age", "shown"),
    [
        (timedelta(minutes=59), "59 min"),
        (timedelta(hours=47, minutes=59), "47 h"),
        (timedelta(days=2), "2 days"),
    ],
)
def test_ages_are_short(age, shown):
    assert display_age(age) == shown
