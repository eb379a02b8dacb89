from __future__ import annotations

import json
import shutil
import stat
from contextlib import closing
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from release_world import HashingEncoder, release_night, served, small, with_milvus
from typer.testing import CliRunner

from flows.cli import app
from tasks.core.base.errors import NightshiftError
from tasks.core.release.names import NoSuchRelease
from tasks.core.release.prune import prune
from tasks.core.search.agreement import overlap, rank_biased, shift
from tasks.core.search.filters import Filters
from tasks.core.search.live import LiveShadow, live_summary
from tasks.core.search.named_releases import find_release, loadable, open_release
from tasks.core.search.searcher import Searcher
from tasks.core.search.shadow import read_queries, sample_queries, shadow

QUERIES = ["lamp river n3", "violin harbour n8", "entry 40 copper", "meadow n77"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Build a home with two releases of different encoders; the second serves."""
    settings = small(tmp_path_factory.mktemp("shadow") / "var")
    return settings, [release_night(settings, seed=seed).release for seed in (1, 2)]


def test_overlap_is_the_share_in_common():
    assert overlap("abcd", "cdxy") == Fraction(2, 4)
    assert overlap("ab", "abcd") == Fraction(2, 4)
    assert overlap("", "") == 1


def test_rank_biased_overlap_weighs_the_first_ranks_most():
    assert rank_biased("abcde", "abcde") == pytest.approx(1, abs=1e-12)
    assert rank_biased("abc", "xyz") == 0
    # For p = 1/2: agreement at depths 1, 2 is 0, 1; so 1 * (1/2)^2 + (1/2)/(1/2) * (0/2 + 1/4) = 1/2.
    assert rank_biased("ab", "ba", p=0.5) == pytest.approx(float(Fraction(1, 2)))
    assert rank_biased("abcd", "abdc") > rank_biased("abcd", "bacd")
    assert rank_biased("", "") == 1
    assert rank_biased("a", "") == 0


def test_a_shift_counts_ranks_and_a_lost_passage_ranks_after_the_last():
    assert shift("abc", "abc") == 0
    assert shift("abc", "bac") == pytest.approx(float(Fraction(2, 3)))
    assert shift("ab", "ax") == pytest.approx(float(Fraction(0 + 1 + 1, 3)))


def test_a_release_agrees_completely_with_its_own_answers(world):
    settings, (_, second) = world
    result = shadow(settings, second, QUERIES, loader=HashingEncoder)
    assert (result.serving, result.shadow, result.queries) == ((second,), second, 4)
    assert (result.overlap, result.shift, result.same_first) == (1, 0, 1)
    assert result.rbo == pytest.approx(1)


def test_the_report_averages_its_queries_and_names_the_largest_changes(world):
    settings, (first, second) = world
    result = shadow(settings, first, QUERIES, k=5, show=4, loader=HashingEncoder)
    with open_release(settings, first, HashingEncoder) as theirs, Searcher.open(settings, HashingEncoder) as ours:
        sets = [
            [{hit.passage_id for hit in searcher.search(query, 5)[0].hits} for searcher in (ours, theirs)]
            for query in QUERIES
        ]
    assert result.overlap == pytest.approx(sum(len(a & b) / 5 for a, b in sets) / 4)
    assert [query_result.rbo for query_result in result.moved] == sorted(
        query_result.rbo for query_result in result.moved
    )
    assert {query_result.query for query_result in result.moved} == set(QUERIES)
    assert served(settings) == second


def test_a_named_release_answers_regardless_of_the_pointer(world):
    settings, (first, second) = world
    with open_release(settings, first[:7], HashingEncoder) as searcher:
        assert not searcher.refresh()
        assert searcher.search("lamp")[0].release == first
    assert find_release(settings, "serving").release == second
    assert [release.release for release in loadable(settings)] == [second, first]
    for name in ("r", "r9999", ""):
        with pytest.raises(NoSuchRelease, match=f"Available: {second}, {first}"):
            find_release(settings, name)


def search_live(settings, release):
    """Shadow `QUERIES` with a release; delete earlier shadow results."""
    shutil.rmtree(settings.home / "shadow", ignore_errors=True)
    with Searcher.open(settings, HashingEncoder) as ours:
        live = LiveShadow(settings.home, open_release(settings, release, HashingEncoder), 1.0)
        for query in QUERIES:
            live.offer(ours.search(query, 5), 5, Filters(), None)
        live.close()


def test_comparisons_of_live_queries_are_written_to_a_private_file(world):
    settings, (first, second) = world
    search_live(settings, first)
    with Searcher.open(settings, HashingEncoder) as ours:
        unasked = LiveShadow(settings.home, open_release(settings, first, HashingEncoder), 0.0)
        unasked.offer(ours.search("lamp", 5), 5, Filters(), None)
        unasked.close()
    (file,) = (settings.home / "shadow").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [json.loads(line)["query"] for line in file.read_text().splitlines()] == QUERIES
    expected = shadow(settings, first, QUERIES, k=5, show=0, loader=HashingEncoder)
    assert live_summary(settings.home, first, show=0) == expected
    with pytest.raises(NightshiftError, match="shadow_release"):
        live_summary(settings.home, second)


def test_comparisons_are_removed_with_their_release_or_after_thirty_days(settings):
    first, second, third = (release_night(settings, seed=seed).release for seed in (1, 2, 3))
    folder, today = settings.home / "shadow", datetime.now(UTC).date()
    folder.mkdir()
    days = [today, today - timedelta(days=30), today - timedelta(days=31)]
    for name in (first, second, third):
        for day in days:
            (folder / f"{name}-{day}.jsonl").write_text("{}\n")
    prune(with_milvus(settings, keep=2))
    assert {file.stem for file in folder.iterdir()} == {f"{name}-{day}" for name in (second, third) for day in days[:2]}


def test_live_queries_beyond_the_capacity_of_the_challenger_are_skipped(world, monkeypatch):
    settings, (first, _) = world
    monkeypatch.setattr("tasks.core.search.live.WAITING", 2)
    challenger = open_release(settings, first, HashingEncoder)
    with Searcher.open(settings, HashingEncoder) as ours, closing(LiveShadow(settings.home, challenger, 1.0)) as live:
        answers = ours.search(QUERIES, 5)
        for _ in range(200):
            live.offer(answers, 5, Filters(), None)
        assert live.dropped > 0


def test_queries_are_read_as_text_or_json_and_sampled_by_seed(tmp_path):
    file = tmp_path / "queries.txt"
    file.write_text('plain words\n\n{"query": "one"}\n  {"query_id": "q", "text": "two"}  \n')
    assert read_queries(file) == ["plain words", "one", "two"]
    file.write_text("fine\n{broken\n")
    with pytest.raises(NightshiftError, match=r"queries\.txt:2"):
        read_queries(file)
    with pytest.raises(NightshiftError, match="gone"):
        read_queries(tmp_path / "gone")
    many = [str(n) for n in range(100)]
    assert sample_queries(many, 0.1, seed=3) == sample_queries(many, 0.1, seed=3) != sample_queries(many, 0.1, seed=4)
    assert len(sample_queries(many, 0.1, seed=3)) == 10
    assert sample_queries(many, 1, seed=0) == many
    assert sample_queries([], 0.5, seed=0) == []


def test_the_command_reports_wrong_usage(world):
    settings, (first, _) = world
    runner, home = CliRunner(), {"NIGHTSHIFT_HOME": str(settings.home)}
    missing = runner.invoke(app, ["shadow", "r9", "--queries", str(settings.home)], env=home)
    assert missing.exit_code == 1
    assert "one query per line" in missing.output
    search_live(settings, first)
    as_json = runner.invoke(app, ["shadow", first, "--live", "--json"], env=home)
    assert json.loads(as_json.stdout)["shadow"] == first
    result = runner.invoke(app, ["shadow", first, "--live"], env=home)
    assert "overlap@5" in result.stdout
