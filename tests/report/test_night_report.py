from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evaluation_world import write_run
from release_receipts import release_receipt as release
from small_snapshot import snapshot_of

from tasks.core.base.ranking import Ranking
from tasks.core.base.receipts import Encoder, Evaluation, Ingested, Negatives, Snapshot
from tasks.core.base.resolved_settings import resolve
from tasks.core.base.rule_count import RuleCount
from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Action, Drift
from tasks.core.evaluation.evaluate import evaluate_run
from tasks.core.evaluation.gate import Decision, GateCheck, Probe
from tasks.core.evaluation.significance import Comparison
from tasks.core.evaluation.tune import WEIGHTS, Tuning
from tasks.core.report.history import record
from tasks.core.report.index import write_index
from tasks.core.report.night import Night, outcome_line
from tasks.core.report.page import write_report

BAD = "<script>alert('a query')</script>"


QUERIES = {"q1": f"river {BAD}", "q2": "castle", "t1": "violin"}
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
    snapshot = snapshot_of(home, PASSAGES, QUERIES, [("q1", "p1", "test"), ("q2", "p2", "test"), ("t1", "p3", "train")])
    encoder = Encoder(
        digest="e", path=Path(), rows=1, fingerprint="f", passage_fingerprint="p", dimension=4, base="b", steps=3,
        precision="fp32", fidelity=1, loss=(0.3, 0.2, 0.1), kept=2, dev=((0, 0.4), (2, 0.5)),
    )  # fmt: skip
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
        drift=Drift(verdict=Action.RETRAIN, cause="new pairs"),
        trained=(encoder,),
        probe=Probe(passages=2, of=3, why="the pool would be most of the corpus"),
        figures=figures(
            home,
            snapshot,
            challenger={"q1": ["p1"], "q2": ["p3", "p2"]},
            bm25={"q1": ["p1"]},
            base={"q1": ["p2", "p1"], "q2": ["p2"]},
        ),
        verdict=Decision(
            findings=(
                GateCheck(held=False, words="not shown to be no worse"),
                GateCheck(held=True, words="against BM25"),
            ),
            comparisons=(against,),
            slices={"long queries": against},
            overlap=0.8,
        ),
    )


class Remote(HTMLParser):
    """Collect the addresses that a browser would fetch."""

    resources: list[str]
    links: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.resources, self.links = [], []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = ("src", "xlink:href", "srcset", "data", "poster", *(["href"] if tag != "a" else []))
        self.resources += [value for name, value in attrs if name in names and value and not value.startswith("#")]
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value]


def page_of(night: Night, tmp_path: Path) -> str:
    return write_report(tmp_path / "home", night).read_text()


def test_the_report_shows_the_gate_decision_and_fetches_nothing(night: Night, tmp_path: Path) -> None:
    page = page_of(night, tmp_path)
    assert "Rejected" in page
    assert page.index("not shown to be no worse") < page.index("against BM25") < page.index("<section>")
    reader = Remote()
    reader.feed(page)
    assert reader.resources == []
    assert reader.links == ["index.html", "../ingests/i/contracts.html"]  # relative, because a home can move
    assert len(page) < 2_000_000


def test_text_from_the_data_is_escaped(night: Night, tmp_path: Path) -> None:
    page = page_of(night, tmp_path)
    assert BAD not in page
    assert page.count("&lt;script&gt;") >= 3  # the reason, a query, and a passage


def test_changed_queries_are_shown_with_the_passages_of_both_systems(night: Night, tmp_path: Path) -> None:
    page = page_of(night, tmp_path)
    worst, best = page.index("Worst losses"), page.index("Best gains")
    assert "-0.369" in page[worst:best]  # 1/log2(3) − 1/log2(2): the answer fell from rank 1 to rank 2
    assert "answer at rank 1 → 2" in page[worst:best]
    assert "a violin" in page[worst:best]
    assert "answer at rank 2 → 1" in page[best:]


