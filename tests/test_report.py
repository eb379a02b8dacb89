from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from tasks.core.drift.verdict import Drift, Work
from tasks.core.evaluation.gate import Finding, Verdict
from tasks.core.evaluation.significance import Comparison
from tasks.core.night import Night, last_line
from tasks.core.receipts import Encoder, Evaluation, Ingested, RuleCount
from tasks.core.report.page import write_report

BAD = "<script>alert('a query')</script>"


def evaluation(system: str, value: float) -> Evaluation:
    metrics = {"ndcg@10": value, "mrr@10": value, "recall@100": value, "map@100": value}
    return Evaluation(digest=system, path=Path(), rows=300, system=system, split="test", metrics=metrics)


@pytest.fixture
def night() -> Night:
    rules = tuple(
        RuleCount(table="queries", rule=rule, severity="error", checked=9, failed=failed)
        for rule, failed in (("query_text_present", 2), ("query_id_clean", 0))
    )
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
    )
    against = Comparison(against="BM25", difference=0.1, low=0.05, high=0.15, queries=300)
    return Night.begin(f"reason {BAD}").having(
        outcome="Rejected",
        ingested=Ingested(
            digest="i", path=Path(), rows=9, source="beir", snapshot="s", accepted=7, quarantined=2, rules=rules
        ),
        drift=Drift(verdict=Work.RETRAIN, cause="new pairs"),
        trained=(encoder,),
        figures={name: evaluation(name, value) for name, value in (("challenger", 0.5), ("bm25", 0.4), ("base", 0.3))},
        verdict=Verdict(
            findings=(Finding(held=False, words="not shown to be no worse"), Finding(held=True, words="against BM25")),
            comparisons=(against,),
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


def test_the_report_says_the_verdict_and_fetches_nothing(night: Night, tmp_path: Path) -> None:
    path = write_report(tmp_path, night)
    page = path.read_text()
    assert "Rejected" in page
    assert "not shown to be no worse" in page
    reader = Remote()
    reader.feed(page)
    assert reader.found == []
    assert reader.links == ["../ingests/i/contracts.html"]  # beside the report, wherever the home is moved
    assert len(page) < 2_000_000


def test_text_of_the_data_is_never_markup(night: Night, tmp_path: Path) -> None:
    assert BAD not in write_report(tmp_path, night).read_text()


def test_the_same_night_gives_the_same_page(night: Night, tmp_path: Path) -> None:
    assert write_report(tmp_path / "a", night).read_bytes() == write_report(tmp_path / "b", night).read_bytes()


def test_the_last_line_names_outcome_reason_and_figures(night: Night) -> None:
    line = last_line(night)
    assert line.startswith("Rejected: not shown to be no worse; no release serves yet")
    assert "challenger's nDCG@10 0.5000 (BM25 0.4000, base 0.3000)" in line
