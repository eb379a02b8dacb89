import re
from pathlib import Path

import pytest
from small_collection import Collection

from tasks.core.base.errors import BadInput
from tasks.core.ingest.ingest import ingest


def page_of(folder: Path) -> str:
    return (folder / "contracts.html").read_text(encoding="utf-8")


def rows_of(page: str) -> dict[str, tuple[str, str, str]]:
    """Map each rule on the page to its status, statement, and severity."""
    results = {}
    for row in re.findall(r"<tr[^>]*><td class=\"state\">(.*?)</tr>", page, re.DOTALL):
        words = [word.strip() for word in re.sub(r"<[^>]*>", "\n", row).split("\n") if word.strip()]
        status, statement, rule, severity = words[:4]
        results[rule] = (status, statement, severity.removeprefix("· ").split(" ")[0])
    return results


def test_every_rule_on_the_page_has_a_status_and_a_positive_statement(collection: Collection) -> None:
    collection.add("corpus.jsonl", {"_id": "x", "text": "binary \0 data <b>"}, {"_id": "p3", "text": "another one"})
    ingested, _ = ingest(collection.settings())
    rules = rows_of(page_of(ingested.path))
    assert len(rules) >= 60
    assert rules["passage_text_nuls"] == ("✗ failed", "text has no NUL characters", "error")
    assert rules["passage_conflicting"] == ("✗ failed", "no row contradicts an earlier row with the same ids", "error")
    assert rules["passage_text_markup"] == ("! warning", "text has no HTML tags or entities", "warn")
    assert rules["query_id_present"] == ("✓ passed", "query_id is present", "error")
    assert rules["query_text_length"] == ("✓ passed", "text has at most 10,000 characters", "error")
    assert rules["qrels_grown"][0] == "– not checked"  # no earlier snapshot to compare with
    assert not [text for _, text, _ in rules.values() if "longer than" in text or "no accepted" in text or ":" in text]


def test_the_page_shows_failed_rows_links_to_all_of_them_and_loads_nothing(collection: Collection) -> None:
    line = collection.add("corpus.jsonl", {"_id": "x", "text": "binary \0 <script>" + "long " * 200}, "not json")
    ingested, _ = ingest(collection.settings())
    page = page_of(ingested.path)
    assert f"corpus.jsonl:{line}<" in page
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert page.count("long ") < 100  # the record is shortened
    links = re.findall(r'href="([^"]*)"', page)
    assert links == ["quarantine.parquet"]
    assert (ingested.path / links[0]).exists()
    assert not re.findall(r"https?:|//cdn|src\s*=|url\s*\(|@import|<link|<img|<iframe|<button|<input", page)


def test_a_stopped_night_keeps_its_page(collection: Collection) -> None:
    collection.add("corpus.jsonl", "not json")
    with pytest.raises(BadInput):
        ingest(collection.settings(max_refused=0))
    (folder,) = (collection.home / "refused").iterdir()
    assert "malformed_json" in (folder / "contracts.html").read_text()


@pytest.mark.parametrize("stopped", [False, True])
def test_quarantine_lists_the_newest_refusals_by_rule(collection: Collection, stopped: bool) -> None:
    from tasks.core.ingest.refused_rows import newest_refusals

    ingest(collection.settings())
    first = collection.add("corpus.jsonl", *["not json"] * 5)
    leak = collection.add("qrels/train.tsv", "q25\tp1\t1")
    if stopped:
        with pytest.raises(BadInput):
            ingest(collection.settings(max_refused=0.01))
    else:
        ingest(collection.settings())
    refusals = newest_refusals(collection.home)
    assert refusals["in"] == {"passages": 35, "queries": 30, "qrels": 31}
    assert refusals["accepted"] == {"passages": 30, "queries": 30, "qrels": 30}
    assert refusals["quarantined"] == {"passages": 5, "queries": 0, "qrels": 1}
    json_rule, leak_rule = refusals["rules"]
    assert (json_rule["table"], json_rule["rule"], json_rule["rows"]) == ("passages", "malformed_json", 5)
    assert [sample["row"] for sample in json_rule["samples"]] == [first, first + 1, first + 2]
    assert (leak_rule["table"], leak_rule["rule"], leak_rule["rows"]) == ("qrels", "pair_query_leaks", 1)
    (sample,) = leak_rule["samples"]
    assert (sample["file"], sample["row"]) == ("qrels/train.tsv", leak)
    assert "held out" in sample["reason"]
    ingest(collection.settings(max_refused=0.9))
    assert newest_refusals(collection.home) == refusals  # the same refusals, of an ingest now


def test_the_limit_can_differ_per_table(collection: Collection) -> None:
    collection.add("corpus.jsonl", "not json")
    collection.add("queries.jsonl", "not json")
    ingest(collection.settings(max_refused={"passages": 0.1, "queries": 0.1}))
    with pytest.raises(BadInput, match=r"^queries: 1 of 31 rows refused \(3.2%\); \[data\] max_refused allows 0.0%"):
        ingest(collection.settings(max_refused={"passages": 0.1, "queries": 0}))
