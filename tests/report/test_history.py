from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from release_receipts import release_receipt as release

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import write_json
from tasks.core.base.receipts import Embeddings, Encoder, Evaluation
from tasks.core.drift.findings import Action, Drift
from tasks.core.evaluation.gate import Decision, GateCheck
from tasks.core.evaluation.significance import Comparison
from tasks.core.report.history import FILE, SCHEMA, find_report, page_name, past_nights, read_history, record
from tasks.core.report.night import Night
from tasks.core.report.sentences import describe_route
from tasks.core.training.route import PastNight, Route, RouteChoice

START = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)


def night(number: int, outcome: str) -> Night:
    return Night(began=START + timedelta(days=number), reason="test", outcome=outcome)


def test_every_night_has_a_single_row_with_any_outcome(tmp_path: Path) -> None:
    for number, outcome in enumerate(["Promoted", "Rejected", "Skipped", "Suspect", "Failed"]):
        record(tmp_path, night(number, outcome))
    record(tmp_path, night(1, "Rejected").having(failure="reported twice"))
    rows = sorted(read_history(tmp_path).to_pylist(), key=lambda row: row["began"])
    assert [row["outcome"] for row in rows] == ["Promoted", "Rejected", "Skipped", "Suspect", "Failed"]
    assert rows[1]["why"] == "reported twice"
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == [FILE]


def test_a_row_contains_the_metrics_of_its_night(tmp_path: Path) -> None:
    figures = {
        name: Evaluation(
            digest=name, path=Path(), rows=300, system=name, split="test", metrics={"ndcg@10": value, "mrr@10": 0}
        )
        for name, value in (("challenger", 0.5), ("bm25", 0.4))
    }
    against = Comparison(against="the serving release", difference=0.1, low=0.05, high=0.15, queries=300)
    verdict = Decision(findings=(GateCheck(held=True, words="better"),), comparisons=(against,))
    drift = Drift(verdict=Action.RETRAIN, cause="new pairs")
    record(
        tmp_path,
        night(0, "Promoted").having(ended=START + timedelta(hours=1), figures=figures, verdict=verdict, drift=drift),
    )
    (row,) = read_history(tmp_path).to_pylist()
    assert (row["challenger_ndcg"], row["bm25_ndcg"], row["serving_ndcg"]) == (0.5, 0.4, None)
    assert (row["difference"], row["low"], row["high"], row["queries"]) == (0.1, 0.05, 0.15, 300)
    assert (row["why"], row["work"]) == ("better", "retrain")
    assert (row["began"], row["ended"]) == (START, START + timedelta(hours=1))


def test_the_route_of_a_night_with_its_cost_and_gain_is_available_to_later_nights(tmp_path: Path) -> None:
    figures = {
        name: Evaluation(digest=name, path=Path(), rows=30, system=name, split="test", metrics={"ndcg@10": value})
        for name, value in (("challenger", 0.75), ("base", 0.5))
    }
    common = {"digest": "a", "path": Path(), "rows": 1, "fingerprint": "f", "dimension": 4}
    encoder = {"passage_fingerprint": "f", "base": "b", "steps": 1, "precision": "fp32", "fidelity": 1.0}
    trained = Encoder(**common, **encoder, seconds=30.0)
    counts = {"snapshot": "s", "shards": 1, "embedded": 1, "avoided": 0, "tokens": 1}
    vectors = Embeddings(**common, **counts, seconds=10.0)
    full = night(0, "Promoted").having(
        route=RouteChoice(route=Route.SCRATCH), trained=(trained, trained), embeddings=vectors, figures=figures
    )
    record(tmp_path, full)
    record(tmp_path, night(1, "Skipped"))
    trunk = vectors.model_copy(update={"seconds": 100.0})
    warm = full.having(began=START + timedelta(hours=1), route=RouteChoice(route=Route.WARM), trunk_vectors=trunk)
    record(tmp_path, warm)
    derived = warm.having(began=START + timedelta(hours=2), route=RouteChoice(route=Route.MAP))
    record(tmp_path, derived)
    record(tmp_path, night(2, "Failed").having(route=RouteChoice(route=Route.MAP), trained=(trained,)))
    record(tmp_path, night(3, "Rejected").having(route=RouteChoice(route=Route.MAP), trained=(trained,)))
    record(tmp_path, night(4, "Promoted").having(embeddings=vectors, figures=figures))
    assert past_nights(tmp_path) == [
        PastNight(Route.SCRATCH, promoted=True, gain=0.25, seconds=70.0),
        PastNight(Route.WARM, promoted=True, gain=0.25, seconds=170.0),
        PastNight(Route.MAP, promoted=True, gain=0.25, seconds=70.0),
        PastNight(Route.MAP, promoted=False, gain=None, seconds=30.0),
    ]