def test_the_chosen_ranking_is_shown_with_the_weights_that_were_tried(night: Night, tmp_path: Path) -> None:
    assert "<h2>Ranking" not in page_of(night, tmp_path)
    ndcg = tuple(0.5 + 0.1 * float(weight) for weight in WEIGHTS)
    tuning = Tuning(weight=0.6, why="nDCG@10 on 40 dev queries: hybrid gains", queries=40, ndcg=ndcg)
    tuned = night.having(ranking=Ranking(weight=0.6), tuning=tuning)
    page = page_of(tuned, tmp_path)
    section = page[page.index("<h2>Ranking: hybrid, 60% dense + 40% BM25</h2>") :]
    section = section[: section.index("</section>")]
    assert "Why: nDCG@10 on 40 dev queries: hybrid gains." in section
    assert "each weight of the encoder's score" in section.replace("&#39;", "'").replace("&#x27;", "'")
    assert "<svg" in section
    few = night.having(ranking=Ranking(weight=0.0), tuning=Tuning(weight=0.0, why="few queries"))
    section = page_of(few, tmp_path).split("<h2>Ranking: BM25</h2>")[1].split("</section>")[0]
    assert "Why: few queries." in section
    assert "<svg" not in section
    served = few.having(serving=release("r0001").model_copy(update={"ranking": Ranking(weight=0.6)}))
    assert "The serving release ranks: hybrid, 60% dense" in page_of(served, tmp_path)


def test_equal_nights_give_equal_pages(night: Night, tmp_path: Path) -> None:
    assert page_of(night, tmp_path) == page_of(night, tmp_path)


def test_a_night_that_failed_immediately_has_a_page(tmp_path: Path) -> None:
    failed = Night.begin("test").having(outcome="Failed", failure="corpus.jsonl:\n  line 3")
    page = page_of(failed, tmp_path)
    assert "corpus.jsonl:\n  line 3" in page
    assert "before it read which release serves" in page  # a release may still serve
    assert "No release serves yet" not in page
    assert "No release serves yet" in page_of(failed.having(serving=None), tmp_path)


def test_the_page_of_a_failed_night_names_step_release_refused_rows_and_next_step(night: Night, tmp_path: Path) -> None:
    home = tmp_path / "home"
    refused = home / "refused" / "i"
    refused.mkdir(parents=True)
    rows = [
        {"table": "passages", "file": "corpus.jsonl", "row": n, "key": "", "rule": "r", "reason": "why", "record": BAD}
        for n in range(1, 26)
    ]
    pq.write_table(pa.Table.from_pylist(rows), refused / "quarantine.parquet")
    fields = {"serving": release("r0001-a"), "refused": refused, "failed_step": "validate beir data", "log": "the log"}
    failed = Night.begin("test").having(outcome="Failed", failure="25 rows refused", **fields)
    page = page_of(failed, tmp_path)
    assert "<b>validate beir data</b> failed" in page
    assert "Release <code>r0001-a</code> still serves" in page
    assert [f"corpus.jsonl:{n}<" in page for n in (1, 20, 21)] == [True, True, False]
    assert BAD not in page
    assert "nightshift run" in page
    assert "the log" in page
    reader = Remote()
    reader.feed(page)
    assert (home / "reports" / "../refused/i/quarantine.parquet").exists()
    assert {"../refused/i/quarantine.parquet", "../refused/i/contracts.html"} <= set(reader.links)


def test_the_page_of_a_night_that_failed_after_publishing_names_its_release(night: Night, tmp_path: Path) -> None:
    failed = night.having(outcome="Failed", failure="disk full", serving=release("r0001-a"), release=release("r0002-b"))
    page = page_of(failed, tmp_path)
    assert "Release <code>r0002-b</code> serves" in page
    assert "nightshift rollback" in page
    assert "was not moved" not in page


def test_marks_and_labels_match_the_metrics(night: Night, tmp_path: Path) -> None:
    findings = (
        GateCheck(held=False, words="not shown to be no worse", remedy="a gain of 0.02"),
        GateCheck(held=True, words="clearly worse than BM25: -0.90", informs=True),
        GateCheck(held=True, words="better than the base model"),
    )
    worse = night.trained[0].model_copy(update={"dev": ((0, 0.95), (2, 0.05))})
    page = page_of(night.having(verdict=Decision(findings=findings), trained=(worse,)), tmp_path)
    marked = dict(re.findall(r'aria-label="(\w+)">.</span>([^<]*)', page))
    assert (marked["failed"], marked["note"]) == ("not shown to be no worse", "clearly worse than BM25: -0.90")
    assert marked["passed"] == "better than the base model"
    assert "What would have changed it: a gain of 0.02." in page
    assert "0.9000 less than before training" in page
    assert "the best of all" not in page
    behind = worse.model_copy(update={"kept": 0})
    assert "better than every later step" in page_of(night.having(trained=(behind,)), tmp_path)


