"""Two visitors vote on the search page of a service, and the pairs of the next ingest change."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from browsers import open_browser
from release_world import release_night, small
from small_collection import build
from voting_service import voting_service

from tasks.core.base.sections.data import DataSettings
from tasks.core.ingest.ingest import ingest
from tasks.core.snapshot.reader import given_negatives, qrels, queries
from tasks.core.sources.feedback_log import Origin, Record, log_file

QUERY = "which passage has number 7"
VISITORS = ("203.0.113.7", "198.51.100.9")  # the service trusts a proxy on its own machine

pytest.importorskip("playwright.sync_api", reason='no Playwright: pip install -e ".[dev]"')
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Settings of a home with a release of a small BEIR collection, and the snapshot of the release."""
    collection = build(tmp_path_factory.mktemp("browser"))
    data = DataSettings(format="beir", path=collection.root)
    settings = small(collection.home).model_copy(update={"data": data})
    _, snapshot = ingest(settings)
    release_night(settings, snapshot=snapshot)
    return settings, snapshot


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


def open_page(browser, address, visitor, **context):
    """Open the page as a visitor who signs in and searches."""
    page = browser.new_context(extra_http_headers={"x-forwarded-for": visitor}, **context).new_page()
    page.goto(address)
    page.get_by_label("Token of this service").fill("secret")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("Serving release").wait_for()
    page.get_by_role("searchbox", name="Query").fill(QUERY)
    page.keyboard.press("Enter")
    page.get_by_role("group", name="Your vote on result 1,").wait_for()
    return page


def result(page, rank):
    """Return the group of vote buttons of a result, and the id of its passage."""
    group = page.get_by_role("group", name=f"Your vote on result {rank},")
    return group, page.locator("li").nth(rank - 1).locator("code").inner_text()


def test_votes_on_the_page_change_the_pairs_of_the_next_ingest(released, browser):
    settings, before = released
    with voting_service(settings, token="secret") as (_, address):
        for visitor in VISITORS:
            page = open_page(browser, address, visitor)
            answer, answering = result(page, 1)
            answer.get_by_role("button", name="This answers it").click()
            answer.get_by_text("Recorded as the answer").wait_for()
            good, relevant = result(page, 2)
            good.get_by_role("button", name="Relevant", exact=True).focus()
            page.keyboard.press("Enter")  # the keyboard votes as well
            good.get_by_text("Recorded as relevant").wait_for()
            bad, irrelevant = result(page, 3)
            button = bad.get_by_role("button", name="Not relevant")
            button.click()
            bad.get_by_text("Recorded as not relevant").wait_for()
            assert button.get_attribute("aria-pressed") == "true"
            taken_back, withdrawn = result(page, 4)
            for note in ("Recorded as relevant", "Vote withdrawn"):
                taken_back.get_by_role("button", name="Relevant", exact=True).click()
                taken_back.get_by_text(note).wait_for()
            page.context.close()
    records = [Record.model_validate_json(line) for line in log_file(settings.home, Origin.FEEDBACK).open("rb")]
    assert len(records) == 10
    assert len({record.judge for record in records}) == 2
    ingested, after = ingest(settings)
    (query_id,) = (row["query_id"] for row in queries(after).to_pylist() if row["text"] == QUERY)
    pairs = {(row["query_id"], row["passage_id"], row["split"]) for row in qrels(after).to_pylist()}
    known = {(row["query_id"], row["passage_id"], row["split"]) for row in qrels(before).to_pylist()}
    assert pairs - known == {(query_id, answering, "train"), (query_id, relevant, "train")}
    assert known <= pairs
    assert given_negatives(after).to_pylist() == [{"query_id": query_id, "passage_id": irrelevant}]
    assert withdrawn not in pq.read_table(ingested.path / "judged-pairs.parquet")["passage_id"].to_pylist()
    assert (ingested.pairs_from["from feedback"], ingested.pairs_from["given negatives from feedback"]) == (2, 1)