def test_the_route_is_described_with_saved_time_and_possible_loss() -> None:
    choice = RouteChoice(route=Route.MAP, reason="it is cheaper", full_seconds=400.0, full_gain=0.05)
    text = describe_route(choice, 40.0, 0.046)
    assert text.startswith("Trained: query+map (it is cheaper).")
    assert "360 s saved" in text
    assert "may have cost 0.0040" in text
    assert "no loss is measured" in describe_route(choice, 40.0, 0.051)
    assert "10 s more" in describe_route(choice, 410.0, None)
    assert describe_route(RouteChoice(route=Route.QUERY), 40.0, 0.046) == "Trained: query (set in the settings)."
    full = choice.model_copy(update={"route": Route.WARM})
    assert describe_route(full, 390.0, 0.055) == "Trained: warm (it is cheaper)."


def test_a_failure_is_printed_on_a_single_line() -> None:
    assert night(0, "Failed").having(failure="one\n  two").why == "one two"


def test_a_history_of_an_older_version_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"began": pa.array([START], pa.timestamp("us", "UTC")), "gone": [1]}), tmp_path / FILE)
    record(tmp_path, night(1, "Promoted"))
    rows = read_history(tmp_path)
    assert rows.schema.names == SCHEMA.names
    assert rows["outcome"].to_pylist() == [None, "Promoted"]


def test_before_the_first_night_the_history_is_empty(tmp_path: Path) -> None:
    assert read_history(tmp_path).num_rows == 0


def pages(home: Path) -> list[str]:
    (home / "reports").mkdir(parents=True)
    names = []
    for number, outcome in ((0, "Promoted"), (1, "Rejected"), (2, "Promoted")):
        serves = night(number, outcome).having(release=release(f"r{number + 1:04d}-a"))
        record(home, serves)
        names.append(page_name(serves.began))
        (home / "reports" / names[-1]).write_text(outcome)
    return names


def test_the_last_report_or_a_named_report_is_located(tmp_path: Path) -> None:
    names = pages(tmp_path)
    path, row = find_report(tmp_path)
    assert (path.name, row["outcome"]) == (names[2], "Promoted")
    assert path.is_absolute()
    path, row = find_report(tmp_path, "2026-03-02")
    assert find_report(tmp_path, "r0001-")[0].name == names[0]
    assert (path.name, row["outcome"], row["began"]) == (names[1], "Rejected", "2026-03-02T02:00:00+00:00")


@pytest.mark.parametrize(("run", "problem"), [("2026-03", "3 reports match"), ("r0009-a", "no report matches")])
def test_a_missing_or_invalid_report_is_refused(run: str, problem: str, tmp_path: Path) -> None:
    pages(tmp_path)
    with pytest.raises(NightshiftError, match=problem):
        find_report(tmp_path, run)


def test_before_the_first_night_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(NightshiftError, match="`nightshift run` makes the first"):
        find_report(tmp_path)


def test_a_damaged_history_is_set_aside_and_rebuilt_from_the_releases(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = pages(tmp_path)
    for number, name in ((1, "r0001-a"), (3, "r0003-a")):
        created = (START + timedelta(days=number - 1, hours=1)).isoformat()
        figures = {"metrics": {"ndcg@10": 0.5}, "created": created, "generation": number}
        record_of = release(name).model_copy(update=figures).model_dump(mode="json", exclude={"path", "reused"})
        write_json(tmp_path / "releases" / name / "manifest.json", record_of)
    whole = (tmp_path / FILE).read_bytes()
    flipped = bytearray(whole)
    flipped[40] ^= 1  # in a page of values
    for number, content in enumerate([bytes(flipped), whole[:50], whole[:-4], b"", b"PAR1" * 9]):
        (tmp_path / FILE).write_bytes(content)
        rows = read_history(tmp_path).to_pylist()
        assert [(row["release"], row["outcome"]) for row in rows] == [("r0001-a", "Promoted"), ("r0003-a", "Promoted")]
        assert [page_name(row["began"]) for row in rows] == [names[0], names[2]]
        assert [row["challenger_ndcg"] for row in rows] == [0.5, 0.5]
        assert "history.parquet: damaged" in caplog.text
        assert len(list(tmp_path.glob(".history.parquet.damaged-*"))) == number + 1
        assert find_report(tmp_path, "r0001-")[0].name == names[0]
    record(tmp_path, night(4, "Rejected"))
    assert read_history(tmp_path)["outcome"].to_pylist() == ["Promoted", "Promoted", "Rejected"]