def test_the_page_shows_settings_and_their_changes_since_the_previous_release(night: Night, tmp_path: Path) -> None:
    settings = {"milvus": {"token": "root:Milvus"}, "release": {"password": "sesame"}}
    now = resolve(Settings.model_validate({**settings, "gate": {"margin": 0.02}}))
    before = release("r0001-a").model_copy(update={"settings": resolve(Settings.model_validate(settings))})
    page = page_of(night.having(serving=before, settings=now), tmp_path)
    assert "1 setting differs from <code>r0001-a</code>" in page
    assert page.index("gate.margin") < page.index("settings in effect")
    assert "root:Milvus" not in page
    assert "sesame" not in page
    old = night.having(serving=release("r0001-a"), settings=now)
    assert "made before settings were recorded" in page_of(old, tmp_path)


def test_a_page_links_to_other_nights_its_run_and_its_releases(night: Night, tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = night.having(outcome="Promoted", release=release("r0001-a"), run_url="http://prefect/runs/flow-run/1")
    second = night.having(began=night.began + timedelta(days=1), serving=release("r0001-a"))
    for night in (first, second):
        record(home, night)
        write_report(home, night)
        write_index(home)
    links = {}
    for path in (home / "reports").glob("*.html"):
        reader = Remote()
        reader.feed(path.read_text())
        links[path.name] = set(reader.links)
    first_page, second_page = "2026-03-01T020000Z.html", "2026-03-02T020000Z.html"
    assert links[first_page] >= {"index.html", second_page, "http://prefect/runs/flow-run/1"}
    assert links[second_page] >= {"index.html", first_page}
    assert links["index.html"] == {first_page, second_page}
    assert all(not link.startswith(("/", "file:")) for targets in links.values() for link in targets)
    index = (home / "reports" / "index.html").read_text()
    assert index.index("Rejected") < index.index("Promoted")  # newest first


def test_the_page_of_a_night_stopped_by_the_probe_shows_its_measurements(night: Night, tmp_path: Path) -> None:
    seen = Comparison(against="the serving release", difference=-0.2, low=-0.25, high=-0.15, queries=300)
    finding = GateCheck(held=False, words="clearly worse already on a pool")
    probe = Probe(passages=2, of=3, comparison=seen, finding=finding)
    page = page_of(night.having(figures={}, verdict=Decision(findings=(finding,)), probe=probe), tmp_path)
    assert "clearly worse already on a pool" in page
    assert "the other passages were not embedded" in page


def test_element_ids_on_a_page_are_unique(night: Night, tmp_path: Path) -> None:
    ids = re.findall(r'[ ]id="([^"]*)"', page_of(night, tmp_path))
    assert len(ids) == len(set(ids))


def test_the_trend_appears_from_the_second_night_on(night: Night, tmp_path: Path) -> None:
    record(tmp_path / "home", night)
    assert "The last nights" not in page_of(night, tmp_path)
    for day, outcome in enumerate(("Failed", "Skipped", "Suspect"), start=1):
        record(tmp_path / "home", Night(began=night.began - timedelta(days=day), reason="x", outcome=outcome))
    page = page_of(night, tmp_path)
    assert "The last nights" in page
    drawn = set(re.findall(r"<text[^>]*>(?:<[^>]*>)*([^<]+)", page))
    assert drawn >= {"rejected", "failed", "skipped", "needs a person"}
    assert drawn >= {"Gain of the challenger", "over BM25"}  # the chart of intervals has a title and labels


def test_the_page_shows_a_table_of_refused_candidates_with_reasons(night: Night, tmp_path: Path) -> None:
    folder = tmp_path / "negatives"
    folder.mkdir()
    (folder / "sample.json").write_text("[]")
    counts = {"rows": 8, "round": 0, "queries": 1, "starved": 0, "candidates": 20}
    mined = Negatives(digest="n", path=folder, refused={"near_duplicate": 5, "new_rule": 1}, **counts)
    page = page_of(night.having(negatives=(mined,)), tmp_path)
    (row,) = re.findall(r"<tr><td>is a near duplicate of a relevant passage</td>.*?</tr>", page)
    assert re.findall(r">([\d.]+)", row) == ["5", "25.0"]
    assert "<td>new rule</td>" in page


def test_the_summary_line_contains_outcome_reason_and_metrics(night: Night) -> None:
    line = outcome_line(night)
    assert line.startswith("Rejected: not shown to be no worse; no release serves yet")
    assert "challenger's nDCG@10 0.8155 (BM25 0.5000, base 0.8155)" in line
