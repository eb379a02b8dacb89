from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evaluation_world import write_run, write_snapshot

from tasks.core.drift.verdict import Drift, Work
from tasks.core.evaluation.evaluate import evaluate_run
from tasks.core.evaluation.gate import Finding, Probe, Verdict
from tasks.core.evaluation.significance import Comparison
from tasks.core.night import Night, last_line
from tasks.core.receipts import Encoder, Evaluation, Ingested, RuleCount, Snapshot
from tasks.core.report.history import record
from tasks.core.report.page import write_report

BAD = "<script>alert('a query')</script>"


QUERIES = {"q1": f"river {BAD}", "q2": "castle"}
PASSAGES = {"p1": "a river", "p2": f"a castle {BAD}", "p3": "a violin"}


def figures(home: Path, snapshot: Snapshot, **ranked: dict[str, list[str]]) -> dict[str, Evaluation]:
    return {name: evaluate_run(home, name, write_run(home, run), snapshot, "test") for name, run in ranked.items()}


@pytest.fixture
def night(tmp_path: Path) -> Night:
    rules = tuple(
        RuleCount(table="queries", rule=rule, severity="error", checked=9, failed=failed)
        for rule, failed in (("query_text_present", 2), ("query_id_clean", 0))
    )
    home = tmp_path / "home"
    snapshot = write_snapshot(home, PASSAGES, QUERIES, [("q1", "p1", "test"), ("q2", "p2", "test")])
    encoder = Encoder(
        digest="e",
        path=Path(),
        rows=1,
        fingerprint="f",
        passage_fingerprint="p",
        dimension=4,
        base="b",
        steps=3,
        precision="fp32",
        fidelity=1,
        loss=(0.3, 0.2, 0.1),
        kept=2,
        dev=((0, 0.4), (2, 0.5)),
    )
    against = Comparison(against="BM25", difference=0.1, low=0.05, high=0.15, queries=300)
    return Night(
        began=datetime(2026, 3, 1, 2, tzinfo=UTC),
        ended=datetime(2026, 3, 1, 3, tzinfo=UTC),
        reason=f"reason {BAD}",
        outcome="Rejected",
        ingested=Ingested(
            digest="i", path=Path(), rows=9, source="beir", snapshot="s", accepted=7, quarantined=2, rules=rules
        ),
        snapshot=snapshot,
        serving=None,
        drift=Drift(verdict=Work.RETRAIN, cause="new pairs"),
        trained=(encoder,),
        probe=Probe(passages=2, of=3, why="the pool would be most of the corpus"),
        figures=figures(
            home,
            snapshot,
            challenger={"q1": ["p1"], "q2": ["p3", "p2"]},
            bm25={"q1": ["p1"]},
            base={"q1": ["p2", "p1"], "q2": ["p2"]},
        ),
        verdict=Verdict(
            findings=(Finding(held=False, words="not shown to be no worse"), Finding(held=True, words="against BM25")),
            comparisons=(against,),
            slices={"long queries": against},
            overlap=0.8,
        ),
    )


class Remote(HTMLParser):
    """Collects everything that a browser would fetch."""

    found: list[str]
    links: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.found, self.links = [], []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = ("src", "xlink:href", "srcset", "data", "poster", *(["href"] if tag != "a" else []))
        self.found += [value for name, value in attrs if name in names and value and not value.startswith("#")]
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]


def page_of(night: Night, tmp_path: Path) -> str:
    return write_report(tmp_path / "home", night).read_text()


def test_the_report_says_the_verdict_and_fetches_nothing(night: Night, tmp_path: Path) -> None:
    page = page_of(night, tmp_path)
    assert "Rejected" in page
    assert page.index("not shown to be no worse") < page.index("against BM25") < page.index("<section>")
    reader = Remote()
    reader.feed(page)
    assert reader.found == []
    assert reader.links == ["index.html", "../ingests/i/contracts.html"]  # next to the report, wherever the home is moved
    assert len(page) < 2_000_000


def test_text_of_the_data_is_never_markup(night: Night, tmp_path: Path) -> None:
    page = page_of(night, tmp_path)
    assert BAD not in page
    assert page.count("&lt;script&gt;") >= 3  # the reason, a query and a passage


def test_queries_that_changed_are_shown_with_the_passages_of_both_systems(night: Night, tmp_path: Path) -> None:
    page = page_of(night, tmp_path)
    worst, best = page.index("Worst losses"), page.index("Best gains")
    assert "-0.369" in page[worst:best]  # 1/log2(3) − 1/log2(2): the answer fell from rank 1 to rank 2
    assert "answer at rank 1 → 2" in page[worst:best]
    assert "a violin" in page[worst:best]
    assert "answer at rank 2 → 1" in page[best:]


def test_the_same_night_gives_the_same_page(night: Night, tmp_path: Path) -> None:
    assert page_of(night, tmp_path) == page_of(night, tmp_path)


def test_a_night_that_failed_at_once_has_a_page_too(tmp_path: Path) -> None:
    failed = Night.begin("test").having(outcome="Failed", failure="corpus.jsonl:\n  line 3")
    page = page_of(failed, tmp_path)
    assert "corpus.jsonl:\n  line 3" in page
    assert "the pointer was not moved" in page


def test_a_night_that_the_probe_ended_says_what_it_saw(night: Night, tmp_path: Path) -> None:
    seen = Comparison(against="the serving release", difference=-0.2, low=-0.25, high=-0.15, queries=300)
    finding = Finding(held=False, words="clearly worse already on a pool")
    probe = Probe(passages=2, of=3, comparison=seen, finding=finding)
    page = page_of(night.having(figures={}, verdict=Verdict(findings=(finding,)), probe=probe), tmp_path)
    assert "clearly worse already on a pool" in page
    assert "the other passages were not embedded" in page


def test_no_two_things_on_a_page_have_the_same_id(night: Night, tmp_path: Path) -> None:
    ids = re.findall(r'[ ]id="([^"]*)"', page_of(night, tmp_path))
    assert len(ids) == len(set(ids))


def test_the_trend_is_drawn_from_the_second_measured_night_on(night: Night, tmp_path: Path) -> None:
    record(tmp_path / "home", night)
    assert "The last nights" not in page_of(night, tmp_path)
    record(tmp_path / "home", night.having(began=night.began - timedelta(days=1), outcome="Promoted"))
    assert "The last nights" in page_of(night, tmp_path)


def test_the_last_line_names_outcome_reason_and_figures(night: Night) -> None:
    line = last_line(night)
    assert line.startswith("Rejected: not shown to be no worse; no release serves yet")
    assert "challenger's nDCG@10 0.8155 (BM25 0.5000, base 0.8155)" in line
