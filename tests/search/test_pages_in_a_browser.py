"""The search page and the pages of a night in a browser: keyboard, names for screen readers, contrast, phone width."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import PHONE, open_browser
from release_world import release_night, small
from small_collection import build
from voting_service import voting_service

from tasks.core.base.sections.data import DataSettings
from tasks.core.evaluation.measures import NAMES
from tasks.core.ingest.ingest import ingest
from tasks.core.report import charts

playwright = pytest.importorskip("playwright.sync_api", reason='no Playwright: pip install -e ".[dev]"')
pytestmark = pytest.mark.browser

LONG = "zebra long " + "stripes and grass " * 500 + "last words"
TEXT_CONTRAST = 4.5  # WCAG 2.2, success criterion 1.4.3


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Serve a release of a small collection with a long passage; yield its address and its contracts page."""
    collection = build(tmp_path_factory.mktemp("pages"))
    collection.add("corpus.jsonl", {"_id": "long", "title": "zebra", "text": LONG}, {"_id": "empty", "text": ""})
    data = DataSettings(format="beir", path=collection.root)
    settings = small(collection.home).model_copy(update={"data": data})
    ingested, snapshot = ingest(settings)
    release_night(settings, snapshot=snapshot, weight=0.5)
    with voting_service(settings) as (_, address):
        yield address, ingested.path / "contracts.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture
def page(browser: playwright.Browser) -> Iterator[playwright.Page]:
    with browser.new_context() as context:
        context.set_default_timeout(10_000)  # milliseconds
        yield context.new_page()


@pytest.fixture
def search(site: tuple[str, Path], page: playwright.Page) -> playwright.Page:
    page.goto(f"{site[0]}/?q=zebra")
    page.get_by_text("10 passages", exact=True).wait_for()
    return page


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two CSS colors by WCAG: (lighter + 0.05) / (darker + 0.05) in luminance."""

    def luminance(color: str) -> float:
        channels = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_results_are_headings_and_their_number_is_announced(search: playwright.Page) -> None:
    assert search.get_by_role("list").get_by_role("heading", level=3).count() == 10
    assert search.get_by_role("status").first.inner_text() == "10 passages"


def test_the_keyboard_opens_a_long_passage(search: playwright.Page) -> None:
    item = search.get_by_role("listitem").filter(has=search.get_by_role("heading", name="zebra", exact=True))
    rank = item.locator(".rank").inner_text()
    text = item.locator(".text")
    assert len(text.inner_text()) < 700
    button = search.get_by_role("button", name=f"show all of result {rank}", exact=True)
    button.focus()
    search.keyboard.press("Enter")
    assert text.inner_text().strip() == LONG
    assert search.get_by_role("button", name=f"show less of result {rank}", exact=True).get_attribute("aria-expanded")


def test_results_of_the_last_query_are_dimmed_during_a_slow_search(search: playwright.Page) -> None:
    held: list[playwright.Route] = []
    search.route("**/search", lambda route: held.append(route))
    search.get_by_role("searchbox").fill("number 7")
    search.keyboard.press("Enter")
    search.get_by_text("Searching …").wait_for()
    answers = search.locator("#answers")
    assert answers.get_attribute("aria-busy") == "true"
    held[0].continue_()
    search.get_by_text("10 passages", exact=True).wait_for()
    assert answers.get_attribute("aria-busy") is None


def test_a_service_that_is_gone_is_reported_with_the_next_step(search: playwright.Page) -> None:
    search.route("**/search", lambda route: route.abort())
    search.keyboard.press("Enter")
    search.get_by_text("The service does not answer – check the network").wait_for()


def test_a_query_without_results_names_the_reason(site: tuple[str, Path], page: playwright.Page) -> None:
    page.goto(f"{site[0]}/?q=qqqqq&mode=lexical")
    page.get_by_text("No passage contains a word of the query").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_placeholder_can_be_read(site: tuple[str, Path], page: playwright.Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(site[0])
    style = "getComputedStyle(document.querySelector('[type=search]'), {})"
    text = page.evaluate(style.format("'::placeholder'") + ".color")
    assert contrast(text, page.evaluate(style.format("null") + ".backgroundColor")) >= TEXT_CONTRAST


def test_the_quarantined_rows_are_visible_on_a_phone(site: tuple[str, Path], page: playwright.Page) -> None:
    page.set_viewport_size(PHONE)
    page.goto(site[1].as_uri())
    section = page.locator("section").first
    assert section.get_by_role("columnheader", name="quarantined").is_visible()
    assert section.evaluate("part => part.scrollWidth - part.clientWidth") == 0


def test_the_names_of_all_systems_fit_into_the_chart_of_quality(page: playwright.Page) -> None:
    figures = {system: dict.fromkeys(NAMES, 0.5) for system in charts.COLORS}
    page.set_content(charts.quality(figures))
    outside = """chart => [...chart.querySelectorAll("text")].filter(text => {
        const [own, whole] = [text.getBoundingClientRect(), chart.getBoundingClientRect()];
        return own.left < whole.left || own.right > whole.right;
    }).map(text => text.textContent)"""
    assert page.locator("svg").evaluate(outside) == []
