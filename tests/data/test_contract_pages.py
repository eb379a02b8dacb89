import re

import pytest
from small_collection import Collection

from tasks.core.data.ingest import ingest
from tasks.core.errors import BadInput


def test_the_page_of_an_ingest_says_what_broke_and_loads_nothing(collection: Collection) -> None:
    collection.add("corpus.jsonl", {"_id": "x", "text": "binary \0 data <b>"}, {"_id": "p3", "text": "another one"})
    ingested, _ = ingest(collection.settings())
    page = (ingested.path / "contracts.html").read_text()
    for said in ("passage_text_nuls (error)", "corpus.jsonl:31", "passage_conflicting (error)", "pair_query_leaks"):
        assert said in page
    assert not re.findall(r"https?:|//cdn|src\s*=|href\s*=|url\s*\(|@import|<script|<link|<img|<iframe", page)


def test_a_stopped_night_keeps_its_page(collection: Collection) -> None:
    collection.add("corpus.jsonl", "not json")
    with pytest.raises(BadInput):
        ingest(collection.settings(max_refused=0))
    (kept,) = (collection.home / "refused").iterdir()
    assert "malformed_json" in (kept / "contracts.html").read_text()


@pytest.mark.parametrize("stopped", [False, True])
def test_quarantine_lists_the_newest_refusals_by_rule(collection: Collection, stopped: bool) -> None:
    from tasks.core.data.refusals import newest_refusals

    ingest(collection.settings())
    first = collection.add("corpus.jsonl", *["not json"] * 5)
    leak = collection.add("qrels/train.tsv", "q25\tp1\t1")
    if stopped:
        with pytest.raises(BadInput):
            ingest(collection.settings(max_refused=0.01))
    else:
        ingest(collection.settings())
    found = newest_refusals(collection.home)
    assert found["in"] == {"passages": 35, "queries": 30, "qrels": 31}
    assert found["accepted"] == {"passages": 30, "queries": 30, "qrels": 30}
    assert found["quarantined"] == {"passages": 5, "queries": 0, "qrels": 1}
    json_rule, leak_rule = found["rules"]
    assert (json_rule["table"], json_rule["rule"], json_rule["rows"]) == ("passages", "malformed_json", 5)
    assert [one["row"] for one in json_rule["samples"]] == [first, first + 1, first + 2]
    assert (leak_rule["table"], leak_rule["rule"], leak_rule["rows"]) == ("qrels", "pair_query_leaks", 1)
    (sample,) = leak_rule["samples"]
    assert (sample["file"], sample["row"]) == ("qrels/train.tsv", leak)
    assert "cheating" in sample["reason"]
    ingest(collection.settings(max_refused=0.9))
    assert newest_refusals(collection.home) == found  # the same refusals, of an ingest now


def test_the_limit_may_be_one_per_table(collection: Collection) -> None:
    collection.add("corpus.jsonl", "not json")
    collection.add("queries.jsonl", "not json")
    ingest(collection.settings(max_refused={"passages": 0.1, "queries": 0.1}))
    with pytest.raises(BadInput, match=r"^queries: 1 of 31 rows refused \(3.2%\); \[data\] max_refused allows 0.0%"):
        ingest(collection.settings(max_refused={"passages": 0.1, "queries": 0}))
